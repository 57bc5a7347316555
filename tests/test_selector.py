"""The selector's two rules on hand-made scores."""

from dataclasses import replace

import numpy as np
import pytest

from dualasr.errors import PackError
from dualasr.model.selector import (
    PRIMARY,
    Calibration,
    Logistic,
    PackScore,
    SelectorOptions,
    language_probs,
    rescore,
    select,
)
from dualasr.packs.format import read_selector
from dualasr.training.calibration import fit_logistic


class Transcript:
    def __init__(self, logprob, tokens):
        self.logprob, self.avg_logprob = logprob, logprob / tokens


def score(
    name="north",
    head=0.0,
    tag=0.0,
    languages=("ky",),
    best_tag=0.0,
    calibration=Calibration(),
    primary_uncertainty=0.0,
):
    return PackScore(
        name=name,
        languages=languages,
        head=head,
        calibration=calibration,
        shares=(1 / len(languages),) * len(languages),
        primary_uncertainty=primary_uncertainty,
        tag=tag,
        best_tag=best_tag,
    )


def test_a_pack_sets_file(tmp_path):
    path = tmp_path / "selector.json"
    path.write_text('{"tau": 3.5, "max_candidates": null}')
    assert read_selector(path) == SelectorOptions(tau=3.5, max_candidates=None)
    path.write_text('{"asked": 4, "between": 0.3, "head_floor": -5.0}')  # the names of older files
    new = SelectorOptions(max_candidates=4, discriminant_weight=0.3, head_threshold=-5.0)
    assert read_selector(path) == new
    for content in ('{"tua": 3}', "[1, 2", "7"):
        path.write_text(content)
        with pytest.raises(PackError, match="tau"):
            read_selector(path)


def test_no_pack_means_primary():
    assert select(-0.1, [], SelectorOptions()).route == PRIMARY


@pytest.mark.parametrize(
    "head, tag, route, final",
    [
        (5, 5, "north", True),
        (-5, -5, PRIMARY, True),
        (0.5, 0.5, "north", False),
        (-0.5, -0.5, PRIMARY, False),
        (1.5, 2, "north", False),
        (-1.5, -1, PRIMARY, True),  # beta: a pack's lead has to be the larger
    ],
)
def test_calibrated_rule(head, tag, route, final):
    decision = select(-0.01, [score(head=head, tag=tag)], SelectorOptions())
    assert (decision.route, decision.final, decision.runner_up) == (route, final, "north")


def test_a_sure_primary_keeps_its_clip():
    calibration = Calibration(tag=Logistic((1.0, 1.0, 0.5), 1.0))
    sure, unsure = (
        score(head=1.0, tag=1.0, calibration=calibration, primary_uncertainty=primary_uncertainty)
        for primary_uncertainty in (-10.0, -0.5)
    )
    assert sure.log_odds == pytest.approx(-2.0) and unsure.log_odds == pytest.approx(2.75)
    assert select(-0.0001, [sure], SelectorOptions()).route == PRIMARY
    assert select(-0.9, [unsure], SelectorOptions()).route == "north"


def test_below_the_floor_the_primary_keeps_a_clip_and_nothing_is_decoded_twice():
    options = SelectorOptions(floors={"north": 4.1, "west": 99.0})
    for head, route, final in (
        (1.0, PRIMARY, True),
        (2.0, PRIMARY, True),
        (2.1, "north", True),
        (-2.0, PRIMARY, True),
    ):
        decision = select(-0.1, [score(head=head, tag=2.0)], options)
        assert (decision.route, decision.final, decision.runner_up) == (route, final, "north")
    assert not select(-0.1, [score(head=1.0, tag=2.0)], SelectorOptions(beta=-3.0)).final, (
        "without it there is a duel"
    )
    assert (
        select(-0.1, [score(head=-9, tag=-9)], replace(options, rule="paper", tau=0.0)).route
        == "north"
    ), "not the paper's"
    assert select(-0.1, [score(head=1.0, tag=1.0)], options, primary=False).route == "north", (
        "nobody else may have it"
    )


