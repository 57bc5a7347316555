r"""Which sound do packs take? Routes of real and generated clips on a genuine Whisper.

    python recipes/real/routing.py --data DATA --base whisper-base --pack packs/kichwa \
        --out runs/routing

DATA holds manifest folders of recordings. The sets are:
- clips in the packs' languages that no pack was trained on;
- clips in languages of the base, read, broadcast and spoken as single words;
- the same as a telephone would carry them;
- clips in languages that neither the base nor a pack knows: recordings, and numbers that espeak-ng
  reads in languages of which there are no generated negatives, with voices for tests;
- music, noise and silence.

A set whose folder is not there is left out. Every clip is cut at 30 s. OUT/routing.json holds the
route of every clip, OUT/routing.md the table.
"""

import argparse
import json
import sys
import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from dualasr.atomic import atomic_file
from dualasr.audio.augment import coloured_noise, limit_band, music
from dualasr.audio.load import SAMPLE_RATE, load_audio
from dualasr.cli.log import log_to_terminal
from dualasr.data.corpus import Utterance, load_corpus
from dualasr.data.espeak import Speaker, draw_voice
from dualasr.errors import DualasrError
from dualasr.evaluation.markdown import markdown_table
from dualasr.model.selector import PRIMARY, SelectorOptions
from dualasr.packs.format import read_selector
from dualasr.packs.load import load_model
from dualasr.parallel import worker_pool
from dualasr.progress import progress_bar

# languages that Whisper and CLDR lack and espeak-ng reads
UNKNOWN = "bpy gn grc hak io jbo lfn ltg mto nci nog py qdb quc qya smj".split()
OWN, OLD, NOBODY, NO_SPEECH = "own", "old languages", "languages that nobody knows", "no speech"


@dataclass(frozen=True)
class Clip:
    """A clip of a set: what it is, and how to get its samples, (samples,) at 16 kHz."""

    name: str
    group: str
    set: str
    samples: Callable[[], np.ndarray]


def recorded(data: Path, folder: str, split: str, group: str, step: int = 1) -> Iterator[Clip]:
    """Yield every `step`th clip of a split, and a telephone's version of every second of these."""
    if not (data / folder).is_dir():
        return
    chosen = load_corpus(data / folder, split, require_text=False).utterances[::step]
    for number, utterance in enumerate(chosen):

        def plain(u: Utterance = utterance) -> np.ndarray:
            return load_audio(u.sound)

        def telephone(u: Utterance = utterance) -> np.ndarray:
            return limit_band(load_audio(u.sound), np.random.default_rng(zlib.crc32(u.id.encode())))

        yield Clip(utterance.id, group, folder, plain)
        if number % 2 == 0:
            yield Clip(utterance.id, group, f"{folder}, telephone", telephone)


def generated(count: int = 3) -> Iterator[Clip]:
    """Yield clips in the unknown languages, read by the voices for tests."""
    with Speaker() as speaker:
        for code in UNKNOWN:
            rng = np.random.default_rng([7, *code.encode()])
            for number in range(count):
                text = " ".join(str(10 ** rng.uniform(0, 5)).split(".")[0] for _ in range(6))
                samples = speaker.speak(text, code, draw_voice(rng, "test"))[: 8 * SAMPLE_RATE]
                if len(samples) >= SAMPLE_RATE:
                    yield Clip(
                        f"{code} {number}", NOBODY, "generated", lambda samples=samples: samples
                    )


def without_speech(count: int = 20) -> Iterator[Clip]:
    """Yield music, noise and silence of 2 to 12 s."""
    for number in range(count):
        rng = np.random.default_rng([11, number])
        size = int(rng.uniform(2, 12) * SAMPLE_RATE)
        sounds = {
            "music": 0.1 * music(size, rng),
            "noise": 10 ** rng.uniform(-3, -1) * coloured_noise(size, rng),
            "silence": np.zeros(size, np.float32),
        }
        for kind, samples in sounds.items():
            yield Clip(str(number), NO_SPEECH, kind, lambda samples=samples: samples)


def clips_of(data: Path, codes: set[str]) -> list[Clip]:
    """Return all clips, in groups as the packs' languages need."""
    suba = OWN if "sxb" in codes else NOBODY
    kichwa = OWN if codes & {"qu-EC", "qu"} else NOBODY
    swahili = OWN if "sw" in codes else OLD
    return [
        *recorded(data, "kichwa", "dev", kichwa),
        *recorded(data, "suba", "dev", suba),
        *(recorded(data, "suba", "train", suba, 6) if suba == NOBODY else ()),
        *recorded(data, "fleurs_mini", "test", OLD),
        *recorded(data, "misc", "test", OLD),
        *recorded(data, "swahili", "test", swahili),
        *recorded(data, "fsdd", "test", OLD, 3),
        *generated(),
        *without_speech(),
    ]


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, required=True, metavar="DIR")
    parser.add_argument("--base", required=True)
    parser.add_argument("--pack", type=Path, action="append", default=[], metavar="DIR")
    parser.add_argument("--selector", type=Path, metavar="FILE", help="selector of the set")
    parser.add_argument("--out", type=Path, required=True, metavar="DIR")
    args = parser.parse_args(argv)
    try:
        with log_to_terminal():
            return measure(args)
    except DualasrError as error:
        print(f"routing: {error}", file=sys.stderr)
        return 1


def measure(args: argparse.Namespace) -> int:
    """Route all clips, and write and print the results."""
    selector = read_selector(args.selector) if args.selector else SelectorOptions()
    model = load_model(args.base, args.pack, selector=selector)
    codes = {code for pack in model.packs.values() for code in pack.info.languages}
    clips = clips_of(args.data, codes)
    batches = [clips[first : first + 8] for first in range(0, len(clips), 8)]

    def routed(batch: list[Clip]) -> list[dict]:
        sounds = [clip.samples()[: model.backbone.window_samples] for clip in batch]
        results = model.transcribe_encoded(model.encode_audio(sounds))
        return [
            {
                **{key: getattr(clip, key) for key in ("name", "group", "set")},
                "route": result.route,
                "reason": result.reason,
                "text": result.text,
            }
            for clip, result in zip(batch, results, strict=True)
        ]

    with worker_pool() as (pool, _):
        done = progress_bar(
            pool.map(routed, batches), desc="routes", total=len(batches), unit="batch"
        )
        rows = [row for batch in done for row in batch]
    with atomic_file(args.out / "routing.json") as part:
        part.write_text(json.dumps(rows, indent=1, ensure_ascii=False), encoding="utf-8")
    table = table_of(rows)
    with atomic_file(args.out / "routing.md") as part:
        part.write_text(table, encoding="utf-8")
    print(table)
    return 0


def table_of(rows: list[dict]) -> str:
    """Return the table: for each set and group, how many clips the packs took."""
    lines = []
    for group in (OWN, OLD, NOBODY, NO_SPEECH):
        mine = [row for row in rows if row["group"] == group]
        sets = dict.fromkeys(row["set"] for row in mine)
        for name in [*sets, *(["all"] if len(sets) > 1 else [])]:
            chosen = [row for row in mine if name in ("all", row["set"])]
            taken = sum(row["route"] != PRIMARY for row in chosen)
            share = f"{taken / len(chosen):.1%}"
            lines.append((group, name, str(len(chosen)), str(taken), share))
    return "\n".join(markdown_table(("group", "set", "clips", "taken by packs", "share"), lines))


if __name__ == "__main__":
    sys.exit(main())
