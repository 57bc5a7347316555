"""The flags of `dualasr transcribe`.

Flags that openai-whisper or whisper-ctranslate2 have, too, keep their names and meanings.
"""

import argparse
import math
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from dualasr.cli.loading import Flags
from dualasr.errors import RunError
from dualasr.transcription.subtitles import SubtitleOptions
from dualasr.transcription.writers import FORMATS

if TYPE_CHECKING:
    from dualasr.transcription.request import TranscribeOptions

STDIN = "-"


def flag(text: str) -> bool:
    """Read True or False, as Whisper's flags take them."""
    if text.lower() in ("true", "yes", "1"):
        return True
    if text.lower() in ("false", "no", "0"):
        return False
    raise argparse.ArgumentTypeError(f"{text!r} is neither True nor False")


def optional(kind: Callable[[str], float]) -> Callable[[str], float | None]:
    """Make a reader of numbers that also takes "None", as Whisper's flags do."""

    def parse(text: str) -> float | None:
        return None if text == "None" else kind(text)

    parse.__name__ = kind.__name__
    return parse


def add_flags(parser: argparse.ArgumentParser) -> None:
    """Add the flags of `dualasr transcribe`, except those of the model."""

    def switch(group: Flags, name: str, default: bool, text: str) -> None:
        group.add_argument(
            name,
            type=flag,
            nargs="?",
            const=True,
            default=default,
            metavar="BOOL",
            help=f"{text} (default: %(default)s)",
        )

    parser.add_argument(
        "audio",
        nargs="+",
        metavar="AUDIO",
        help="sound files, folders of them, or patterns such as '*.mp3'; - for standard input",
    )
    parser.add_argument(
        "-r", "--recursive", action="store_true", help="also read the folders inside a folder"
    )

    g = parser.add_argument_group("output")
    g.add_argument(
        "-o",
        "--output_dir",
        type=Path,
        default=Path("."),
        metavar="DIR",
        help="folder to write transcripts to (default: the current folder)",
    )
    g.add_argument(
        "-f",
        "--output_format",
        default="all",
        choices=(*FORMATS, "all"),
        help="format of the transcripts (default: %(default)s)",
    )
    g.add_argument(
        "--skip_existing",
        action="store_true",
        help="skip files whose transcripts exist in --output_dir",
    )
    switch(g, "--verbose", True, "print the text while it is transcribed")
    switch(
        g,
        "--highlight_words",
        False,
        "underline each word in srt and vtt while it is spoken; needs --word_timestamps",
    )
    g.add_argument(
        "--max_line_width",
        type=optional(int),
        metavar="N",
        help=(
            "most characters in a line of srt and vtt; needs --word_timestamps (default: no limit)"
        ),
    )
    g.add_argument(
        "--max_line_count",
        type=optional(int),
        metavar="N",
        help="most lines in a subtitle of srt and vtt; needs --max_line_width (default: no limit)",
    )

    g = parser.add_argument_group("language and route")
    g.add_argument(
        "--language",
        metavar="LANG",
        help="code or name of the language spoken, of the base or a pack (default: detect it)",
    )
    g.add_argument(
        "--languages",
        metavar="A,B",
        help="codes or names of the only languages to choose from (default: all)",
    )
    g.add_argument(
        "--route",
        default="auto",
        metavar="NAME",
        help=(
            "what transcribes: the base (primary), a pack by its name, or whichever knows the"
            " language (auto) (default: %(default)s)"
        ),
    )
    g.add_argument(
        "--detect_only",
        action="store_true",
        help="print the language of each file, and write no transcripts",
    )
    g.add_argument(
        "--task",
        default="transcribe",
        choices=("transcribe", "translate"),
        help=(
            "write the language that is spoken (transcribe), or English (translate), which only"
            " the base can do (default: %(default)s)"
        ),
    )

    g = parser.add_argument_group("decoding")
    g.add_argument(
        "--beam_size",
        type=optional(int),
        default=5,
        metavar="N",
        help="beam width of the search; 1 is greedy (default: %(default)s)",
    )
    g.add_argument(
        "--temperature",
        type=float,
        default=0.0,
        metavar="X",
        help=(
            "temperature at which the base draws text; 0 searches with the beam (default:"
            " %(default)s)"
        ),
    )
    g.add_argument(
        "--temperature_increment_on_fallback",
        type=optional(float),
        default=0.2,
        metavar="X",
        help=(
            "step by which the temperature rises, up to 1, until the base does not fail; None: do"
            " not try again (default: %(default)s)"
        ),
    )
    g.add_argument(
        "--compression_ratio_threshold",
        type=optional(float),
        default=2.4,
        metavar="X",
        help=(
            "count text that compresses by a higher ratio as a failure, because it repeats itself;"
            " None: never (default: %(default)s)"
        ),
    )
    g.add_argument(
        "--logprob_threshold",
        type=optional(float),
        default=-1.0,
        metavar="X",
        help=(
            "count text with a lower mean log-probability as a failure; None: never (default:"
            " %(default)s)"
        ),
    )
    g.add_argument(
        "--no_speech_threshold",
        type=optional(float),
        default=0.6,
        metavar="X",
        help=(
            "count a window as silence if its no-speech probability is higher, and its text is"
            " below --logprob_threshold; None: never (default: %(default)s)"
        ),
    )
    g.add_argument(
        "--initial_prompt",
        metavar="TEXT",
        help="text from before the file, which helps the base with names and style (default: none)",
    )
    switch(
        g,
        "--carry_initial_prompt",
        False,
        "give the prompt to every window of a file, not only to the first",
    )
    switch(
        g,
        "--condition_on_previous_text",
        False,
        "give the base its text of the file so far as prompt; decodes windows one by one",
    )
    switch(g, "--word_timestamps", False, "find the time of each word, for srt, vtt and json")
    g.add_argument(
        "--batch_size",
        type=optional(int),
        default=8,
        metavar="N",
        help="number of windows to decode together (default: %(default)s)",
    )

    g = parser.add_argument_group("windows")
    g.add_argument(
        "--clip_timestamps",
        default="0",
        metavar="S,E,..",
        help=(
            "parts of each file to transcribe, as start,end,start,end,... in seconds; the last end"
            " may be left out (default: the whole file)"
        ),
    )
    switch(
        g,
        "--vad_filter",
        False,
        "find speech with Silero VAD, and transcribe only that; needs the extra vad",
    )
    g.add_argument(
        "--vad_threshold",
        "--vad_onset",
        type=float,
        metavar="P",
        help="lowest probability that counts as speech (default: 0.5)",
    )
    g.add_argument(
        "--vad_min_speech_duration_ms",
        type=int,
        metavar="MS",
        help="drop speech of this length or shorter, in milliseconds (default: 0)",
    )
    g.add_argument(
        "--vad_max_speech_duration_s",
        type=float,
        metavar="S",
        help="longest window of speech, in seconds (default: the base's window)",
    )
    g.add_argument(
        "--vad_min_silence_duration_ms",
        type=int,
        metavar="MS",
        help="shortest silence that ends speech, in milliseconds (default: 2000)",
    )
    g.add_argument(
        "--vad_speech_pad_ms",
        type=int,
        metavar="MS",
        help="sound to keep before and after speech, in milliseconds (default: 400)",
    )

    g = parser.add_argument_group("machine")
    g.add_argument(
        "--dtype",
        default="float32",
        choices=("float32", "float16", "bfloat16"),
        help="number format of the base's weights (default: %(default)s)",
    )
    g.add_argument(
        "--threads",
        type=optional(int),
        default=0,
        metavar="N",
        help="number of CPU threads; 0: torch chooses (default: %(default)s)",
    )
    switch(g, "--local_files_only", False, "download nothing from the Hugging Face hub")
    g.add_argument(
        "--ray",
        type=int,
        nargs="?",
        const=0,
        metavar="WORKERS",
        help=(
            "transcribe with this number of Ray workers, on this machine or the cluster at"
            " RAY_ADDRESS; without a number, as many as fit; needs the extra ray"
        ),
    )


