"""The private folder of one server: sounds of clients, and uploads and transcripts of the page.

Nobody but the server's user can look into it. It goes when the server ends. After a crash, the next
server removes it: the folder of a server that runs is locked, and the lock ends with the process.
"""

import asyncio
import fcntl
import os
import shutil
import stat
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

PREFIX = "dualasr-serve-"
_NEW = "new-"  # before the name of a folder that is not locked yet


@contextmanager
def private_folder() -> Iterator[Path]:
    """Make a folder for one server in the folder for temporary files, and remove it at the end.

    Folders of servers that no longer run are removed first. Meanwhile all temporary files of this
    process are made in it.

    Yields:
        The folder, with mode 0700.
    """
    for old in Path(tempfile.gettempdir()).glob(f"{PREFIX}*"):
        _remove_if_dead(old)
    made = Path(tempfile.mkdtemp(prefix=_NEW + PREFIX)).resolve()
    folder = made.with_name(made.name.removeprefix(_NEW))
    with ExitStack() as stack, _opened(made) as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        made.rename(folder)
        stack.callback(shutil.rmtree, folder, ignore_errors=True)
        before, tempfile.tempdir = tempfile.tempdir, str(folder)
        stack.callback(setattr, tempfile, "tempdir", before)
        yield folder


def _remove_if_dead(folder: Path) -> None:
    """Remove the folder of a server of this user that no longer runs."""
    with suppress(OSError), _opened(folder) as lock:
        if os.fstat(lock).st_uid == os.getuid():
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)  # fails while its server runs
            shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def _opened(folder: Path) -> Iterator[int]:
    """Open a folder, but no link to one."""
    number = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    try:
        yield number
    finally:
        os.close(number)


def remove_old(folder: Path, seconds: float) -> None:
    """Remove the files of a folder that nobody has used for so long, and folders left empty.

    Args:
        folder: The folder; it need not be there.
        seconds: Longest time since a file was written or used.
    """
    limit = time.time() - seconds
    for place, folders, names in os.walk(folder, topdown=False):
        for path in (Path(place, name) for name in (*names, *folders)):
            with suppress(OSError):  # a folder that is not empty, or what somebody else removed
                info = path.lstat()
                if info.st_ctime < limit:
                    (os.rmdir if stat.S_ISDIR(info.st_mode) else os.unlink)(path)


async def keep_young(folder: Path, seconds: float, then: Callable[[], None]) -> None:
    """Remove old files of a folder again and again, until the task is cancelled.

    Args:
        folder: The folder.
        seconds: Longest time since a file was written or used.
        then: Function that is called after each round.
    """
    while True:
        await asyncio.sleep(min(60.0, seconds / 4))
        await asyncio.to_thread(remove_old, folder, seconds)
        then()
