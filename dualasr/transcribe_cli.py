"""`dualasr transcribe`: the flags of openai-whisper and whisper-ctranslate2, with the same names and meanings, and ours.

Dashes and underscores are the same. What was finished when a file fails, or when Ctrl-C comes, is on disk.
"""

import argparse
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from difflib import get_close_matches
from glob import glob
from pathlib import Path

from dualasr.audio import SUFFIXES
from dualasr.errors import PackError, RunError
from dualasr.writers import FORMATS

STDIN = "-"


def flag(text: str) -> bool:
    """Whisper's True and False."""
    if text.lower() in ("true", "yes", "1"):
        return True
    if text.lower() in ("false", "no", "0"):
        return False
    raise argparse.ArgumentTypeError(f"{text!r} is neither True nor False")


def optional(kind):
    """A number, or None, as Whisper takes it."""
    def parse(text: str):
        return None if text == "None" else kind(text)

    parse.__name__ = kind.__name__
    return parse


def add_flags(parser: argparse.ArgumentParser) -> None:
    def switch(group, name: str, default: bool, text: str) -> None:
        group.add_argument(name, type=flag, nargs="?", const=True, default=default, metavar="BOOL",
                           help=f"{text} (%(default)s)")  # fmt: skip

    parser.add_argument("audio", nargs="+", metavar="AUDIO", help="files, folders, patterns; - for standard input")
    parser.add_argument("-r", "--recursive", action="store_true", help="folders with what lies below them")

    g = parser.add_argument_group("output")
    g.add_argument("-o", "--output_dir", type=Path, default=Path("."), metavar="DIR", help="(%(default)s)")
    g.add_argument("-f", "--output_format", default="all", choices=(*FORMATS, "all"), help="(%(default)s)")
    g.add_argument("--skip_existing", action="store_true", help="leave out files whose transcripts are there")
    switch(g, "--verbose", True, "print the text as it comes")
    switch(g, "--highlight_words", False, "underline each word as it is spoken, in srt and vtt; needs --word_timestamps")
    g.add_argument("--max_line_width", type=optional(int), metavar="N", help="characters; needs --word_timestamps")
    g.add_argument("--max_line_count", type=optional(int), metavar="N", help="lines of a subtitle; needs --max_line_width")

    g = parser.add_argument_group("language and route")
    g.add_argument("--language", metavar="LANG", help="code or name, if it is known; packs' languages too")
    g.add_argument("--languages", metavar="A,B", help="codes or names; the language is looked for among these alone")
    g.add_argument("--route", default="auto", metavar="NAME", help="auto, primary, or a pack's name (%(default)s)")
    g.add_argument("--detect_only", action="store_true", help="name the languages, write nothing")
    g.add_argument("--task", default="transcribe", choices=("transcribe", "translate"),
                   help="translate: to English, by the primary")  # fmt: skip

    g = parser.add_argument_group("decoding")
    g.add_argument("--beam_size", type=optional(int), default=5, metavar="N", help="(%(default)s)")
    g.add_argument("--temperature", type=float, default=0.0, help="of the primary; 0 searches (%(default)s)")
    g.add_argument("--temperature_increment_on_fallback", type=optional(float), default=0.2, metavar="X",
                   help="what is added where the primary fails; None: nothing (%(default)s)")  # fmt: skip
    g.add_argument("--compression_ratio_threshold", type=optional(float), default=2.4, metavar="X",
                   help="text that compresses by more is a failure (%(default)s)")  # fmt: skip
    g.add_argument("--logprob_threshold", type=optional(float), default=-1.0, metavar="X",
                   help="text with a lower mean log-probability is a failure (%(default)s)")  # fmt: skip
    g.add_argument("--no_speech_threshold", type=optional(float), default=0.6, metavar="X",
                   help="above it, and with a failure, a window is silence (%(default)s)")  # fmt: skip
    g.add_argument("--initial_prompt", metavar="TEXT", help="what was said before, for the primary alone")
    switch(g, "--condition_on_previous_text", False, "the primary's last window is its next one's prompt; then one by one")
    switch(g, "--word_timestamps", False, "when each word was said")
    g.add_argument("--batch_size", type=int, default=8, metavar="N", help="windows decoded together (%(default)s)")

    g = parser.add_argument_group("windows")
    g.add_argument("--clip_timestamps", default="0", metavar="S,E,..", help="start,end,start,... in seconds of what is heard")
    switch(g, "--vad_filter", False, "hear speech alone (extra: vad)")
    g.add_argument("--vad_threshold", type=float, metavar="P", help="probability of speech (0.5)")
    g.add_argument("--vad_min_speech_duration_ms", type=int, metavar="MS", help="(0)")
    g.add_argument("--vad_max_speech_duration_s", type=float, metavar="S", help="(the base's window)")
    g.add_argument("--vad_min_silence_duration_ms", type=int, metavar="MS", help="(2000)")
    g.add_argument("--vad_speech_pad_ms", type=int, metavar="MS", help="(400)")

    g = parser.add_argument_group("machine")
    g.add_argument("--dtype", default="float32", choices=("float32", "float16", "bfloat16"), help="(%(default)s)")
    g.add_argument("--threads", type=int, default=0, metavar="N", help="of the CPU (torch's own choice)")
    g.add_argument("--local_files_only", action="store_true", help="never ask the hub")


