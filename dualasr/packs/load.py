"""Loading a base together with its packs."""

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
    """Load a base and packs.

    Args:
        base: Built-in name, folder, or model id on the Hugging Face hub.
        packs: Folders of packs.
        device: A device of torch, as "cpu" or "cuda".
        dtype: Number format of the weights.
        selector: Settings of the selector.

    Returns:
        The base with its packs.

    Raises:
        BaseModelError: The base is missing, or it is no Whisper.
        PackError: A pack is missing, damaged or of another base, or two packs share a name or a
            language.
    """
    return with_packs(
        DualWhisper(Backbone.load(base, device=device, dtype=dtype), selector=selector), packs
    )


def with_packs(model: DualWhisper, packs: Sequence[str | Path]) -> DualWhisper:
    """Return the model with the packs of these folders in place of its own.

    Args:
        model: The model; it is not changed.
        packs: Folders of packs.

    Returns:
        A new model on the same base.

    Raises:
        PackError: A pack is missing, damaged or of another base, or two packs share a name or a
            language.
    """
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
