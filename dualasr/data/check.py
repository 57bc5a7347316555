"""Check what is in a corpus, and what is wrong with it: `dualasr corpus check`."""

import base64
import hashlib
import io
import re
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
from tqdm import tqdm

from dualasr.atomic import atomic_file
from dualasr.audio.load import SAMPLE_RATE, SHORTEST, Sound, load_audio
from dualasr.data.corpus import Columns, Corpus, SkippedRow, Utterance, load_corpus, load_splits
from dualasr.data.utterance import canonical_split
from dualasr.errors import AudioError, CorpusError
from dualasr.progress import progress_bar
from dualasr.text import normalise

SILENT_DBFS = -60.0  # RMS level; a clip below it is silent
# a clip is clipped if more than this share of its samples reaches this level
FULL_SCALE, MOST_AT_FULL_SCALE = 0.999, 0.001
MOST_CHARACTERS_A_SECOND = 25.0
LONG_S = 30.0  # seconds, one window of Whisper
NARROW_HZ = 4400.0  # telephone speech ends at 3.4 to 4 kHz; codecs smear it a little upwards
# Share of the clips. If fewer are narrow, the reason may be a voice without a strong s.
FEW_NARROW = 0.05
SHOWN = 20  # items shown of a long list
PICTURED = 3  # clips of a split that get a spectrogram
_BAND_S = 60  # seconds of a long clip whose band is measured

# The scripts of Japanese, which may be mixed in a word. Letters of other scripts may not.
_JAPANESE = {"HIRAGANA", "KATAKANA", "KATAKANA-HIRAGANA", "CJK"}


class NarrowClip(NamedTuple):
    """A clip without sound above about 4 kHz.

    Attributes:
        id: Its name in the corpus.
        upper_hz: The upper end of its band in Hz, as `level_and_band` measures it.
        sound: Its file, or the part of it.
    """

    id: str
    upper_hz: float
    sound: Sound


@dataclass(frozen=True, kw_only=True)
class SplitCheck:
    """What is in one split, and what is wrong with it.

    Attributes:
        split: Its name; "" for a corpus without splits.
        clips: Number of clips.
        hours: Hours of the clips that can be read.
        speakers: Number of known speakers.
        sentences: Number of different sentences.
        characters: Each character and its count, the most frequent first.
        issues: Each kind of issue, and the clips or words that have it.
        skipped: Rows that could not be used.
        durations: Seconds of each clip that can be read.
        rates: Characters a second of each clip that can be read.
        narrow: Clips with a narrow band, the narrowest first.
        error: Why the split cannot be read at all; "" if it can.
    """

    split: str
    clips: int = 0
    hours: float = 0.0
    speakers: int = 0
    sentences: int = 0
    characters: tuple[tuple[str, int], ...] = ()
    issues: tuple[tuple[str, tuple[str, ...]], ...] = ()
    skipped: tuple[SkippedRow, ...] = ()
    durations: tuple[float, ...] = ()
    rates: tuple[float, ...] = ()
    narrow: tuple[NarrowClip, ...] = ()
    error: str = ""

    @property
    def advice(self) -> str:
        """What a narrow band means and what to do about it; "" where no clip has one."""
        if not self.narrow:
            return ""
        share = len(self.narrow) / len(self.durations)
        found = (
            f"{len(self.narrow)} of {len(self.durations)} clips ({100 * share:.1f} %) have no sound"
            " above about 4 kHz, as telephone speech, or speech recorded at 8 kHz and resampled."
        )
        if share < FEW_NARROW:
            return f"{found} So few may only be speech without s, f or sh. Play them to find out."
        return (
            f"{found} Whisper uses frequencies up to 8 kHz. A pack trained on such clips makes more"
            " errors on recordings with the whole band, and may recognise its language by the"
            " missing band. Use recordings made at 16 kHz or more. If the pack is for telephone"
            " speech, give it --negatives with the same band."
        )


