"""Add a language: from a corpus to a pack folder, in numbered steps. A stopped run can be resumed.

1. Read the corpora, and leave out what cannot be used (prepare.py).
2. Make the vocabulary from the training text (tokenizer.py).
3. Compute the trunk's activations of every clip and variant (trunk_cache.py).
4. Train the secondary (trainer.py), and fit its language head (language_head.py).
5. Choose the CTC weight and fit the calibration, on dev (calibration.py).
6. Write the pack.

`OUT.run` holds the run: resolved arguments, metrics.jsonl, and checkpoints while it trains. `OUT`
is the pack; it appears whole at the end. Runs may share a trunk cache.
"""

import json
import logging
import re
import shutil
import time
from dataclasses import asdict, dataclass, replace
from datetime import timedelta

import torch
from accelerate import PartialState

from dualasr.atomic import atomic_file
from dualasr.data.fingerprints import Fingerprints, fingerprint, join
from dualasr.errors import RunError
from dualasr.model.dual_whisper import DualWhisper
from dualasr.model.language_statistics import LanguageStatistics
from dualasr.model.ngrams import CharacterModel
from dualasr.model.pack import Pack, PackInfo
from dualasr.model.secondary import Secondary
from dualasr.model.whisper import Backbone, find_device
from dualasr.packs.format import load_pack, read_fingerprints, save_pack
from dualasr.training.calibration import (
    calibrate,
    choose_ctc_weight,
    fit_pack_statistics,
    with_info,
)
from dualasr.training.language_head import fit_language_head
from dualasr.training.options import MOST_DEV, AddLanguageOptions, check_settings
from dualasr.training.prepare import (
    Prepared,
    ReadCorpora,
    make_tokenizer,
    prepare,
    read_corpora,
    trunk_cache,
)
from dualasr.training.trainer import checkpoints, train_secondary

log = logging.getLogger("dualasr")

# how long processes wait for the first one's trunk activations and calibration
PATIENCE = timedelta(days=1)


def _settings(options: AddLanguageOptions) -> dict:
    """Return the resolved arguments as JSON holds them."""
    return json.loads(json.dumps(asdict(options), default=str, ensure_ascii=False))


def open_run(options: AddLanguageOptions, resume: bool) -> None:
    """Make OUT.run and write the arguments there, or check that they are the same.

    Raises:
        RunError: A code or the folder cannot be used, or the run has other settings.
    """
    for code in options.languages:
        if not re.fullmatch(r"[a-z]{2,3}(-[A-Za-z0-9]{2,8})*", code):
            raise RunError(
                f"{code!r} is no language code; give BCP 47 or ISO 639-3, as ky, quz or qu-EC."
            )
    if options.out.exists():
        raise RunError(
            f"{options.out} exists; choose another --out or remove it. Nothing was overwritten."
        )
    arguments = options.run / "arguments.json"
    wanted = _settings(options)
    if arguments.exists():
        if not resume:
            raise RunError(
                f"{options.run} holds an unfinished run; go on with --resume, or remove it."
            )
        before = json.loads(arguments.read_bytes())
        changed = sorted(key for key in wanted if before.get(key) != wanted[key])
        if changed:
            raise RunError(
                f"{options.run} was started with other settings ({', '.join(changed)}); resume with"
                " the same."
            )
        return
    with atomic_file(arguments, advice="Free some space or choose another --out.") as part:
        part.write_text(json.dumps(wanted, indent=1, ensure_ascii=False), encoding="utf-8")


def load_earlier(options: AddLanguageOptions, backbone: Backbone) -> Pack | None:
    """Load the pack to go on from, if there is one.

    Raises:
        PackError: It cannot be loaded.
        RunError: It is of another shape, or its languages do not come first.
    """
    if options.init is None:
        return None
    pack = load_pack(options.init, backbone)
    first = list(options.languages)[: len(pack.info.languages)]
    if first != list(pack.info.languages):
        raise RunError(
            f"{options.init} holds {', '.join(pack.info.languages)}; a pack that goes on from it"
            f" must hold these first, not {', '.join(first)}."
        )
    if pack.secondary.options != options.secondary.resolve(backbone.layers):
        raise RunError(
            f"{options.init} has other settings than wanted ({pack.secondary.options}); go on"
            " with the same."
        )
    return pack


