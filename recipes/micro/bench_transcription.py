r"""Measure what transcription costs, side by side in one run. Each row is printed with its ratios.

    python recipes/micro/bench_transcription.py --corpus quickstart/corpus \
        --pack quickstart/packs/ky --pack quickstart/packs/ga

4  Peak memory of a long file, three hours of clips and pauses, against three minutes; each in a
   process of its own.
5  Batches of eight against one by one: clips of mixed length in all languages, nothing known.
6  Whisper's shape with random weights, a fixed number of tokens, language given: the primary's
   route against plain transformers on the same windows, and against faster-whisper on the same
   weights (left out where it is not installed: `pip install faster-whisper`).

Rows 1 to 3 are those of `bench_routing.py`.
"""

import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from importlib.util import find_spec
from itertools import cycle, islice
from pathlib import Path

import numpy as np
import soundfile
import torch
from side_by_side import Row, full_windows, in_fresh_process, joined, peak_mib, run, take_turns
from whisper_shape import write_whisper

from dualasr.audio.load import SAMPLE_RATE, load_audio
from dualasr.model.dual_whisper import DecodeOptions, DualWhisper
from dualasr.model.selector import PRIMARY
from dualasr.model.whisper import Backbone
from dualasr.packs.load import load_model
from dualasr.transcription.transcribe import transcribe

BATCH = 8
LANGUAGE = "en"


def write_long(path: Path, clips: Sequence[np.ndarray], minutes: float) -> None:
    """Write the clips again and again, with pauses of 0.2 to 2 s."""
    rng, left = np.random.default_rng(1), int(60 * minutes * SAMPLE_RATE)
    with soundfile.SoundFile(path, "w", SAMPLE_RATE, 1) as file:
        for clip in cycle(clips):
            sound = np.concatenate(
                [clip, np.zeros(int(rng.uniform(0.2, 2) * SAMPLE_RATE), np.float32)]
            )
            file.write(sound[:left])
            if (left := left - len(sound)) <= 0:
                break


def memory_of_file(base: str, folders: Sequence[Path], path: Path) -> tuple[float, float, int]:
    """Return peak MiB, seconds, and letters of the transcript."""
    model, began = load_model(base, folders), time.perf_counter()
    result = transcribe(model, path)
    return peak_mib(), time.perf_counter() - began, len(result.text)


