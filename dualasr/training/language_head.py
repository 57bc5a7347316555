"""The language head of a pack: logistic regression on pooled activations of the frozen trunk.

The trunk does not move, so the best linear head is a convex problem with one answer, found in
seconds; gradient descent beside the decoder had hardly begun when a short run ended.
"""

from collections.abc import Sequence

import numpy as np
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler

from dualasr.model.secondary import Secondary, pool
from dualasr.training.dataset import Clip

UNHEARD = -5.0  # logit of a class that no clip is in


def pooled(clips: Sequence[Clip]) -> tuple[np.ndarray, np.ndarray]:
    """What the head sees of every cached variant: (entries, 2 x width), and the class of each, 0
    for other.
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
    """Set the head's weights in place: multinomial, every class weighing the same, L2-regularised
    on unit-variance features.
    """
    features, classes = pooled([*clips, *negatives])
    head, known = secondary.language_head, np.unique(classes)
    weight, bias = np.zeros(head.weight.shape), np.full(len(head.bias), UNHEARD)
    bias[known] = 0.0
    if len(known) > 1:
        scaler = StandardScaler().fit(features)
        fitted = LogisticRegression(class_weight="balanced", max_iter=2000).fit(
            scaler.transform(features), classes
        )
        rows = known if len(known) > 2 else known[1:]  # of two classes the first is the reference
        weight[rows] = fitted.coef_ / scaler.scale_
        bias[rows] = fitted.intercept_ - weight[rows] @ scaler.mean_
    with torch.no_grad():
        head.weight.copy_(torch.from_numpy(weight))
        head.bias.copy_(torch.from_numpy(bias))