def clip_timestamps(text: str) -> tuple[tuple[float, float | None], ...]:
    """Read Whisper's "start,end,start,end,...", in seconds.

    A stretch that begins where the one before it ends is joined to it: a cut there could divide a
    word.

    Returns:
        Start and end of each stretch; a missing last end is None. () for the whole file.

    Raises:
        RunError: The times are not numbers, or do not rise.
    """
    try:
        times = [float(part) for part in text.split(",") if part.strip()]
    except ValueError:
        times = [-1.0]
    if times in ([], [0.0]):
        return ()
    joined = times[:1]
    for a, b in zip(times[1::2], times[2::2], strict=False):  # an end, and the next start
        joined += [a, b] if a != b else []
    joined += times[-1:] if len(times) % 2 == 0 else []
    ordered = all(a < b for a, b in zip(joined, joined[1:], strict=False))
    ordered &= all(a < b for a, b in zip(times[::2], times[1::2], strict=False))
    if not all(map(math.isfinite, times)) or min(times) < 0 or not ordered:
        raise RunError(f"--clip_timestamps {text}: give seconds that rise, such as 0,30.5,60,90.")
    if joined == [0.0]:
        return ()
    return tuple(zip(joined[::2], [*joined[1::2], None][: len(joined[::2])], strict=True))


def options_of(args: argparse.Namespace) -> "tuple[TranscribeOptions, SubtitleOptions]":
    """Return the library's options for the flags.

    Raises:
        RunError: A value is out of range.
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
    """Check that no flags contradict each other.

    Raises:
        RunError: Two flags do not go together, or a value is out of range.
    """
    if args.language and args.languages:
        raise RunError(
            "--language names the language spoken, --languages those to choose from; give one of"
            " them."
        )
    if args.detect_only and (args.language or args.route != "auto"):
        raise RunError("--detect_only finds the language; leave --language and --route out.")
    if args.task == "translate" and args.route not in ("auto", "primary"):
        raise RunError("--task translate is the primary's (the base's); leave --route out.")
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
        raise RunError("--languages names no language; give codes or names, such as ky,en,ga.")
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
            "--ray needs files that its workers can open; write standard input to one, or leave"
            " --ray out."
        )
    if args.ray is not None and args.device.startswith("cuda:"):
        raise RunError(
            f"--device {args.device} is one GPU, but --ray gives each worker its own; write"
            " --device cuda."
        )


def formats_of(args: argparse.Namespace) -> tuple[str, ...]:
    """Return the formats of --output_format."""
    return FORMATS if args.output_format == "all" else (args.output_format,)
