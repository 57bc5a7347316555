"""Estimate what a run would take, before it begins: `dualasr add-language --dry-run`.

Some steps are trained on random activations, and some windows encoded. So the memory and the times
are those of this machine.
"""

import json
import resource
import shutil
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from dualasr.model.precision import Precision, autocast, resolve_precision
from dualasr.model.secondary import MARGIN, Secondary
from dualasr.model.whisper import Backbone
from dualasr.parallel import worker_pool
from dualasr.training.dataset import NEGATIVE_FRAMES, Clip, check_label
from dualasr.training.options import (
    MOST_DEV,
    AddLanguageOptions,
    TrainingOptions,
    check_settings,
)
from dualasr.training.prepare import make_tokenizer, read_corpora, read_negatives, written
from dualasr.training.trainer import train_secondary
from dualasr.training.trunk_cache import BYTES_A_VALUE

STEPS = 8  # that are trained to measure one
CLIPS = 240  # whose lengths these steps have
WINDOWS = 8  # that are encoded to measure one
DECODING = 4.0  # time to decode a window by the primary and the pack; to encode it is 1


def rehearse(
    secondary: Secondary,
    clips: Sequence[Clip],
    negatives: Sequence[int],
    options: TrainingOptions,
    width: int,
) -> float:
    """Train some steps on random activations, as the run will; return the seconds of one.

    Args:
        secondary: The secondary to be trained; its weights are changed.
        clips: Labelled clips, whose entries are not read.
        negatives: Encoder frames of each negative.
        options: How it is trained.
        width: Features of an activation.

    Returns:
        Seconds of a step.
    """
    rng = np.random.default_rng(options.seed)

    def made(folder: Path, name: str, frames: int) -> tuple[Path, ...]:
        path = folder / f"{name}.npy"
        np.save(path, rng.standard_normal((frames, width)).astype(np.float16))
        return (path,)

    with tempfile.TemporaryDirectory() as named:
        folder = Path(named)
        some = [clips[i] for i in rng.permutation(len(clips))[:CLIPS]]
        spoken = [replace(c, entries=made(folder, str(i), c.frames)) for i, c in enumerate(some)]
        lengths = [negatives[i] for i in rng.permutation(len(negatives))[:CLIPS]]
        foreign = [Clip(str(i), made(folder, f"other-{i}", n), n) for i, n in enumerate(lengths)]
        run = folder / "run"
        run.mkdir()
        brief = replace(options, steps=STEPS, save_every=STEPS, variants=1, report_to=())
        train_secondary(secondary, spoken, foreign, (), run, brief)
        rows = map(json.loads, (run / "metrics.jsonl").read_text().splitlines())
        return next(row["train_runtime"] for row in rows if "train_runtime" in row) / STEPS


def seconds_a_window(backbone: Backbone, fork: int, precision: Precision) -> tuple[float, float]:
    """Time the trunk, and the whole primary encoder, on random sound, all cores at work.

    Returns:
        Seconds that a window takes from the start of one to the start of the next, for each.
    """
    rng = np.random.default_rng(0)
    sound = rng.standard_normal(backbone.window_samples).astype(np.float32)

    def trunk(_: int) -> None:
        mel = backbone.features([sound])
        with autocast(backbone.device, precision):
            backbone.trunk_start(mel, fork, backbone.positions // 4)

    def whole(_: int) -> None:
        mel = backbone.features([sound])
        with autocast(backbone.device, precision):
            backbone.upper(backbone.trunk(mel, fork), fork)

    times = []
    with worker_pool() as (pool, _):
        for work in (trunk, whole):
            list(pool.map(work, range(2)))
            began = time.perf_counter()
            list(pool.map(work, range(WINDOWS)))
            times.append((time.perf_counter() - began) / WINDOWS)
    return times[0], times[1]


def peak_memory(backbone: Backbone) -> float:
    """Return the most memory that this process had so far, in MB: of the GPU if it works there."""
    if backbone.device.type == "cuda":
        return torch.cuda.max_memory_allocated(backbone.device) / 1e6
    unit = 1 if sys.platform == "darwin" else 1024  # bytes
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e6


def plan(options: AddLanguageOptions) -> dict:
    """Estimate a run. Nothing is written.

    Args:
        options: The run's options.

    Returns:
        Clips, hours, tokens, parameters, memory, disk and minutes, by name.

    Raises:
        DualasrError: As `add_language`.
    """
    backbone = Backbone.load(options.base)
    check_settings(options.secondary, options.training, backbone.layers)
    corpora = read_corpora(options, backbone.window_s)
    train, dev, skipped = corpora.train, corpora.dev, corpora.skipped
    tokenizer = make_tokenizer(options, backbone, train)
    secondary = Secondary(backbone, tokenizer, options.secondary).to(backbone.device)
    own = sum(p.numel() for _, p in secondary.own_tensors())
    seconds = sum(u.duration or 0.0 for u in train)
    clips = []
    for u in train:
        text = written(u.text, options.target)
        units, characters = tokenizer.encode(text), tokenizer.encode_characters(text)
        frames = min(int((u.duration or 0.0) / secondary.frame_s) + MARGIN, backbone.positions)
        if check_label(tokenizer, text, frames, secondary.frame_s) is None:
            clips.append(Clip(u.id, (), frames, 1, text, tuple(units), tuple(characters)))
    others, others_dev = read_negatives(options)
    # how long they are does not matter: little of each is used at a time
    foreign = [NEGATIVE_FRAMES] * len(others)
    training, precision = options.training, options.training.precision
    variants = training.variants_of(len(train))
    trunk, whole = seconds_a_window(backbone, secondary.options.fork, precision)
    step = rehearse(secondary, clips, foreign, training, backbone.width)
    heard = min(len(dev), MOST_DEV)
    entries = len(train) * variants + len(others) + len(dev) + len(others_dev)
    parts = {
        "trunk": entries * trunk,
        "training": training.steps * step,
        "dev": whole * DECODING * (2 * heard + len(others_dev)),
    }
    folder = options.out.absolute().parent
    while not folder.exists():
        folder = folder.parent
    return {
        **({"corpus": "; ".join(corpora.notes)} if corpora.notes else {}),
        "base": backbone.name,
        "languages": options.languages,
        "train": len(train),
        "dev": len(dev),
        "skipped": len(skipped),
        "hours": round(seconds / 3600, 3),
        "negatives": len(others),
        "vocabulary": tokenizer.size,
        "characters": len(tokenizer.characters),
        "tokens": sum(len(clip.tokens) for clip in clips),
        "parameters": own,
        "pack_mb": round(own * 4 / 1e6, 1),
        "precision": resolve_precision(precision, backbone.device),
        "memory_mb": round(peak_memory(backbone)),
        "cache_mb": round(
            (seconds * variants / secondary.frame_s + len(others) * 4 / secondary.frame_s)
            * backbone.width
            * BYTES_A_VALUE
            / 1e6
        ),
        "disk_free_mb": round(shutil.disk_usage(folder).free / 1e6),
        "steps": training.steps,
        "minutes": round(sum(parts.values()) / 60, 1),
        "of_them": ", ".join(f"{name} {part / 60:.1f}" for name, part in parts.items()),
    }
