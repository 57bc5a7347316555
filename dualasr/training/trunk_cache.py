"""Activations of the frozen trunk on disk. The layers below the fork run once a clip and variant.

A variant is an augmentation of the waveform, drawn from (seed, clip, variant); variant 0 is the
clip itself. Entries are float16 arrays (frames + margin, width), one file each. The file's name is
a hash of the clip's content, variant, base and fork. Files are written whole or not at all. So runs
may share a folder, and a stopped run goes on where it was.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch

from dualasr.atomic import atomic_file
from dualasr.audio.augment import Augmentation, augment
from dualasr.audio.load import Sound, load_audio
from dualasr.errors import AudioError
from dualasr.model.precision import Precision, autocast
from dualasr.model.secondary import MARGIN
from dualasr.model.whisper import Backbone
from dualasr.parallel import return_memory, worker_pool
from dualasr.progress import progress_bar

VERSION = "2"  # of the entries' content
BYTES_A_VALUE = 2


@dataclass(frozen=True)
class TrunkCache:
    """Trunk activations of clips for one base, fork and augmentation.

    Attributes:
        folder: Where the entries are.
        backbone: The base.
        fork: First adapted encoder layer; the layers below it are computed.
        augmentation: How variants are made.
        seed: Seed of the variants.
        precision: "bfloat16" or "float32": the number type of the computation.
    """

    folder: Path
    backbone: Backbone
    fork: int
    augmentation: Augmentation = Augmentation()
    seed: int = 0
    precision: Precision = "float32"

    def path(self, digest: bytes, variant: int) -> Path:
        """Return the file of a clip's variant.

        Args:
            digest: Digest of the sound file's bytes, and of the stretch if there is one.
            variant: Number of the variant.
        """
        about = f"{VERSION}|{self.backbone.checksum}|{self.fork}|{variant}"
        if self.precision != "float32":
            about += f"|{self.precision}"
        if variant:
            about += f"|{self.seed}|{self.augmentation}"
        name = hashlib.sha256(digest + about.encode()).hexdigest()[:32]
        return self.folder / name[:2] / f"{name}.npy"

    def samples(self, audio: Path | Sound, variant: int) -> np.ndarray:
        """Load a variant of a clip: (samples,) at 16 kHz, cut at the window. Raises AudioError."""
        samples = load_audio(audio)
        if variant:
            clip = int.from_bytes(hashlib.sha256(samples.tobytes()).digest()[:8], "little")
            # a clip that would not fit the window at the slowest speed keeps its own
            slowest = len(samples) / self.augmentation.speed_range[0]
            fits = slowest <= self.backbone.window_samples
            options = self.augmentation if fits else replace(self.augmentation, speed=0.0)
            samples = augment(samples, np.random.default_rng([self.seed, clip, variant]), options)
        return samples[: self.backbone.window_samples]

    def fill(
        self,
        clips: Sequence[tuple[Path | Sound, int]],
        *,
        batch: int = 4,
        progress: bool | None = None,
    ) -> list[Path | AudioError]:
        """Compute the entries that are missing.

        Args:
            clips: Pairs of audio and variant.
            batch: Clips encoded together.
            progress: Whether to show a bar; None shows one on a terminal.

        Returns:
            The file of each pair, or the error of a sound that cannot be read.

        Raises:
            RunError: The disk is full.
        """
        sounds = [audio if isinstance(audio, Sound) else Sound(audio) for audio, _ in clips]
        digests = {
            path: self._digest(path) for path in dict.fromkeys(sound.path for sound in sounds)
        }
        paths = [
            self.path(self._stretch(digests[sound.path], sound), variant)
            for sound, (_, variant) in zip(sounds, clips, strict=True)
        ]
        found: list[Path | AudioError] = list(paths)
        missing = [i for i, path in enumerate(paths) if not path.exists()]
        groups = [missing[first : first + batch] for first in range(0, len(missing), batch)]

        def compute(group: list[int]) -> int:
            read, waves = [], []
            for i in group:
                try:
                    waves.append(self.samples(*clips[i]))
                    read.append(i)
                except AudioError as error:
                    found[i] = error
            if waves:
                mel = self.backbone.features(waves)
                frames = [self.backbone.frames(len(wave)) for wave in waves]
                lengths = [min(count + MARGIN, self.backbone.positions) for count in frames]
                with autocast(self.backbone.device, self.precision):
                    trunk = self.backbone.trunk_start(mel, self.fork, max(lengths))
                for i, values, length in zip(read, trunk, lengths, strict=True):
                    self._write(paths[i], values[:length].to(torch.float16).cpu().numpy())
            return len(group)

        bar = progress_bar(
            desc="trunk activations", total=len(missing), unit="clip", shown=progress
        )
        with worker_pool() as (pool, _), bar:
            for done in pool.map(compute, groups):
                bar.update(done)
        return_memory()
        return found

    @staticmethod
    def _digest(audio: Path) -> bytes:
        """Hash the file's bytes; the name of an unreadable file, whose error `samples` raises."""
        try:
            with open(audio, "rb") as file:
                return hashlib.file_digest(file, "sha256").digest()
        except OSError:
            return str(audio).encode()

    @staticmethod
    def _stretch(digest: bytes, sound: Sound) -> bytes:
        """Hash a stretch too. A whole file keeps its digest, so that earlier entries stay valid."""
        if sound.is_whole:
            return digest
        return hashlib.sha256(digest + f"|{sound.start!r}-{sound.end!r}".encode()).digest()

    @staticmethod
    def _write(path: Path, values: np.ndarray) -> None:
        name, advice = (
            f"the trunk cache {path.parent.parent}",
            "Free some space, choose another --cache, or lower --variants.",
        )
        with atomic_file(path, name=name, advice=advice) as part, part.open("wb") as file:
            np.save(file, values)
