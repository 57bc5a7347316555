"""How the languages of packs sound to the primary, and which pack's fit a clip best: linear
discriminant analysis.

Packs that were trained apart never heard each other's languages, so that several may claim a clip.
Each keeps the mean of its languages' clips and the covariance within them, in what the primary
makes of a clip before it knows the language; the loaded packs' means are then compared under the
mean of their covariances. Nothing is trained, and a pack more or less changes nothing that is
stored.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

RANK = 64  # directions kept of a covariance; what is left of it goes to the diagonal
SHRINKAGE = 0.1  # of the covariance, over unit variance, towards the identity


@dataclass(frozen=True)
class LanguageStatistics:
    """Gaussians of a pack's languages, float32: means (languages, width), covariance diag(diagonal)
    + factors^T factors.

    diagonal (width,), factors (at most 64, width).
    """

    means: np.ndarray
    diagonal: np.ndarray
    factors: np.ndarray


def fit_statistics(evidence: np.ndarray, classes: np.ndarray, languages: int) -> LanguageStatistics:
    """Of clips (clips, width) and the language of each, 0 to languages - 1: every language's mean,
    their common covariance.

    Raises ValueError for a language without clips.
    """
    counts = np.bincount(classes, minlength=languages)
    if not counts.all():
        raise ValueError(f"language {int(counts.argmin())} of {languages} has no clip")
    evidence = evidence.astype(np.float64)
    means = np.stack([evidence[classes == k].mean(0) for k in range(languages)])
    within = evidence - means[classes]
    spread = within.std(0) + 1e-6
    _, values, directions = np.linalg.svd(
        within / spread / np.sqrt(len(within)), full_matrices=False
    )
    factors = values[:RANK, None] * directions[:RANK]
    rest = np.maximum(1 - (factors**2).sum(0), 1e-3)
    return LanguageStatistics(
        *(a.astype(np.float32) for a in (means, rest * spread**2, factors * spread))
    )


@dataclass(frozen=True)
class Discriminant:
    """Linear scores of every pack's languages: weights (languages of all, width), offsets, and the
    pack of each by number.
    """

    weights: np.ndarray
    offsets: np.ndarray
    owners: np.ndarray

    @classmethod
    def between(cls, packs: Sequence[LanguageStatistics]) -> "Discriminant":
        diagonal = np.mean([p.diagonal for p in packs], 0, np.float64)
        factors = np.concatenate([p.factors for p in packs]).astype(np.float64) / np.sqrt(
            len(packs)
        )
        spread = np.sqrt(diagonal + (factors**2).sum(0))
        covariance = (
            (1 - SHRINKAGE) * (factors.T @ factors + np.diag(diagonal)) / np.outer(spread, spread)
        )
        covariance += SHRINKAGE * np.eye(len(spread))
        means = np.concatenate([p.means for p in packs]) / spread
        weights = np.linalg.solve(covariance, means.T).T
        owners = np.repeat(np.arange(len(packs)), [len(p.means) for p in packs])
        return cls(weights / spread, -0.5 * (weights * means).sum(1), owners)

    def behind(self, evidence: np.ndarray) -> np.ndarray:
        """By how much each pack's best language fits less well than the best of all, log-density:
        (clips, packs), >= 0.
        """
        scores = evidence @ self.weights.T + self.offsets
        best = np.stack(
            [scores[:, self.owners == k].max(1) for k in range(self.owners.max() + 1)], 1
        )
        return best.max(1, keepdims=True) - best
