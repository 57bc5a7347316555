"""The flags of `dualasr transcribe`: names and meanings of openai-whisper and whisper-ctranslate2,
and ours beside them.
"""

import argparse
import math
from pathlib import Path

from dualasr.errors import RunError
from dualasr.transcription.subtitles import SubtitleOptions
from dualasr.transcription.writers import FORMATS

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
        group.add_argument(
            name,
            type=flag,
            nargs="?",
            const=True,
            default=default,
            metavar="BOOL",
            help=f"{text} (%(default)s)",
        )

    parser.add_argument(
        "audio", nargs="+", metavar="AUDIO", help="files, folders, patterns; - for standard input"
    )
    parser.add_argument(
        "-r", "--recursive", action="store_true", help="folders with what lies below them"
    )

    g = parser.add_argument_group("output")
    g.add_argument(
        "-o", "--output_dir", type=Path, default=Path("."), metavar="DIR", help="(%(default)s)"
    )
    g.add_argument(
        "-f", "--output_format", default="all", choices=(*FORMATS, "all"), help="(%(default)s)"
    )
    g.add_argument(
        "--skip_existing",
        action="store_true",
        help="leave out files for which transcripts of that name are there",
    )
    switch(g, "--verbose", True, "print the text as it comes")
    switch(
        g,
        "--highlight_words",
        False,
        "underline each word as it is spoken, in srt and vtt; needs --word_timestamps",
    )
    g.add_argument(
        "--max_line_width",
        type=optional(int),
        metavar="N",
        help="characters; needs --word_timestamps",
    )
    g.add_argument(
        "--max_line_count",
        type=optional(int),
        metavar="N",
        help="lines of a subtitle; needs --max_line_width",
    )

    g = parser.add_argument_group("language and route")
    g.add_argument(
        "--language", metavar="LANG", help="code or name, if it is known; packs' languages too"
    )
    g.add_argument(
        "--languages",
        metavar="A,B",
        help="codes or names; the language is looked for among these alone",
    )
    g.add_argument(
        "--route",
        default="auto",
        metavar="NAME",
        help="auto, primary, or a pack's name (%(default)s)",
    )
    g.add_argument("--detect_only", action="store_true", help="name the languages, write nothing")
    g.add_argument(
        "--task",
        default="transcribe",
        choices=("transcribe", "translate"),
        help="translate: to English, by the primary",
    )

    g = parser.add_argument_group("decoding")
    g.add_argument("--beam_size", type=optional(int), default=5, metavar="N", help="(%(default)s)")
    g.add_argument(
        "--temperature",
        type=float,
        default=0.0,
        metavar="X",
        help="of the primary; 0 searches (%(default)s)",
    )
    g.add_argument(
        "--temperature_increment_on_fallback",
        type=optional(float),
        default=0.2,
        metavar="X",
        help="what is added where the primary fails; None: nothing (%(default)s)",
    )
    g.add_argument(
        "--compression_ratio_threshold",
        type=optional(float),
        default=2.4,
        metavar="X",
        help="text that compresses by more is a failure (%(default)s)",
    )
    g.add_argument(
        "--logprob_threshold",
        type=optional(float),
        default=-1.0,
        metavar="X",
        help="text with a lower mean log-probability is a failure (%(default)s)",
    )
    g.add_argument(
        "--no_speech_threshold",
        type=optional(float),
        default=0.6,
        metavar="X",
        help="above it, and with a failure, a window is silence (%(default)s)",
    )
    g.add_argument(
        "--initial_prompt",
        metavar="TEXT",
        help="what was said before a file, for the primary alone",
    )
    switch(g, "--carry_initial_prompt", False, "and before each of its windows")
    switch(
        g,
        "--condition_on_previous_text",
        False,
        "the primary's last window is its next one's prompt; then one by one",
    )
    switch(g, "--word_timestamps", False, "when each word was said")
    g.add_argument(
        "--batch_size",
        type=optional(int),
        default=8,
        metavar="N",
        help="windows decoded together (%(default)s)",
    )

    g = parser.add_argument_group("windows")
    g.add_argument(
        "--clip_timestamps",
        default="0",
        metavar="S,E,..",
        help="start,end,start,... in seconds of what is heard",
    )
    switch(g, "--vad_filter", False, "hear speech alone (extra: vad)")
    g.add_argument(
        "--vad_threshold",
        "--vad_onset",
        type=float,
        metavar="P",
        help="probability of speech (0.5)",
    )
    g.add_argument("--vad_min_speech_duration_ms", type=int, metavar="MS", help="(0)")
    g.add_argument(
        "--vad_max_speech_duration_s", type=float, metavar="S", help="(the base's window)"
    )
    g.add_argument("--vad_min_silence_duration_ms", type=int, metavar="MS", help="(2000)")
    g.add_argument("--vad_speech_pad_ms", type=int, metavar="MS", help="(400)")

    g = parser.add_argument_group("machine")
    g.add_argument(
        "--dtype",
        default="float32",
        choices=("float32", "float16", "bfloat16"),
        help="(%(default)s)",
    )
    g.add_argument(
        "--threads",
        type=optional(int),
        default=0,
        metavar="N",
        help="of the CPU (torch's own choice)",
    )
    switch(g, "--local_files_only", False, "never ask the hub")
    g.add_argument(
        "--ray",
        type=int,
        nargs="?",
        const=0,
        metavar="WORKERS",
        help="so many at once, here or on the cluster at RAY_ADDRESS; all that fit (extra: ray)",
    )


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


