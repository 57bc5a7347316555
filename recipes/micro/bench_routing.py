r"""Measure what routing costs, side by side in one run. Each row is printed with its ratios.

    python recipes/micro/bench_routing.py --corpus quickstart/corpus \
        --pack quickstart/packs/ky --pack quickstart/packs/ga

1  Nothing known, the base's languages, full windows: against plain transformers that encodes once,
   detects the language and decodes on the same features, and against plain `generate`, which
   encodes twice.
2  Nothing known, the packs' languages, full windows: against route and language given, and against
   the pack's own parts without anything of the primary above the fork.
3  Ten packs against one, full windows that stay with the primary: time and memory, on the base with
   the given packs under other names, and on Whisper's shape with random weights. In the rows named
   "all candidates" every window runs as many packs as the selector allows.
"""

import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from side_by_side import Row, full_windows, in_fresh_process, peak_mib, run, take_turns
from transformers.modeling_outputs import BaseModelOutput
from whisper_shape import write_packs, write_whisper

from dualasr.model.dual_whisper import DecodeOptions, DualWhisper
from dualasr.model.pack import Pack
from dualasr.model.search import Hypothesis
from dualasr.model.secondary import SearchOptions, slice_trunk
from dualasr.model.selector import PRIMARY, SelectorOptions
from dualasr.model.whisper import Backbone
from dualasr.packs.format import load_pack
from dualasr.packs.load import load_model

TEN = 10


def one_encode(backbone: Backbone, clip: np.ndarray) -> torch.Tensor:
    """Transcribe with plain transformers in the cheapest way: encode once."""
    model = backbone.model
    encoded = BaseModelOutput(model.get_encoder()(backbone.features([clip])).last_hidden_state)
    tag = model.detect_language(encoder_outputs=encoded)
    return model.generate(
        encoder_outputs=encoded,
        language=backbone.tokenizer.convert_ids_to_tokens(tag),
        task="transcribe",
    )


def pack_alone(model: DualWhisper, clip: np.ndarray, language: str) -> Hypothesis:
    """Transcribe with a pack without the primary's upper layers and decoder."""
    backbone, pack = model.backbone, model.pack(model.route_of(language))
    trunk = backbone.trunk(backbone.features([clip]), pack.secondary.options.fork)
    trunk, lengths = slice_trunk(trunk, [backbone.frames(len(clip))])
    search = SearchOptions(ctc_weight=pack.info.ctc_weight)
    return pack.secondary.decode(
        pack.secondary.encode(trunk, lengths), lengths, [language], search
    )[0]


def candidates(model: DualWhisper, clips: Sequence[np.ndarray]) -> str:
    count = sum(
        score.tag is not None
        for clip in clips
        for score in model.score_packs(model.encode_audio([clip]))[0][0]
    )
    return f"{count / len(clips):.2f} candidates a window"


def base_languages(args, utterances) -> Iterator[Row]:
    model = load_model(args.base, args.pack)
    backbone = model.backbone
    clips = [
        clip
        for clip, _ in full_windows(utterances, backbone.languages, backbone.window_s, args.clips)
    ]
    times = take_turns(
        {
            "ours": lambda clip: model.transcribe_windows([clip])[0],
            "once": lambda clip: one_encode(backbone, clip),
            "plain": lambda clip: backbone.model.generate(backbone.features([clip])),
        },
        clips,
        backbone,
        args.rounds,
        args.clock,
    )
    ours = times.outputs["ours"]
    texts = [
        backbone.tokenizer.decode(row[0], skip_special_tokens=True).strip()
        for row in times.outputs["once"]
    ]
    same = sum(result.text == text for result, text in zip(ours, texts, strict=True))
    note = (
        f"{sum(r.route == PRIMARY for r in ours)} of {len(clips)} stay, {same} texts the same;"
        f" {candidates(model, clips)}"
    )
    note += f"; decoder calls {times.calls['ours']}, {times.calls['once']}"
    what = f"languages of the base, {len(model.packs)} packs, against "
    yield times.row(1, what + "transformers that encodes once", "ours", "once", 1.15, note)
    yield times.row(1, what + "plain generate", "ours", "plain")


