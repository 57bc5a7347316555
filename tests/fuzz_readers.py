"""Fuzzing of the readers: whatever the bytes are, the result is data or a sentence of ours.

    pip install atheris
    python tests/fuzz_readers.py KIND CORPUS [-max_total_time=900] [flags of libFuzzer]

KIND is "sound", or one of the layouts in tests/test_damaged_corpora.py, which also says what must
hold. CORPUS is a folder of seeds (small files of the kind); what is found lies in it afterwards. A
crash, a hang of more than a minute or more than 2 GB of memory ends it with the input in a file.
docs/contributing.md says more.
"""

import logging
import sys
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path

import atheris

with atheris.instrument_imports(include=["dualasr.audio", "dualasr.data"]):
    import numpy as np
    import test_damaged_corpora as corpora

    from dualasr.audio.load import audio_duration, header_duration, stream_audio
    from dualasr.errors import DualasrError

FOLDER = Path(tempfile.mkdtemp(prefix="fuzz"))


def sound(content: bytes) -> None:
    """Read the bytes as a sound file."""
    path = FOLDER / "a.bin"
    path.write_bytes(content)
    header_duration(path)
    count = 0
    try:
        for block in stream_audio(path):
            assert block.dtype == np.float32 and np.isfinite(block).all()
            count += len(block)
        assert abs(count / 16_000 - audio_duration(path)) < 0.25
    except DualasrError as error:
        assert "\n" not in str(error)


def corpus(kind: str) -> Callable[[bytes], None]:
    """Return the check of a corpus whose file holds the bytes; it counts the rows, too."""
    folder = corpora.prepared(FOLDER / kind, kind)
    return partial(corpora.check, folder, kind)


READERS = {"sound": lambda: sound} | {kind: partial(corpus, kind) for kind in corpora.SEEDS}


def main() -> None:
    """Fuzz the reader that the first argument names."""
    kind = sys.argv.pop(1)
    reader = READERS[kind]()
    if kind in corpora.SEEDS:
        name, seed = corpora.SEEDS[kind]
        (Path(sys.argv[1]) / f"seed-{name}").write_text(seed)
    logging.disable()
    flags = ["-rss_limit_mb=2048", "-timeout=60", "-max_len=65536", "-len_control=0"]
    atheris.Setup([sys.argv[0], *flags, *sys.argv[1:]], reader)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
