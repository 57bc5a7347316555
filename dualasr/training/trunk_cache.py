"""Frozen-trunk activations on disk: what lies below the fork is computed once a clip and variant,
then never again.

A variant is an augmentation of the waveform, drawn from (seed, clip, variant); variant 0 is the
clip itself. Entries are float16 arrays (frames + margin, width), one file each, keyed by the clip's
content, variant, base and fork, written whole or not at all, so that runs may share a folder and a
stopped run goes on where it was.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from tqdm import tqdm

from dualasr.atomic import atomic_file
from dualasr.audio.augment import Augmentation, augment
from dualasr.audio.load import Sound, load_audio
from dualasr.errors import AudioError
from dualasr.model.secondary import MARGIN, slice_trunk
from dualasr.model.whisper import Backbone
from dualasr.parallel import worker_pool

VERSION = "2"  # of what an entry holds
BYTES_A_VALUE = 2


@dataclass(frozen=True)
class TrunkCache:
    """Trunk activations of clips for one base, fork and augmentation."""

    folder: Path
    backbone: Backbone
    fork: int
    augmentation: Augmentation = Augmentation()
    seed: int = 0

    def path(self, digest: bytes, variant: int) -> Path:
        """Where the entry of a clip and variant stands: keyed by the digest of the file's bytes,
        and of the stretch if any.
        """
        about = f"{VERSION}|{self.backbone.checksum}|{self.fork}|{variant}"
        if variant:
            about += f"|{self.seed}|{self.augmentation}"
        name = hashlib.sha256(digest + about.encode()).hexdigest()[:32]
        return self.folder / name[:2] / f"{name}.npy"

    def samples(self, audio: Path | Sound, variant: int) -> np.ndarray:
        """The clip as a variant hears it, cut at the window: (samples,)."""
        samples = load_audio(audio)
        if variant:
            clip = int.from_bytes(hashlib.sha256(samples.tobytes()).digest()[:8], "little")
            slowest = len(samples) / self.augmentation.speed_range[0]
            # else slowing it down would cut its end off
            fits = slowest <= self.backbone.window_samples
            options = self.augmentation if fits else replace(self.augmentation, speed=0.0)
            samples = augment(samples, np.random.default_rng([self.seed, clip, variant]), options)
        return samples[: self.backbone.window_samples]

    def fill(
        self,
        clips: Sequence[tuple[Path | Sound, int]],
        *,
        batch: int = 16,
        progress: bool | None = None,
    ) -> list[Path | AudioError]:
        """Compute what is missing of (audio, variant) pairs; their entries, in order, or why a file
        cannot be read.

        `progress` None shows a bar on a terminal. Raises RunError where the disk is full.
        """
        sounds = [audio if isinstance(audio, Sound) else Sound(audio) for audio, _ in clips]
        digests = {
            path: self._digest(path) for path in dict.fromkeys(sound.path for sound in sounds)
        }
        paths: list[Path | AudioError] = [
            self.path(self._stretch(digests[sound.path], sound), variant)
            for sound, (_, variant) in zip(sounds, clips, strict=True)
        ]
        missing = [
            (clip, i)
            for i, (clip, path) in enumerate(zip(clips, paths, strict=True))
            if not path.exists()
        ]
        groups = [missing[first : first + batch] for first in range(0, len(missing), batch)]

        def compute(group: list[tuple[tuple[Path | Sound, int], int]]) -> int:
            into, sounds = [], []
            for clip, i in group:
                try:
                    sounds.append(self.samples(*clip))
                    into.append(paths[i])
                except AudioError as error:
                    paths[i] = error
            if sounds:
                trunk = self.backbone.trunk(self.backbone.features(sounds), self.fork)
                sliced, lengths = slice_trunk(
                    trunk, [self.backbone.frames(len(sound)) for sound in sounds], MARGIN
                )
                for path, values, length in zip(into, sliced, lengths.tolist(), strict=True):
                    self._write(path, values[:length].to(torch.float16).cpu().numpy())
            return len(group)

        hidden = None if progress is None else not progress
        bar = tqdm(total=len(missing), desc="trunk activations", unit="clip", disable=hidden)
        with worker_pool() as (pool, _), bar:
            for done in pool.map(compute, groups):
                bar.update(done)
        return paths

    @staticmethod
    def _digest(audio: Path) -> bytes:
        """Of the file's bytes; of its name where it cannot be read, which `samples` then says."""
        try:
            with open(audio, "rb") as file:
                return hashlib.file_digest(file, "sha256").digest()
        except OSError:
            return str(audio).encode()

    @staticmethod
    def _stretch(digest: bytes, sound: Sound) -> bytes:
        """A whole file keeps its own digest, which is what the entries of earlier runs are keyed
        by.
        """
        return (
            digest
            if sound.is_whole
            else hashlib.sha256(digest + f"|{sound.start!r}-{sound.end!r}".encode()).digest()
        )

    @staticmethod
    def _write(path: Path, values: np.ndarray) -> None:
        name, advice = (
            f"the trunk cache {path.parent.parent}",
            "Free some space, choose another --cache, or lower --variants.",
        )
        with atomic_file(path, name=name, advice=advice) as part, part.open("wb") as file:
            np.save(file, values)
