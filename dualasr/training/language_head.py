"""The language head of a pack: logistic regression on pooled activations of the frozen trunk.

The trunk is frozen, so the best linear head is the one solution of a convex problem, and is found
in seconds. Gradient descent beside the decoder was far from it when a short run ended.
"""

from collections.abc import Sequence

import numpy as np
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler

from dualasr.model.secondary import Secondary, pool
from dualasr.training.dataset import Clip

NO_CLIPS = -5.0  # logit of a class without clips


def pooled(clips: Sequence[Clip]) -> tuple[np.ndarray, np.ndarray]:
    """Pool every cached variant to the head's features.

    Args:
        clips: Clips with their entries in the trunk cache.

    Returns:
        Features (entries, 2 x width), and classes (entries,), 0 for other languages.
    """
    rows, classes = [], []
    for clip in clips:
        for entry in clip.entries:
            values = torch.from_numpy(np.load(entry).astype(np.float32)).unsqueeze(0)
            rows.append(pool(values, torch.tensor([values.shape[1]]))[0].numpy())
            classes.append(clip.language)
    return np.stack(rows), np.array(classes)


def fit_language_head(
    secondary: Secondary, clips: Sequence[Clip], negatives: Sequence[Clip]
) -> None:
    """Fit the language head in place, by multinomial logistic regression.

    All classes weigh the same. The features are standardised, and the weights are L2-regularised.

    Args:
        secondary: The secondary, whose head is set.
        clips: Training clips in the pack's languages.
        negatives: Training clips in other languages.
    """
    features, classes = pooled([*clips, *negatives])
    head, known = secondary.language_head, np.unique(classes)
    weight, bias = np.zeros(head.weight.shape), np.full(len(head.bias), NO_CLIPS)
    bias[known] = 0.0
    if len(known) > 1:
        scaler = StandardScaler().fit(features)
        fitted = LogisticRegression(class_weight="balanced", max_iter=2000).fit(
            scaler.transform(features), classes
        )
        # of two classes the first is the reference, with weights of 0
        rows = known if len(known) > 2 else known[1:]
        weight[rows] = fitted.coef_ / scaler.scale_
        bias[rows] = fitted.intercept_ - weight[rows] @ scaler.mean_
    with torch.no_grad():
        head.weight.copy_(torch.from_numpy(weight))
        head.bias.copy_(torch.from_numpy(bias))
