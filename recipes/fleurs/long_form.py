r"""Measure what long recordings lose: clips joined at random, with known text.

    python recipes/fleurs/long_form.py --corpus data/fleurs --base BASE --out runs/long_form

Each recording is made of test clips of one language, or of all ("mixed"), in a random order with
pauses of 0.2 to 1 s. Every system gets the same recordings, and detects the languages itself:

dualasr         `dualasr.transcription.transcribe` with the settings of the command line
transformers    `generate` in its sequential long form, with Whisper's fallback
faster-whisper  `WhisperModel.transcribe`, on the folder of --ct2 (left out without it)

The table counts words that were deleted, those in runs of three and more, and the three longest
runs; a run ends at a word that was said, right or wrong. The interval is of a bootstrap over
recordings. Transcripts are kept in --out, so that a stopped run goes on.
"""

import argparse
import json
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random

import jiwer
import numpy as np

from dualasr.atomic import atomic_file
from dualasr.audio.load import SAMPLE_RATE, load_audio
from dualasr.data.corpus import load_corpus
from dualasr.data.utterance import Utterance
from dualasr.metrics import bootstrap_interval
from dualasr.text import normalise, scoring_unit

LOST = 3  # words deleted in a row that count as lost speech
System = Callable[[np.ndarray], str]


@dataclass(frozen=True)
class Joined:
    """A recording made of clips.

    Attributes:
        name: Language or "mixed", and number.
        samples: float32, shape (samples,), 16 kHz.
        text: What is said.
    """

    name: str
    samples: np.ndarray
    text: str


@dataclass(frozen=True)
class Lost:
    """The errors of one system in one recording.

    Attributes:
        errors: Substitutions, deletions and insertions.
        words: Words of the reference.
        deleted: Deleted words.
        runs: Lengths of the runs of deleted words.
    """

    errors: int
    words: int
    deleted: int
    runs: tuple[int, ...]


def joined(
    utterances: Sequence[Utterance], name: str, count: int, seconds: float, seed: int
) -> Iterator[Joined]:
    """Join clips at random until a recording is as long as wanted.

    Args:
        utterances: The clips to choose from; each is used once in a recording.
        name: Language or "mixed".
        count: Number of recordings.
        seconds: Length of a recording.
        seed: Seed of order and pauses.

    Yields:
        The recordings.
    """
    for number in range(count):
        rng = Random(f"{seed} {name} {number}")
        parts, texts, length = [], [], 0
        for utterance in rng.sample(list(utterances), len(utterances)):
            clip = load_audio(utterance.sound)
            if length and length + len(clip) > seconds * SAMPLE_RATE:
                continue
            pause = np.zeros(int(rng.uniform(0.2, 1.0) * SAMPLE_RATE), np.float32)
            parts += [clip, pause]
            texts.append(utterance.text)
            length += len(clip) + len(pause)
        yield Joined(f"{name}-{number}", np.concatenate(parts), " ".join(texts))


def compare(text: str, heard: str) -> Lost:
    """Count the errors of a transcript, both texts normalised with their marks kept."""
    found = jiwer.process_words(normalise(text, "marks"), normalise(heard, "marks"))
    runs = []
    for chunk in found.alignments[0]:
        if chunk.type == "delete":
            runs.append(chunk.ref_end_idx - chunk.ref_start_idx)
    errors = found.substitutions + found.deletions + found.insertions
    words = found.hits + found.substitutions + found.deletions
    return Lost(errors, words, found.deletions, tuple(runs))


def our_system(base: str, packs: Sequence[Path], beam: int) -> System:
    """Return dualasr with the settings of its command line."""
    from dualasr.model.dual_whisper import DecodeOptions
    from dualasr.model.fallback import Fallback
    from dualasr.packs.load import load_model
    from dualasr.transcription.request import TranscribeOptions
    from dualasr.transcription.transcribe import transcribe

    model = load_model(base, packs)
    decode = DecodeOptions(beam=beam, timestamps=model.backbone.tells_time, fallback=Fallback())
    options = TranscribeOptions(decode=decode)
    return lambda samples: transcribe(model, samples, options=options).text


