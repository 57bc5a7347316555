"""Export of a pack and its base: the unchanged primary for other engines, and the secondary with
its LoRA merged into the weights.

    FOLDER/primary/         the base in transformers format, also with the tokenizer files that
                            older converters read
    FOLDER/secondary/       the pack without LoRA (rank 0), for the Whisper in ...
    FOLDER/secondary/base/  ... this folder: the base with the pack's LoRA added to its weights
    FOLDER/README.md        what the folders hold, and how to use them

A merged secondary is an ordinary pack on an ordinary base: `load_model(folder / "base", [folder])`.
Its calibration routes every window to the pack, because the merged Whisper is no longer a good
primary for any language.
"""

import copy
import json
import os
from dataclasses import replace
from pathlib import Path

import torch
from safetensors import SafetensorError
from torch import nn

from dualasr.atomic import atomic_folder
from dualasr.errors import RunError
from dualasr.model.pack import Pack
from dualasr.model.secondary import Secondary
from dualasr.model.selector import Calibration, Logistic
from dualasr.model.whisper import Backbone
from dualasr.packs.format import load_pack, save_pack

SURE = 100.0  # log-odds of a pack that takes every window
WHISPER_UNITS = 51864  # tokens of the smallest vocabulary that OpenAI released
BASE_NAME = "THIS_FOLDER/base"  # the base in the command of the pack's model card


def export(pack: str | Path, to: str | Path, base: str | Path = "micro") -> None:
    """Write a pack and its base to a new folder, whole or not at all.

    Args:
        pack: Folder of the pack.
        to: The new folder.
        base: The pack's base: built-in name, folder, or model id on the Hugging Face hub.

    Raises:
        RunError: The folder exists or cannot be written.
        PackError: The pack is missing, damaged or of another base.
        BaseModelError: The base is missing, or it is no Whisper.
    """
    folder = Path(to)
    if os.path.lexists(folder):
        raise RunError(f"{folder} exists; choose another --to, or remove it first.")
    backbone = Backbone.load(base)
    loaded = load_pack(Path(pack), backbone)
    alone, merged = merge(loaded, backbone)
    advice = "Free some space or choose another --to."
    with atomic_folder(
        folder, name=f"the export {folder}", advice=advice, errors=(SafetensorError,)
    ) as part:
        save_base(part / "primary", backbone)
        save_pack(part / "secondary", alone, merged)
        save_base(part / "secondary" / "base", merged)
        (part / "README.md").write_text(readme(loaded, backbone), encoding="utf-8")


def merge(pack: Pack, backbone: Backbone) -> tuple[Pack, Backbone]:
    """Merge a pack's LoRA into copies of the base's weights.

    Args:
        pack: The pack; it is not changed.
        backbone: Its base; it is not changed.

    Returns:
        The pack with rank 0, and the Whisper that it is then for.
    """
    secondary, model = pack.secondary, copy.deepcopy(backbone.model)
    decoder = model.model.decoder
    # 1. the encoder layers above the fork, and Whisper's decoder if the pack adapts it
    model.model.encoder.layers[secondary.options.fork :].load_state_dict(
        merged_weights(secondary.layers)
    )
    if secondary.options.decoder == "whisper":
        layers = secondary.decoder.layers
        assert isinstance(layers, nn.ModuleList)
        decoder.layers.load_state_dict(merged_weights(layers))
    else:  # the pack has a decoder of its own; Whisper's is not needed
        decoder.layers, model.config.decoder_layers = nn.ModuleList(), 0
    base = Backbone(BASE_NAME, model, backbone.tokenizer, backbone.extractor)
    # 2. all other tensors of the pack are copied
    alone = Secondary(base, secondary.tokenizer, replace(secondary.options, rank=0, alpha=0.0))
    theirs = dict(secondary.own_tensors())
    for name, parameter in alone.own_tensors():
        parameter.data.copy_(theirs[name])
    # 3. a calibration that ignores all scores
    always = Calibration(
        head=Logistic((0.0,), SURE),
        tag=Logistic((0.0, 0.0, 0.0), SURE),
        second_pass=Logistic((0.0, 0.0, 0.0), SURE),
        negatives=pack.info.calibration.negatives,
    )
    info = replace(pack.info, calibration=always)
    return replace(pack, info=info, secondary=alone, statistics=None), base


