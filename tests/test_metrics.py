"""Metrics: known counts, and what must hold between the corpus, its clips and its intervals."""

import math

import numpy as np
import pytest

from dualasr.metrics import (
    ErrorRate,
    bootstrap_interval,
    character_errors,
    paired_bootstrap,
    per_clip_errors,
    word_errors,
)

REFS = ["the cat sat on the mat", "a b c d", "", "one", "ñuka wasi"]
HYPS = ["the cat sat the hat", "a b c d e", "noise here", "", "ñuka wasi"]


@pytest.mark.parametrize(
    ("refs", "hyps", "expected"),
    [
        (["a b c d"], ["a b c d"], ErrorRate(0.0, 0, 4, 0, 0, 0)),
        (["a b c d"], ["a x c"], ErrorRate(0.5, 2, 4, 1, 1, 0)),
        (["a b"], [""], ErrorRate(1.0, 2, 2, 0, 2, 0)),
        (["a", ""], ["a", "x y"], ErrorRate(2.0, 2, 1, 0, 0, 2)),
        (["a", "b c d"], ["x", "b c d"], ErrorRate(0.25, 1, 4, 1, 0, 0)),  # not the mean of 1 and 0
        ([""], [""], ErrorRate(0.0, 0, 0, 0, 0, 0)),
        ([""], ["a"], ErrorRate(math.inf, 1, 0, 0, 0, 1)),
    ],
)
def test_word_errors(refs, hyps, expected):
    assert word_errors(refs, hyps) == expected


@pytest.mark.parametrize(
    ("ref", "hyp", "expected"),
    [
        ("你好世界", "你号世", ErrorRate(0.5, 2, 4, 1, 1, 0)),
        ("ab c", "abc", ErrorRate(0.25, 1, 4, 0, 1, 0)),
        ("ab", "xab", ErrorRate(0.5, 1, 2, 0, 0, 1)),
    ],
)
def test_character_errors(ref, hyp, expected):
    assert character_errors([ref], [hyp]) == expected


def test_clips_add_up_to_the_corpus():
    for unit, corpus_errors in (("word", word_errors), ("character", character_errors)):
        counts = per_clip_errors(REFS, HYPS, unit)
        assert counts.shape == (5, 2) and counts.dtype.kind == "i"
        whole = corpus_errors(REFS, HYPS)
        assert counts.sum(axis=0).tolist() == [whole.errors, whole.length]
        assert whole.errors == whole.substitutions + whole.deletions + whole.insertions
        for clip, (ref, hyp) in zip(counts.tolist(), zip(REFS, HYPS, strict=True), strict=True):
            alone = corpus_errors([ref], [hyp])
            assert clip == [alone.errors, alone.length] == [levenshtein(ref, hyp, unit), alone.length]
    assert per_clip_errors(REFS, HYPS, "word").tolist() == [[2, 6], [1, 4], [2, 0], [1, 1], [0, 2]]


def levenshtein(ref, hyp, unit):
    ref, hyp = (ref.split(), hyp.split()) if unit == "word" else (ref, hyp)
    row = list(range(len(hyp) + 1))
    for i, left in enumerate(ref, 1):
        above, row = row, [i]
        for j, right in enumerate(hyp, 1):
            row.append(min(above[j] + 1, row[-1] + 1, above[j - 1] + (left != right)))
    return row[-1]


@pytest.mark.parametrize("measure", [word_errors, character_errors, lambda r, h: per_clip_errors(r, h, "word")])
def test_lists_that_cannot_be_compared_are_refused(measure):
    with pytest.raises(ValueError, match="3 references but 2 hypotheses"):
        measure(["a", "b", "c"], ["a", "b"])
    with pytest.raises(ValueError, match="no clips"):
        measure([], [])


def test_an_unknown_unit_is_refused():
    with pytest.raises(ValueError, match="unit 'syllable' is unknown"):
        per_clip_errors(["a"], ["a"], "syllable")


