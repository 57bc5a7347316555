"""What is in a corpus, and what is wrong with it: `dualasr corpus check`."""

import base64
import hashlib
import html
import io
import re
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from tqdm import tqdm

from dualasr.atomic import atomic_file
from dualasr.audio.load import SAMPLE_RATE, load_audio
from dualasr.data.corpus import Columns, Corpus, SkippedRow, Utterance, load_corpus
from dualasr.data.utterance import canonical_split
from dualasr.errors import AudioError, CorpusError
from dualasr.text import normalise

SILENT_DBFS = -60.0  # RMS
FULL_SCALE, MOST_AT_FULL_SCALE = 0.999, 0.001
MOST_CHARACTERS_A_SECOND = 25.0
LONG_S = 30.0
SHOWN = 20  # of a list that may be long

# The letters of one script; Japanese is written in three.
_JAPANESE = {"HIRAGANA", "KATAKANA", "KATAKANA-HIRAGANA", "CJK"}


@dataclass(frozen=True)
class SplitCheck:
    """One split. `issues` names the clips (or words) of each kind of issue; `durations` are seconds, `rates` characters a
    second, of the clips that can be read. `error` says why a split cannot be read at all."""

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
    error: str = ""


@dataclass(frozen=True)
class CorpusCheck:
    """All splits of a corpus; `notes` are what was guessed to read it."""

    path: Path
    layout: str
    notes: tuple[str, ...]
    splits: tuple[SplitCheck, ...]


def check_corpus(path: str | Path, *, default_language: str | None = None, columns: Columns = Columns(),
                 tier: str | None = None, progress: bool | None = None) -> CorpusCheck:  # fmt: skip
    """Read every clip of every split. `progress` None shows a bar on a terminal. Raises CorpusError like `load_corpus`."""
    how = {"default_language": default_language or "und", "columns": columns, "tier": tier}
    whole = load_corpus(path, None, **how)
    names = {canonical_split(name): name for name in whole.splits}.values()
    corpora: dict[str, Corpus | str] = {}
    for name in names or ("",):
        try:
            corpora[name] = load_corpus(path, name, **how) if name else whole
        except CorpusError as error:
            corpora[name] = str(error)
    total = sum(len(corpus.utterances) for corpus in corpora.values() if isinstance(corpus, Corpus))
    with tqdm(total=total, desc="clips", unit="clip", disable=None if progress is None else not progress) as bar:
        splits = [SplitCheck(name, error=corpus) if isinstance(corpus, str) else _check_split(name, corpus, bar)
                  for name, corpus in corpora.items()]  # fmt: skip
    return CorpusCheck(Path(path), whole.layout, whole.notes, tuple(splits))


def _check_split(name: str, corpus: Corpus, bar: tqdm) -> SplitCheck:
    issues: dict[str, list[str]] = defaultdict(list)
    durations, rates = [], []
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
        level = 20 * np.log10(max(float(np.sqrt(np.mean(np.square(samples, dtype=np.float64)))), 1e-10))
        digest = hashlib.sha256(samples.tobytes()).digest()
        if level < SILENT_DBFS:
            issues[f"silent clips (RMS below {SILENT_DBFS:g} dBFS)"].append(u.id)
        if (share := float(np.mean(np.abs(samples) >= FULL_SCALE))) > MOST_AT_FULL_SCALE:
            issues["clipped clips (over 0.1 % of samples at full scale)"].append(f"{u.id} ({100 * share:.1f} %)")
        if first.setdefault(digest, u.id) != u.id:
            issues["duplicate clips (the same samples)"].append(f"{u.id} = {first[digest]}")
        if rates[-1] > MOST_CHARACTERS_A_SECOND:
            issues[f"more than {MOST_CHARACTERS_A_SECOND:g} characters a second"].append(f"{u.id} ({rates[-1]:.0f})")
        if seconds > LONG_S:
            issues[f"longer than {LONG_S:g} s"].append(f"{u.id} ({seconds:.1f} s)")
    sentences = Counter(map(sentence_of, corpus.utterances))
    issues["sentences said more than once"] = [f"{text} ({n})" for text, n in sentences.most_common() if n > 1]
    issues |= odd_words(u.text for u in corpus.utterances)
    characters = Counter(char for u in corpus.utterances for char in u.text if char != " ")
    return SplitCheck(
        name, len(corpus.utterances), sum(durations) / 3600, len({u.speaker for u in corpus.utterances} - {None}),
        len(sentences), tuple(sorted(characters.items(), key=lambda item: (-item[1], item[0]))),
        tuple((kind, tuple(found)) for kind, found in issues.items() if found), corpus.skipped, tuple(durations), tuple(rates),
    )  # fmt: skip


def sentence_of(utterance: Utterance) -> str:
    """What makes two texts the same sentence: the normalised text, or the text itself where nothing is left of it."""
    return normalise(utterance.text, "marks") or utterance.text