@dataclass(frozen=True)
class CorpusCheck:
    """What is in a corpus, and what is wrong with it.

    Attributes:
        path: The corpus.
        layout: The layout in which it was read.
        notes: A sentence for each guess that was made to read it.
        splits: The check of each split.
    """

    path: Path
    layout: str
    notes: tuple[str, ...]
    splits: tuple[SplitCheck, ...]


def check_corpus(
    path: str | Path,
    *,
    default_language: str | None = None,
    columns: Columns = Columns(),
    tier: str | None = None,
    progress: bool | None = None,
) -> CorpusCheck:
    """Read every clip of every split, and check it.

    Args:
        path: A corpus in any layout of `load_corpus`.
        default_language: Language of rows that name none.
        columns: Names of a table's columns.
        tier: The only tier of annotations to read.
        progress: Whether to show a progress bar; None shows it on a terminal.

    Returns:
        The check of the corpus. A split that cannot be read has its `error` set.

    Raises:
        CorpusError: The corpus as a whole cannot be read, as in `load_corpus`.
    """
    language = default_language or "und"
    whole = load_corpus(path, None, default_language=language, columns=columns, tier=tier)
    corpora: dict[str, Corpus | CorpusError] = {"": whole}
    if whole.splits:
        names = list({canonical_split(name): name for name in whole.splits}.values())
        splits = load_splits(path, names, default_language=language, columns=columns, tier=tier)
        corpora = dict(splits.found)
    total = sum(len(corpus.utterances) for corpus in corpora.values() if isinstance(corpus, Corpus))
    with progress_bar(desc="clips", total=total, unit="clip", shown=progress) as bar:
        checks = [
            (
                SplitCheck(split=name, error=str(corpus))
                if isinstance(corpus, CorpusError)
                else _check_split(name, corpus, bar)
            )
            for name, corpus in corpora.items()
        ]
    return CorpusCheck(Path(path), whole.layout, whole.notes, tuple(checks))


def _check_split(name: str, corpus: Corpus, bar: tqdm) -> SplitCheck:
    """Read each clip of a split once, then count its sentences, words and characters."""
    issues: dict[str, list[str]] = defaultdict(list)
    durations, rates, narrow = [], [], []
    first: dict[bytes, str] = {}
    for u in corpus.utterances:
        bar.update()
        try:
            samples = load_audio(u.sound)
        except AudioError as error:
            issues["unreadable audio"].append(f"{u.id} ({error})")
            continue
        seconds = len(samples) / SAMPLE_RATE
        durations.append(seconds)
        rates.append(len(u.text) / seconds)
        level, band_end = level_and_band(samples)
        digest = hashlib.sha256(samples.tobytes()).digest()
        if level < SILENT_DBFS:
            issues[f"silent clips (RMS below {SILENT_DBFS:g} dBFS)"].append(u.id)
        elif len(samples) >= SHORTEST and band_end < NARROW_HZ:
            narrow.append(NarrowClip(u.id, band_end, u.sound))
        if (share := float(np.mean(np.abs(samples) >= FULL_SCALE))) > MOST_AT_FULL_SCALE:
            issues["clipped clips (over 0.1 % of samples at full scale)"].append(
                f"{u.id} ({100 * share:.1f} %)"
            )
        if first.setdefault(digest, u.id) != u.id:
            issues["duplicate clips (the same samples)"].append(f"{u.id} = {first[digest]}")
        if rates[-1] > MOST_CHARACTERS_A_SECOND:
            issues[f"more than {MOST_CHARACTERS_A_SECOND:g} characters a second"].append(
                f"{u.id} ({rates[-1]:.0f})"
            )
        if seconds > LONG_S:
            issues[f"longer than {LONG_S:g} s"].append(f"{u.id} ({seconds:.1f} s)")
    narrow.sort(key=lambda clip: clip.upper_hz)
    issues["clips with a narrow band (nothing above 4 kHz)"] = [
        f"{clip.id} (99 % of the energy below {clip.upper_hz / 1000:.1f} kHz)" for clip in narrow
    ]
    sentences = Counter(map(sentence_of, corpus.utterances))
    issues["sentences said more than once"] = [
        f"{text} ({n})" for text, n in sentences.most_common() if n > 1
    ]
    issues |= odd_words(u.text for u in corpus.utterances)
    issues |= {kind: list(ids) for kind, ids in corpus.changed}
    characters = Counter(char for u in corpus.utterances for char in u.text if char != " ")
    return SplitCheck(
        split=name,
        clips=len(corpus.utterances),
        hours=sum(durations) / 3600,
        speakers=len({u.speaker for u in corpus.utterances} - {None}),
        sentences=len(sentences),
        characters=tuple(sorted(characters.items(), key=lambda item: (-item[1], item[0]))),
        issues=tuple((kind, tuple(found)) for kind, found in issues.items() if found),
        skipped=corpus.skipped,
        durations=tuple(durations),
        rates=tuple(rates),
        narrow=tuple(narrow),
    )


