"""Which number type a computation uses."""

import threading

import pytest
import torch

from dualasr.model.precision import autocast, resolve_precision


@pytest.mark.parametrize(
    "found, chosen",
    [
        ({"avx512_bf16": True}, "bfloat16"),
        ({"amx_bf16": True, "avx512_f": True}, "bfloat16"),
        ({"bf16": True, "neon": True}, "bfloat16"),
        ({"avx512_f": True, "avx2": True, "avx512_bf16": False}, "float32"),
        ({}, "float32"),
    ],
)
def test_auto_is_bfloat16_where_the_processor_is_made_for_it(monkeypatch, found, chosen):
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: found)
    assert resolve_precision("auto", "cpu") == chosen
    for asked in ("bfloat16", "float32"):
        assert resolve_precision(asked, torch.device("cpu")) == asked


@pytest.mark.parametrize(
    "precision, dtype", [("bfloat16", torch.bfloat16), ("float32", torch.float32)]
)
def test_a_product_has_this_type_in_the_thread_that_entered(precision, dtype):
    matrix, seen = torch.eye(3), []
    with autocast("cpu", precision):
        assert (matrix @ matrix).dtype == dtype
        thread = threading.Thread(target=lambda: seen.append((matrix @ matrix).dtype))
        thread.start()
        thread.join()
    assert seen == [torch.float32] and (matrix @ matrix).dtype == torch.float32
