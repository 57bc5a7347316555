"""Statistics of the languages of packs, and which pack's languages fit a clip best: linear
discriminant analysis.

Packs are trained apart and have never seen each other's languages, so several may claim one clip.
Each pack stores the mean of each of its languages' clips and their common covariance, both in the
primary's features of a clip before its language is known (`EncodedAudio.pooled_features`).
The languages of all loaded packs are then compared by Gaussians with these means and one
covariance, the mean over the packs. Nothing is trained for this, and adding or removing a pack
changes nothing that is stored.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

RANK = 64  # directions kept of a covariance; the rest is added to the diagonal
SHRINKAGE = 0.1  # of the covariance, scaled to unit variance, towards the identity


@dataclass(frozen=True, eq=False)
class LanguageStatistics:
    """Gaussians of a pack's languages, with one covariance: diag(diagonal) + factors^T factors.

    Attributes:
        means: float32, shape (languages, width).
        diagonal: float32, shape (width,).
        factors: float32, shape (directions, width), at most 64 directions.
    """

    means: np.ndarray
    diagonal: np.ndarray
    factors: np.ndarray


def fit_statistics(features: np.ndarray, classes: np.ndarray, languages: int) -> LanguageStatistics:
    """Fit the mean of each language and the covariance that they share.

    Args:
        features: Features of clips, shape (clips, width).
        classes: The language of each clip, 0 to languages - 1, shape (clips,).
        languages: Number of languages.

    Returns:
        The statistics.

    Raises:
        ValueError: A language has no clip.
    """
    counts = np.bincount(classes, minlength=languages)
    if not counts.all():
        raise ValueError(f"language {int(counts.argmin())} of {languages} has no clip")
    features = features.astype(np.float64)
    means = np.stack([features[classes == k].mean(0) for k in range(languages)])
    within = features - means[classes]
    # 1. scale each feature to unit variance within languages
    spread = within.std(0) + 1e-6
    # 2. the strongest directions of the covariance, by SVD of the clips: no (width, width) matrix
    _, values, directions = np.linalg.svd(
        within / spread / np.sqrt(len(within)), full_matrices=False
    )
    factors = values[:RANK, None] * directions[:RANK]
    # 3. the variance that they leave out goes to the diagonal: each feature keeps its own
    rest = np.maximum(1 - (factors**2).sum(0), 1e-3)
    return LanguageStatistics(
        *(a.astype(np.float32) for a in (means, rest * spread**2, factors * spread))
    )


@dataclass(frozen=True, eq=False)
class Discriminant:
    """Linear scores of the languages of all packs: score = weights . features + offset.

    With one covariance for all, two languages' scores differ as much as their log-densities do.

    Attributes:
        weights: Shape (languages of all packs, width).
        offsets: Shape (languages of all packs,).
        owners: Number of the pack of each language, shape (languages of all packs,).
    """

    weights: np.ndarray
    offsets: np.ndarray
    owners: np.ndarray

    @classmethod
    def between(cls, packs: Sequence[LanguageStatistics]) -> "Discriminant":
        """Return the discriminant between the languages of packs."""
        # 1. the covariance: the mean over the packs, low-rank parts side by side
        diagonal = np.mean([p.diagonal for p in packs], 0, np.float64)
        factors = np.concatenate([p.factors for p in packs]).astype(np.float64) / np.sqrt(
            len(packs)
        )
        # 2. scaled to unit variance and shrunk towards the identity, so that it can be inverted
        spread = np.sqrt(diagonal + (factors**2).sum(0))
        covariance = (
            (1 - SHRINKAGE) * (factors.T @ factors + np.diag(diagonal)) / np.outer(spread, spread)
        )
        covariance += SHRINKAGE * np.eye(len(spread))
        # 3. weights = C^-1 mean, offset = -mean^T C^-1 mean / 2
        means = np.concatenate([p.means for p in packs]) / spread
        weights = np.linalg.solve(covariance, means.T).T
        owners = np.repeat(np.arange(len(packs)), [len(p.means) for p in packs])
        return cls(weights / spread, -0.5 * (weights * means).sum(1), owners)

    def behind(self, features: np.ndarray) -> np.ndarray:
        """Return how much worse each pack's best language fits than the best language of all.

        Args:
            features: Features of clips, shape (clips, width).

        Returns:
            Differences of log-densities, shape (clips, packs), not negative.
        """
        scores = features @ self.weights.T + self.offsets
        best = np.stack(
            [scores[:, self.owners == k].max(1) for k in range(self.owners.max() + 1)], 1
        )
        return best.max(1, keepdims=True) - best