@torch.no_grad()
def merged_weights(layers: nn.ModuleList) -> dict[str, torch.Tensor]:
    """Return the weights of layers with LoRA merged, W + s BA.

    Args:
        layers: Layers with LoRA of peft, or without.

    Returns:
        Tensors by their names in the same layers without LoRA.
    """
    weights = {
        name.replace(".base_layer", ""): tensor
        for name, tensor in layers.state_dict().items()
        if ".lora_" not in name
    }
    for name, module in layers.named_modules():
        if hasattr(module, "get_delta_weight"):
            weights[f"{name}.weight"] = weights[f"{name}.weight"] + module.get_delta_weight(
                "default"
            )
    return weights


def save_base(folder: Path, backbone: Backbone) -> None:
    """Write a Whisper in transformers format, with the files that older readers need.

    Among them are vocab.json and merges.txt: ctranslate2's converter and whisper.cpp's
    convert-h5-to-ggml.py read these. Weights that float16 holds without loss, as those of many
    checkpoints, are written as float16, in half the space.

    Args:
        folder: Where to write; it is made.
        backbone: The Whisper.
    """
    model, tokenizer = backbone.model, backbone.tokenizer
    if all(torch.equal(tensor, tensor.half().float()) for tensor in model.state_dict().values()):
        model = copy.deepcopy(model).half()
    for part in (model, tokenizer, backbone.extractor):
        part.save_pretrained(folder)
    tokenizer.save_vocabulary(str(folder))
    config, settings = (
        json.loads((folder / name).read_bytes())
        for name in ("config.json", "tokenizer_config.json")
    )
    config = {"max_length": config["max_target_positions"], **config, "dtype": "float32"}
    vocabulary = json.loads((folder / "vocab.json").read_text(encoding="utf-8"))
    added = tokenizer.added_tokens_decoder
    special = [token.content for token in added.values() if token.special]
    # a list, on which older versions of transformers fail; the special tokens map has it, too
    settings.pop("extra_special_tokens", None)
    files = {
        "config.json": config,
        "tokenizer_config.json": settings,
        "added_tokens.json": {
            token.content: i for i, token in added.items() if token.content not in vocabulary
        },
        "special_tokens_map.json": {
            **tokenizer.special_tokens_map,
            "additional_special_tokens": special,
        },
    }
    for name, content in files.items():
        (folder / name).write_text(
            json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8"
        )


def readme(pack: Pack, backbone: Backbone) -> str:
    """Return README.md of an export."""
    names = ", ".join(f"{name} (`{code}`)" for code, name in pack.info.languages.items())
    window_s, units = backbone.window_s, backbone.model.config.vocab_size
    unlike = (
        ""
        if window_s == 30 and units >= WHISPER_UNITS
        else f"""
Both need windows of 30 s and a vocabulary of Whisper's. This base has windows of {window_s:g} s and
{units:,} tokens: neither can use it, but ctranslate2 itself can.
"""
    )
    commands = (
        "    ct2-transformers-converter --model primary --output_dir primary-ct2"
        " --copy_files tokenizer.json preprocessor_config.json\n"
        "    python convert-h5-to-ggml.py primary OPENAI_WHISPER_REPOSITORY ."
    )
    return f"""# {pack.name} and its base, exported by dualasr

`primary/` is the base, `{backbone.name}`, unchanged, in transformers format. To convert it for
faster-whisper, and for whisper.cpp:

{commands}
{unlike}
`secondary/` is the pack for {names}. Its LoRA is merged into the weights of `secondary/base`, which
can be used with this pack only. dualasr needs neither peft nor the original pack and base to load
them, and sends all speech to the pack:

    dualasr transcribe FILE --base secondary/base --pack secondary

The selector is not exported: only dualasr can choose between the two pipelines.
"""