def test_what_the_primary_takes_for_no_speech_it_keeps():
    sure = [score(head=9, tag=9)]
    for silence, route in ((0.59, "north"), (0.61, PRIMARY)):
        decision = select(-0.1, sure, SelectorOptions(), no_speech_prob=silence)
        assert (decision.route, decision.final, decision.runner_up) == (route, True, "north")
    assert select(-0.1, sure, SelectorOptions(no_speech=1.0), no_speech_prob=1.0).route == "north"
    assert select(-0.1, sure, SelectorOptions.paper(), no_speech_prob=1.0).route == "north", (
        "not the paper's"
    )
    assert (
        select(-0.1, sure, SelectorOptions(), primary=False, no_speech_prob=1.0).route == "north"
    ), "nobody else may have it"


def test_best_of_two_packs_leads():
    decision = select(-0.1, [score("north", 2, 3), score("west", 4, 4, ("ga",))], SelectorOptions())
    assert decision.route == "west" and decision.final


def test_a_pack_that_was_asked_goes_before_one_that_was_not():
    """The best head of all loses to what an upper layer says; where none was asked the heads
    decide.
    """
    heads = [replace(score("north", 9, 0), tag=None), score("west", 4, 4, ("ga",))]
    assert select(-0.1, heads, SelectorOptions()).route == "west"
    assert (
        select(-0.1, [replace(one, tag=None) for one in heads], SelectorOptions()).route == "north"
    )


def test_a_pack_whose_statistics_fit_less_well_gives_way():
    """Both claim the clip; what a pack cedes is in its odds before and after it is asked, and in
    the posterior.
    """
    rows = [replace(score("north", 4, 4), penalty=6.0), score("west", 2, 3, ("ga",))]
    assert [row.log_odds for row in rows] == [2.0, 5.0] and rows[0].head_log_odds == -2.0
    assert select(-0.1, rows, SelectorOptions()).route == "west"
    probs = language_probs({"en": 1.0}, rows)
    assert probs["ga"] / probs["ky"] == pytest.approx(np.exp(3.0))


def test_duel_moves_a_close_call():
    pack = score(
        head=0.2, tag=0.2, calibration=Calibration(second_pass=Logistic((0.5, 2.0, 3.0), 1.0))
    )
    first = select(-0.1, [pack], SelectorOptions())
    good, bad = Transcript(-2.0, 10), Transcript(-30.0, 10)
    lost, after = rescore(first, pack, good, bad, 4.0, SelectorOptions())
    assert lost.route == PRIMARY, "a lead of -7 counts as -3"
    assert after.log_odds == pytest.approx(0.5 * 0.4 + 2.0 * -3.0 + 3.0 * 0.2 + 1.0)
    won, after = rescore(first, pack, bad, good, 4.0, SelectorOptions())
    assert won.route == "north" and after.log_odds == pytest.approx(
        0.5 * 0.4 + 2.0 * 3.0 + 3.0 * 3.0 + 1.0
    )
    assert language_probs({"en": 1.0}, [after])["ky"] > 0.99, "the posterior follows the duel"


def test_papers_rule_fails_on_one_tag_packs():
    """A pack's single tag has log-probability 0 whatever it hears, so the primary never wins at the
    tag step.
    """
    paper, ours = SelectorOptions.paper(), SelectorOptions()
    english = score(head=-9, tag=-9, best_tag=0.0)  # surely not the pack's language
    unsure = select(-1.5, [english], paper)
    assert unsure.route == "north" and unsure.final, "the paper's rule gives English to the pack"
    assert select(-1.5, [english], ours).route == PRIMARY
    for confidence in (-0.01, -0.4, -3.0):
        assert select(confidence, [english], paper).route == "north"
        assert select(confidence, [english], ours).route == PRIMARY


def test_papers_rule_between_many_tags():
    options = SelectorOptions.paper()
    assert select(-0.1, [score(best_tag=-1.0, languages=("ky", "ga"))], options).route == PRIMARY
    assert select(-1.0, [score(best_tag=-0.1, languages=("ky", "ga"))], options).route == "north"
    close = select(-0.3, [score(best_tag=-0.2, languages=("ky", "ga"))], options)
    assert not close.final
    pack = score(best_tag=-0.2, languages=("ky", "ga"))
    assert (
        rescore(close, pack, Transcript(-2.0, 10), Transcript(-4.0, 10), 3.0, options)[0].route
        == PRIMARY
    )
    # beta 0.15
    assert (
        rescore(close, pack, Transcript(-2.0, 10), Transcript(-2.5, 10), 3.0, options)[0].route
        == "north"
    )