def transformers_system(base: str, beam: int) -> System:
    """Return transformers' sequential long form."""
    from dualasr.model.fallback import Fallback
    from dualasr.model.whisper import Backbone

    backbone, ladder = Backbone.load(base), Fallback()

    def transcribe(samples: np.ndarray) -> str:
        features = backbone.extractor(
            samples,
            sampling_rate=SAMPLE_RATE,
            return_tensors="pt",
            truncation=False,
            padding="longest",
            return_attention_mask=True,
        )
        tokens = backbone.model.generate(
            **features,
            num_beams=beam,
            task="transcribe",
            return_timestamps=True,
            temperature=ladder.temperatures,
            compression_ratio_threshold=ladder.compression_ratio_threshold,
            logprob_threshold=ladder.logprob_threshold,
            no_speech_threshold=ladder.no_speech_threshold,
            condition_on_prev_tokens=False,
        )
        return backbone.tokenizer.batch_decode(tokens, skip_special_tokens=True)[0]

    return transcribe


def faster_system(folder: Path, beam: int) -> System:
    """Return faster-whisper; like ours without text of earlier windows as a prompt."""
    from faster_whisper import WhisperModel

    model = WhisperModel(str(folder), device="cpu", compute_type="float32")

    def transcribe(samples: np.ndarray) -> str:
        segments, _ = model.transcribe(
            samples, beam_size=beam, condition_on_previous_text=False, multilingual=True
        )
        return " ".join(segment.text.strip() for segment in segments)

    return transcribe


def row(name: str, system: str, losses: Sequence[Lost], seed: int) -> str:
    """Return a row of the table: all recordings of a language by one system."""
    counts = np.array([(lost.errors, lost.words) for lost in losses])
    low, high = bootstrap_interval(counts, seed=seed)
    rate = counts[:, 0].sum() / counts[:, 1].sum()
    runs = sorted((run for lost in losses for run in lost.runs), reverse=True)
    lost = [run for run in runs if run >= LOST]
    cells = (
        name,
        system,
        f"{100 * rate:.1f} [{100 * low:.1f}, {100 * high:.1f}]",
        sum(found.deleted for found in losses),
        sum(lost),
        len(lost),
        ", ".join(map(str, runs[:3])),
    )
    return "| " + " | ".join(map(str, cells)) + " |"


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--corpus", type=Path, required=True, help="its test split is used")
    parser.add_argument("--base", required=True)
    parser.add_argument("--pack", type=Path, action="append", default=[])
    parser.add_argument("--ct2", type=Path, help="the same base for faster-whisper")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--language", action="append", help="only these, and mixed")
    parser.add_argument("--count", type=int, default=5, help="recordings each (%(default)s)")
    parser.add_argument("--seconds", type=float, default=120.0, help="length (%(default)s)")
    parser.add_argument("--beam", type=int, default=5, help="(%(default)s)")
    parser.add_argument("--seed", type=int, default=1, help="(%(default)s)")
    parser.add_argument("--only", action="append", help="only these systems")
    args = parser.parse_args()

    utterances = [
        u
        for u in load_corpus(args.corpus, "test", languages=args.language).utterances
        if scoring_unit(u.language) == "word"
    ]
    groups = {
        code: [u for u in utterances if u.language == code]
        for code in sorted({u.language for u in utterances})
    }
    if len(groups) > 1:
        groups["mixed"] = utterances
    systems: dict[str, Callable[[], System]] = {
        "dualasr": lambda: our_system(args.base, args.pack, args.beam),
        "transformers": lambda: transformers_system(args.base, args.beam),
    }
    if args.ct2 is not None:
        systems["faster-whisper"] = lambda: faster_system(args.ct2, args.beam)
    chosen = args.only or list(systems)
    texts: dict[str, dict[str, str]] = {}
    args.out.mkdir(parents=True, exist_ok=True)
    recordings = {
        name: list(joined(clips, name, args.count, args.seconds, args.seed))
        for name, clips in groups.items()
    }
    for name in chosen:
        path = args.out / f"{name}.json"
        texts[name] = json.loads(path.read_text()) if path.exists() else {}
        transcribe = None
        for recording in (r for group in recordings.values() for r in group):
            if recording.name not in texts[name]:
                transcribe = transcribe or systems[name]()
                texts[name][recording.name] = transcribe(recording.samples)
                with atomic_file(path) as new:
                    new.write_text(json.dumps(texts[name], ensure_ascii=False, indent=1))
                print(f"{name}: {recording.name}", file=sys.stderr, flush=True)
    print(f"{args.count} recordings of {args.seconds:g} s each, beam {args.beam}\n")
    print("| | system | WER, % | deleted words | in runs of 3 and more | runs | longest |")
    print("|---|---|---|---|---|---|---|")
    for group, of_group in recordings.items():
        for name in chosen:
            losses = [compare(r.text, texts[name][r.name]) for r in of_group]
            print(row(group, name, losses, args.seed))
    return 0


if __name__ == "__main__":
    sys.exit(main())