def new_languages(args, utterances) -> Iterator[Row]:
    model = load_model(args.base, args.pack)
    codes = [code for pack in model.packs.values() for code in pack.info.languages]
    pairs = full_windows(utterances, codes, model.backbone.window_s, args.clips)
    times = take_turns(
        {
            "ours": lambda pair: model.transcribe_windows([pair[0]])[0],
            "given": lambda pair: model.transcribe_windows([pair[0]], language=pair[1])[0],
            "alone": lambda pair: pack_alone(model, *pair),
        },
        pairs,
        model.backbone,
        args.rounds,
        args.clock,
    )
    ours = times.outputs["ours"]
    right = sum(result.language == code for result, (_, code) in zip(ours, pairs, strict=True))
    twice = sum(len(result.hypotheses) > 1 for result in ours)
    note = (
        f"{right} of {len(pairs)} right, {twice} decoded twice;"
        f" {candidates(model, [clip for clip, _ in pairs])}"
    )
    what = f"languages of the packs, {len(model.packs)} packs, against "
    yield times.row(2, what + "route and language given", "ours", "given", 1.35, note)
    yield times.row(2, what + "the pack's own parts", "ours", "alone")


def packs_from_disk(backbone: Backbone, folders: Sequence[Path], count: int) -> list[Pack]:
    """Read `count` packs: the folders in turn, under other names and languages.

    No two of them have the same score.
    """
    packs = []
    for k in range(count):
        pack = load_pack(folders[k % len(folders)], backbone)
        languages = {f"{code}-x-{k}": name for code, name in pack.info.languages.items()}
        pack.secondary.tokenizer = replace(pack.secondary.tokenizer, languages=tuple(languages))
        head = pack.info.calibration.head
        calibration = replace(
            pack.info.calibration, head=replace(head, offset=head.offset - 1e-6 * k)
        )
        info = replace(
            pack.info, name=f"{pack.name}-{k}", languages=languages, calibration=calibration
        )
        packs.append(replace(pack, info=info))
    return packs


def with_packs(backbone: Backbone, packs: Sequence[Pack], **selector) -> DualWhisper:
    return DualWhisper(backbone, {pack.name: pack for pack in packs}, SelectorOptions(**selector))


def memory_of_packs(
    base, folders: Sequence[Path], count: int, clips: Sequence[np.ndarray], options: DecodeOptions
) -> float:
    backbone = Backbone.load(base)
    model = with_packs(backbone, packs_from_disk(backbone, folders, count))
    for clip in clips:
        model.transcribe_windows([clip], options=options)
    return peak_mib()


def packs_on(
    base, folders: Sequence[Path], clips: Sequence[np.ndarray], options: DecodeOptions, args
) -> Iterator[Row]:
    backbone, what = Backbone.load(base), f"ten packs against one on {Path(base).name}, "
    ten = packs_from_disk(backbone, folders, TEN)
    models = {"one": with_packs(backbone, ten[:1]), "ten": with_packs(backbone, ten)}
    models |= {
        f"{name}, all candidates": replace(model, selector=SelectorOptions(head_threshold=-np.inf))
        for name, model in models.items()
    }
    ways = {
        name: lambda clip, model=model: model.transcribe_windows([clip], options=options)[0]
        for name, model in models.items()
    }
    times = take_turns(ways, clips, backbone, args.rounds, args.clock)
    stay = sum(result.route == PRIMARY for result in times.outputs["ten"])
    yield times.row(
        3,
        what + "time",
        "ten",
        "one",
        1.15,
        f"{stay} of {len(clips)} stay; {candidates(models['ten'], clips)}",
    )
    yield times.row(
        3,
        what + "time, all candidates",
        "ten, all candidates",
        "one, all candidates",
        note=candidates(models["ten, all candidates"], clips),
    )
    del backbone, ten, models, ways, times
    one, ten = (
        in_fresh_process(memory_of_packs, base, folders, count, clips[:2], options)
        for count in (1, TEN)
    )
    yield Row(3, what + "memory", ten / one, ten / one, 1.5, f"{ten:.0f} against {one:.0f} MiB")


def ten_packs(args, utterances) -> Iterator[Row]:
    backbone = Backbone.load(args.base)
    window_s, languages = backbone.window_s, list(backbone.languages)
    if args.pack:
        clips = [clip for clip, _ in full_windows(utterances, languages, window_s, args.clips)]
        yield from packs_on(args.base, args.pack, clips, DecodeOptions(), args)
    with tempfile.TemporaryDirectory() as folder:
        base = Path(folder) / args.shape
        write_whisper(base, args.shape)
        folders = write_packs(
            Path(folder) / "packs", Backbone.load(base), TEN, [u.text for u in utterances]
        )
        clips = [clip for clip, _ in full_windows(utterances, languages, 30, args.shape_clips)]
        options = DecodeOptions(generate={"max_new_tokens": args.shape_tokens})
        yield from packs_on(base, folders, clips, options, args)


if __name__ == "__main__":
    run(__doc__, {1: base_languages, 2: new_languages, 3: ten_packs})
