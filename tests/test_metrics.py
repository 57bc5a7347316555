"""Metrics: known counts, and what must hold between the corpus, its clips and its intervals."""

import math
import os
import pickle
import subprocess
import sys

import numpy as np
import pytest

import dualasr.metrics
from dualasr.evaluation.scoring import scores_of
from dualasr.metrics import (
    ErrorRate,
    align,
    bootstrap_interval,
    character_errors,
    comparable,
    paired_bootstrap,
    paired_bootstrap_mean,
    per_clip_errors,
    per_sentence_errors,
    reliability,
    resampled_sums,
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
            assert (
                clip == [alone.errors, alone.length] == [levenshtein(ref, hyp, unit), alone.length]
            )
    assert per_clip_errors(REFS, HYPS, "word").tolist() == [[2, 6], [1, 4], [2, 0], [1, 1], [0, 2]]


def levenshtein(ref, hyp, unit):
    ref, hyp = (ref.split(), hyp.split()) if unit == "word" else (ref, hyp)
    row = list(range(len(hyp) + 1))
    for i, left in enumerate(ref, 1):
        above, row = row, [i]
        for j, right in enumerate(hyp, 1):
            row.append(min(above[j] + 1, row[-1] + 1, above[j - 1] + (left != right)))
    return row[-1]


@pytest.mark.parametrize(
    "measure", [word_errors, character_errors, lambda r, h: per_clip_errors(r, h, "word")]
)
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
    # the binomial interval
    assert high - low == pytest.approx(2 * 1.96 * math.sqrt(0.2 * 0.8 / words), rel=0.15)
    assert bootstrap_interval(counts) == (low, high) != bootstrap_interval(counts, seed=1)
    narrow = bootstrap_interval(counts, level=0.5)
    assert low < narrow[0] < narrow[1] < high


def test_the_numbers_that_reports_are_made_with():
    """1,000 resamples, seed 0, 95 %: another default would change every published interval."""
    rng = np.random.default_rng(1)
    lengths = rng.integers(20, 400, 30)
    a, b = (np.column_stack([rng.binomial(lengths, 0.2), lengths]) for _ in range(2))
    usual = {"samples": 1000, "seed": 0, "level": 0.95}
    for function, values in (
        (bootstrap_interval, (a,)),
        (paired_bootstrap, (a, b)),
        (paired_bootstrap_mean, ([(a, b), (b[:20], a[:20])],)),
    ):
        plain = function(*values)
        assert plain == function(*values, **usual)
        others = [{"samples": 999}, {"samples": 1001}, {"seed": 1}, {"level": 0.9}]
        assert all(function(*values, **usual | other) != plain for other in others)
    assert paired_bootstrap(a, b) == paired_bootstrap(a, b, relative=False)
    assert paired_bootstrap(a, b) != paired_bootstrap(a, b, relative=True)
    for count in (per_clip_errors, per_sentence_errors):
        assert count(["a b", "a b"], ["a", "b"], "word").dtype == np.int64


def test_interval_of_equal_clips_is_a_point():
    assert bootstrap_interval(np.tile([1, 4], (9, 1))) == (0.25, 0.25)


def hard_and_easy_clips(n, seed):
    """Two systems on clips of unlike difficulty (beta-binomial); true rates 0.35 and 0.3."""
    generator = np.random.default_rng(seed)
    length, difficulty = generator.integers(5, 30, size=n), generator.beta(3, 7, size=n)
    return [
        np.stack([generator.binomial(length, rate), length], axis=1)
        for rate in (0.2 + difficulty / 2, difficulty)
    ]


def test_intervals_cover_the_truth_as_often_as_they_say():
    inside = np.zeros(3)
    for seed in range(200):
        a, b = hard_and_easy_clips(80, seed)
        low, high = bootstrap_interval(b, samples=200, seed=seed)
        _, *paired = paired_bootstrap(a, b, samples=200, seed=seed)
        second = hard_and_easy_clips(60, 1000 + seed)
        _, *mean = paired_bootstrap_mean([(a, b), tuple(second)], samples=200, seed=seed)
        inside += [low <= 0.3 <= high, paired[0] <= 0.05 <= paired[1], mean[0] <= 0.05 <= mean[1]]
    assert ((inside / 200 >= 0.9) & (inside / 200 <= 0.99)).all(), inside


def drawn_by_hand(counts, samples, generator):
    """The slow version of `resampled_sums`: one resample after the other."""
    draws = [generator.integers(len(counts), size=len(counts)) for _ in range(samples)]
    return np.array([counts[rows].sum(axis=0) for rows in draws]).T


@pytest.mark.parametrize("n", [1, 2, 7, 300, 20_000])  # of 20,000 rows a batch holds 52 resamples
def test_sums_are_those_of_resamples_drawn_one_by_one(n):
    counts = np.random.default_rng(n).integers(0, 40, (n, 3))
    mine, theirs = np.random.default_rng(5), np.random.default_rng(5)
    for samples in (60, 2):  # the generator goes on from where it is
        expected = drawn_by_hand(counts, samples, theirs)
        found = resampled_sums(counts, samples, mine)
        assert np.array_equal(found, expected) and found.dtype == np.float64
    assert mine.integers(2**60) == theirs.integers(2**60)


def test_intervals_are_those_of_resamples_drawn_one_by_one():
    a, b = hard_and_easy_clips(80, 3)
    second = hard_and_easy_clips(33, 4)
    ends = [0.05, 0.95]
    both = np.column_stack([a[:, 0], b])
    errors_a, errors_b, length = drawn_by_hand(both, 200, np.random.default_rng(9))
    options = {"samples": 200, "seed": 9, "level": 0.9}
    assert bootstrap_interval(b, **options) == pytest.approx(
        np.quantile(errors_b / length, ends), abs=1e-12
    )
    expected = np.quantile((errors_a - errors_b) / length, ends)
    assert paired_bootstrap(a, b, **options)[1:] == pytest.approx(expected, abs=1e-12)
    expected = np.quantile((errors_a - errors_b) / errors_b, ends)
    assert paired_bootstrap(a, b, relative=True, **options)[1:] == pytest.approx(
        expected, abs=1e-12
    )

    generator, means = np.random.default_rng(9), 0
    for counts in (both, np.column_stack([second[0][:, 0], second[1]])):
        errors_a, errors_b, length = drawn_by_hand(counts, 200, generator)
        means = means + (errors_a - errors_b) / length / 2
    expected = np.quantile(means, ends)
    assert paired_bootstrap_mean([(a, b), second], **options)[1:] == pytest.approx(
        expected, abs=1e-12
    )


def test_the_interval_of_a_mean_over_languages_resamples_each_on_its_own():
    languages = [clips(0.2, 40, 1), clips(0.4, 7, 2), clips(0.1, 1, 3)]
    generator, means = np.random.default_rng(6), 0
    for counts in languages:
        errors, length = drawn_by_hand(counts, 300, generator)
        means = means + errors / length / 3
    tables = [
        {"marks": {"wer": counts, "cer": counts}, "whisper": {"wer": counts, "cer": counts}}
        for counts in languages
    ]
    scores = scores_of(tables, 300, 6)
    assert scores["wer"] == pytest.approx(
        np.mean([counts[:, 0].sum() / counts[:, 1].sum() for counts in languages])
    )
    assert scores["wer_interval"] == pytest.approx(np.quantile(means, [0.025, 0.975]), abs=1e-12)


def test_empty_references_do_not_break_an_interval():
    low, high = bootstrap_interval(np.array([[1, 0], [1, 4]]))
    assert 0.25 == low <= high < math.inf
    assert bootstrap_interval(np.array([[1, 1]])) == (1.0, 1.0), "one word is a reference"


def test_paired_bootstrap():
    b = clips(0.2)
    a = b + np.stack(
        [np.random.default_rng(5).integers(0, 2, len(b)), np.zeros(len(b), int)], axis=1
    )
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
    assert low < difference < high and difference == pytest.approx(
        a[:, 0].sum() / b[:, 0].sum() - 1
    )
    few = np.zeros((20, 2), int) + [0, 10]
    few[0, 0] = 1
    # some resamples have no error at all
    assert all(map(math.isfinite, paired_bootstrap(few, few, relative=True)))


@pytest.mark.parametrize(
    "counts", [np.zeros((0, 2), int), np.array([[1, 0]]), np.array([1, 2]), np.ones((3, 3), int)]
)
def test_counts_that_are_none_are_refused(counts):
    with pytest.raises(ValueError, match=r"wanted \(n, 2\)"):
        bootstrap_interval(counts)


def test_pairs_that_are_none_are_refused():
    with pytest.raises(ValueError, match="not the same clips"):
        paired_bootstrap(clips(0.2, 10), clips(0.2, 9))
    for pair in (paired_bootstrap, lambda a, b: paired_bootstrap_mean([(a, b)])):
        with pytest.raises(ValueError, match="not the same clips"):
            pair(clips(0.2, 10, 0), clips(0.2, 10, 1))
    with pytest.raises(ValueError, match="no languages"):
        paired_bootstrap_mean([])
    zero = clips(0.0)
    assert paired_bootstrap(clips(0.2), zero)[0] > 0
    with pytest.raises(ValueError, match="b makes none"):
        paired_bootstrap(clips(0.2), zero, relative=True)


def test_paired_bootstrap_of_the_mean():
    a, b = hard_and_easy_clips(80, 0)
    alone = paired_bootstrap(a, b)
    assert paired_bootstrap_mean([(a, b)]) == pytest.approx(alone)
    much, none = (
        (np.tile([5, 10], (500, 1)), np.tile([2, 10], (500, 1))),
        (np.tile([1, 4], (3, 1)),) * 2,
    )
    # 3 clips weigh as much as 500
    assert paired_bootstrap_mean([much, none]) == pytest.approx((0.15, 0.15, 0.15))
    difference, low, high = paired_bootstrap_mean([(a, b), none])
    assert (difference, low, high) == pytest.approx([value / 2 for value in alone])
    sparse = (np.array([[1, 0], [1, 4]]), np.array([[0, 0], [0, 4]]))
    assert all(map(math.isfinite, paired_bootstrap_mean([sparse, (a, b)])))


# Rate, errors, length, substitutions, deletions, insertions; what `comparable` makes of the text is
# counted.
BY_HAND = [
    # A vowel sign is wrong: an error of 10 characters; Whisper's normaliser deletes it and sees no
    # error.
    (
        "or",
        "marks",
        "ଓଡ଼ିଆ ଭାଷା",
        "ଓଡ଼ିଆ ଭାଷି।",
        ErrorRate(0.5, 1, 2, 1, 0, 0),
        ErrorRate(0.1, 1, 10, 1, 0, 0),
    ),
    (
        "or",
        "whisper",
        "ଓଡ଼ିଆ ଭାଷା",
        "ଓଡ଼ିଆ ଭାଷି।",
        ErrorRate(0.0, 0, 4, 0, 0, 0),
        ErrorRate(0.0, 0, 8, 0, 0, 0),
    ),
    # A tone mark is missing; spaces are no part of Thai.
    (
        "th",
        "marks",
        "ที่นี่ ดี",
        "ที่นี ดี",
        ErrorRate(0.5, 1, 2, 1, 0, 0),
        ErrorRate(0.125, 1, 8, 0, 1, 0),
    ),
    (
        "th",
        "marks",
        "ที่นี่ ดี",
        "ที่นี่ดี",
        ErrorRate(1.0, 2, 2, 1, 1, 0),
        ErrorRate(0.0, 0, 8, 0, 0, 0),
    ),
    ("en", "marks", "ab c", "abc", ErrorRate(1.0, 2, 2, 1, 1, 0), ErrorRate(0.25, 1, 4, 0, 1, 0)),
    (
        "th",
        "whisper",
        "ที่นี่ ดี",
        "ที่นี ดี",
        ErrorRate(0.0, 0, 3, 0, 0, 0),
        ErrorRate(0.0, 0, 3, 0, 0, 0),
    ),
    # Three vowel signs of Arabic are missing; Whisper's puts a space for those inside the word.
    (
        "ar",
        "marks",
        "كِتَابٌ",
        "كتاب",
        ErrorRate(1.0, 1, 1, 1, 0, 0),
        ErrorRate(3 / 7, 3, 7, 0, 3, 0),
    ),
    (
        "ar",
        "whisper",
        "كِتَابٌ",
        "كتاب",
        ErrorRate(1.0, 3, 3, 1, 2, 0),
        ErrorRate(1 / 3, 2, 6, 0, 2, 0),
    ),
    ("en", None, "Yes.", "yes", ErrorRate(1.0, 1, 1, 1, 0, 0), ErrorRate(0.5, 2, 4, 1, 1, 0)),
    (
        "en",
        "marks",
        "...",
        "a b",
        ErrorRate(math.inf, 2, 0, 0, 0, 2),
        ErrorRate(math.inf, 3, 0, 0, 0, 3),
    ),
    ("en", "whisper", "", "?", ErrorRate(0.0, 0, 0, 0, 0, 0), ErrorRate(0.0, 0, 0, 0, 0, 0)),
]


@pytest.mark.parametrize(("language", "normaliser", "ref", "hyp", "words", "characters"), BY_HAND)
def test_rates_by_hand(language, normaliser, ref, hyp, words, characters):
    refs, hyps = comparable([ref], language, normaliser), comparable([hyp], language, normaliser)
    assert (word_errors(refs[0], hyps[0]), character_errors(refs[1], hyps[1])) == (
        words,
        characters,
    )


@pytest.mark.parametrize(
    ("ref", "hyp", "unit", "expected"),
    [
        (
            "the cat sat on",
            "the hat sat",
            "word",
            [
                ("equal", "the", "the"),
                ("substitute", "cat", "hat"),
                ("equal", "sat", "sat"),
                ("delete", "on", ""),
            ],
        ),
        ("", "a b", "word", [("insert", "", "a"), ("insert", "", "b")]),
        (
            "你好世界",
            "你号世",
            "character",
            [
                ("equal", "你", "你"),
                ("substitute", "好", "号"),
                ("equal", "世", "世"),
                ("delete", "界", ""),
            ],
        ),
        ("", "", "word", []),
    ],
)
def test_align(ref, hyp, unit, expected):
    assert align(ref, hyp, unit) == expected


def test_an_alignment_holds_both_texts_and_all_errors():
    for ref, hyp in zip(REFS, HYPS, strict=True):
        aligned = align(ref, hyp, "word")
        assert [[part[k] for part in aligned if part[k]] for k in (1, 2)] == [
            ref.split(),
            hyp.split(),
        ]
        assert sum(kind != "equal" for kind, *_ in aligned) == (word_errors([ref], [hyp]).errors)
        assert ["".join(part[k] for part in align(ref, hyp, "character")) for k in (1, 2)] == [
            ref,
            hyp,
        ]


def test_reliability_in_bins_of_equal_mass():
    """Four answers in two bins; equal confidences stay together, whatever their order."""
    found = reliability([0.9, 0.6, 0.95, 0.7], [True, False, False, True], bins=2, equal_mass=True)
    assert [(b["low"], b["high"], b["n"], b["accuracy"]) for b in found["bins"]] == [
        (0.6, 0.7, 2, 0.5),
        (0.9, 0.95, 2, 0.5),
    ]
    assert found["ece"] == pytest.approx(0.5 * 0.15 + 0.5 * 0.425)
    tied = [
        reliability([1.0] * 6 + [0.5] * 4, order, equal_mass=True)
        for order in ([True] * 10, [True, False] * 5)
    ]
    assert [[b["n"] for b in one["bins"]] for one in tied] == [[4, 6], [4, 6]]
    assert reliability([], [], equal_mass=True) == {"ece": None, "bins": []}


def test_reliability_by_hand():
    # 0.3 opens the fourth bin, 1.0 closes the last: |0.35 - 0.5| * 2/5 + |0.96 - 2/3| * 3/5
    found = reliability([0.3, 0.4 - 1e-9, 0.9, 0.98, 1.0], [True, False, True, False, True])
    assert [(b["low"], b["high"], b["n"]) for b in found["bins"]] == [(0.3, 0.4, 2), (0.9, 1.0, 3)]
    assert [b["confidence"] for b in found["bins"]] == pytest.approx([0.35, 0.96])
    assert [b["accuracy"] for b in found["bins"]] == pytest.approx([0.5, 2 / 3])
    assert found["ece"] == pytest.approx(0.06 + 0.176)
    assert reliability([1.0, 0.0], [True, False])["ece"] == 0
    assert reliability([1 + 5e-7, -5e-7], [True, False])["ece"] == 0, "rounding is no error"
    assert reliability([0.2, 0.8], [True, True], bins=1)["bins"] == [
        {"low": 0.0, "high": 1.0, "n": 2, "confidence": 0.5, "accuracy": 1.0}
    ]
    assert reliability([], []) == {"ece": None, "bins": []}


@pytest.mark.parametrize(
    ("confidences", "correct"), [([0.5], []), ([1.1], [True]), ([math.nan], [True])]
)
def test_confidences_that_are_none_are_refused(confidences, correct):
    with pytest.raises(ValueError, match="wanted one in 0..1 for each"):
        reliability(confidences, correct)


@pytest.mark.parametrize(("language", "normaliser", "ref", "hyp", "words", "characters"), BY_HAND)
def test_the_evaluate_metric_by_hand(language, normaliser, ref, hyp, words, characters):
    found = dualasr.metrics.ErrorRates(language, normaliser).compute(
        predictions=[hyp], references=[ref]
    )
    counts = characters if language == "th" else words
    assert found == {
        "wer": words.rate,
        "cer": characters.rate,
        "substitutions": counts.substitutions,
        "deletions": counts.deletions,
        "insertions": counts.insertions,
        "length": counts.length,
    }


def test_the_evaluate_metric_adds_up(tmp_path):
    import evaluate

    metric = dualasr.metrics.ErrorRates(normaliser=None)
    assert isinstance(metric, evaluate.Metric) and isinstance(
        pickle.loads(pickle.dumps(metric)), type(metric)
    )
    whole = metric.compute(predictions=HYPS, references=REFS)
    words = word_errors(REFS, HYPS)
    assert (whole["wer"], whole["cer"]) == (words.rate, character_errors(REFS, HYPS).rate)
    assert whole["substitutions"] + whole["deletions"] + whole["insertions"] == words.errors
    metric.add_batch(predictions=HYPS[:2], references=REFS[:2])
    metric.add_batch(predictions=HYPS[2:4], references=REFS[2:4])
    metric.add(prediction=HYPS[4], reference=REFS[4])
    assert metric.compute() == whole
    both = evaluate.combine(
        {name: dualasr.metrics.ErrorRates("or", name) for name in ("marks", "whisper")}
    )
    both.add_batch(predictions=["ଓଡ଼ିଆ ଭାଷି"], references=["ଓଡ଼ିଆ ଭାଷା"])
    found = both.compute()
    assert (found["marks_cer"], found["whisper_cer"]) == (0.1, 0)
    usual = dualasr.metrics.ErrorRates()
    assert usual.compute(predictions=["a é"], references=["A e."])["cer"] == pytest.approx(1 / 3)
    assert usual.description.startswith("WER and CER as an `evaluate` metric")
    assert (usual.citation, usual.inputs_description) == ("", "")
    for kept_in_memory in ({}, {"keep_in_memory": False}):
        metric = dualasr.metrics.ErrorRates(cache_dir=str(tmp_path), **kept_in_memory)
        assert metric.compute(predictions=["a b"], references=["a c"])["wer"] == 0.5
        assert any(tmp_path.iterdir()) == bool(kept_in_memory), "written only where it is asked for"
    with pytest.raises(ValueError, match="'english' is unknown"):
        dualasr.metrics.ErrorRates("en", "english")


def test_the_evaluate_metric_writes_nothing_and_is_imported_when_asked_for(tmp_path):
    code = """import sys, dualasr.metrics as metrics
print("evaluate" in sys.modules)
print(metrics.ErrorRates("ky").compute(predictions=["a b"], references=["a c"])["wer"])"""
    home = {
        key: value for key, value in os.environ.items() if not key.startswith(("HF_", "XDG_"))
    } | {"HOME": str(tmp_path)}
    out = subprocess.run(
        [sys.executable, "-c", code], env=home, capture_output=True, text=True, check=True
    ).stdout
    assert out.split() == ["False", "0.5"]
    assert not list(tmp_path.iterdir())


def test_a_name_that_is_not_there_is_refused():
    with pytest.raises(AttributeError, match="no attribute 'ErrorRate5'"):
        _ = dualasr.metrics.ErrorRate5


def test_readings_of_one_sentence_are_one_row():
    refs, hyps = ["a b", "c d e", "a b", "c d e", "f"], ["a x", "c d e", "y z", "d e", "f g"]
    assert per_sentence_errors(refs, hyps, "word").tolist() == [[3, 4], [1, 6], [1, 1]]
    assert (
        per_sentence_errors(refs, hyps, "word").sum(0).tolist()
        == per_clip_errors(refs, hyps, "word").sum(0).tolist()
    )


def test_more_readings_make_the_interval_no_narrower():
    """Errors belong to sentences: read ten times each, forty sentences say as much of a system as
    read once.
    """
    rng = np.random.default_rng(0)
    refs = [f"{k} a b c d" for k in range(40)]
    hyps = [
        " ".join(word if rng.random() > 0.5 * (k % 2) else "x" for word in ref.split())
        for k, ref in enumerate(refs)
    ]
    once, tenfold = (
        bootstrap_interval(per_sentence_errors(n * refs, n * hyps, "word")) for n in (1, 10)
    )
    assert tenfold == once
    low, high = bootstrap_interval(per_clip_errors(10 * refs, 10 * hyps, "word"))
    assert high - low < 0.5 * (once[1] - once[0])
