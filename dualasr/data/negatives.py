"""Generated speech in about a hundred languages: what a pack must not take.

A user who adds a language seldom has recordings in many others. So this module makes some.
Unicode's CLDR (package `babel`) has names of countries, languages and days in the script of each
language, and espeak-ng reads lists of them aloud. It is no running text, but it has each language's
sounds, syllables and melody. The clips are made once and kept in the cache folder.
"""

import datetime
import logging
from collections.abc import Sequence
from pathlib import Path

import langcodes
import numpy as np
import soundfile

from dualasr.atomic import atomic_folder, cache_folder
from dualasr.audio.load import SAMPLE_RATE
from dualasr.data.espeak import Speaker, draw_voice, spoken_languages
from dualasr.errors import MissingExtraError

log = logging.getLogger("dualasr")

VERSION = "1"  # of the clips
CLIPS = 4  # of each language
LEAST_NAMES = 60  # that CLDR must have of a language
NEAR = 25  # distance of language tags, as langcodes has it, below which two are one language
SECONDS = (2.0, 9.0)
ADVICE = "Free some space, set DUALASR_CACHE to another folder, or give --no-generated-negatives."


def generated_negatives(own: Sequence[str]) -> tuple[list[Path], list[Path]]:
    """Return clips in all languages that are not, or are not nearly, one of `own`.

    They are made if they are not in the cache folder yet, which takes some seconds.

    Args:
        own: Codes of the pack's languages.

    Returns:
        Sound files for training, three a language, and for dev, one a language. The languages take
        turns. The name of a file begins with its language's code.

    Raises:
        MissingExtraError: espeakng-loader or babel is not installed.
        RunError: The cache folder cannot be written.
    """
    folder = cache_folder() / f"negatives-{VERSION}"
    if not folder.exists():
        with atomic_folder(folder, advice=ADVICE) as part:
            _speak_all(part)
    clips = [
        (number, code, path)
        for path in folder.glob("*.flac")
        for code, number in [path.stem.split("_")]
        if all(_distance(code, other) >= NEAR for other in own)
    ]
    last = str(CLIPS - 1)
    train = [path for number, _, path in sorted(clips) if number != last]
    return train, [path for number, _, path in sorted(clips) if number == last]


def _distance(first: str, second: str) -> int:
    """Return the distance of two language tags: 0 for the same, 134 for nothing in common."""
    one, other = (langcodes.standardize_tag(code, macro=True) for code in (first, second))
    return langcodes.tag_distance(one, other)


def _speak_all(folder: Path) -> None:
    """Write CLIPS clips of each language that espeak-ng and CLDR have."""
    log.info("  generating speech in about a hundred languages, once for all runs")
    with Speaker() as speaker:
        for code in spoken_languages():
            rng = np.random.default_rng([*code.encode()])
            for number in range(CLIPS):
                text = names_of(code, rng)
                samples = speaker.speak(text, code, draw_voice(rng, "train"))
                most = int(rng.uniform(*SECONDS) * SAMPLE_RATE)
                if len(samples) >= SECONDS[0] / 2 * SAMPLE_RATE:
                    soundfile.write(folder / f"{code}_{number}.flac", samples[:most], SAMPLE_RATE)


def names_of(code: str, rng: np.random.Generator) -> str:
    """Draw names of countries and languages and a date, in a language.

    Args:
        code: The language's code.
        rng: Source of the choice.

    Returns:
        The text; "" where CLDR has too few names.

    Raises:
        MissingExtraError: babel is not installed.
    """
    try:
        from babel import Locale, UnknownLocaleError
        from babel.dates import format_date
    except ImportError:
        raise MissingExtraError("babel", "synth") from None
    try:
        locale = Locale.parse(langcodes.standardize_tag(code).replace("-", "_"))
    except (UnknownLocaleError, ValueError):
        return ""
    names = [name for table in (locale.territories, locale.languages) for name in table.values()]
    if len(names) < LEAST_NAMES:
        return ""
    chosen = [names[rng.integers(len(names))] for _ in range(int(rng.integers(3, 7)))]
    day = datetime.date(2000, 1, 1) + datetime.timedelta(int(rng.integers(10_000)))
    chosen.insert(int(rng.integers(len(chosen) + 1)), format_date(day, "full", locale))
    return (", " if rng.random() < 0.5 else " ").join(chosen)
