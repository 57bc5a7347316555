"""Character n-grams with interpolated Kneser-Ney smoothing."""

import itertools

import numpy as np
import pytest

from dualasr.model.ngrams import LEAST_LOG_PROB, CharacterModel

TEXTS = [[1, 2, 1, 2, 3], [1, 2, 2], [3, 1, 1, 2]]


def after(model, context, order=None):
    """Probabilities of all units after a context."""
    return np.exp(
        [model.score([*context, unit], order)[len(context)] for unit in range(model.units)]
    )


@pytest.mark.parametrize("order", [1, 2, 3, 4])
def test_probabilities_sum_to_one_after_whatever_context(order):
    model = CharacterModel.fit(TEXTS, 6, order)
    assert model.order == order
    for length in range(4):
        for context in itertools.product((1, 2, 3, 5), repeat=length):
            for used in range(1, order + 1):
                found = after(model, context, used)
                assert found.sum() == pytest.approx(1, abs=1e-6) and found.min() > 0


def test_known_probabilities_of_two_bigrams():
    """By hand, order 2. The texts "1", "1" and "2" are 0 1 0, 0 1 0 and 0 2 0 with their borders.

    Bigrams: 01 twice, 02 once, 10 twice, 20 once. Two occur once and two occur twice, so
    D = 2 / (2 + 2 x 2) = 1/3. Unigrams: 1 and 2 stand after one character each, the border is
    counted as it occurs, 3 times. Of these counts 1, 1, 3 two are 1 and none is 2: D = 0.9, the
    most that is allowed.
    """
    model = CharacterModel.fit([[1], [1], [2]], 4, 2)
    uniform = 0.9 * 3 / 5 / 4
    unigram = {1: 0.1 / 5 + uniform, 2: 0.1 / 5 + uniform, 0: 2.1 / 5 + uniform, 3: uniform}
    first = np.exp(model.score([1], 1))
    assert first == pytest.approx([unigram[1], unigram[0]], abs=1e-6)
    assert np.exp(model.score([3], 1))[0] == pytest.approx(unigram[3], abs=1e-6)
    at_start = {1: (2 - 1 / 3) / 3, 2: (1 - 1 / 3) / 3, 3: 0.0}
    for unit, own in at_start.items():
        expected = own + 1 / 3 * 2 / 3 * unigram[unit]
        assert np.exp(model.score([unit])[0]) == pytest.approx(expected, abs=1e-6)
    end_after_2 = (1 - 1 / 3) / 1 + 1 / 3 * 1 / 1 * unigram[0]
    assert np.exp(model.score([2])[1]) == pytest.approx(end_after_2, abs=1e-6)
    # nothing is known after 3: the unigram decides
    assert np.exp(model.score([3])[1]) == pytest.approx(unigram[0], abs=1e-6)


def test_text_of_the_language_is_likelier_than_other_text():
    rng = np.random.default_rng(0)
    syllables = [(1, 2), (3, 2), (1, 4), (5, 4)]
    texts = [[u for k in rng.integers(4, size=12) for u in syllables[k]] for _ in range(80)]
    model = CharacterModel.fit(texts[:60], 7)
    mine = np.mean([model.score(text).mean() for text in texts[60:]])
    shuffled = np.mean([model.score(rng.permutation(text)).mean() for text in texts[60:]])
    assert mine > shuffled + 1
    assert mine > np.mean([model.score(text, 1).mean() for text in texts[60:]]) + 0.5


def test_the_order_is_lowered_where_keys_would_not_fit():
    many = CharacterModel.fit([[1, 5000, 7, 1]], 20_000, order=9)
    assert many.order == 4 and np.isfinite(many.score([1, 5000, 19_999])).all()
    assert (many.score([19_999] * 3) >= LEAST_LOG_PROB).all()
