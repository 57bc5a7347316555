"""`dualasr transcribe`: the flags of openai-whisper and whisper-ctranslate2, with the same names and meanings, and ours.

Dashes and underscores are the same. What was finished when a file fails, or when Ctrl-C comes, is on disk.
"""

import argparse
import math
import shutil
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from difflib import get_close_matches
from glob import glob
from pathlib import Path

from tqdm import tqdm

from dualasr.audio import SUFFIXES
from dualasr.errors import DualasrError, PackError, RunError
from dualasr.languages import tag_among
from dualasr.subtitles import SubtitleOptions
from dualasr.transcript import Transcription
from dualasr.writers import FORMATS, output_paths, write

PRIMARY = "primary"
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
    g.add_argument("--temperature", type=float, default=0.0, metavar="X", help="of the primary; 0 searches (%(default)s)")
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
    switch(g, "--local_files_only", False, "never ask the hub")
    g.add_argument("--ray", type=int, nargs="?", const=0, metavar="WORKERS",
                   help="so many at once, here or on the cluster at RAY_ADDRESS; all that fit (extra: ray)")  # fmt: skip


def clip_timestamps(text: str) -> tuple[tuple[float, float | None], ...]:
    """Whisper's "start,end,start,...", the last end being that of the file. Raises RunError."""
    try:
        times = [float(part) for part in text.split(",") if part.strip()]
    except ValueError:
        times = [-1.0]
    if times in ([], [0.0]):
        return ()
    ordered = all(a < b for a, b in zip(times, times[1:], strict=False))
    if not all(map(math.isfinite, times)) or min(times) < 0 or not ordered:
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


def language_code(name: str, model) -> str:
    """The code of a language by its code or name, in any case, packs' included. Raises PackError that offers the nearest."""
    named = dict(model.backbone.language_names)
    for pack in model.packs.values():
        named |= {title.lower(): code for code, title in pack.info.languages.items()}
    codes = {code.lower(): code for code in named.values()}
    wanted = name.strip().lower()
    if found := codes.get(wanted) or named.get(wanted):
        return found
    if (tag := tag_among(wanted, list(model.backbone.languages))) is not None:
        return tag
    near = get_close_matches(wanted, [*codes, *named], n=3) or sorted(codes)
    raise PackError(f"No loaded pipeline knows the language {name!r}; nearest: {', '.join(near)}.")


def options_of(args: argparse.Namespace):
    """The library's options that the flags ask for. Raises RunError for a value that is out of range."""
    from dualasr.fallback import Fallback
    from dualasr.model import DecodeOptions
    from dualasr.transcription import TranscribeOptions
    from dualasr.vad import VadOptions

    step, limit = args.temperature_increment_on_fallback, 1.0 + 1e-6
    temperatures = [args.temperature]
    while step and temperatures[-1] + step <= limit:
        temperatures.append(temperatures[-1] + step)
    given = {name.removeprefix("vad_"): value for name, value in vars(args).items()
             if name.startswith("vad_") and name != "vad_filter" and value is not None}  # fmt: skip
    try:
        fallback = Fallback(tuple(temperatures), args.compression_ratio_threshold, args.logprob_threshold,
                            args.no_speech_threshold)  # fmt: skip
        decode = DecodeOptions(
            beam=args.beam_size or 1, prompt=args.initial_prompt or "", fallback=fallback,
            generate={} if args.task == "transcribe" else {"task": args.task},
        )  # fmt: skip
        off = float("inf")
        options = TranscribeOptions(
            decode=decode, batch=args.batch_size, words=args.word_timestamps, sentences=True, detect_only=args.detect_only,
            condition_on_previous_text=args.condition_on_previous_text, stretches=clip_timestamps(args.clip_timestamps),
            no_speech_threshold=off if args.no_speech_threshold is None else args.no_speech_threshold,
            logprob_threshold=off if args.logprob_threshold is None else args.logprob_threshold,
            vad=VadOptions(**given) if args.vad_filter else None,
        )  # fmt: skip
        return options, SubtitleOptions(args.max_line_width, args.max_line_count, args.highlight_words)
    except ValueError as error:
        raise RunError(f"{error}.") from error