def odd_words(texts: Iterable[str]) -> dict[str, list[str]]:
    """The distinct words with control or private-use characters, letters of several scripts, or digits, by kind."""
    kinds: dict[str, dict[str, None]] = {}
    for word in (word for text in texts for word in text.split(" ")):
        if word.isascii() and word.isalpha():
            continue
        categories = {unicodedata.category(char) for char in word}
        scripts = {script for char in word if (script := _script(char))}
        for kind, is_odd in (
            ("words with control characters", "Cc" in categories),
            ("words with private-use or unassigned characters", bool(categories & {"Co", "Cn", "Cs"})),
            ("words of several scripts", len(scripts) > 1 and not scripts <= _JAPANESE),
            ("words with digits", "Nd" in categories),
        ):
            if is_odd:
                kinds.setdefault(kind, {})[ascii(word) if categories & {"Cc", "Co", "Cn", "Cs"} else word] = None
    return {kind: list(words) for kind, words in kinds.items()}


def _script(char: str) -> str | None:
    """The script of a letter, by the first word of its Unicode name; None for what several scripts share."""
    name = unicodedata.name(char, "")
    return name.split()[0] if re.search(r" (LETTER|SYLLABLE) |IDEOGRAPH", name) and unicodedata.category(char) != "Lm" else None


def to_text(check: CorpusCheck) -> str:
    """The check in lines for a terminal."""
    lines = [f"{check.path}: {check.layout}, {len(check.splits)} split(s)", *check.notes]
    for s in check.splits:
        lines.append(f"\n{s.split or 'all splits'}")
        if s.error:
            lines.append(f"  {s.error}")
            continue
        lines.append(f"  clips {s.clips}, hours {s.hours:.2f}, speakers known {s.speakers}, distinct sentences {s.sentences}")
        lines.append(f"  characters {len(s.characters)}: " + " ".join(f"{_shown(c)} {n}" for c, n in s.characters))
        for kind, found in s.issues:
            more = f", and {len(found) - 5} more" if len(found) > 5 else ""
            lines.append(f"  {kind}: {len(found)}: {'; '.join(found[:5])}{more}")
        lines.append(f"  skipped rows: {len(s.skipped)}")
        lines += [f"    {row.source}: {row.reason}" for row in s.skipped[:SHOWN]]
    return "\n".join(lines)


def _shown(char: str) -> str:
    return char if unicodedata.category(char)[0] not in "CZM" else f"U+{ord(char):04X}"


def write_html(path: Path, check: CorpusCheck) -> None:
    """A page that needs nothing beside it, whole or not at all. Raises RunError where it cannot be written."""
    parts = [f"<h1>{html.escape(str(check.path))}</h1><p>{html.escape('; '.join((check.layout, *check.notes)))}</p>"]
    for s in check.splits:
        parts.append(f"<h2>{html.escape(s.split or 'all splits')}</h2>")
        if s.error:
            parts.append(f"<p>{html.escape(s.error)}</p>")
            continue
        facts = {"clips": s.clips, "hours": f"{s.hours:.2f}", "speakers known": s.speakers, "distinct sentences": s.sentences,
                 "characters": len(s.characters), "skipped rows": len(s.skipped)}  # fmt: skip
        rows = "".join(f"<tr><th>{key}</th><td>{value}</td></tr>" for key, value in facts.items())
        parts.append(f"<table>{rows}</table>")
        if s.durations:
            parts.append(f'<img alt="histograms" src="data:image/png;base64,{_histograms(s)}">')
        listed = {f"{kind}: {len(found)}": found for kind, found in s.issues}
        listed |= {f"skipped rows: {len(s.skipped)}": [f"{row.source}: {row.reason}" for row in s.skipped]} if s.skipped else {}
        for kind, found in listed.items():
            items = "".join(f"<li>{html.escape(_printable(item))}</li>" for item in found[:SHOWN])
            parts.append(f"<details><summary>{html.escape(kind)}</summary><ul>{items}</ul></details>")
        counts = " ".join(f"<span>{html.escape(_shown(char))}&nbsp;{n}</span>" for char, n in s.characters)
        parts.append(f"<details><summary>characters: {len(s.characters)}</summary><p>{counts}</p></details>")
    style = "body{font-family:sans-serif;max-width:60em;margin:2em auto}th{text-align:left}img{max-width:100%}"
    page = f'<!doctype html><meta charset="utf-8"><title>Corpus check</title><style>{style}</style>{"".join(parts)}\n'
    with atomic_file(path) as part:
        part.write_text(page, encoding="utf-8", errors="backslashreplace")


def _printable(text: str) -> str:
    return "".join(char if unicodedata.category(char) != "Cc" else ascii(char)[1:-1] for char in text)


def _histograms(s: SplitCheck) -> str:
    """Durations and characters a second, as a PNG in base64."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 3), layout="constrained")
    left, right = figure.subplots(1, 2)
    for axes, values, label in ((left, s.durations, "seconds"), (right, s.rates, "characters a second")):
        axes.hist(values, bins=40)
        axes.set_xlabel(label)
        axes.set_ylabel("clips")
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=100)
    return base64.b64encode(buffer.getvalue()).decode()
