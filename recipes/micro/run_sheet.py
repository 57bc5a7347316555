"""Estimate what adding a language to a large Whisper takes, from a few of its layers.

    python recipes/micro/run_sheet.py --shape large-v2

A model of the shape with random weights is run with 2 and with 4 layers a side. Parameters,
floating-point operations, and the bytes that a training step keeps for its gradients are counted.
All layers are alike, so the line through both counts is extended to the whole depth. The number of
clips and steps is assumed (see below), and so is what a GPU sustains (--tflops). The results are
estimates; none was timed.
"""

import argparse
from collections.abc import Callable, Sequence

import numpy as np
import torch

from dualasr.audio.torchaudio_fault import torchaudio_fault  # noqa: F401  before transformers

# isort: split
from peft import LoraConfig, get_peft_model
from torch.utils.flop_counter import FlopCounterMode, sdpa_backward_flop_count, sdpa_flop_count
from whisper_shape import SHAPES, random_whisper

from dualasr.audio.load import SAMPLE_RATE
from dualasr.evaluation.markdown import markdown_table
from dualasr.model.secondary import LORA_TARGETS, MARGIN, Secondary, SecondaryOptions
from dualasr.model.tokenizer import PackTokenizer
from dualasr.model.whisper import Backbone
from dualasr.training.options import TrainingOptions
from dualasr.training.trunk_cache import BYTES_A_VALUE

ATTENTION = {  # operations that torch's counter does not know
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu: (
        lambda query, key, value, *_, out_shape, **__: sdpa_flop_count(query, key, value)
    ),
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward: (
        lambda gradient, query, key, value, *_, out_shape, **__: sdpa_backward_flop_count(
            gradient, query, key, value
        )
    ),
}
DEPTHS = (2, 4)  # layers a side that are counted
# bytes of a float32 parameter that is trained: itself, its gradient, Adam's two moments
TRAINED = 4 * 4
PROMPT = 4  # start, tag, task, no timestamps


def count(step: Callable[[], torch.Tensor], weights: torch.nn.Module) -> tuple[int, int]:
    """Count the operations of a step and its gradients, and the bytes kept for them.

    Operations are floating-point ones; the bytes are those beside the weights.
    """
    known, kept = (
        {
            tensor.untyped_storage().data_ptr()
            for tensor in [*weights.parameters(), *weights.buffers()]
        },
        {},
    )

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in known:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    with FlopCounterMode(display=False, custom_mapping=ATTENTION) as counter:
        with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            loss = step()
        if loss.requires_grad:
            loss.backward()
    return counter.get_total_flops(), sum(kept.values())


def syllables(words: int = 2000) -> list[str]:
    """Make text with enough words to fill a pack's vocabulary; nobody reads it."""
    rng, ends = np.random.default_rng(0), [a + b for a in "ptkmnslrvjbdg" for b in "aeiou"]
    made = ["".join(rng.choice(ends, size)) for size in rng.integers(1, 5, words)]
    return [" ".join(rng.choice(made, 12)) for _ in range(20 * words)]


