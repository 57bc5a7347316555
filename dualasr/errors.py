"""The errors that dualasr raises on purpose, all in one tree.

Every message is one sentence or two that say what was found, what was wanted and what to do. It is
one line, whatever a file holds that it names. The command line prints only the message and exits
with 1; a traceback means a bug.

    DualasrError
    |-- AudioError          a file that cannot be read as sound
    |   `-- NoSamplesError  a file, or a part of one, that has no samples
    |-- CorpusError         a row, a manifest or a folder that cannot be used
    |-- BaseModelError      a folder or hub id that is no Whisper
    |-- PackError           a pack that is damaged, unsafe, or made for another base
    |-- RunError            an output folder that exists, a run that cannot be resumed, a full disk
    |-- AlignmentError      word times that a pack cannot give, because torchaudio cannot be loaded
    `-- MissingExtraError   an optional dependency that is not installed
"""

import unicodedata

# Control characters, half of a surrogate pair, line and paragraph separators
_UNSEEN = {"Cc", "Cs", "Zl", "Zp"}
# Format characters that turn the direction of the text after them
_TURNING = frozenset("\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")


def visible(text: str) -> str:
    """Return a text on one line, with what would change the line or the terminal as escapes.

    Args:
        text: Any text, as a name or a cell of a file. Tabs are kept, and so are the joiners that
            are part of a word in Persian or Hindi.
    """
    return "".join(
        repr(char)[1:-1]
        if char in _TURNING or (char != "\t" and unicodedata.category(char) in _UNSEEN)
        else char
        for char in text
    )


class DualasrError(Exception):
    """Base of every error raised on purpose."""

    def __str__(self) -> str:
        return visible(super().__str__())


class AudioError(DualasrError):
    """A file that cannot be read as sound; the message starts with its path."""


class NoSamplesError(AudioError):
    """A file that can be read but has no samples, or a part that lies behind its end."""


class CorpusError(DualasrError):
    """A row, a manifest or a corpus folder that cannot be used; the message names file and row."""


class BaseModelError(DualasrError):
    """A folder or hub id that does not hold a usable Whisper."""


class PackError(DualasrError):
    """A language pack that is damaged, unsafe, or was made for another base."""


class RunError(DualasrError):
    """A run that cannot start, save or be resumed."""


class AlignmentError(DualasrError):
    """Forced alignment cannot run: torchaudio is missing, or does not fit the installed torch."""


class MissingExtraError(DualasrError, ImportError):
    """An optional dependency is missing; the message gives the pip command that installs it.

    Args:
        package: Name of the missing package.
        extra: Extra of dualasr that installs it.
    """

    def __init__(self, package: str, extra: str) -> None:
        super().__init__(
            f"{package} is not installed; install it with: pip install 'dualasr[{extra}]'"
        )