def level_and_band(samples: np.ndarray) -> tuple[float, float]:
    """Measure the level of a clip, and the highest frequency at which it has sound.

    1. Take the frames whose level is within 40 dB of the loudest frame.
    2. For each, find the frequency below which 99 % of its energy lies (the spectral roll-off).
    3. The upper end of the band is the 99th percentile of these frequencies: the frames of s, f and
       sh reach it, and a few clicks do not change it.

    Recordings of the whole band mostly reach 6 to 8 kHz. Telephone speech stays below 4.4 kHz.

    Args:
        samples: float, shape (samples,), 16 kHz, full scale at +-1.

    Returns:
        RMS level in dBFS, and the upper end of the band in Hz.
    """
    import librosa

    count = len(samples)  # one frame, as long as the clip
    rms = librosa.feature.rms(y=samples, frame_length=count, hop_length=count, center=False)
    level = librosa.amplitude_to_db(rms, top_db=None)
    samples = np.pad(samples[: _BAND_S * SAMPLE_RATE], (0, max(0, 512 - count)))
    # no padded frames (center=False): at the padding, the ends of the clip would be clicks
    spectrum = np.abs(librosa.stft(samples, n_fft=512, hop_length=256, center=False))
    levels = librosa.feature.rms(S=spectrum, frame_length=512)[0]
    loud = librosa.amplitude_to_db(levels, ref=np.max, top_db=None) > -40
    ends = librosa.feature.spectral_rolloff(
        S=spectrum[:, loud] ** 2, sr=SAMPLE_RATE, n_fft=512, roll_percent=0.99
    )
    return float(level[0, 0]), float(np.percentile(ends, 99))


def sentence_of(utterance: Utterance) -> str:
    """Return the key of a sentence: two texts with the same key are the same sentence.

    It is the normalised text, or the text itself where nothing is left of it.
    """
    return normalise(utterance.text, "marks") or utterance.text


def odd_words(texts: Iterable[str]) -> dict[str, list[str]]:
    """Return the different words that are odd, by kind of oddity.

    The kinds are control characters, private-use or unassigned characters, letters of several
    scripts, and digits.
    """
    kinds: dict[str, dict[str, None]] = {}
    for word in (word for text in texts for word in text.split(" ")):
        if word.isascii() and word.isalpha():
            continue
        categories = {unicodedata.category(char) for char in word}
        scripts = {script for char in word if (script := _script(char))}
        for kind, is_odd in (
            ("words with control characters", "Cc" in categories),
            (
                "words with private-use or unassigned characters",
                bool(categories & {"Co", "Cn", "Cs"}),
            ),
            ("words of several scripts", len(scripts) > 1 and not scripts <= _JAPANESE),
            ("words with digits", "Nd" in categories),
        ):
            if is_odd:
                kinds.setdefault(kind, {})[
                    ascii(word) if categories & {"Cc", "Co", "Cn", "Cs"} else word
                ] = None
    return {kind: list(words) for kind, words in kinds.items()}