def options_of(args: argparse.Namespace):
    """The library's options that the flags ask for. Raises RunError for a value that is out of
    range.
    """
    from dualasr.audio.vad import VadOptions
    from dualasr.model.dual_whisper import DecodeOptions
    from dualasr.model.fallback import Fallback, ladder
    from dualasr.transcription.request import TranscribeOptions

    given = {
        name.removeprefix("vad_"): value
        for name, value in vars(args).items()
        if name.startswith("vad_") and name != "vad_filter" and value is not None
    }
    try:
        temperatures = ladder(args.temperature, args.temperature_increment_on_fallback)
        fallback = Fallback(
            temperatures,
            args.compression_ratio_threshold,
            args.logprob_threshold,
            args.no_speech_threshold,
        )
        decode = DecodeOptions(
            beam=args.beam_size or 1,
            prompt=args.initial_prompt or "",
            fallback=fallback,
            generate={} if args.task == "transcribe" else {"task": args.task},
        )
        options = TranscribeOptions(
            decode=decode,
            batch=TranscribeOptions.batch if args.batch_size is None else args.batch_size,
            words=args.word_timestamps,
            sentences=True,
            detect_only=args.detect_only,
            carry_prompt=args.carry_initial_prompt,
            condition_on_previous_text=args.condition_on_previous_text,
            stretches=clip_timestamps(args.clip_timestamps),
            vad=VadOptions(**given) if args.vad_filter else None,
        )
        return options, SubtitleOptions(
            args.max_line_width, args.max_line_count, args.highlight_words
        )
    except ValueError as error:
        raise RunError(f"{error}.") from error


def check_choice(args: argparse.Namespace) -> None:
    """Raise RunError for flags that contradict each other."""
    if args.language and args.languages:
        raise RunError(
            "--language says the language, --languages where to look for it; give one of them."
        )
    if args.detect_only and (args.language or args.route != "auto"):
        raise RunError("--detect_only asks for the language; leave --language and --route out.")
    if args.task == "translate" and args.route not in ("auto", "primary"):
        raise RunError("--task translate is the primary's; leave --route out.")
    if not args.word_timestamps and (
        args.highlight_words or args.max_line_width or args.max_line_count
    ):
        raise RunError(
            "--highlight_words, --max_line_width and --max_line_count need --word_timestamps True."
        )
    for flag, value in (("--threads", args.threads), ("--beam_size", args.beam_size)):
        if value is not None and value < 0:
            raise RunError(f"{flag} {value}: it must be at least 0.")
    if args.languages is not None and not args.languages.strip(" ,"):
        raise RunError("--languages names no language; wanted codes or names, as ky,en,ga.")
    if args.max_line_count and not args.max_line_width:
        raise RunError("--max_line_count needs --max_line_width.")
    if not args.vad_filter and any(
        vars(args)[name] is not None
        for name in vars(args)
        if name.startswith("vad_") and name != "vad_filter"
    ):
        raise RunError("The --vad_... settings need --vad_filter True.")
    if args.ray is not None and STDIN in args.audio:
        raise RunError(
            "--ray takes files that its workers can open; write standard input to one, or leave"
            " --ray out."
        )
    if args.ray is not None and args.device.startswith("cuda:"):
        raise RunError(
            f"--device {args.device} is one GPU, and --ray gives each worker its own; write"
            " --device cuda."
        )


def formats_of(args: argparse.Namespace) -> tuple[str, ...]:
    return FORMATS if args.output_format == "all" else (args.output_format,)