def check_choice(args: argparse.Namespace) -> None:
    """Raise RunError for flags that contradict each other."""
    if args.language and args.languages:
        raise RunError("--language says the language, --languages where to look for it; give one of them.")
    if args.detect_only and (args.language or args.route != "auto"):
        raise RunError("--detect_only asks for the language; leave --language and --route out.")
    if args.task == "translate" and args.route not in ("auto", "primary"):
        raise RunError("--task translate is the primary's; leave --route out.")
    if not args.word_timestamps and (args.highlight_words or args.max_line_width or args.max_line_count):
        raise RunError("--highlight_words, --max_line_width and --max_line_count need --word_timestamps True.")
    if args.max_line_count and not args.max_line_width:
        raise RunError("--max_line_count needs --max_line_width.")
    if not args.vad_filter and any(vars(args)[name] is not None for name in vars(args) if name.startswith("vad_m")):
        raise RunError("The --vad_... settings need --vad_filter True.")
    if args.ray is not None and STDIN in args.audio:
        raise RunError("--ray takes files that its workers can open; write standard input to one, or leave --ray out.")
    if args.ray is not None and args.device.startswith("cuda:"):
        raise RunError(f"--device {args.device} is one GPU, and --ray gives each worker its own; write --device cuda.")


def place_of_output(folder: Path) -> None:
    """Make the folder, and see that it can be written. Raises RunError."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise RunError(f"--output_dir {folder}: cannot be written ({error.strerror}); choose another folder.") from error


def shown(path: Path, transcription: Transcription) -> Iterator[str]:
    """The lines that --verbose prints: where a file begins, and its segments with times, language and text."""
    yield f"{path}"
    for segment in transcription.segments:
        times = " --> ".join(clock(seconds) for seconds in (segment.start, segment.end))
        yield f"[{times}] {segment.language}: {segment.text}"


def clock(seconds: float) -> str:
    """Minutes, or hours and minutes, to the millisecond."""
    total = round(1000 * seconds)
    hours, minutes, rest = total // 3_600_000, total // 60_000 % 60, total % 60_000 / 1000
    return f"{hours:02}:{minutes:02}:{rest:06.3f}" if hours else f"{minutes:02}:{rest:06.3f}"


def detected(path: Path, probs: dict[str, float], model) -> str:
    """A file's likeliest language, its probability and pipeline, and the next ones, between tabs."""
    if not probs:
        return f"{path}\t-\t-\tno sound"
    (best, prob), *others = list(probs.items())[:4]
    rest = ", ".join(f"{code} {p:.3f}" for code, p in others)
    return f"{path}\t{best}\t{prob:.3f}\t{model.route_of(best)}\t{rest}"


@dataclass(frozen=True)
class Job:
    """A file to transcribe, what it is called, and the path, without suffix, of what is written for it."""

    file: Path
    name: Path
    output: Path


@dataclass(frozen=True)
class Outcome:
    """What came of a file: the error that it failed with, or what there is to show and the seconds of text by route."""

    job: Job
    error: str | None = None
    lines: tuple[str, ...] = ()
    route_seconds: Mapping[str, float] = field(default_factory=dict)


class Transcriber:
    """The model that `load` gives, with what the flags ask of it. Raises PackError for a language or route unknown to it."""

    def __init__(self, args: argparse.Namespace, load: Callable):
        options, self.subtitles = options_of(args)
        self.args, self.model = args, load()
        decode = replace(options.decode, timestamps=self.model.backbone.tells_time)
        route = PRIMARY if args.task == "translate" else None if args.route == "auto" else args.route
        language = None if args.language is None else language_code(args.language, self.model)
        self.asked = {"options": replace(options, decode=decode), "route": route, "language": language}
        if args.languages:
            names = [name for name in args.languages.split(",") if name.strip()]
            self.model = self.model.among([language_code(name, self.model) for name in names])

    def __call__(self, jobs: Sequence[Job], heard: Callable[[float], None]) -> Iterator[Outcome]:
        """Transcribe files and write what is asked for, each once it is whole; `heard` is told the seconds of audio."""
        from dualasr.transcription import transcribe_files

        job_of = {job.file: job for job in jobs}
        for file, result in transcribe_files(self.model, job_of, heard=heard, **self.asked):
            try:
                yield self._write(job_of[file], result)
            except DualasrError as error:
                yield Outcome(job_of[file], str(error))

    def _write(self, job: Job, result: Transcription | DualasrError) -> Outcome:
        if isinstance(result, DualasrError):
            raise result
        if self.args.detect_only:
            return Outcome(job, lines=(detected(job.name, result.language_probs, self.model),))
        write(result, job.output, formats_of(self.args), self.subtitles)
        lines = tuple(shown(job.name, result)) if self.args.verbose else ()
        return Outcome(job, lines=lines, route_seconds=result.scores["route_seconds"])