def clips(rate, n=400, seed=0):
    generator = np.random.default_rng(seed)
    length = generator.integers(5, 30, size=n)
    return np.stack([generator.binomial(length, rate), length], axis=1)


def test_interval_of_known_width():
    counts = clips(0.2)
    rate, words = counts[:, 0].sum() / counts[:, 1].sum(), counts[:, 1].sum()
    low, high = bootstrap_interval(counts)
    assert low < rate < high
    assert high - low == pytest.approx(2 * 1.96 * math.sqrt(0.2 * 0.8 / words), rel=0.15)  # the binomial interval
    assert bootstrap_interval(counts) == (low, high) != bootstrap_interval(counts, seed=1)
    narrow = bootstrap_interval(counts, level=0.5)
    assert low < narrow[0] < narrow[1] < high


def test_interval_of_equal_clips_is_a_point():
    assert bootstrap_interval(np.tile([1, 4], (9, 1))) == (0.25, 0.25)


def test_interval_covers_the_truth_as_often_as_it_says():
    inside = 0
    for seed in range(200):
        low, high = bootstrap_interval(clips(0.3, 60, seed), samples=200, seed=seed)
        inside += low <= 0.3 <= high
    assert 0.88 <= inside / 200 <= 0.99


def test_empty_references_do_not_break_an_interval():
    low, high = bootstrap_interval(np.array([[1, 0], [1, 4]]))
    assert 0.25 == low <= high < math.inf


def test_paired_bootstrap():
    b = clips(0.2)
    a = b + np.stack([np.random.default_rng(5).integers(0, 2, len(b)), np.zeros(len(b), int)], axis=1)
    difference, low, high = paired_bootstrap(a, b)
    assert difference == pytest.approx((a[:, 0].sum() - b[:, 0].sum()) / b[:, 1].sum())
    assert 0 < low < difference < high
    wide = bootstrap_interval(a)
    assert high - low < 0.5 * (wide[1] - wide[0])  # pairing takes out what is hard for both
    assert paired_bootstrap(b, a) == pytest.approx((-difference, -high, -low))
    assert paired_bootstrap(a, a) == (0.0, 0.0, 0.0)


def test_paired_bootstrap_relative():
    a, b = np.tile([3, 10], (20, 1)), np.tile([2, 10], (20, 1))
    assert paired_bootstrap(a, b) == pytest.approx((0.1, 0.1, 0.1))
    assert paired_bootstrap(a, b, relative=True) == pytest.approx((0.5, 0.5, 0.5))
    a, b = clips(0.3), clips(0.2)
    difference, low, high = paired_bootstrap(a, b, relative=True)
    assert low < difference < high and difference == pytest.approx(a[:, 0].sum() / b[:, 0].sum() - 1)
    few = np.zeros((20, 2), int) + [0, 10]
    few[0, 0] = 1
    assert all(map(math.isfinite, paired_bootstrap(few, few, relative=True)))  # some resamples have no error at all


@pytest.mark.parametrize("counts", [np.zeros((0, 2), int), np.array([[1, 0]]), np.array([1, 2]), np.ones((3, 3), int)])
def test_counts_that_are_none_are_refused(counts):
    with pytest.raises(ValueError, match=r"wanted \(n, 2\)"):
        bootstrap_interval(counts)


def test_pairs_that_are_none_are_refused():
    with pytest.raises(ValueError, match="not the same clips"):
        paired_bootstrap(clips(0.2, 10), clips(0.2, 9))
    with pytest.raises(ValueError, match="not the same clips"):
        paired_bootstrap(clips(0.2, 10, 0), clips(0.2, 10, 1))
    zero = clips(0.0)
    assert paired_bootstrap(clips(0.2), zero)[0] > 0
    with pytest.raises(ValueError, match="b makes none"):
        paired_bootstrap(clips(0.2), zero, relative=True)
