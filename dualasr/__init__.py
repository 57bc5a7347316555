"""dualasr: teach Whisper a new language without making it forget the ones it knows."""

from importlib import import_module

__version__ = "0.1.0"

__all__ = ["DualWhisper", "Transcription", "base_path", "load_model", "transcribe"]

_HOMES = {
    "DualWhisper": "model.dual_whisper",
    "Transcription": "transcription.transcript",
    "base_path": "model.whisper",
    "load_model": "packs.load",
    "transcribe": "transcription.transcribe",
}


def __getattr__(name: str):
    """Import a public name when it is first used, so that `dualasr --help` does not load torch."""
    if name not in _HOMES:
        raise AttributeError(f"module 'dualasr' has no attribute {name!r}")
    return getattr(import_module(f"dualasr.{_HOMES[name]}"), name)
