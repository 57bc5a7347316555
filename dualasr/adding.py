"""Add a language: from a corpus to a pack folder, in numbered steps, resumable at each.

`OUT.run` holds the run: resolved arguments, metrics.jsonl, checkpoints while it trains, dev scores. `OUT` is the pack; it
appears whole at the end. The trunk cache may be shared between runs.
"""

import hashlib
import json
import os
import re
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
import torch

from dualasr.audio import SUFFIXES, Sound, audio_duration
from dualasr.backbone import Backbone
from dualasr.calibration import calibrate, choose_ctc_weight, with_info
from dualasr.contamination import fingerprint
from dualasr.corpus import Columns, Utterance, load_corpus
from dualasr.errors import AudioError, CorpusError, RunError
from dualasr.language_head import fit_language_head
from dualasr.model import DualWhisper
from dualasr.pack import Pack, PackInfo, save_pack
from dualasr.secondary import Secondary, SecondaryOptions
from dualasr.text import normalise
from dualasr.tokenizer import PackTokenizer
from dualasr.training import Clip, Skipped, TrainingOptions, check_label, checkpoints, train_secondary
from dualasr.trunk_cache import TrunkCache

MOST_NEGATIVES = 3000
MOST_DEV = 96  # dev clips that the CTC weight and the calibration are fitted on


@dataclass(frozen=True)
class AddLanguageOptions:
    """`corpora` hold the new languages' speech, `negatives` any audio in other languages (transcripts are not read)."""

    base: str
    corpora: tuple[Path, ...]
    languages: dict[str, str]  # code -> display name
    out: Path
    negatives: tuple[Path, ...] = ()
    name: str = ""  # of the pack; default: the folder's
    target: str = "written"  # or "normalised"
    columns: Columns = Columns()  # of corpora that are tables
    tier: str | None = None  # of corpora that are ELAN files or TextGrids
    strict: bool = False
    cache: Path | None = None  # default: trunk-cache beside OUT
    source: str = ""
    licence: str = ""
    device: str = "cpu"
    secondary: SecondaryOptions = SecondaryOptions()
    training: TrainingOptions = TrainingOptions()

    @property
    def run(self) -> Path:
        return self.out.with_name(self.out.name + ".run")


@dataclass(frozen=True)
class Prepared:
    """What training needs, and what was left out."""

    train: tuple[Clip, ...]
    dev: tuple[Clip, ...]
    dev_audio: tuple[Sound, ...]
    negatives: tuple[Clip, ...]
    negatives_audio: tuple[Sound, ...]
    negatives_dev: tuple[Sound, ...]
    skipped: tuple[Skipped, ...]
    hours: float


