"""Generate a corpus in FLEURS' layout, read aloud by espeak-ng.

Its files are data/{config}/{train,dev,test}.tsv and data/{config}/audio/{split}/, FLAC at 16 kHz.
The sentences are dualasr's own (data/sentences). No test sentence and no test voice is in a
training set. A new language has three splits. A language of the base has a test split, and a train
split of other words: speech that a pack learns to score low.
"""

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path

import numpy as np
import soundfile

from dualasr.atomic import atomic_folder
from dualasr.audio.load import SAMPLE_RATE
from dualasr.data.corpus import text_file
from dualasr.data.espeak import Speaker, draw_voice
from dualasr.data.fingerprints import GRAM, SIMILAR
from dualasr.errors import CorpusError
from dualasr.languages import code_of, language_of
from dualasr.text import normalise

log = logging.getLogger("dualasr")

# The random stream of each language has its own number, so a language sounds the same whatever else
# is generated.
NUMBERS = {
    "ky_kg": 0,
    "ga_ie": 1,
    "en_us": 2,
    "es_419": 3,
    "de_de": 4,
    "tr_tr": 5,
    "bg_bg": 6,
    "or_in": 7,
    "om_et": 8,
}
NEW = ("ky_kg", "ga_ie", "or_in", "om_et")  # languages with sentences for every split
ENLARGED = 4000  # the least training clips of a new language, where `text` gives more sentences
NEGATIVES = 240  # training clips of a language of the base


@dataclass(frozen=True)
class GenerateOptions:
    """How much speech to generate.

    Attributes:
        readings: Number of voices that read each training sentence.
        test_readings: Number of voices that read each test sentence.
        text: Folder with more training sentences, <code>.txt or *_<code>.txt; None for none.
        seed: Seed of voices and new sentences.
        limit: Only the first sentences of each split are read, this many; None reads all.
    """

    readings: int = 2
    test_readings: int = 1
    text: Path | None = None
    seed: int = 1
    limit: int | None = None


def sentences(language: str, split: str) -> list[str]:
    """Return the sentences in this package of a language and split."""
    return (
        (files("dualasr.data") / "sentences" / f"{language}.{split}.txt")
        .read_text(encoding="utf-8")
        .splitlines()
    )


def _grams(text: str) -> set[str]:
    """Return the character 4-grams of a normalised text."""
    text = f" {normalise(text, 'marks')} "
    return {text[i : i + GRAM] for i in range(len(text) - GRAM + 1)}


def recombine(
    pool: list[str], count: int, rng: np.random.Generator, held: Sequence[str] = ()
) -> list[str]:
    """Make new sentences: each is the start of one sentence and the end of another.

    Half a question stays a question. A pack that was trained on questions only in its own language
    would recognise the language by their melody.

    Args:
        pool: Sentences to take the halves from.
        count: Number of sentences to make.
        rng: Source of the random choices.
        held: Sentences of dev and test. No new sentence is nearly one of them: the Jaccard
            similarity of their character 4-grams is below 0.6. (`contamination.py` reports 0.7 and
            above, but only estimates the similarity.)

    Returns:
        The new sentences, `count` of them.
    """
    made: list[str] = []
    kept = [_grams(text) for text in held]
    while len(made) < count:
        first, second = (pool[rng.integers(len(pool))].split() for _ in range(2))
        text = " ".join(
            first[: int(rng.integers(1, len(first)))] + second[int(rng.integers(1, len(second))) :]
        ).strip(",")
        mine = _grams(text)
        if all(len(mine & other) < (SIMILAR - 0.1) * len(mine | other) for other in kept):
            made.append(text)
    return made


def texts_of(
    config: str, split: str, options: GenerateOptions, rng: np.random.Generator
) -> tuple[list[str], list[int]]:
    """Return the texts to read for a split, and the sentence id of each."""
    code, limit = code_of(config), options.limit
    if config not in NEW and split == "train":
        texts = recombine(
            sentences(code, "negatives")[:limit], 2 * limit if limit else NEGATIVES, rng
        )
        return texts, list(range(len(texts)))
    texts = sentences(code, split)[:limit]
    if split != "train":
        readings = options.test_readings if split == "test" else 1
        return texts * readings, list(range(len(texts))) * readings
    more, held = [], sentences(code, "dev") + sentences(code, "test")
    if options.text is not None:
        said = {line.strip().lower() for line in held}
        lines = text_file(options.text, code).read_text(encoding="utf-8").splitlines()
        more = [line for line in lines if line.strip().lower() not in said]
    pool = texts + more
    if more:
        texts = pool + recombine(pool, max(0, ENLARGED - len(pool)), rng, held)
    else:
        texts = pool * options.readings + recombine(pool, len(pool), rng, held)
    return texts, list(range(len(texts)))


def speak_config(config: str, folder: Path, options: GenerateOptions) -> None:
    """Write tables and audio of a config into an empty folder.

    They are the same every time, whatever was generated before.

    Raises:
        CorpusError: The language has no sentences.
        MissingExtraError: espeakng-loader is not installed.
    """
    if config not in NUMBERS:
        raise CorpusError(f"{config} has no sentences to be read; there is {', '.join(NUMBERS)}.")
    with Speaker() as speaker:
        for split in ("train", "dev", "test") if config in NEW else ("train", "test"):
            _speak_split(config, split, folder, options, speaker)


def _speak_split(
    config: str, split: str, folder: Path, options: GenerateOptions, speaker: Speaker
) -> None:
    """Write the table and the audio of one split; a text without speech is left out."""
    rng = np.random.default_rng([options.seed, NUMBERS[config], len(split)])
    texts, ids = texts_of(config, split, options, rng)
    (folder / "audio" / split).mkdir(parents=True)
    rows = []
    for i, (text, ident) in enumerate(zip(texts, ids, strict=True)):
        samples = speaker.speak(
            text, code_of(config), draw_voice(rng, "test" if split == "test" else "train")
        )
        if len(samples) < SAMPLE_RATE // 4:
            continue
        name = f"{i:05d}.flac"
        soundfile.write(folder / "audio" / split / name, samples, SAMPLE_RATE)
        plain = text.lower()
        rows.append([str(ident), name, text, plain, "|".join(plain), str(len(samples)), "OTHER"])
    (folder / f"{split}.tsv").write_text(
        "".join("\t".join(row) + "\n" for row in rows), encoding="utf-8"
    )


def generate_corpus(
    root: Path, configs: Sequence[str], options: GenerateOptions = GenerateOptions()
) -> None:
    """Write root/data/{config} of each config that is not there yet, whole or not at all.

    Args:
        root: Folder of the corpus.
        configs: Languages as FLEURS calls them, or their codes.
        options: How much speech to generate.

    Raises:
        CorpusError: A language has no sentences.
        MissingExtraError: espeakng-loader is not installed.
        RunError: The corpus cannot be written.
    """
    for config in (language_of(config).config for config in configs):
        folder = root / "data" / config
        if folder.exists():
            continue
        with atomic_folder(folder) as part:
            speak_config(config, part, options)
        log.info(f"  {config}")
