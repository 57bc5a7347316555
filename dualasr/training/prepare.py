"""From corpora to what training needs: utterances that fit, labels, negatives, activations.

Nothing is dropped in silence: what cannot be used is in `Prepared.skipped` with its reason.
"""

import hashlib
import logging
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from math import ceil
from pathlib import Path
from typing import NamedTuple

import numpy as np

from dualasr.audio.load import Sound, audio_duration
from dualasr.data.corpus import Utterance, load_corpus, load_splits, sounds_below
from dualasr.data.negatives import generated_negatives
from dualasr.errors import AudioError, CorpusError, MissingExtraError
from dualasr.model.precision import resolve_precision
from dualasr.model.tokenizer import PackTokenizer
from dualasr.model.whisper import Backbone
from dualasr.text import normalise
from dualasr.training.dataset import Clip, SkippedClip, check_label
from dualasr.training.options import AddLanguageOptions
from dualasr.training.trunk_cache import TrunkCache

log = logging.getLogger("dualasr")

MOST_NEGATIVES = 3000
LEAST_KEPT, MOST_KEPT = 8, 192  # negatives for the calibration


@dataclass(frozen=True, kw_only=True)
class Prepared:
    """What training needs, and what was left out.

    Attributes:
        train: Labelled training clips.
        dev: Labelled dev clips.
        dev_audio: The sound of each dev clip.
        negatives: Clips in other languages, to train on.
        negatives_audio: The sound of each.
        negatives_dev: Sounds in other languages, for the calibration.
        skipped: What cannot be used, with its reason.
        hours: Hours of training speech.
    """

    train: tuple[Clip, ...]
    dev: tuple[Clip, ...]
    dev_audio: tuple[Sound, ...]
    negatives: tuple[Clip, ...]
    negatives_audio: tuple[Sound, ...]
    negatives_dev: tuple[Sound, ...]
    skipped: tuple[SkippedClip, ...]
    hours: float


def read_negatives(options: AddLanguageOptions) -> tuple[list[Sound], list[Sound]]:
    """Return sounds in other languages for training and for dev: the user's and generated ones.

    Raises:
        CorpusError: As `find_negatives`.
        RunError: Generated ones cannot be written.
    """
    languages = list(options.languages)
    train, dev = find_negatives(options.negatives, languages, options.training.seed)
    if options.generated_negatives:
        try:
            more, more_dev = generated_negatives(languages)
        except MissingExtraError as error:
            log.warning(f"  no generated speech in other languages: {error}")
        else:
            train, dev = train + list(map(Sound, more)), dev + list(map(Sound, more_dev))
    return train, dev