def find_negatives(paths: Sequence[Path], languages: Sequence[str], seed: int) -> list[Sound]:
    """Sound files in other languages: the train split of a corpus, or every sound file below a folder; seeded order.

    The paths take turns, and stop when fewer than half of them have a clip left: one large path must not be all that a
    pack knows of other languages. Raises CorpusError for a path that holds neither.
    """
    found: list[list[Sound]] = []
    for path in map(Path, paths):
        try:
            corpus = load_corpus(path, "train", default_language="und", require_text=False)
            sounds = [u.sound for u in corpus.utterances if u.language not in languages]
        except CorpusError:
            sounds = [Sound(p) for p in sorted(path.rglob("*")) if p.suffix.lower() in SUFFIXES] if path.is_dir() else []
            if not sounds:
                raise
        order = np.random.default_rng([seed, 17, len(found)]).permutation(len(sounds))
        found.append([sounds[i] for i in order])
    rounds = sorted(map(len, found))[len(found) // 2] if found else 0
    return [sounds[i] for i in range(rounds) for sounds in found if i < len(sounds)][:MOST_NEGATIVES]


def _split_off_dev(utterances: Sequence[Utterance]) -> tuple[list[Utterance], list[Utterance]]:
    """Train and dev by sentence, for a corpus without a dev split: one sentence in sixteen, chosen by its hash."""
    def is_dev(u: Utterance) -> bool:
        return hashlib.sha256(normalise(u.text, "marks").encode()).digest()[0] < 16

    return [u for u in utterances if not is_dev(u)], [u for u in utterances if is_dev(u)]


def _load(options: AddLanguageOptions, split: str, say: Callable[[str], None]) -> tuple[list[Utterance], list[Skipped]]:
    """A split of all corpora, and what was skipped; of those that have it, raising CorpusError where none does."""
    utterances, skipped, without = [], [], []
    for path in options.corpora:
        only = next(iter(options.languages)) if len(options.languages) == 1 else None
        try:
            corpus = load_corpus(path, split, languages=list(options.languages), default_language=only,
                                 strict=options.strict, columns=options.columns, tier=options.tier)  # fmt: skip
        except CorpusError as error:
            without.append(error)
            if split == "train" or len(without) == len(options.corpora):
                raise
            continue
        for note in corpus.notes:
            say(f"  {path.name}: {note}")
        utterances += corpus.utterances
        skipped += [Skipped(row.source, row.reason) for row in corpus.skipped]
    return utterances, skipped


def read_corpora(options: AddLanguageOptions, window_s: float, say: Callable[[str], None] = lambda line: None):
    """Step 1: train and dev utterances whose sound fits the window, and what was skipped; `say` hears what was guessed.

    Of clips that belong to every split some are split off for dev. With `strict` a clip that cannot be used raises
    CorpusError or AudioError.
    """
    train, skipped = _load(options, "train", say)
    try:
        dev, _ = _load(options, "dev", lambda line: None)
    except CorpusError:
        train, dev = _split_off_dev(train)
    both = {u.sound for u in train} & {u.sound for u in dev}
    undivided, more_dev = _split_off_dev([u for u in train if u.sound in both])
    train = [u for u in train if u.sound not in both] + undivided
    dev = [u for u in dev if u.sound not in both] + more_dev
    missing = sorted(set(options.languages) - {u.language for u in train})
    if missing:
        raise CorpusError(f"No training clip is in {', '.join(missing)}; the corpora hold "
                          f"{', '.join(sorted({u.language for u in train}))}.")  # fmt: skip
    kept: dict[str, list[Utterance]] = {"train": [], "dev": []}
    for split, utterances in (("train", train), ("dev", dev)):
        for utterance in utterances:
            try:
                seconds = utterance.duration or audio_duration(utterance.sound)
                if seconds > window_s:
                    raise CorpusError(f"{utterance.sound}: {seconds:.1f} s of sound, the window is {window_s:.0f} s")
                kept[split].append(replace(utterance, duration=seconds))
            except (AudioError, CorpusError) as error:
                if options.strict:
                    raise
                skipped.append(Skipped(utterance.id, str(error)))
    if not kept["train"]:
        raise CorpusError(f"No training clip can be used; the first reason: {skipped[0].reason}")
    return kept["train"], kept["dev"], skipped


def written(text: str, target: str) -> str:
    """The label of a text: as people read it, or normalised (mark-safe)."""
    return normalise(text, "marks") if target == "normalised" else " ".join(text.split())


def prepare(options: AddLanguageOptions, backbone: Backbone, tokenizer: PackTokenizer, train, dev, skipped) -> Prepared:
    """Step 3: fill the trunk cache and make labelled clips of what fits the decoder."""
    fork = options.secondary.resolve(backbone.layers).fork
    folder = options.cache or options.out.parent / "trunk-cache"
    cache = TrunkCache(folder, backbone, fork, options.training.augmentation, options.training.seed)
    codes, skipped = list(options.languages), list(skipped)
    variants = options.training.variants_of(len(train))

    def entries_of(audio: Sequence[Sound], count: int) -> Iterator[tuple[tuple[Path, ...], int, str | None]]:
        """The entries of each sound, the frames of its shortest variant, and why it cannot be read."""
        entries = cache.fill([(sound, variant) for sound in audio for variant in range(count)])
        for i in range(len(audio)):
            mine = tuple(entries[i * count : (i + 1) * count])
            lost = next((str(entry) for entry in mine if isinstance(entry, AudioError)), None)
            yield mine, 0 if lost else min(np.load(path, mmap_mode="r").shape[0] for path in mine), lost

    def clips_of(utterances: Sequence[Utterance], count: int) -> list[Clip]:
        clips = []
        for u, (mine, frames, lost) in zip(utterances, entries_of([u.sound for u in utterances], count), strict=True):
            text = written(u.text, options.target)
            if reason := lost or check_label(tokenizer, text, frames):
                if options.strict:
                    raise CorpusError(f"{u.sound} ({u.id}): {reason}")
                skipped.append(Skipped(u.id, reason))
                continue
            clips.append(Clip(u.id, mine, frames, 1 + codes.index(u.language), text, tuple(tokenizer.encode(text)),
                              tuple(tokenizer.encode_characters(text))))  # fmt: skip
        return clips

    def negatives_of(audio: Sequence[Sound], count: int) -> dict[Sound, Clip]:
        clips = {}
        for sound, (mine, frames, lost) in zip(audio, entries_of(audio, count), strict=True):
            if lost:
                skipped.append(Skipped(str(sound), lost))
            else:
                clips[sound] = Clip(str(sound), mine, frames)
        return clips

    others = find_negatives(options.negatives, codes, options.training.seed)
    split = max(8, len(others) // 8)  # of the negatives, for the calibration
    labelled, dev_clips = clips_of(train, variants), clips_of(dev, 1)
    audio = {u.id: u.sound for u in dev}
    negatives = negatives_of(others[split:], variants)
    return Prepared(
        tuple(labelled), tuple(dev_clips), tuple(audio[clip.id] for clip in dev_clips),
        tuple(negatives.values()), tuple(negatives), tuple(negatives_of(others[:split], 1)),
        tuple(skipped), sum(u.duration for u in train) / 3600,
    )  # fmt: skip


def _settings(options: AddLanguageOptions) -> dict:
    """Resolved arguments as JSON holds them."""
    return json.loads(json.dumps(asdict(options), default=str, ensure_ascii=False))


def open_run(options: AddLanguageOptions, resume: bool) -> None:
    """Make OUT.run and keep the arguments there, or check that they are the same. Raises RunError."""
    for code in options.languages:
        if not re.fullmatch(r"[a-z]{2,3}(-[A-Za-z0-9]{2,8})*", code):
            raise RunError(f"{code!r} is no language code; give BCP 47 or ISO 639-3, as ky, quz or qu-EC.")
    if options.out.exists():
        raise RunError(f"{options.out} exists; choose another --out or remove it. Nothing was overwritten.")
    arguments = options.run / "arguments.json"
    wanted = _settings(options)
    if arguments.exists():
        if not resume:
            raise RunError(f"{options.run} holds an unfinished run; go on with --resume, or remove it.")
        before = json.loads(arguments.read_text())
        changed = sorted(key for key in wanted if before.get(key) != wanted[key])
        if changed:
            raise RunError(f"{options.run} was started with other settings ({', '.join(changed)}); resume with the same.")
        return
    try:
        options.run.mkdir(parents=True, exist_ok=True)
        part = arguments.with_suffix(".part")
        part.write_text(json.dumps(wanted, indent=1, ensure_ascii=False))
        os.replace(part, arguments)
    except OSError as error:
        raise RunError(f"Cannot write to {options.run}: {error.strerror or error}.") from error


def add_language(options: AddLanguageOptions, *, resume: bool = False, say: Callable[[str], None] = print) -> Pack:
    """Train a pack and write it to `options.out`. Raises CorpusError, AudioError, RunError, BaseModelError, PackError."""
    began = time.time()
    open_run(options, resume)
    backbone = Backbone.load(options.base, device=options.device)
    say("1 data")
    train, dev, skipped = read_corpora(options, backbone.window_s, say)
    say(f"  {len(train)} training and {len(dev)} dev clips, {sum(u.duration for u in train) / 3600:.2f} hours")

    say("2 tokenizer")
    tokenizer = PackTokenizer.train([written(u.text, options.target) for u in train], tuple(options.languages))
    torch.manual_seed(options.training.seed)
    secondary = Secondary(backbone, tokenizer, options.secondary).to(options.device)
    own = sum(p.numel() for _, p in secondary.own_tensors())
    say(f"  {tokenizer.size} units, {len(tokenizer.characters)} characters; {own:,} parameters of the pack's own")

    say("3 trunk activations")
    data = prepare(options, backbone, tokenizer, train, dev, skipped)
    for item in data.skipped[:10]:
        say(f"  skipped {item.id}: {item.reason}")
    if data.skipped:
        say(f"  {len(data.skipped)} skipped in all")
    (options.run / "skipped.json").write_text(json.dumps([asdict(s) for s in data.skipped], ensure_ascii=False, indent=1))

    say(f"4 train, {options.training.steps} steps")
    train_secondary(secondary, data.train, data.negatives, data.dev[:64], options.run, options.training, resume=resume)

    fit_language_head(secondary, data.train, data.negatives)

    say("5 dev")
    info = PackInfo(options.name or options.out.name, dict(options.languages), options.target)
    model = DualWhisper(backbone).with_pack(Pack(info, secondary))
    name = info.name
    some, refs = data.dev_audio[:MOST_DEV], [clip.text for clip in data.dev[:MOST_DEV]]
    weight, rates = choose_ctc_weight(model, name, some, refs) if some else (0.5, {})
    for value, rate in rates.items():
        say(f"  CTC weight {value:.2f}: dev CER {100 * rate:.1f} %")
    calibration = calibrate(with_info(model, name, ctc_weight=weight), name, some, data.negatives_dev[:MOST_DEV])
    if not calibration.negatives:
        say("  no --negatives: the pack cannot tell its languages from others; routing beside the primary is unreliable")
    training = {
        "clips": len(data.train), "hours": round(data.hours, 3), "negatives": len(data.negatives),
        "steps": options.training.steps, "batch": options.training.batch * options.training.accumulation,
        "learning rate": options.training.learning_rate, "seed": options.training.seed,
        "minutes": round((time.time() - began) / 60, 1), "corpus": options.source or ", ".join(p.name for p in options.corpora),
        "licence": options.licence or "not given",
    }  # fmt: skip
    scores = {"dev CER": round(rates[weight], 4)} if rates else {}
    info = replace(info, ctc_weight=weight, calibration=calibration, training=training, scores=scores)

    say(f"6 pack -> {options.out}")
    heard = [(u.sound, u.text, u.language) for u in train] + [(sound, "", "und") for sound in data.negatives_audio]
    pack = Pack(info, secondary, fingerprint(heard))
    save_pack(options.out, pack, backbone)
    for folder in [*checkpoints(options.run), options.run / "saving"]:
        shutil.rmtree(folder, ignore_errors=True)
    return pack
