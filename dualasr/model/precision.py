"""Which number type a computation uses: float32, or bfloat16 where the processor is made for it.

In bfloat16 a matrix product has half the bytes and, on processors with instructions for it, several
times the speed. Weights stay float32; torch's autocast rounds the operands of each product.
"""

from typing import Literal

import torch

Precision = Literal["auto", "bfloat16", "float32"]


def resolve_precision(precision: Precision, device: str | torch.device) -> Precision:
    """Return "bfloat16" or "float32"; for "auto", bfloat16 where the device is made for it.

    Args:
        precision: What the user asked for.
        device: torch device of the computation.

    Returns:
        The type that is used.
    """
    if precision != "auto":
        return precision
    if torch.device(device).type == "cpu":
        found = torch.cpu.get_capabilities()
        fast = any(found.get(name, False) for name in ("avx512_bf16", "amx_bf16", "bf16"))
    else:
        fast = torch.cuda.is_available() and torch.cuda.is_bf16_supported(including_emulation=False)
    return "bfloat16" if fast else "float32"


def autocast(device: str | torch.device, precision: Precision) -> torch.autocast:
    """Return the context in which a thread computes with this precision.

    It holds for the thread that enters it alone.

    Args:
        device: torch device of the computation.
        precision: "bfloat16" or "float32", or "auto" for what the device has.

    Returns:
        torch's autocast, which changes nothing for float32.
    """
    low = resolve_precision(precision, device) == "bfloat16"
    return torch.autocast(torch.device(device).type, torch.bfloat16, enabled=low)
