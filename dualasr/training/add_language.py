"""Add a language: from a corpus to a pack folder, in numbered steps, resumable at each.

`OUT.run` holds the run: resolved arguments, metrics.jsonl, checkpoints while it trains, dev scores. `OUT` is the pack; it
appears whole at the end. The trunk cache may be shared between runs.
"""

import json
import re
import shutil
import time
from collections.abc import Callable
from dataclasses import asdict, replace
from datetime import timedelta

import torch
from accelerate import PartialState

from dualasr.atomic import whole_file
from dualasr.data.fingerprints import fingerprint, join
from dualasr.errors import RunError
from dualasr.model.dual_whisper import DualWhisper
from dualasr.model.pack import Pack, PackInfo
from dualasr.model.secondary import Secondary
from dualasr.model.tokenizer import PackTokenizer
from dualasr.model.whisper import Backbone, find_device
from dualasr.packs.format import load_pack, read_fingerprints, save_pack
from dualasr.training.calibration import calibrate, choose_ctc_weight, fit_pack_statistics, with_info
from dualasr.training.language_head import fit_language_head
from dualasr.training.options import AddLanguageOptions, check_settings
from dualasr.training.prepare import prepare, read_corpora, read_text, trunk_cache
from dualasr.training.trainer import checkpoints, train_secondary

PATIENCE = timedelta(days=1)  # of processes that wait for the first one's trunk activations and calibration
MOST_DEV = 96  # dev clips that the CTC weight and the calibration are fitted on


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
        with whole_file(arguments) as part:
            part.write_text(json.dumps(wanted, indent=1, ensure_ascii=False))
    except OSError as error:
        raise RunError(f"Cannot write to {options.run}: {error.strerror or error}.") from error


def load_earlier(options: AddLanguageOptions, backbone: Backbone) -> Pack | None:
    """The pack to go on from, if any. Raises RunError where it is of another shape or its languages do not come first."""
    if options.init is None:
        return None
    pack = load_pack(options.init, backbone)
    first = list(options.languages)[: len(pack.info.languages)]
    if first != list(pack.info.languages):
        raise RunError(f"{options.init} holds {', '.join(pack.info.languages)}; a pack that goes on from it must hold these "
                       f"first, not {', '.join(first)}.")  # fmt: skip
    if pack.secondary.options != options.secondary.resolve(backbone.layers):
        raise RunError(f"{options.init} has other settings than asked for ({pack.secondary.options}); go on with the same.")
    return pack


def make_ready(options: AddLanguageOptions, backbone: Backbone, say: Callable[[str], None]):
    """Steps 1 to 3: an untrained secondary, what it is trained on, the utterances, and the pack it goes on from."""
    say("1 data")
    train, dev, skipped = read_corpora(options, backbone.window_s, say)
    say(f"  {len(train)} training and {len(dev)} dev clips, {sum(u.duration for u in train) / 3600:.2f} hours")

    say("2 tokenizer")
    before = load_earlier(options, backbone)
    if before is None:
        tokenizer = PackTokenizer.train(read_text(options, train), tuple(options.languages))
    else:
        tokenizer = replace(before.secondary.tokenizer, languages=tuple(options.languages))
    torch.manual_seed(options.training.seed)
    secondary = Secondary(backbone, tokenizer, options.secondary).to(backbone.device)
    if before is not None:
        secondary.inherit(before.secondary)
    own = sum(p.numel() for _, p in secondary.own_tensors())
    say(f"  {tokenizer.size} units, {len(tokenizer.characters)} characters; {own:,} parameters of the pack's own")

    say("3 trunk activations")
    data = prepare(options, backbone, tokenizer, train, dev, skipped)
    for item in data.skipped[:10]:
        say(f"  skipped {item.id}: {item.reason}")
    if data.skipped:
        say(f"  {len(data.skipped)} skipped in all")
    (options.run / "skipped.json").write_text(json.dumps([asdict(s) for s in data.skipped], ensure_ascii=False, indent=1))
    return secondary, data, train, before


def add_language(options: AddLanguageOptions, *, resume: bool = False, say: Callable[[str], None] = print) -> Pack:
    """Train a pack and write it to `options.out`. Raises CorpusError, AudioError, RunError, BaseModelError, PackError.

    Under torchrun or `accelerate launch` every process takes its share of each batch; the first one alone writes.
    """
    began, processes = time.time(), PartialState(cpu=options.device == "cpu", timeout=PATIENCE)
    if not processes.is_main_process:
        say = _say_nothing
    backbone = Backbone.load(options.base, device=find_device(options.device))
    check_settings(options.secondary, options.training, backbone.layers)
    with processes.main_process_first():
        if processes.is_main_process:
            open_run(options, resume)
        secondary, data, train, before = make_ready(options, backbone, say)

    say(f"4 train, {options.training.steps} steps")
    train_secondary(secondary, data.train, data.negatives, data.dev[:64], options.run, options.training, resume=resume)

    if not processes.is_main_process:
        processes.wait_for_everyone()
        return load_pack(options.out, backbone)
    fit_language_head(secondary, data.train, data.negatives)

    say("5 dev")
    info = PackInfo(options.name or options.out.name, dict(options.languages), options.target)
    model = DualWhisper(backbone).with_pack(Pack(info, secondary))
    name = info.name
    some, refs = data.dev_audio[:MOST_DEV], [clip.text for clip in data.dev[:MOST_DEV]]
    weight, rates = choose_ctc_weight(model, name, some, refs) if some else (0.5, {})
    for value, rate in rates.items():
        say(f"  CTC weight {value:.2f}: dev CER {100 * rate:.1f} %")
    calibration = calibrate(with_info(model, name, ctc_weight=weight), name, some, data.negatives_dev)
    if not calibration.negatives:
        say("  no --negatives: the pack cannot tell its languages from others; routing beside the primary is unreliable")
    training = {
        "clips": len(data.train), "hours": round(data.hours, 3), "negatives": len(data.negatives),
        "steps": options.training.steps, "batch": options.training.batch * options.training.accumulation,
        "learning rate": options.training.learning_rate, "seed": options.training.seed,
        "minutes": round((time.time() - began) / 60, 1), "corpus": options.source or ", ".join(p.name for p in options.corpora),
        "licence": options.licence or "not given", **({"goes on from": options.init.name} if options.init else {}),
    }  # fmt: skip
    scores = {"dev CER": round(rates[weight], 4)} if rates else {}
    info = replace(info, ctc_weight=weight, calibration=calibration, training=training, scores=scores)

    say(f"6 pack -> {options.out}")
    heard = [(u.sound, u.text, u.language) for u in train] + [(sound, "", "und") for sound in data.negatives_audio]
    earlier = read_fingerprints(before.folder) if before else None
    prints = join([fingerprint(heard), *([earlier] if earlier else [])])
    variants, labelled = options.training.variants_of(len(train)), {clip.id for clip in data.train}
    statistics = fit_pack_statistics(backbone, [u for u in train if u.id in labelled], list(options.languages),
                                trunk_cache(options, backbone), variants)  # fmt: skip
    pack = Pack(info, secondary, statistics, options.out)
    save_pack(options.out, pack, backbone, prints)
    for folder in [*checkpoints(options.run), options.run / "saving"]:
        shutil.rmtree(folder, ignore_errors=True)
    processes.wait_for_everyone()
    return pack


def _say_nothing(line: str) -> None:
    pass