def _script(char: str) -> str | None:
    """Return the script of a letter, which is the first word of its Unicode name.

    It is None for characters that several scripts share.
    """
    name = unicodedata.name(char, "")
    return (
        name.split()[0]
        if re.search(r" (LETTER|SYLLABLE) |IDEOGRAPH", name) and unicodedata.category(char) != "Lm"
        else None
    )


def to_text(check: CorpusCheck) -> str:
    """Return the check as lines of text for a terminal."""
    lines = [f"{check.path}: {check.layout}, {len(check.splits)} split(s)", *check.notes]
    for s in check.splits:
        lines.append(f"\n{s.split or 'all splits'}")
        if s.error:
            lines.append(f"  {s.error}")
            continue
        lines.append(
            f"  clips {s.clips}, hours {s.hours:.2f}, speakers known {s.speakers}, distinct"
            f" sentences {s.sentences}"
        )
        lines.append(
            f"  characters {len(s.characters)}: "
            + " ".join(f"{_shown(c)} {n}" for c, n in s.characters)
        )
        for kind, found in s.issues:
            more = f", and {len(found) - 5} more" if len(found) > 5 else ""
            lines.append(f"  {kind}: {len(found)}: {'; '.join(found[:5])}{more}")
        lines += [f"  narrow band: {s.advice}"] if s.advice else []
        lines.append(f"  skipped rows: {len(s.skipped)}")
        lines += [f"    {row.source}: {row.reason}" for row in s.skipped[:SHOWN]]
    return "\n".join(lines)


def _shown(char: str) -> str:
    return char if unicodedata.category(char)[0] not in "CZM" else f"U+{ord(char):04X}"


def write_html(path: Path, check: CorpusCheck) -> None:
    """Write the check as one HTML file that needs no other file, whole or not at all.

    Args:
        path: Where to write it.
        check: The check of a corpus.

    Raises:
        RunError: The page cannot be written.
    """
    from jinja2 import Environment

    template = Path(__file__).with_name("corpus_check.html.jinja").read_text(encoding="utf-8")
    environment = Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True)
    environment.filters |= {"printable": _printable, "shown": _shown}
    histograms = {s.split: _histograms(s) for s in check.splits if s.durations}
    pictures = {s.split: _pictures(s) for s in check.splits}
    page = environment.from_string(template).render(
        check=check, histograms=histograms, pictures=pictures, most=SHOWN
    )
    with atomic_file(path) as part:
        part.write_text(page, encoding="utf-8", errors="backslashreplace")


def _pictures(s: SplitCheck) -> list[tuple[NarrowClip, str]]:
    """Return the clips with the narrowest band and their spectrograms as SVG.

    A clip whose file can no longer be read is left out.
    """
    from dualasr.audio.spectrogram import spectrogram_svg

    found = []
    for clip in s.narrow[:PICTURED]:
        label = f"Spectrogram of {clip.id} ({s.split or 'all splits'}), a line at 4 kHz"
        with suppress(AudioError):
            samples = load_audio(clip.sound)
            svg = spectrogram_svg(samples, _printable(label), scale="linear", line_hz=4000.0)
            found.append((clip, svg))
    return found


def _printable(text: str) -> str:
    return "".join(
        char if unicodedata.category(char) != "Cc" else ascii(char)[1:-1] for char in text
    )


def _histograms(s: SplitCheck) -> str:
    """Draw histograms of durations and of characters a second, as a PNG in base64."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 3), layout="constrained")
    left, right = figure.subplots(1, 2)
    for axes, values, label in (
        (left, s.durations, "seconds"),
        (right, s.rates, "characters a second"),
    ):
        axes.hist(values, bins=40)
        axes.set_xlabel(label)
        axes.set_ylabel("clips")
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=100)
    return base64.b64encode(buffer.getvalue()).decode()
