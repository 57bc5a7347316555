"""Hypotheses kept on disk: what a pipeline once said of a window is not decoded again.

The primary never changes, so its answers on old clips serve every later evaluation, whatever packs
are loaded; a killed evaluation finds all that was decoded before. One JSONL file for each pipeline
and its decoding settings, a line for each decoded batch; a line that a kill cut short counts as not
written.
"""

import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from dualasr.errors import RunError
from dualasr.model.dual_whisper import Answer, DecodeOptions, DualWhisper
from dualasr.model.search import Hypothesis
from dualasr.model.selector import PRIMARY

VERSION = 1  # of what a line holds


def digest(samples: np.ndarray) -> str:
    """What a window is known by: of its samples, shape (samples,)."""
    return hashlib.sha256(np.ascontiguousarray(samples, np.float32).tobytes()).hexdigest()[:32]


def pipeline_key(model: DualWhisper, route: str, options: DecodeOptions) -> str:
    """What an answer depends on beside the window: weights, decoding settings, number format and
    kind of device.
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
    """The answers of one pipeline: `known` maps the digest of a window to its hypothesis and
    language.
    """

    path: Path
    known: dict[str, Answer]

    @classmethod
    def open(
        cls, folder: Path, model: DualWhisper, route: str, options: DecodeOptions
    ) -> "HypothesisCache":
        """What `folder` holds for a route of a model, perhaps nothing. Raises RunError where the
        folder cannot be used.
        """
        path, known = folder / f"{route}-{pipeline_key(model, route, options)}.jsonl", {}
        try:
            folder.mkdir(parents=True, exist_ok=True)
            content = path.read_bytes() if path.exists() else b""
            whole = content[: content.rfind(b"\n") + 1]
            if len(whole) < len(content):
                os.truncate(path, len(whole))
        except OSError as error:
            raise RunError(
                f"Answers cannot be kept in {folder}: {error.strerror or error}."
            ) from error
        for line in whole.splitlines():
            for key, (tokens, *said, language) in json.loads(line).items():
                known[key] = Hypothesis(tuple(tokens), *said), language
        return cls(path, known)

    def keep(self, new: Mapping[str, Answer]) -> None:
        """Remember the answers of a batch and write them. Raises RunError where they cannot be
        written.
        """
        fresh = {key: answer for key, answer in new.items() if key not in self.known}
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
                f"Cannot write {self.path}: {error.strerror or error}. What was decoded before is"
                " kept."
            ) from error