def test_language_probs_is_a_posterior():
    probs = language_probs(
        {"en": 0.75, "es": 0.25}, [score(head=0.0, tag=0.0), score("west", 0.0, 0.0, ("ga", "gv"))]
    )
    assert sum(probs.values()) == pytest.approx(1.0)
    assert (
        probs["ky"] == pytest.approx(1 / 3)
        and probs["en"] == pytest.approx(0.25)
        and probs["ga"] == pytest.approx(1 / 6)
    )
    assert list(probs.values()) == sorted(probs.values(), reverse=True)
    blunt = language_probs({"en": 1.0}, [score(head=2.0, tag=2.0)], Logistic((0.5,), -1.0))
    assert blunt["ky"] / blunt["en"] == pytest.approx(np.exp(0.5 * 4.0 - 1.0))
    extreme = language_probs({"en": 1.0}, [score(head=800.0, tag=800.0)])
    assert extreme["ky"] == pytest.approx(1.0)


def test_a_known_scale_is_recovered():
    """Scores drawn from two unit normals at -1 and +1 have log-odds 2 x score exactly."""
    rng = np.random.default_rng(0)
    fitted = fit_logistic(rng.normal(1, 1, 4000), rng.normal(-1, 1, 4000))
    assert fitted.weights[0] == pytest.approx(2.0, rel=0.1) and fitted.offset == pytest.approx(
        0.0, abs=0.15
    )


def test_separable_scores_stay_finite_and_right():
    fitted = fit_logistic([5.0] * 10 + [4.0], [-3.0] * 10 + [-2.0])
    assert np.isfinite([*fitted.weights, fitted.offset]).all()
    assert fitted(4.0) > 1 and fitted(-2.0) < -1


def test_clips_far_from_the_border_leave_the_slope_at_it():
    """Clips that nobody doubts do not flatten the odds of those in doubt."""
    near = fit_logistic([1.0, 1.5, 2.0] * 5, [-1.0, -1.5, -2.0] * 5)
    far = fit_logistic([1.0, 1.5, 2.0] * 5 + [12.0], [-1.0, -1.5, -2.0] * 5 + [-12.0])
    assert near(1.0) > 3 and far(1.0) > 0.6 * near(1.0)


def test_the_lower_score_is_never_preferred():
    against = fit_logistic([-3.0, -4.0, -5.0], [1.0, 2.0, 3.0])
    assert against.weights[0] >= 0 and abs(against(-4.0) - against(2.0)) < 0.2
    fitted = fit_logistic([2.0, 3.0, 4.0], [-4.0, -3.0, -2.0])
    assert fitted(3.0) > 0 > fitted(-3.0)


def test_clips_that_agree_with_a_prior_leave_it_and_clips_in_doubt_move_it():
    prior = Logistic((0.6, 0.4), -2.0)
    agreeing = fit_logistic([(9.0, 3.0)] * 4, [(-4.0, -3.0)] * 4, prior)
    assert agreeing.weights == pytest.approx(
        prior.weights, abs=0.02
    ) and agreeing.offset == pytest.approx(-2.0, abs=0.1)
    near = fit_logistic([(2.0, 0.0)] * 40, [(-2.0, 0.0)] * 40, prior)
    assert prior(2.0, 0.0) < near(2.0, 0.0), (
        "clips of its own that the prior gives away pull it towards them"
    )
    assert near.weights[1] == pytest.approx(0.4, abs=0.01), (
        "a score that tells nothing keeps its weight"
    )


def test_duel_weighs_two_scores_by_what_they_tell():
    """Two features of unit spread with means +-1 and +-0.25: log-odds 2 x first + 0.5 x second."""
    rng = np.random.default_rng(0)
    fitted = fit_logistic(
        rng.normal([1, 0.25], 1, (4000, 2)), rng.normal([-1, -0.25], 1, (4000, 2))
    )
    assert fitted.weights[0] == pytest.approx(2.0, rel=0.1) and fitted.weights[1] == pytest.approx(
        0.5, rel=0.25
    )
    assert fitted.offset == pytest.approx(0.0, abs=0.15)
    useless = fit_logistic([(3.0, 1.0), (2.0, -5.0)], [(-3.0, 1.0), (-2.0, -5.0)])
    assert useless(2.5, -2.0) > 0 > useless(-2.5, -2.0) and useless.weights[1] < 0.2
