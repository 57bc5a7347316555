"""Character n-grams of a language, with interpolated Kneser-Ney smoothing (Kneser and Ney 1995; in
the interpolated form of Chen and Goodman 1999, section 2.7).

    p(c | h) = max(N(hc) - D, 0) / N(h) + D n(h) / N(h) x p(c | h without its first character)

N counts occurrences in the highest order, and in lower orders the different characters before.
n(h) is the number of different characters after h. D = n1 / (n1 + 2 n2), of n-grams that occur once
and twice. Below the unigrams every character is as likely as another.

The characters are the units of a pack's CTC head, 1 and up; 0 is the border of a text.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

ORDER = 4
LEAST_LOG_PROB = -20.0


@dataclass(frozen=True, eq=False)
class CharacterModel:
    """Log-probabilities of n-grams, and the weights of their contexts.

    An n-gram is kept as one number, its key: the digits of a number in base `units`, the last
    character last. All arrays are by order, 1 to n, and keys are sorted.

    Attributes:
        units: Number of units, the border among them.
        keys: int64, (n-grams,) each.
        log_probs: float32, (n-grams,) each: log p of the last character after the others.
        contexts: int64, (contexts,) each: keys of contexts of n-1 characters.
        weights: float32, (contexts,) each: log of the weight of the lower order after a context.
    """

    units: int
    keys: tuple[np.ndarray, ...]
    log_probs: tuple[np.ndarray, ...]
    contexts: tuple[np.ndarray, ...]
    weights: tuple[np.ndarray, ...]

    @classmethod
    def fit(
        cls, texts: Sequence[Sequence[int]], units: int, order: int = ORDER
    ) -> "CharacterModel":
        """Count n-grams and smooth their probabilities.

        Args:
            texts: Units of each text, from 1 to units - 1.
            units: Number of units, the border among them.
            order: Length of the longest n-grams. It is lowered where keys would not fit 63 bits.

        Returns:
            The model.
        """
        order = max(1, min(order, int(62 / np.log2(max(2, units)))))
        grams = [
            np.unique(_windows(texts, units, n), return_counts=True) for n in range(1, order + 1)
        ]
        keys: list[np.ndarray] = []
        log_probs: list[np.ndarray] = []
        contexts: list[np.ndarray] = []
        weights: list[np.ndarray] = []
        lower = np.full(1, 1 / units)
        for n, (found, counts) in enumerate(grams, 1):
            if n < order:
                # in a lower order: different characters before. Nothing but a border is before one.
                inner, before = np.unique(grams[n][0] % units**n, return_counts=True)
                inside = found // units ** (n - 1) > 0
                places = np.searchsorted(inner, found[inside])
                counts[inside] = before[places]
            discount = _discount(counts)
            context, where, after = np.unique(
                found // units, return_inverse=True, return_counts=True
            )
            total = np.bincount(where, counts)
            weight = discount * after / total
            if n > 1:
                lower = lower[np.searchsorted(keys[-1], found % units ** (n - 1))]
            lower = (counts - discount) / total[where] + weight[where] * lower
            keys.append(found)
            log_probs.append(np.log(lower).astype(np.float32))
            contexts.append(context)
            weights.append(np.log(weight).astype(np.float32))
        return cls(units, tuple(keys), tuple(log_probs), tuple(contexts), tuple(weights))

    @property
    def order(self) -> int:
        """Length of the longest n-grams."""
        return len(self.keys)

    def score(self, text: Sequence[int], order: int | None = None) -> np.ndarray:
        """Return the log-probability of each character of a text, and of its end.

        Args:
            text: Units of the text.
            order: Length of the n-grams that are used; None for the longest.

        Returns:
            float64, (length,), where length is the number of characters + 1.
        """
        order = self.order if order is None else order
        found = np.full(len(text) + 1, -np.log(self.units))
        for n in range(1, order + 1):
            grams = _windows([text], self.units, n)
            weight, _ = _look_up(self.contexts[n - 1], self.weights[n - 1], grams // self.units)
            own, known = _look_up(self.keys[n - 1], self.log_probs[n - 1], grams)
            found = np.where(known, own, weight + found)
        return np.maximum(found, LEAST_LOG_PROB)


def _windows(texts: Sequence[Sequence[int]], units: int, n: int) -> np.ndarray:
    """Return the keys of all n-grams that end with a character or the end of a text."""
    parts = []
    for text in texts:
        padded = np.concatenate([np.zeros(n - 1, np.int64), np.asarray(text, np.int64), [0]])
        keys = np.zeros(len(padded) - n + 1, np.int64)
        for i in range(n):
            keys = keys * units + padded[i : len(padded) - n + 1 + i]
        parts.append(keys)
    return np.concatenate(parts) if parts else np.zeros(0, np.int64)


def _discount(counts: np.ndarray) -> float:
    """Return D for n-grams with these counts, from 0.1 to 0.9."""
    once, twice = int((counts == 1).sum()), int((counts == 2).sum())
    return min(0.9, max(0.1, once / (once + 2 * twice))) if once else 0.1


def _look_up(
    keys: np.ndarray, values: np.ndarray, wanted: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Return the values of keys, 0 for unknown ones, and which are known."""
    places = np.minimum(np.searchsorted(keys, wanted), len(keys) - 1)
    known = keys[places] == wanted
    return np.where(known, values[places], 0.0), known
