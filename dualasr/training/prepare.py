"""What training needs, from what a user has: utterances that fit, labels, negatives, trunk
activations.

Nothing is dropped in silence: what cannot be used is in `Prepared.skipped` with its reason.
"""

import hashlib
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from math import ceil
from pathlib import Path

import numpy as np

from dualasr.audio.load import Sound, audio_duration
from dualasr.data.corpus import Utterance, load_corpus, sounds_below, splits_of
from dualasr.errors import AudioError, CorpusError
from dualasr.model.tokenizer import PackTokenizer
from dualasr.model.whisper import Backbone
from dualasr.text import normalise
from dualasr.training.dataset import Clip, SkippedClip, check_label
from dualasr.training.options import AddLanguageOptions
from dualasr.training.trunk_cache import TrunkCache

MOST_NEGATIVES = 3000
LEAST_KEPT, MOST_KEPT = 8, 192  # negatives for the calibration


@dataclass(frozen=True, kw_only=True)
class Prepared:
    """What training needs, and what was left out."""

    train: tuple[Clip, ...]
    dev: tuple[Clip, ...]
    dev_audio: tuple[Sound, ...]
    negatives: tuple[Clip, ...]
    negatives_audio: tuple[Sound, ...]
    negatives_dev: tuple[Sound, ...]
    skipped: tuple[SkippedClip, ...]
    hours: float