@dataclass(frozen=True, eq=False)
class Ready:
    """The results of steps 1 to 3.

    Attributes:
        secondary: The untrained secondary.
        corpora: Utterances of train and dev.
        data: Clips over cached activations.
        before: The pack to go on from; None without one.
    """

    secondary: Secondary
    corpora: ReadCorpora
    data: Prepared
    before: Pack | None


def make_ready(options: AddLanguageOptions, backbone: Backbone) -> Ready:
    """Run steps 1 to 3. Raises as `add_language`."""
    log.info("1 data")
    corpora = read_corpora(options, backbone.window_s)
    for note in corpora.notes:
        log.info(f"  {note}")
    hours = sum(u.duration or 0.0 for u in corpora.train) / 3600
    log.info(f"  {len(corpora.train)} training and {len(corpora.dev)} dev clips, {hours:.2f} hours")

    log.info("2 tokenizer")
    before = load_earlier(options, backbone)
    if before is None:
        tokenizer = make_tokenizer(options, backbone, corpora.train)
    else:
        tokenizer = replace(before.secondary.tokenizer, languages=tuple(options.languages))
    torch.manual_seed(options.training.seed)
    secondary = Secondary(backbone, tokenizer, options.secondary).to(backbone.device)
    if before is not None:
        secondary.inherit(before.secondary)
    own = sum(p.numel() for _, p in secondary.own_tensors())
    log.info(
        f"  {tokenizer.size} units, {len(tokenizer.characters)} characters; {own:,} parameters of"
        " the pack's own"
    )

    log.info("3 trunk activations")
    data = prepare(options, backbone, tokenizer, corpora)
    for item in data.skipped[:10]:
        log.info(f"  skipped {item.id}: {item.reason}")
    if data.skipped:
        log.info(f"  {len(data.skipped)} skipped in all")
    with atomic_file(options.run / "skipped.json") as part:
        rows = [asdict(row) for row in data.skipped]
        part.write_text(json.dumps(rows, ensure_ascii=False, indent=1), encoding="utf-8")
    return Ready(secondary, corpora, data, before)


def add_language(options: AddLanguageOptions, *, resume: bool = False) -> Pack:
    """Train a pack and write it to `options.out`. The steps are logged.

    Under torchrun or `accelerate launch` every process takes its share of each batch; the first one
    alone writes.

    Args:
        options: What is trained, on what, and where the pack goes.
        resume: Whether to go on with an unfinished run of the same options.

    Returns:
        The pack, as it was saved.

    Raises:
        CorpusError: A corpus cannot be used.
        AudioError: With `options.strict`, a clip cannot be read.
        BaseModelError: The base cannot be loaded.
        PackError: The pack to go on from cannot be loaded.
        RunError: A setting is outside its range, the folder exists, or the disk is full.
    """
    began, processes = time.time(), PartialState(cpu=options.device == "cpu", timeout=PATIENCE)
    backbone = Backbone.load(options.base, device=find_device(options.device))
    check_settings(options.secondary, options.training, backbone.layers)
    with processes.main_process_first():
        if processes.is_main_process:
            open_run(options, resume)
        ready = make_ready(options, backbone)
    secondary, data = ready.secondary, ready.data

    log.info(f"4 train, {options.training.steps} steps")
    train_secondary(
        secondary,
        data.train,
        data.negatives,
        data.dev[:64],
        options.run,
        options.training,
        resume=resume,
    )

    if not processes.is_main_process:
        processes.wait_for_everyone()
        return load_pack(options.out, backbone)
    fit_language_head(secondary, data.train, data.negatives)

    log.info("5 dev")
    ngrams = ngrams_of(ready)
    info = calibrated_info(options, backbone, ready, ngrams)
    record = training_record(options, data, minutes=(time.time() - began) / 60)
    info = replace(info, training=record)

    log.info(f"6 pack -> {options.out}")
    statistics = statistics_of(options, backbone, ready)
    pack = Pack(info, secondary, statistics, ngrams, options.out)
    save_pack(options.out, pack, backbone, fingerprints_of(ready))
    for folder in [*checkpoints(options.run), options.run / "saving"]:
        shutil.rmtree(folder, ignore_errors=True)
    processes.wait_for_everyone()
    return pack


