"""A base and its packs, loaded together."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch

from dualasr.errors import PackError
from dualasr.model.dual_whisper import DualWhisper
from dualasr.model.selector import SelectorOptions
from dualasr.model.whisper import Backbone
from dualasr.packs.format import load_pack


def load_model(
    base: str | Path = "micro",
    packs: Sequence[str | Path] = (),
    *,
    device: str = "cpu",
    dtype: torch.dtype = torch.float32,
    selector: SelectorOptions = SelectorOptions(),
) -> DualWhisper:
    """A base (built-in name, folder or hub id) with packs (folders). Raises BaseModelError or
    PackError.
    """
    return with_packs(
        DualWhisper(Backbone.load(base, device=device, dtype=dtype), selector=selector), packs
    )


def with_packs(model: DualWhisper, packs: Sequence[str | Path]) -> DualWhisper:
    """The model with the packs of these folders in place of its own. Raises PackError."""
    model = replace(model, packs={})
    for folder in map(Path, packs):
        pack = load_pack(folder, model.backbone)
        try:
            model = model.with_pack(pack)
        except PackError as error:
            mine = {pack.name, *pack.info.languages}
            clashing = [
                known.folder
                for known in model.packs.values()
                if mine & {known.name, *known.info.languages}
            ]
            raise PackError(
                f"{error} The folders: {', '.join(map(str, [*clashing, folder]))}."
            ) from error
    return model
