r"""Lay out real recordings for recipes/fleurs/compare.py: two new languages, six of the base's.

    python recipes/real/prepare.py --data DATA --out data/real

DATA holds manifest folders: kichwa, suba, fleurs_mini, misc, fsdd and swahili. OUT gets

- kichwa and suba: corpora whose test split is the dev split of DATA, read once at the end. Kichwa's
  dev is a chapter that is kept from train, Suba's one training sentence in ten;
- data/{config}: the base's languages as FLEURS has them. Test is fleurs_mini, with LibriSpeech and
  Kennedy's speech for English, and radio news for Swahili. Train, for replay, is English digits and
  Swahili news; the other languages have no training clips.

The recordings of the new languages stay where they are.
"""

import argparse
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import soundfile

from dualasr.atomic import atomic_folder
from dualasr.audio.load import SAMPLE_RATE, load_audio
from dualasr.data.corpus import Utterance, load_corpus, write_manifest
from dualasr.errors import DualasrError

CHAPTER = "ch04"  # of Kichwa, kept from train
TEN = 10  # one Suba sentence in so many
OLD = {"en_us": "en", "de_de": "de", "fr_fr": "fr", "es_419": "es", "pt_br": "pt", "sw_ke": "sw"}


def clips(data: Path, name: str, split: str, language: str | None = None) -> list[Utterance]:
    """Return the clips of a manifest folder; of one language if it is given."""
    found = load_corpus(data / name, split).utterances
    return [u for u in found if language in (None, u.language)]


def new_language(data: Path, name: str, out: Path) -> None:
    """Write a manifest with train, dev and test; the recordings stay where they are."""
    rows = []
    for number, u in enumerate(clips(data, name, "train")):
        kept = u.id.startswith(CHAPTER) if name == "kichwa" else number % TEN == 0
        rows.append(replace(u, audio=u.audio.absolute(), split="dev" if kept else "train"))
    rows += [replace(u, audio=u.audio.absolute(), split="test") for u in clips(data, name, "dev")]
    with atomic_folder(out / name) as part:
        write_manifest(part / "manifest.jsonl", rows)


def old_language(data: Path, config: str, out: Path) -> None:
    """Write a language of the base in FLEURS' layout: test.tsv, and train.tsv if there is any."""
    code = OLD[config]
    splits = {
        "test": clips(data, "fleurs_mini", "test", code) if code != "sw" else [],
        "train": [],
    }
    if code == "en":
        splits["test"] += clips(data, "misc", "test", "en")
        splits["train"] = clips(data, "fsdd", "train")[::3]
    if code == "sw":
        splits = {split: clips(data, "swahili", split) for split in ("test", "train")}
    with atomic_folder(out / "data" / config) as part:
        for split, utterances in splits.items():
            if not utterances:
                continue
            (part / "audio" / split).mkdir(parents=True)
            lines = []
            for number, u in enumerate(utterances):
                samples, name = load_audio(u.sound), f"{number:04d}.flac"
                soundfile.write(part / "audio" / split / name, samples, SAMPLE_RATE)
                row = (str(number), name, u.text, u.text.lower(), "", str(len(samples)), "OTHER")
                lines.append("\t".join(row) + "\n")
            (part / f"{split}.tsv").write_text("".join(lines), encoding="utf-8")


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, required=True, metavar="DIR")
    parser.add_argument("--out", type=Path, required=True, metavar="DIR")
    args = parser.parse_args(argv)
    try:
        for name in ("kichwa", "suba"):
            new_language(args.data, name, args.out)
        for config in OLD:
            old_language(args.data, config, args.out)
    except DualasrError as error:
        print(f"prepare: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
