"""Which pack's languages a clip fits best: Gaussians on hand-made evidence."""

import numpy as np
import pytest

from dualasr.model.language_statistics import RANK, Discriminant, fit_statistics


def draw(rng, mean, mixing, count):
    return mean + rng.standard_normal((count, len(mixing))) @ mixing


@pytest.fixture
def world():
    """Two packs, of one and of two languages, in 100 dimensions that hang together; means a little
    apart.
    """
    rng = np.random.default_rng(0)
    mixing = rng.standard_normal((100, 100)) * 0.2 + np.eye(100)
    means = rng.standard_normal((3, 100)) * 0.5
    return rng, mixing, means


def test_a_full_covariance_comes_back(world):
    rng, mixing, means = world
    rows = draw(rng, means[0], mixing, 4000)
    found = fit_statistics(rows, np.zeros(len(rows), int), 1)
    assert found.factors.shape == (RANK, 100) and found.means == pytest.approx(means[:1], abs=0.2)
    covariance = np.diag(found.diagonal) + found.factors.T @ found.factors
    assert np.diag(covariance) == pytest.approx(np.var(rows, 0), rel=1e-3), (
        "what the directions leave is on the diagonal"
    )
    true = mixing.T @ mixing
    assert np.linalg.norm(covariance - true) < 0.25 * np.linalg.norm(true)


def test_unseen_clips_go_to_their_pack(world):
    """Better than by the nearest mean, for the covariance counts; and scores are those of full
    Gaussians.
    """
    rng, mixing, means = world
    first = fit_statistics(draw(rng, means[0], mixing, 300), np.zeros(300, int), 1)
    both = np.concatenate([draw(rng, mean, mixing, 300) for mean in means[1:]])
    second = fit_statistics(both, np.repeat([0, 1], 300), 2)
    unseen = np.concatenate([draw(rng, mean, mixing, 200) for mean in means])
    owners = np.repeat([0, 1, 1], 200)
    behind = Discriminant.between([first, second]).behind(unseen)
    assert behind.shape == (600, 2) and behind.min() == 0.0 and (behind.min(1) == 0.0).all()
    wrong = (behind.argmin(1) != owners).mean()
    nearest = np.linalg.norm(unseen[:, None] - means, axis=-1).argmin(1)
    assert wrong < 0.03 and wrong < 0.5 * (np.minimum(nearest, 1) != owners).mean()


def test_a_third_pack_leaves_the_order_of_two(world):
    rng, mixing, means = world
    packs = [fit_statistics(draw(rng, mean, mixing, 300), np.zeros(300, int), 1) for mean in means]
    unseen = draw(rng, means[0], mixing, 100)
    two, three = (
        Discriminant.between(packs[:2]).behind(unseen),
        Discriminant.between(packs).behind(unseen),
    )
    assert (two.argmin(1) == three[:, :2].argmin(1)).mean() > 0.97


def test_a_language_without_clips_is_an_error():
    with pytest.raises(ValueError, match="language 1 of 2"):
        fit_statistics(np.ones((3, 4)), np.zeros(3, int), 2)