def clip_timestamps(text: str) -> tuple[tuple[float, float | None], ...]:
    """Whisper's "start,end,start,...", the last end being that of the file. Raises RunError."""
    try:
        times = [float(part) for part in text.split(",") if part.strip()]
    except ValueError:
        times = [-1.0]
    if times in ([], [0.0]):
        return ()
    ordered = all(a < b for a, b in zip(times, times[1:], strict=False))
    if min(times) < 0 or not ordered:
        raise RunError(f"--clip_timestamps {text}: wanted seconds that rise, as 0,30.5,60,90.")
    return tuple(zip(times[::2], [*times[1::2], None][: len(times[::2])], strict=True))


def find_inputs(names: Sequence[str], recursive: bool) -> list[Path]:
    """Files as they are named, what is in folders, what patterns match; each once. Raises RunError where there is nothing."""
    found: dict[Path, None] = {}
    for name in names:
        path = Path(name)
        if path.is_dir():
            below = sorted(path.rglob("*") if recursive else path.iterdir())
            inside = [p for p in below if p.is_file() and p.suffix.lower() in SUFFIXES]
            if not inside:
                hint = "" if recursive else "; -r looks into the folders below it"
                raise RunError(f"{name}: no sound file in this folder ({', '.join(SUFFIXES)}){hint}.")
        elif name != STDIN and not path.exists() and any(c in name for c in "*?["):
            inside = [Path(p) for p in sorted(glob(name, recursive=recursive)) if Path(p).is_file()]
            if not inside:
                raise RunError(f"{name}: no file matches.")
        else:
            inside = [path]
        found |= dict.fromkeys(inside)
    return list(found)


@contextmanager
def standard_input() -> Iterator[Path]:
    """What comes by standard input as a file, stdin."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "stdin")
        path.write_bytes(sys.stdin.buffer.read())
        yield path


def language_code(name: str, known: dict[str, str]) -> str:
    """The code of a language by its code or name, in any case. Raises PackError that offers the nearest."""
    wanted = name.strip().lower()
    codes = {code.lower(): code for code in known} | {title.lower(): code for code, title in known.items()}
    if wanted not in codes:
        near = get_close_matches(wanted, codes, n=3) or sorted(known)
        raise PackError(f"No loaded pipeline knows the language {name!r}; nearest: {', '.join(near)}.")
    return codes[wanted]


def summary(counts: Counter, seconds: float, began: float, routes: Counter) -> str:
    """The line at the end."""
    took = max(time.time() - began, 1e-3)
    by_route = ", ".join(f"{route} {share / max(sum(routes.values()), 1e-9):.0%}" for route, share in routes.most_common())
    parts = [f"{counts['done']} files", f"{seconds / 3600:.2f} hours in {took / 60:.1f} minutes",
             f"{seconds / took:.1f} x real time"]  # fmt: skip
    parts += [f"routes: {by_route}"] if routes else []
    parts += [f"{counts[name]} {name}" for name in ("skipped", "failed") if counts[name]]
    return "; ".join(parts)


def check_choice(args: argparse.Namespace) -> None:
    """What contradicts itself. Raises RunError."""
    if args.language and args.languages:
        raise RunError("--language says the language, --languages where to look for it; give one of them.")
    if args.task == "translate" and args.route not in ("auto", "primary"):
        raise RunError("--task translate is the primary's; leave --route out.")
    if not args.word_timestamps and (args.highlight_words or args.max_line_width or args.max_line_count):
        raise RunError("--highlight_words, --max_line_width and --max_line_count need --word_timestamps True.")


def is_done(path: Path, formats: Sequence[str]) -> bool:
    return all(Path(f"{path}.{name}").is_file() for name in formats)