def long_file(args, utterances) -> Iterator[Row]:
    step = max(1, len(utterances) // 200)
    clips = [load_audio(utterance.sound) for utterance in utterances[::step]]
    with tempfile.TemporaryDirectory() as folder:
        path, found = Path(folder) / "long.flac", []
        for minutes in (3, args.minutes):
            write_long(path, clips, minutes)
            found.append(in_fresh_process(memory_of_file, args.base, args.pack, path))
    (short, _, _), (long, seconds, letters) = found
    note = f"{long:.0f} against {short:.0f} MiB; {seconds:.0f} s, {letters} letters"
    yield Row(
        4,
        f"file of {args.minutes:g} minutes against 3, memory",
        long / short,
        long / short,
        1.2,
        note,
    )


def batches(args, utterances) -> Iterator[Row]:
    model, rng = load_model(args.base, args.pack), np.random.default_rng(1)
    some = [utterances[i] for i in rng.permutation(len(utterances))]
    sounds = (load_audio(utterance.sound) for utterance in cycle(some))
    clips = [
        joined(list(islice(sounds, 1 + k % 5)), model.backbone.window_samples)
        for k in range(args.mixed)
    ]
    groups = [clips[first : first + BATCH] for first in range(0, len(clips), BATCH)]
    times = take_turns(
        {
            "batch": lambda group: model.transcribe_windows(group),
            "single": lambda group: [model.transcribe_windows([clip])[0] for clip in group],
        },
        groups,
        model.backbone,
        args.rounds,
        args.clock,
    )
    pairs = [
        pair
        for both in zip(*times.outputs.values(), strict=True)
        for pair in zip(*both, strict=True)
    ]
    differ = sum(a.text != b.text for a, b in pairs)
    lengths = [len(clip) / SAMPLE_RATE for clip in clips]
    packs = sum(one.route != PRIMARY for _, one in pairs)
    note = (
        f"{differ} of {len(pairs)} texts differ; {min(lengths):.1f} to {max(lengths):.1f} s,"
        f" {packs} to packs"
    )
    yield times.row(5, f"batches of {BATCH} against one by one", "batch", "single", 1.0, note)


def faster_whispers(folder: Path, tokens: int, suppressed: Sequence[int]) -> dict[str, Callable]:
    """Make ways of faster-whisper with the weights in a folder: samples -> so many text tokens.

    Every fallback and filter is off. ctranslate2 stops at half of the max_length that it is given,
    the four tokens of the prompt included.
    """
    from ctranslate2.converters import TransformersConverter
    from faster_whisper import WhisperModel

    to = folder.with_name("ctranslate2")
    TransformersConverter(
        str(folder), copy_files=["tokenizer.json", "preprocessor_config.json"]
    ).convert(str(to))
    ways = {}
    for kind in ("float32", "int8"):
        model = WhisperModel(
            str(to), device="cpu", compute_type=kind, cpu_threads=torch.get_num_threads()
        )

        def way(clip: np.ndarray, model=model) -> list[int]:
            segments, _ = model.transcribe(
                clip,
                language=LANGUAGE,
                beam_size=1,
                temperature=0.0,
                max_new_tokens=2 * tokens - 4,
                without_timestamps=True,
                suppress_tokens=list(suppressed),
                suppress_blank=False,
                condition_on_previous_text=False,
                no_speech_threshold=None,
                log_prob_threshold=None,
                compression_ratio_threshold=None,
            )
            return [token for segment in segments for token in segment.tokens]

        ways[f"faster-whisper {kind}"] = way
    return ways


def engines(args, utterances) -> Iterator[Row]:
    with tempfile.TemporaryDirectory() as folder:
        base = Path(folder) / args.shape
        write_whisper(base, args.shape)
        backbone = Backbone.load(base)
        model, options = (
            DualWhisper(backbone),
            DecodeOptions(generate={"max_new_tokens": args.shape_tokens}),
        )
        ways = {
            "ours": (
                lambda clip: (
                    model.transcribe_windows(
                        [clip], route=PRIMARY, language=LANGUAGE, options=options
                    )[0].tokens
                )
            ),
            "plain transformers": (
                lambda clip: backbone.model.generate(
                    backbone.features([clip]),
                    language=LANGUAGE,
                    task="transcribe",
                    max_new_tokens=args.shape_tokens,
                )[0].tolist()
            ),
        }
        if find_spec("faster_whisper"):
            ways |= faster_whispers(
                base, args.shape_tokens, backbone.model.generation_config.suppress_tokens
            )
        else:
            print(
                "6  faster-whisper is not installed: its rows are left out; `pip install"
                " faster-whisper`"
            )
        clips = full_windows(utterances, backbone.languages, backbone.window_s, args.shape_clips)
        # full windows: engines pad shorter ones differently
        clips = [np.resize(clip, backbone.window_samples) for clip, _ in clips]
        times = take_turns(ways, clips, backbone, args.rounds, args.clock)
    calls, counts = (
        times.calls,
        {name: sum(map(len, outputs)) for name, outputs in times.outputs.items()},
    )
    for name in list(ways)[1:]:
        note = f"{counts['ours']} and {counts[name]} tokens"
        same = [
            list(a) == list(b)
            for a, b in zip(times.outputs["ours"], times.outputs[name], strict=True)
        ]
        note += f", {sum(same)} of {len(clips)} windows the same"
        note += f"; decoder calls {calls['ours']}, {calls[name]}" if name in calls else ""
        yield times.row(
            6, f"{args.shape}'s shape, the primary's route against {name}", "ours", name, None, note
        )


def more(parser) -> None:
    parser.add_argument(
        "--minutes", type=float, default=180, help="length of the long file (%(default)s)"
    )
    parser.add_argument("--mixed", type=int, default=40, help="clips of mixed length (%(default)s)")


if __name__ == "__main__":
    run(__doc__, {4: long_file, 5: batches, 6: engines}, more)
