"""A pack and its base for use elsewhere: the untouched primary for other engines, the secondary
merged and on its own.

    FOLDER/primary/         the base in transformers format, with the tokenizer files that older converters open
    FOLDER/secondary/       the pack without LoRA: a pack of rank 0 ...
    FOLDER/secondary/base/  ... for this Whisper, the base with the pack's LoRA added to its weights
    FOLDER/README.md        what is what, and how to use it

A merged secondary is an ordinary pack on an ordinary base: `load_model(folder / "base", [folder])`.
Its calibration gives every window to the pack, for the Whisper it stands on is nobody's primary any
more.
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

SURE = 100.0  # log-odds of a pack that has no rival
WHISPER_UNITS = 51864  # tokens of the smallest vocabulary that OpenAI released
BASE_NAME = "THIS_FOLDER/base"  # for the pack's card, which says what to load it with


def export(pack: str | Path, to: str | Path, base: str | Path = "micro") -> None:
    """Write a pack (folder) and its base (built-in name, folder or hub id) to a new folder, whole
    or not at all.

    Raises RunError where the folder exists or cannot be written, PackError for a pack that is
    missing, damaged or of another base, and BaseModelError.
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
    """The pack with rank 0, and the Whisper it then stands on: LoRA is added to copies of the
    weights; the given ones stay.
    """
    secondary, model = pack.secondary, copy.deepcopy(backbone.model)
    decoder = model.model.decoder
    model.model.encoder.layers[secondary.options.fork :].load_state_dict(
        merged_weights(secondary.layers)
    )
    if secondary.options.decoder == "whisper":
        decoder.layers.load_state_dict(merged_weights(secondary.decoder.layers))
    else:  # the pack's own decoder is all it needs
        decoder.layers, model.config.decoder_layers = nn.ModuleList(), 0
    base = Backbone(BASE_NAME, model, backbone.tokenizer, backbone.extractor)
    alone = Secondary(base, secondary.tokenizer, replace(secondary.options, rank=0, alpha=0.0))
    theirs = dict(secondary.own_tensors())
    for name, parameter in alone.own_tensors():
        parameter.data.copy_(theirs[name])
    always = Calibration(
        *(Logistic((0.0,) * scores, SURE) for scores in (1, 3, 3)), pack.info.calibration.negatives
    )
    return (
        replace(
            pack, info=replace(pack.info, calibration=always), secondary=alone, statistics=None
        ),
        base,
    )


@torch.no_grad()
def merged_weights(layers: nn.ModuleList) -> dict[str, torch.Tensor]:
    """The weights of layers with LoRA, W + s BA, by their names in the same layers without."""
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
    """Write a Whisper in transformers format, readable without the newest transformers: vocab.json,
    merges.txt and the like.

    What ctranslate2's converter and whisper.cpp's convert-h5-to-ggml.py open is there. Weights that
    float16 holds without loss, as those of many checkpoints, take half the room.
    """
    model, tokenizer = backbone.model, backbone.tokenizer
    if all(torch.equal(tensor, tensor.half().float()) for tensor in model.state_dict().values()):
        model = copy.deepcopy(model).half()
    for part in (model, tokenizer, backbone.extractor):
        part.save_pretrained(folder)
    tokenizer.save_vocabulary(str(folder))
    config, settings = (
        json.loads((folder / name).read_text()) for name in ("config.json", "tokenizer_config.json")
    )
    config = {"max_length": config["max_target_positions"], **config, "dtype": "float32"}
    vocabulary = json.loads((folder / "vocab.json").read_text(encoding="utf-8"))
    added = tokenizer.added_tokens_decoder
    special = [token.content for token in added.values() if token.special]
    # a list, on which older versions fail; it is in the map, too
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
    """README.md of the whole export."""
    names = ", ".join(f"{name} (`{code}`)" for code, name in pack.info.languages.items())
    window_s, units = backbone.window_s, backbone.model.config.vocab_size
    unlike = (
        ""
        if window_s == 30 and units >= WHISPER_UNITS
        else f"""
Both take windows of 30 s and Whisper's own vocabulary alone, not this base's {window_s:g} s and {units:,} tokens; ctranslate2
itself takes these.
"""
    )
    return f"""# {pack.name} and its base, exported by dualasr

`primary/` is the base, `{backbone.name}`, as it was, in transformers format. For faster-whisper, and for whisper.cpp:

    ct2-transformers-converter --model primary --output_dir primary-ct2 --copy_files tokenizer.json preprocessor_config.json
    python convert-h5-to-ggml.py primary OPENAI_WHISPER_REPOSITORY .
{unlike}
`secondary/` is the pack for {names}, alone: LoRA is merged into the weights of `secondary/base`, which is of
no other use. dualasr loads it without peft, the pack or the base, and sends all speech to it:

    dualasr transcribe FILE --base secondary/base --pack secondary

The selector is not exported: the choice between the two pipelines lives in dualasr.
"""