def find_negatives(
    paths: Sequence[Path], languages: Sequence[str], seed: int
) -> tuple[list[Sound], list[Sound]]:
    """Sound files in other languages, for training and for dev: the splits of a corpus, or every
    sound file below a folder.

    In seeded order; where there is no dev split an eighth is kept for it, of all paths together
    eight at least. The paths take turns, and stop when fewer than half of them have a clip left:
    one large path must not be all that a pack knows of other languages. Raises CorpusError for a
    path that holds neither, or a corpus without train: the rest of it is not heard.
    """
    train: list[list[Sound]] = []
    dev: list[list[Sound]] = []
    for path in map(Path, paths):
        try:
            sounds = _sounds_of(path, "train", languages)
        except CorpusError:
            if splits := splits_of(path):
                raise CorpusError(
                    f"{path} has no train split, only {', '.join(splits)}, which a pack must not"
                    " hear; leave it out, or name a folder of sound files."
                ) from None
            if not (sounds := sounds_below(path)):
                raise
        rng = np.random.default_rng([seed, 17, len(train)])
        sounds = [sounds[i] for i in rng.permutation(len(sounds))]
        try:
            known = set(sounds)
            kept = [sound for sound in _sounds_of(path, "dev", languages) if sound not in known]
        except CorpusError:
            kept = []
        kept = [kept[i] for i in rng.permutation(len(kept))]
        if not kept:
            count = max(ceil(LEAST_KEPT / len(paths)), len(sounds) // 8)
            kept, sounds = sounds[:count], sounds[count:]
        train.append(sounds)
        dev.append(kept)
    return _by_turns(train)[:MOST_NEGATIVES], _by_turns(dev)[:MOST_KEPT]


def _sounds_of(path: Path, split: str, languages: Sequence[str]) -> list[Sound]:
    """A split of a corpus, without these languages. Raises CorpusError."""
    corpus = load_corpus(path, split, default_language="und", require_text=False)
    return [u.sound for u in corpus.utterances if u.language not in languages]


def _by_turns(found: Sequence[Sequence[Sound]]) -> list[Sound]:
    """The first of every path, the second of every path, until fewer than half of them have one
    left.
    """
    rounds = sorted(map(len, found))[len(found) // 2] if found else 0
    return [sounds[i] for i in range(rounds) for sounds in found if i < len(sounds)]


def _split_off_dev(utterances: Sequence[Utterance]) -> tuple[list[Utterance], list[Utterance]]:
    """Train and dev by sentence, for a corpus without a dev split: one sentence in sixteen, chosen
    by its hash.
    """

    def is_dev(u: Utterance) -> bool:
        return hashlib.sha256(normalise(u.text, "marks").encode()).digest()[0] < 16

    return [u for u in utterances if not is_dev(u)], [u for u in utterances if is_dev(u)]


@dataclass(frozen=True)
class ReadCorpora:
    """What the corpora hold for training.

    Attributes:
        train: Training utterances.
        dev: Dev utterances.
        skipped: Rows and clips that cannot be used.
        notes: What was guessed of the corpora, a sentence each.
    """

    train: tuple[Utterance, ...]
    dev: tuple[Utterance, ...]
    skipped: tuple[SkippedClip, ...]
    notes: tuple[str, ...] = ()


def _load(
    options: AddLanguageOptions, split: str
) -> tuple[list[Utterance], list[SkippedClip], list[str]]:
    """A split of all corpora that have it, what was skipped, and notes. Raises CorpusError where
    none has it.
    """
    utterances, skipped, notes, without = [], [], [], []
    for path in options.corpora:
        only = next(iter(options.languages)) if len(options.languages) == 1 else None
        try:
            corpus = load_corpus(
                path,
                split,
                languages=list(options.languages),
                default_language=only,
                strict=options.strict,
                columns=options.columns,
                tier=options.tier,
            )
        except CorpusError as error:
            without.append(error)
            if split == "train" or len(without) == len(options.corpora):
                raise
            continue
        notes += [f"{path.name}: {note}" for note in corpus.notes]
        utterances += corpus.utterances
        skipped += [SkippedClip(row.source, row.reason) for row in corpus.skipped]
    return utterances, skipped, notes


def _divide(options: AddLanguageOptions) -> ReadCorpora:
    """Train and dev as the corpora divide them; of clips that belong to every split some become
    dev.
    """
    train, skipped, notes = _load(options, "train")
    try:
        dev, _, _ = _load(options, "dev")
    except CorpusError:
        train, dev = _split_off_dev(train)
    both = {u.sound for u in train} & {u.sound for u in dev}
    undivided, more_dev = _split_off_dev([u for u in train if u.sound in both])
    train = [u for u in train if u.sound not in both] + undivided
    dev = [u for u in dev if u.sound not in both] + more_dev
    return ReadCorpora(tuple(train), tuple(dev), tuple(skipped), tuple(notes))


def read_corpora(options: AddLanguageOptions, window_s: float) -> ReadCorpora:
    """Step 1: read train and dev utterances whose sound fits a window of so many seconds.

    The languages of dev take turns, so that its first clips are of all of them.

    Raises:
        CorpusError: No training clip can be used, or none is in one of the languages; with
            `strict`, a clip cannot be used.
        AudioError: With `strict`, a clip cannot be read.
    """
    found = _divide(options)
    train, dev, skipped = list(found.train), list(found.dev), list(found.skipped)
    if options.rehearsal:
        earlier = _divide(replace(options, corpora=options.rehearsal))
        order = np.random.default_rng([options.training.seed, 23]).permutation(len(earlier.train))
        train += [
            earlier.train[i] for i in sorted(order[: ceil(options.rehearse * len(earlier.train))])
        ]
        dev, skipped = dev + list(earlier.dev), skipped + list(earlier.skipped)
    missing = sorted(set(options.languages) - {u.language for u in train})
    if missing:
        raise CorpusError(
            f"No training clip is in {', '.join(missing)}; the corpora hold "
            f"{', '.join(sorted({u.language for u in train}))}."
        )
    kept: dict[str, list[Utterance]] = {"train": [], "dev": []}
    for split, utterances in (("train", train), ("dev", dev)):
        for utterance in utterances:
            try:
                seconds = utterance.duration or audio_duration(utterance.sound)
                if seconds > window_s:
                    raise CorpusError(
                        f"{utterance.sound}: {seconds:.1f} s of sound, the window is"
                        f" {window_s:.0f} s"
                    )
                kept[split].append(replace(utterance, duration=seconds))
            except (AudioError, CorpusError) as error:
                if options.strict:
                    raise
                skipped.append(SkippedClip(utterance.id, str(error)))
    if not kept["train"]:
        raise CorpusError(f"No training clip can be used; the first reason: {skipped[0].reason}")
    return ReadCorpora(
        tuple(kept["train"]), tuple(_in_turns(kept["dev"])), tuple(skipped), found.notes
    )


def _in_turns(utterances: Sequence[Utterance]) -> list[Utterance]:
    """The first of every language, the second of every language, and so on."""
    met: Counter[str] = Counter()
    turns = []
    for u in utterances:
        turns.append(met[u.language])
        met[u.language] += 1
    return [utterances[i] for i in np.argsort(turns, kind="stable")]


def read_text(options: AddLanguageOptions, train: Sequence[Utterance]) -> list[str]:
    """What the vocabulary is made from: the labels of training clips, and the text of `vocabulary`."""
    texts = [u.text for u in train]
    for path in options.vocabulary:
        texts += [u.text for u in load_corpus(path, "train", default_language="und").utterances]
    return [written(text, options.target) for text in texts]


def written(text: str, target: str) -> str:
    """The label of a text: as people read it, or normalised (mark-safe)."""
    return normalise(text, "marks") if target == "normalised" else " ".join(text.split())


def trunk_cache(options: AddLanguageOptions, backbone: Backbone) -> TrunkCache:
    """Where a run keeps its trunk activations, and how it augments."""
    fork = options.secondary.resolve(backbone.layers).fork
    folder = options.cache or options.out.parent / "trunk-cache"
    return TrunkCache(folder, backbone, fork, options.training.augmentation, options.training.seed)


def prepare(
    options: AddLanguageOptions, backbone: Backbone, tokenizer: PackTokenizer, corpora: ReadCorpora
) -> Prepared:
    """Step 3: fill the trunk cache and make labelled clips of what fits the decoder."""
    cache = trunk_cache(options, backbone)
    codes, skipped = list(options.languages), list(corpora.skipped)
    variants = options.training.variants_of(len(corpora.train))

    def entries_of(
        audio: Sequence[Sound], count: int
    ) -> Iterator[tuple[tuple[Path, ...], int, str | None]]:
        """The entries of each sound, the frames of its shortest variant, and why it cannot be read."""
        entries = cache.fill([(sound, variant) for sound in audio for variant in range(count)])
        for i in range(len(audio)):
            mine = tuple(entries[i * count : (i + 1) * count])
            lost = next((str(entry) for entry in mine if isinstance(entry, AudioError)), None)
            yield (
                mine,
                0 if lost else min(np.load(path, mmap_mode="r").shape[0] for path in mine),
                lost,
            )

    def clips_of(utterances: Sequence[Utterance], count: int) -> list[Clip]:
        clips = []
        for u, (mine, frames, lost) in zip(
            utterances, entries_of([u.sound for u in utterances], count), strict=True
        ):
            text = written(u.text, options.target)
            if reason := lost or check_label(tokenizer, text, frames, backbone.frame_s):
                if options.strict:
                    raise CorpusError(f"{u.sound} ({u.id}): {reason}")
                skipped.append(SkippedClip(u.id, reason))
                continue
            clips.append(
                Clip(
                    u.id,
                    mine,
                    frames,
                    1 + codes.index(u.language),
                    text,
                    tuple(tokenizer.encode(text)),
                    tuple(tokenizer.encode_characters(text)),
                )
            )
        return clips

    def negatives_of(audio: Sequence[Sound], count: int) -> dict[Sound, Clip]:
        clips = {}
        for sound, (mine, frames, lost) in zip(audio, entries_of(audio, count), strict=True):
            if lost:
                skipped.append(SkippedClip(str(sound), lost))
            else:
                clips[sound] = Clip(str(sound), mine, frames)
        return clips

    others, others_dev = find_negatives(options.negatives, codes, options.training.seed)
    labelled, dev_clips = clips_of(corpora.train, variants), clips_of(corpora.dev, 1)
    audio = {u.id: u.sound for u in corpora.dev}
    negatives = negatives_of(others, variants)
    return Prepared(
        train=tuple(labelled),
        dev=tuple(dev_clips),
        dev_audio=tuple(audio[clip.id] for clip in dev_clips),
        negatives=tuple(negatives.values()),
        negatives_audio=tuple(negatives),
        negatives_dev=tuple(negatives_of(others_dev, 1)),
        skipped=tuple(skipped),
        hours=sum(u.duration for u in corpora.train) / 3600,
    )
