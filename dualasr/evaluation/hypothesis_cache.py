"""Hypotheses kept on disk, so that no pipeline decodes the same window twice.

The primary never changes: its hypotheses serve every later evaluation, whatever packs are loaded.
An evaluation that was stopped finds all that it had decoded. There is one JSONL file for each
pipeline with its settings, and in it one line for each decoded batch. An incomplete last line, from
a process that was killed, is removed.
"""

import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from dualasr.errors import RunError
from dualasr.model.dual_whisper import DecodedWindow, DecodeOptions, DualWhisper
from dualasr.model.search import Hypothesis
from dualasr.model.selector import PRIMARY

VERSION = 1  # of the lines' format


def digest(samples: np.ndarray) -> str:
    """Return the key of a window: a hash of its samples, shape (samples,)."""
    return hashlib.sha256(np.ascontiguousarray(samples, np.float32).tobytes()).hexdigest()[:32]


def pipeline_key(model: DualWhisper, route: str, options: DecodeOptions) -> str:
    """Return a hash of what a hypothesis depends on besides the window.

    That is weights, decoding settings, number format and kind of device.
    """
    backbone = model.backbone
    about = [
        VERSION,
        backbone.checksum,
        str(backbone.model.dtype),
        backbone.device.type,
        asdict(options),
    ]
    if route != PRIMARY:
        pack = model.pack(route)
        about += [pack.secondary.checksum, list(pack.info.languages), pack.info.ctc_weight]
    return hashlib.sha256(json.dumps(about, sort_keys=True).encode()).hexdigest()[:16]


@dataclass(frozen=True)
class HypothesisCache:
    """The kept hypotheses of one pipeline with its settings.

    Attributes:
        path: The file.
        known: By the digest of a window, its hypothesis and language.
    """

    path: Path
    known: dict[str, DecodedWindow]

    @classmethod
    def open(
        cls, folder: Path, model: DualWhisper, route: str, options: DecodeOptions
    ) -> "HypothesisCache":
        """Read the kept hypotheses of a pipeline; the folder is made.

        Args:
            folder: Where hypotheses are kept.
            model: The model.
            route: The pipeline: "primary" or a pack's name.
            options: Settings of decoding.

        Returns:
            The hypotheses, which may be none.

        Raises:
            RunError: The folder cannot be used.
        """
        path = folder / f"{route}-{pipeline_key(model, route, options)}.jsonl"
        try:
            folder.mkdir(parents=True, exist_ok=True)
            content = path.read_bytes() if path.exists() else b""
            whole = content[: content.rfind(b"\n") + 1]
            if len(whole) < len(content):
                os.truncate(path, len(whole))
        except OSError as error:
            raise RunError(
                f"Hypotheses cannot be kept in {folder}: {error.strerror or error}. Choose another"
                " folder."
            ) from error
        known = {}
        for line in whole.splitlines():
            for key, (tokens, *values, language) in json.loads(line).items():
                known[key] = Hypothesis(tuple(tokens), *values), language
        return cls(path, known)

    def keep(self, new: Mapping[str, DecodedWindow]) -> None:
        """Add the hypotheses of a batch and write them.

        Args:
            new: Hypothesis and language by the digest of their window.

        Raises:
            RunError: They cannot be written.
        """
        fresh = {key: window for key, window in new.items() if key not in self.known}
        if not fresh:
            return
        self.known.update(fresh)
        line = json.dumps(
            {key: [*asdict(h).values(), language] for key, (h, language) in fresh.items()},
            ensure_ascii=False,
        )
        try:
            with self.path.open("a", encoding="utf-8") as file:
                file.write(line + "\n")
        except OSError as error:
            raise RunError(
                f"Cannot write {self.path}: {error.strerror or error}. All hypotheses of earlier"
                " batches are kept. Free some space and start again."
            ) from error