def calibrated_info(
    options: AddLanguageOptions, backbone: Backbone, ready: Ready, ngrams: CharacterModel
) -> PackInfo:
    """Run step 5: return the pack's record, with CTC weight and calibration fitted on dev."""
    data = ready.data
    info = PackInfo(
        options.name or options.out.name, dict(options.languages), target=options.target
    )
    model = DualWhisper(backbone).with_pack(Pack(info, ready.secondary, ngrams=ngrams))
    some, refs = data.dev_audio[:MOST_DEV], [clip.text for clip in data.dev[:MOST_DEV]]
    precision, weight = options.training.precision, 0.5
    rates: dict[float, float] = {}
    if some:
        weight, rates = choose_ctc_weight(model, info.name, some, refs, precision=precision)
    for value, rate in rates.items():
        log.info(f"  CTC weight {value:.2f}: dev CER {100 * rate:.1f} %")
    calibration = calibrate(
        with_info(model, info.name, ctc_weight=weight),
        info.name,
        some,
        data.negatives_dev,
        precision=precision,
    )
    if not calibration.negatives:
        log.info(
            "  no --negatives: the pack never met other languages; routing beside the"
            " primary is unreliable"
        )
    scores = {"dev CER": round(rates[weight], 4)} if rates else {}
    return replace(info, ctc_weight=weight, calibration=calibration, scores=scores)


def training_record(options: AddLanguageOptions, data: Prepared, minutes: float) -> dict:
    """Return the record of the training for pack.json and the model card."""
    training = options.training
    record = {
        "clips": len(data.train),
        "hours": round(data.hours, 3),
        "negatives": len(data.negatives),
        "steps": training.steps,
        "batch": training.batch * training.accumulation,
        "learning rate": training.learning_rate,
        "seed": training.seed,
        "minutes": round(minutes, 1),
        "corpus": options.source or ", ".join(p.name for p in options.corpora),
        "licence": options.licence or "not given",
    }
    return record | ({"goes on from": options.init.name} if options.init else {})


def statistics_of(
    options: AddLanguageOptions, backbone: Backbone, ready: Ready
) -> LanguageStatistics:
    """Fit the statistics of the pack's languages on its training clips."""
    variants = options.training.variants_of(len(ready.corpora.train))
    labelled = {clip.id for clip in ready.data.train}
    utterances = [u for u in ready.corpora.train if u.id in labelled]
    return fit_pack_statistics(
        backbone,
        utterances,
        list(options.languages),
        trunk_cache(options, backbone),
        variants,
        precision=options.training.precision,
    )


def ngrams_of(ready: Ready) -> CharacterModel:
    """Fit character n-grams on the text of the training clips."""
    units = 1 + len(ready.secondary.tokenizer.characters)
    return CharacterModel.fit([clip.characters for clip in ready.data.train], units)


def fingerprints_of(ready: Ready) -> Fingerprints:
    """Return the fingerprints of all training clips, those of the earlier pack's training too."""
    clips = [(u.sound, u.text, u.language) for u in ready.corpora.train]
    clips += [(sound, "", "und") for sound in ready.data.negatives_audio]
    earlier = read_fingerprints(ready.before.folder) if ready.before else None
    return join([fingerprint(clips), *([earlier] if earlier else [])])