def count_all(
    backbone: Backbone, tokenizer: PackTokenizer, args: argparse.Namespace
) -> dict[str, int]:
    """Count one clip's cost: the trunk, the training of a pack, and that of the usual recipe.

    The usual recipe is LoRA on encoder and decoder, with the whole window.
    """
    mel = torch.randn(1, backbone.extractor.feature_size, 2 * backbone.positions)
    found = {
        "base": sum(p.numel() for p in backbone.model.parameters()),
        "trunk": count(lambda: backbone.trunk(mel, backbone.layers // 2), backbone.model)[0],
    }
    secondary = Secondary(backbone, tokenizer, SecondaryOptions(rank=args.rank))
    frames, characters = backbone.frames(int(args.seconds * SAMPLE_RATE)) + MARGIN, 2 * args.tokens
    text = torch.randint(tokenizer.first_text, tokenizer.size, (1, args.tokens))
    tag, end = torch.tensor([[tokenizer.tag("xx")]]), torch.tensor([[tokenizer.end]])
    clip = {
        "trunk": torch.randn(1, frames, backbone.width),
        "lengths": torch.tensor([frames]),
        "tokens": torch.cat([end, tag, text], 1),
        "labels": torch.cat([tag, text, end], 1),
        "characters": torch.arange(characters)[None] % len(tokenizer.characters) + 1,
        "character_lengths": torch.tensor([characters]),
        "seeds": torch.tensor([1]),
    }
    found["pack"] = sum(p.numel() for _, p in secondary.own_tensors())
    found["step"], found["kept"] = count(lambda: secondary(**clip)["loss"], secondary)
    lora = LoraConfig(r=args.rank, lora_alpha=args.rank, target_modules=list(LORA_TARGETS))
    # this changes the backbone, so it comes last
    usual = get_peft_model(backbone.model, lora)
    labels = torch.randint(0, backbone.special_ids.start, (1, PROMPT + args.tokens))
    found["usual"] = sum(p.numel() for p in usual.parameters() if p.requires_grad)
    found["usual step"], found["usual kept"] = count(
        lambda: usual.base_model(input_features=mel, labels=labels).loss, usual
    )
    return found


def at_depth(layers: int, counts: Sequence[dict[str, int]]) -> dict[str, float]:
    """Extend the line through the counts of DEPTHS to so many layers."""
    (shallow, deeper), share = counts, (layers - DEPTHS[0]) / (DEPTHS[1] - DEPTHS[0])
    return {key: value + share * (deeper[key] - value) for key, value in shallow.items()}


def sheet(
    found: dict[str, float], width: int, args: argparse.Namespace
) -> list[tuple[str, str, str]]:
    """Make the table's rows, for one GPU and for eight."""
    at_once = round(args.batch * (1 + TrainingOptions.negatives))
    met, variants = args.steps * at_once, args.hours * 3600 / args.seconds * args.variants
    disk = args.hours * args.variants * 3600 * 50 * width * BYTES_A_VALUE

    def hours(flops: float, gpus: int) -> str:
        needed = flops / (args.tflops * 1e12) / 3600 / gpus
        return f"{needed:.1f} hours" if needed >= 1 else f"{60 * needed:.0f} minutes"

    def memory(parameters: float, kept: float, clips: int, gpus: int) -> str:
        return (
            f"{(4 * found['base'] + TRAINED * parameters + -(-clips // gpus) * kept) / 1e9:.0f} GB"
        )

    def both(row: str, of: Callable[[int], str]) -> tuple[str, str, str]:
        return row, of(1), of(8)

    same = "the same"
    return [
        (
            "parameters of the base, and of a pack",
            f"{found['base'] / 1e9:.2f} G, {found['pack'] / 1e6:.0f} M",
            same,
        ),
        (
            "training of a clip",
            f"{found['step'] / 1e12:.1f} TFLOP, {found['kept'] / 1e9:.2f} GB kept",
            same,
        ),
        both(
            f"GPU memory, {at_once} clips, float32",
            lambda gpus: memory(found["pack"], found["kept"], at_once, gpus),
        ),
        (
            "disk a language: pack, trunk activations",
            f"{4 * found['pack'] / 1e9:.1f} GB, {disk / 1e9:.0f} GB",
            same,
        ),
        ("trunk activations, a language", hours(found["trunk"] * variants, 1), "on one of them"),
        both(
            f"training, {args.steps} steps, a language",
            lambda gpus: hours(found["step"] * met, gpus),
        ),
        both(
            f"training, {args.languages} languages",
            lambda gpus: hours(found["step"] * met * args.languages, gpus),
        ),
        (
            "LoRA on encoder and decoder: training of a clip",
            f"{found['usual step'] / 1e12:.1f} TFLOP, {found['usual kept'] / 1e9:.2f} GB kept",
            same,
        ),
        both(
            f"its GPU memory, {args.batch} clips",
            lambda gpus: memory(found["usual"], found["usual kept"], args.batch, gpus),
        ),
        both(
            "its training, a language",
            lambda gpus: hours(found["usual step"] * args.steps * args.batch, gpus),
        ),
    ]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--shape", choices=SHAPES, default="large-v2", help="(%(default)s)")
    parser.add_argument("--rank", type=int, default=32, help="of LoRA (%(default)s)")
    parser.add_argument(
        "--hours", type=float, default=10.0, help="of training audio a language (%(default)s)"
    )
    parser.add_argument("--seconds", type=float, default=10.0, help="of a clip (%(default)s)")
    parser.add_argument("--tokens", type=int, default=80, help="of a clip (%(default)s)")
    parser.add_argument("--steps", type=int, default=20_000, help="a language (%(default)s)")
    parser.add_argument(
        "--batch",
        type=int,
        default=24,
        help="clips a step, with a quarter as many negatives (%(default)s)",
    )
    parser.add_argument(
        "--variants", type=int, default=4, help="augmented versions of a clip (%(default)s)"
    )
    parser.add_argument("--languages", type=int, default=19, help="(%(default)s)")
    parser.add_argument(
        "--tflops",
        type=float,
        default=100.0,
        help="10^12 operations a second of a GPU (%(default)s)",
    )
    args = parser.parse_args()
    torch.manual_seed(0)
    tokenizer = PackTokenizer.train(syllables(), ("xx",))
    counts = [
        count_all(random_whisper(args.shape, layers=layers), tokenizer, args) for layers in DEPTHS
    ]
    width, layers, _ = SHAPES[args.shape]
    rows = sheet(at_depth(layers, counts), width, args)
    print("\n".join(markdown_table((f"{args.shape}, estimates", "one GPU", "eight"), rows)))


if __name__ == "__main__":
    main()