def transcribe_all(args: argparse.Namespace, load: Callable, start: Callable = Transcriber) -> int:
    """What the flags ask for; the exit code. `load` gives the model with their base and packs, and is called last.

    `start` makes of the flags and `load` what transcribes files, as `Transcriber` does.
    """
    check_choice(args)
    options_of(args)
    inputs = find_inputs(args.audio, args.recursive)
    if not args.detect_only:
        place_of_output(args.output_dir)
    formats, out = formats_of(args), sys.stdout
    with ExitStack() as stack:
        transcribe = start(args, load)
        files = {stack.enter_context(standard_input()) if str(path) == STDIN else path: path for path in inputs}
        places = output_paths(files, args.output_dir, formats)
        jobs = [Job(file, name, places[file]) for file, name in files.items()]
        todo = [job for job in jobs if not (args.skip_existing and is_done(job.output, formats))]
        counts, routes, heard, began = Counter(skipped=len(jobs) - len(todo)), Counter(), 0.0, time.monotonic()
        bar = stack.enter_context(tqdm(total=len(todo), unit="file", disable=None))

        def tell(seconds: float) -> None:
            nonlocal heard
            heard += seconds
            bar.set_postfix_str(f"{heard:.0f} s of audio, {heard / max(time.monotonic() - began, 1e-3):.1f} x real time")

        for outcome in transcribe(todo, tell):
            counts["done" if outcome.error is None else "failed"] += 1
            routes.update(outcome.route_seconds)
            for line in outcome.lines:
                tqdm.write(line, file=out)
            if outcome.error is not None:
                tqdm.write(f"dualasr: {outcome.error}", file=sys.stderr)
            bar.update()
    print(summary(counts, heard, time.monotonic() - began, routes), file=sys.stderr)
    return 1 if counts["failed"] else 0


@contextmanager
def standard_input() -> Iterator[Path]:
    """What comes by standard input as a file, stdin."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "stdin")
        with path.open("wb") as file:
            shutil.copyfileobj(sys.stdin.buffer, file)
        yield path


def formats_of(args: argparse.Namespace) -> tuple[str, ...]:
    return FORMATS if args.output_format == "all" else (args.output_format,)


def is_done(path: Path, formats: Sequence[str]) -> bool:
    return all(Path(f"{path}.{name}").is_file() for name in formats)


def length(seconds: float) -> str:
    """In seconds, minutes or hours."""
    for unit, size in (("hours", 3600), ("minutes", 60)):
        if seconds >= 2 * size:
            return f"{seconds / size:.1f} {unit}"
    return f"{seconds:.0f} s"


def summary(counts: Counter, heard: float, took: float, routes: Counter) -> str:
    """The line at the end: files, how much sound, how much faster than they last, the routes of what was said."""
    files = f"{counts['done']} file{'' if counts['done'] == 1 else 's'}"
    parts = [files, f"{length(heard)} of sound in {length(took)} ({heard / max(took, 1e-3):.1f} x real time)"]
    total = sum(routes.values())
    if total:
        parts += ["routes: " + ", ".join(f"{route} {seconds / total:.0%}" for route, seconds in routes.most_common())]
    parts += [f"{counts[name]} {name}" for name in ("skipped", "failed") if counts[name]]
    return "; ".join(parts)