def find_negatives(
    paths: Sequence[Path], languages: Sequence[str], seed: int
) -> tuple[list[Sound], list[Sound]]:
    """Find sounds in other languages: the splits of a corpus, or every sound file below a folder.

    The sounds of a path are in a seeded order. Where it has no dev split, an eighth is kept for
    dev, of all paths together eight at least. The paths take turns, and stop when fewer than half
    of them have a clip left: one large path must not be all that a pack knows of other languages.

    Args:
        paths: Corpora or folders.
        languages: Codes of the pack's own languages; clips in them are left out.
        seed: Of the order.

    Returns:
        Sounds for training, and sounds for dev.

    Raises:
        CorpusError: A path holds neither, or is a corpus without a train split. Its other splits
            are not used.
    """
    train: list[list[Sound]] = []
    dev: list[list[Sound]] = []
    for path in map(Path, paths):
        sounds, kept = _negatives_of(path, languages)
        rng = np.random.default_rng([seed, 17, len(train)])
        sounds = [sounds[i] for i in rng.permutation(len(sounds))]
        known = set(sounds)
        kept = [sound for sound in kept if sound not in known]
        kept = [kept[i] for i in rng.permutation(len(kept))]
        if not kept:
            count = max(ceil(LEAST_KEPT / len(paths)), len(sounds) // 8)
            kept, sounds = sounds[:count], sounds[count:]
        train.append(sounds)
        dev.append(kept)
    return _by_turns(train)[:MOST_NEGATIVES], _by_turns(dev)[:MOST_KEPT]


def _negatives_of(path: Path, languages: Sequence[str]) -> tuple[list[Sound], list[Sound]]:
    """Train and dev sounds of a corpus, without these languages, or all sounds below a folder."""
    names: tuple[str, ...] = ()
    try:
        splits = load_splits(path, ("train", "dev"), default_language="und", require_text=False)
        names = splits.names
        train = splits.split("train")
    except CorpusError:
        if names:
            raise CorpusError(
                f"{path} has no train split, only {', '.join(names)}, which a pack must not"
                " hear; leave it out, or name a folder of sound files."
            ) from None
        if not (sounds := sounds_below(path)):
            raise
        return sounds, []
    dev: Sequence[Utterance] = ()
    with suppress(CorpusError):
        dev = splits.split("dev").utterances
    own = set(languages)
    return (
        [u.sound for u in train.utterances if u.language not in own],
        [u.sound for u in dev if u.language not in own],
    )


def _by_turns(found: Sequence[Sequence[Sound]]) -> list[Sound]:
    """The first of every path, then the second of every path, while at least half have one left."""
    rounds = sorted(map(len, found))[len(found) // 2] if found else 0
    return [sounds[i] for i in range(rounds) for sounds in found if i < len(sounds)]


def _split_off_dev(utterances: Sequence[Utterance]) -> tuple[list[Utterance], list[Utterance]]:
    """Divide a corpus without a dev split: one sentence in sixteen, by its hash, becomes dev."""

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


def _divide(options: AddLanguageOptions) -> ReadCorpora:
    """Train and dev as the corpora divide them; clips of every split are divided by sentence.

    Dev is that of the corpora that have one. Where none has, some training sentences become dev.
    """
    train: list[Utterance] = []
    dev: list[Utterance] = []
    skipped: list[SkippedClip] = []
    notes: list[str] = []
    only = next(iter(options.languages)) if len(options.languages) == 1 else None
    for path in options.corpora:
        splits = load_splits(
            path,
            ("train", "dev"),
            languages=list(options.languages),
            default_language=only,
            strict=options.strict,
            columns=options.columns,
            tier=options.tier,
        )
        corpus = splits.split("train")
        train += corpus.utterances
        skipped += [SkippedClip(row.source, row.reason) for row in corpus.skipped]
        notes += [f"{path.name}: {note}" for note in corpus.notes]
        with suppress(CorpusError):
            dev += splits.split("dev").utterances
    if not dev:
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
    """Return the texts that the vocabulary is made from.

    Args:
        options: The run's settings; the text of the corpora in `vocabulary_corpora` is added.
        train: Training utterances.

    Returns:
        Labels, one a text.
    """
    texts = [u.text for u in train]
    for path in options.vocabulary_corpora:
        texts += [u.text for u in load_corpus(path, "train", default_language="und").utterances]
    return [written(text, options.target) for text in texts]


def make_tokenizer(
    options: AddLanguageOptions, backbone: Backbone, train: Sequence[Utterance]
) -> PackTokenizer:
    """Make the pack's vocabulary from the text of its training utterances (step 2)."""
    texts, languages = read_text(options, train), tuple(options.languages)
    if options.vocabulary == "base":
        return PackTokenizer.of_base(texts, languages, backbone.tokenizer.backend_tokenizer)
    return PackTokenizer.train(texts, languages)


def written(text: str, target: str) -> str:
    """Return the label of a text.

    Args:
        text: A transcript.
        target: "written": as people read it; "normalised": by the mark-safe normaliser.

    Returns:
        The label.
    """
    return normalise(text, "marks") if target == "normalised" else " ".join(text.split())


def trunk_cache(options: AddLanguageOptions, backbone: Backbone) -> TrunkCache:
    """Return the cache of a run's trunk activations, with the augmentation of the run."""
    fork = options.secondary.resolve(backbone.layers).fork
    folder = options.cache or options.out.parent / "trunk-cache"
    training = options.training
    return TrunkCache(
        folder,
        backbone,
        fork,
        training.augmentation,
        training.seed,
        resolve_precision(training.precision, backbone.device),
    )


def prepare(
    options: AddLanguageOptions, backbone: Backbone, tokenizer: PackTokenizer, corpora: ReadCorpora
) -> Prepared:
    """Step 3: fill the trunk cache, and label the clips that fit the decoder.

    Args:
        options: The run's settings.
        backbone: The frozen base.
        tokenizer: The pack's vocabulary.
        corpora: What `read_corpora` gave.

    Returns:
        Clips over cached activations, and why others were left out.

    Raises:
        CorpusError: With `options.strict`, a clip cannot be used; or negatives cannot be found.
        RunError: The cache cannot be written.
    """
    cache = trunk_cache(options, backbone)
    variants = options.training.variants_of(len(corpora.train))
    others, others_dev = read_negatives(options)
    labels = _Labels(options, tokenizer, backbone.frame_s)
    train = labels.clips(corpora.train, _cached(cache, [u.sound for u in corpora.train], variants))
    dev = labels.clips(corpora.dev, _cached(cache, [u.sound for u in corpora.dev], 1))
    # a negative is used seldom: one variant of each, but not the clean one of the studio
    negatives, unread = _unlabelled(others, _cached(cache, others, 1, first=min(1, variants - 1)))
    negatives_dev, unread_dev = _unlabelled(others_dev, _cached(cache, others_dev, 1))
    audio = {u.id: u.sound for u in corpora.dev}
    return Prepared(
        train=tuple(train),
        dev=tuple(dev),
        dev_audio=tuple(audio[clip.id] for clip in dev),
        negatives=tuple(negatives.values()),
        negatives_audio=tuple(negatives),
        negatives_dev=tuple(negatives_dev),
        skipped=(*corpora.skipped, *labels.skipped, *unread, *unread_dev),
        hours=sum(u.duration or 0.0 for u in corpora.train) / 3600,
    )


class _Entries(NamedTuple):
    """The cache entries of a sound, one a variant; or why it cannot be read."""

    paths: tuple[Path, ...]
    frames: int  # of the shortest variant
    fault: str | None = None


def _cached(
    cache: TrunkCache, sounds: Sequence[Sound], variants: int, first: int = 0
) -> list[_Entries]:
    """Compute the activations of so many variants of each sound, where they are missing."""
    numbers = range(first, first + variants)
    entries = cache.fill([(sound, variant) for sound in sounds for variant in numbers])
    found = []
    for i in range(len(sounds)):
        mine = entries[i * variants : (i + 1) * variants]
        faults = [str(entry) for entry in mine if isinstance(entry, AudioError)]
        paths = tuple(entry for entry in mine if isinstance(entry, Path))
        if faults:
            found.append(_Entries((), 0, faults[0]))
        else:
            frames = min(np.load(path, mmap_mode="r").shape[0] for path in paths)
            found.append(_Entries(paths, frames))
    return found


@dataclass
class _Labels:
    """Makes labelled clips of utterances, and collects those that cannot be labelled."""

    options: AddLanguageOptions
    tokenizer: PackTokenizer
    frame_s: float
    skipped: list[SkippedClip] = field(default_factory=list)

    def clips(self, utterances: Sequence[Utterance], entries: Sequence[_Entries]) -> list[Clip]:
        codes, found = list(self.options.languages), []
        for u, (paths, frames, fault) in zip(utterances, entries, strict=True):
            text = written(u.text, self.options.target)
            reason = fault or check_label(self.tokenizer, text, frames, self.frame_s)
            if reason and self.options.strict:
                raise CorpusError(f"{u.sound} ({u.id}): {reason}")
            if reason:
                self.skipped.append(SkippedClip(u.id, reason))
                continue
            clip = Clip(
                u.id,
                paths,
                frames,
                1 + codes.index(u.language),
                text,
                tuple(self.tokenizer.encode(text)),
                tuple(self.tokenizer.encode_characters(text)),
            )
            found.append(clip)
        return found


def _unlabelled(
    sounds: Sequence[Sound], entries: Sequence[_Entries]
) -> tuple[dict[Sound, Clip], list[SkippedClip]]:
    """Negatives as clips without a label, and those that cannot be read."""
    clips: dict[Sound, Clip] = {}
    skipped: list[SkippedClip] = []
    for sound, (paths, frames, fault) in zip(sounds, entries, strict=True):
        if fault:
            skipped.append(SkippedClip(str(sound), fault))
        else:
            clips[sound] = Clip(str(sound), paths, frames)
    return clips, skipped
