"""Find out why torchaudio cannot be loaded, and hide it from transformers if so.

Only forced alignment uses torchaudio. Its compiled libraries need the libraries of CUDA: the usual
build does not load together with a torch for CPUs, or for another major version of CUDA.
transformers imports an installed torchaudio together with Whisper, and then fails, too. So this
module is imported before transformers. It hides a torchaudio that does not load: None in
sys.modules means "not installed" to Python and to transformers.
"""

import sys
from functools import cache

import torch


@cache
def torchaudio_fault() -> str:
    """Load torchaudio once, and return why it failed.

    Returns:
        What was found and what to do, without a full stop, or "" where torchaudio works.
    """
    try:
        import torchaudio.functional  # noqa: F401
    except (ImportError, OSError, RuntimeError) as error:  # missing; no CUDA library; another CUDA
        # typeshed allows modules alone, but Python documents None: an import then fails at once
        sys.modules["torchaudio"] = None  # type: ignore[assignment]
        found = error.__cause__ or error  # the cause names the missing library
        return (
            "The word times of packs need torchaudio, and it cannot be loaded with torch "
            f"{torch.__version__} ({type(found).__name__}: {found}); install a torchaudio that was "
            "built for the same device as torch"
        )
    return ""


torchaudio_fault()
