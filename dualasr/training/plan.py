"""Estimate what a run would take, before it begins: `dualasr add-language --dry-run`."""

import math
import shutil
import time
from itertools import repeat

import numpy as np
import torch

from dualasr.model.secondary import Secondary
from dualasr.model.tokenizer import PackTokenizer
from dualasr.model.whisper import Backbone
from dualasr.parallel import worker_pool
from dualasr.training.options import AddLanguageOptions, check_settings
from dualasr.training.prepare import find_negatives, read_corpora, read_text, written
from dualasr.training.trunk_cache import BYTES_A_VALUE


def seconds_a_step(secondary: Secondary, clips: int, frames: int, tokens: int) -> float:
    """Time three steps on random activations, a share for each core, and return the fastest.

    Args:
        secondary: The secondary to be trained.
        clips: Clips of a step.
        frames: Encoder frames of a clip.
        tokens: Text units of a clip.

    Returns:
        Seconds of a step.
    """
    width = secondary.ctc_head.in_features

    def step(size: int) -> None:
        secondary(
            trunk=torch.randn(size, frames, width),
            lengths=torch.full((size,), frames),
            tokens=torch.zeros(size, tokens, dtype=torch.long),
            labels=torch.ones(size, tokens, dtype=torch.long),
            characters=torch.ones(size, min(tokens, frames // 3), dtype=torch.long),
            character_lengths=torch.full((size,), min(tokens, frames // 3)),
            seeds=torch.zeros(size, dtype=torch.long),
        )["loss"].backward()

    times = []
    with worker_pool() as (pool, cores):
        for _ in range(3):
            began = time.perf_counter()
            list(pool.map(step, repeat(math.ceil(clips / cores), cores)))
            times.append(time.perf_counter() - began)
    return min(times)


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
    tokenizer = PackTokenizer.train(read_text(options, train), tuple(options.languages))
    secondary = Secondary(backbone, tokenizer, options.secondary)
    own = sum(p.numel() for _, p in secondary.own_tensors())
    seconds = sum(u.duration or 0.0 for u in train)
    tokens = [len(tokenizer.encode(written(u.text, options.target))) for u in train]
    others, others_dev = find_negatives(
        options.negatives, list(options.languages), options.training.seed
    )
    clips = round(options.training.batch * (1 + options.training.negatives * bool(others)))
    frames = int(seconds / len(train) / secondary.frame_s)
    step = seconds_a_step(secondary, clips, frames, int(np.mean(tokens)) + 2)
    entries = (
        (len(train) + len(others)) * options.training.variants_of(len(train))
        + len(dev)
        + len(others_dev)
    )
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
        "tokens": sum(tokens),
        "parameters": own,
        "pack_mb": round(own * 4 / 1e6, 1),
        "memory_mb": round(
            (own * 16 + sum(p.numel() for p in backbone.model.parameters()) * 4) / 1e6
        ),
        "cache_mb": round(entries * frames * backbone.width * BYTES_A_VALUE / 1e6),
        "disk_free_mb": round(shutil.disk_usage(folder).free / 1e6),
        "steps": options.training.steps,
        "minutes": round(
            step * options.training.steps * options.training.accumulation * 1.4 / 60, 1
        ),
    }
