"""What is wrong with torchaudio, where it cannot be loaded.

torchaudio serves forced alignment alone. Its compiled libraries need those of CUDA: the usual build
does not load beside a torch for CPUs, nor beside one for another major version of CUDA.
transformers imports torchaudio together with Whisper wherever it is installed, and would then fail,
too. So this module is imported before transformers. It hides a torchaudio that does not load: None
in sys.modules means "not installed" to Python and to transformers.
"""

import sys
from functools import cache

import torch


@cache
def torchaudio_fault() -> str:
    """Load torchaudio, once, and say what is wrong with it.

    Returns:
        What was found and what to do, without a full stop, or "" where torchaudio works.
    """
    try:
        import torchaudio.functional  # noqa: F401
    except (ImportError, OSError, RuntimeError) as error:  # missing; no CUDA library; another CUDA
        sys.modules["torchaudio"] = None
        found = error.__cause__ or error  # the cause names the library that is not there
        return (
            "The word times of packs need torchaudio, and it cannot be loaded with torch "
            f"{torch.__version__} ({type(found).__name__}: {found}); install a torchaudio that was "
            "built for the same device as torch"
        )
    return ""


torchaudio_fault()
