"""The selector's two rules on hand-made scores."""

import json
from dataclasses import replace

import numpy as np
import pytest

from dualasr.errors import PackError
from dualasr.model.selector import (
    PRIMARY,
    Calibration,
    Decision,
    Logistic,
    PackScore,
    SelectorOptions,
    language_probs,
    rescore,
    second_pass_scores,
    select,
)
from dualasr.packs.format import read_selector, write_selector
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
    path.write_text('{"beta": -1.5, "tau": 2}')
    assert read_selector(path) == SelectorOptions(beta=-1.5, tau=2)
    path.write_text('{"asked": 4, "between": 0.3, "head_floor": -5.0}')  # the names of older files
    new = SelectorOptions(max_candidates=4, discriminant_weight=0.3, head_threshold=-5.0)
    assert read_selector(path) == new
    for content in ('{"tua": 3}', "[1, 2", "7"):
        path.write_text(content)
        with pytest.raises(PackError, match="tau"):
            read_selector(path)


def test_a_set_file_grew_and_older_ones_still_read(tmp_path):
    path = tmp_path / "sets" / "set.json"
    grown = SelectorOptions(
        rule="paper",
        tau=1.5,
        beta=-0.5,
        discriminant_weight=0.25,
        head_threshold=-2.0,
        max_candidates=3,
        no_speech=0.7,
        floors={"ky": 2.5},
        posterior=Logistic((0.8,), -0.3),
        packs=("ga", "ky"),
    )
    write_selector(path, grown, {"command": "иш"})
    assert read_selector(path) == grown
    assert json.loads(path.read_text("utf-8")) == {
        "rule": "paper",
        "tau": 1.5,
        "beta": -0.5,
        "discriminant_weight": 0.25,
        "head_threshold": -2.0,
        "max_candidates": 3,
        "no_speech": 0.7,
        "floors": {"ky": 2.5},
        "posterior": {"weights": [0.8], "offset": -0.3},
        "packs": ["ga", "ky"],
        "fitted": {"command": "иш"},
    }
    for content in (
        '{"posterior": 3}',
        '{"posterior": {"weights": [1]}}',
        '{"packs": 3}',
        '{"floors": 1}',
        '{"floors": {"ky": "x"}}',
    ):
        path.write_text(content)
        with pytest.raises(PackError, match="no selector file"):
            read_selector(path)
    path.unlink()
    with pytest.raises(PackError, match="no selector file"):
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


def test_a_lead_is_in_log_probability_per_second_and_limited():
    """Leads of 2, 4 and 12 over 4 s, each way; the primary's 10 tokens have 0.2 each."""
    primary = Transcript(-2.0, 10)
    for logprob, seconds, lead in (
        (-1.0, 4.0, 0.25),
        (2.0, 4.0, 1.0),
        (9.0, 4.0, 2.75),
        (10.0, 4.0, 3.0),
        (10.4, 4.0, 3.0),
        (-14.0, 4.0, -3.0),
        (-13.0, 4.0, -2.75),
        (-1.0, 1.0, 1.0),
        (-1.0, 0.5, 2.0),
        (-1.8, 0.1, 2.0),
        (-1.8, 0.01, 2.0),  # 0.1 s at least
        (-1.8, 0.0, 2.0),
    ):
        found = second_pass_scores(primary, Transcript(logprob, 3), seconds)
        assert found == pytest.approx((lead, 0.2)), (logprob, seconds)


def test_the_second_pass_of_a_pack_with_the_default_calibration():
    """0.64 x first + 0.37 x lead + 6.8 x surprise - 2.85, then beta."""
    pack = score(head=0.5, tag=1.0)
    first = select(-0.1, [pack], SelectorOptions())
    assert not first.final
    said, better = Transcript(-6.0, 20), Transcript(-2.0, 5)
    final, after = rescore(first, pack, said, better, 2.0, SelectorOptions())
    assert after.rescored == pytest.approx(0.64 * 1.5 + 0.37 * 2.0 + 6.8 * 0.3 - 2.85)
    assert final == Decision(
        "north",
        True,
        "north: log-odds +0.80, within tau 3.0; log-odds +0.19 after both were decoded (+2.0"
        " log-probability a second)",
        "north",
    )
    assert after == replace(pack, rescored=after.rescored)


@pytest.mark.parametrize("margin", [-1e-6, 0.0, 1e-6])
def test_borders_of_the_second_pass(margin):
    """A pack has to lead: at 0 the primary takes the window, by both rules."""
    for options in (SelectorOptions(beta=-0.5), SelectorOptions(rule="paper", beta=-0.5)):
        plain = Calibration(second_pass=Logistic((1.0, 0.0, 0.0)))
        pack = score(head=0.5 + margin, tag=0.0, calibration=plain)
        transcripts = Transcript(-1.0, 1), Transcript(-0.5 + margin, 1)
        final, _ = rescore(Decision(PRIMARY, False, ""), pack, *transcripts, 1.0, options)
        assert (final.route, final.final) == ("north" if margin > 0 else PRIMARY, True)


def test_the_papers_second_pass_keeps_the_scores():
    """It compares means of tokens, and the longer transcript is no worse for its length."""
    pack, first = score(best_tag=-0.2), Decision(PRIMARY, False, "first")
    paper = SelectorOptions.paper()
    final, after = rescore(first, pack, Transcript(-2.0, 4), Transcript(-4.0, 8), 1.0, paper)
    assert after == pack and after.rescored is None
    assert final == Decision(
        "north", True, "first; average log-probability leads by +0.15", "north"
    )


@pytest.mark.parametrize("rule", ["calibrated", "paper"])
@pytest.mark.parametrize("sign", [1, -1])
def test_borders_of_tau_and_of_zero(rule, sign):
    """A lead of exactly tau is final, and of exactly 0 it is the primary's."""
    options = SelectorOptions(rule=rule, tau=2.0, beta=0.5 if rule == "calibrated" else 99.0)

    def decide(lead):
        if rule == "paper":
            return select(-4.0, [score(best_tag=lead - 4.0)], options)
        return select(-0.1, [score(head=lead - 0.5, tag=0.0)], options)

    assert decide(2.0 * sign).final and decide(2.125 * sign).final
    assert not decide(1.875 * sign).final
    assert decide(0.125 * sign).route == ("north" if sign > 0 else PRIMARY)
    assert decide(0.0).route == PRIMARY and not decide(0.0).final
    never = replace(options, tau=0.0)
    assert select(-0.1, [score(head=0.25, tag=0.0, best_tag=0.0)], never).final, "tau 0: no duel"


def test_borders_of_no_speech_and_of_a_floor():
    """At the limit itself the pack may still take the window."""
    sure = [score(head=4.0, tag=4.0)]
    assert select(-0.1, sure, SelectorOptions(no_speech=0.5), no_speech_prob=0.5).route == "north"
    for log_odds, route in ((8.0, "north"), (8.125, PRIMARY)):
        options = SelectorOptions(floors={"north": log_odds}, beta=0.0)
        decision = select(-0.1, sure, options)
        assert (decision.route, decision.final, decision.runner_up) == (route, True, "north")


def test_reasons():
    """What the page and the reports show."""
    sure, options = [score(head=4.0, tag=4.0)], SelectorOptions()
    assert select(-0.1, [], options) == Decision(PRIMARY, True, "no pack is loaded")
    assert select(-0.1, [], options, restricted=True) == Decision(
        PRIMARY, True, "no pack knows an allowed language"
    )
    assert select(-0.1, sure, options) == Decision(
        "north", True, "north: log-odds +7.30, beyond tau 3.0", "north"
    )
    assert select(-0.1, sure, options, primary=False) == Decision(
        "north", True, "no language of the primary is allowed", "north"
    )
    assert select(-0.1, sure, options, no_speech_prob=0.75).reason == (
        "no speech: probability 0.75, limit 0.60"
    )
    assert select(-0.1, sure, SelectorOptions(floors={"north": 9.0})).reason == (
        "north: log-odds +8.00, floor +9.00"
    )
    close = select(-0.5, [score(best_tag=-0.25)], SelectorOptions.paper())
    assert close.reason == "north: best tag -0.25 against the primary's -0.50, within tau 0.5"


def test_the_paper_takes_the_best_tag_of_several_packs():
    rows = [score("north", 9, 9, best_tag=-3.0), score("west", -9, -9, best_tag=-1.0)]
    assert select(-2.0, rows, SelectorOptions.paper()).route == "west"
    assert select(-2.0, rows[::-1], SelectorOptions.paper()).route == "west"


def test_the_settings_that_docs_and_packs_rely_on():
    """The defaults of docs/selector.md, and what a pack without a calibration does."""
    assert PRIMARY == "primary", "reports and packs hold it"
    assert SelectorOptions() == SelectorOptions(
        rule="calibrated",
        tau=3.0,
        beta=-0.7,
        discriminant_weight=0.2,
        head_threshold=-4.0,
        max_candidates=2,
        no_speech=0.6,
        floors={},
        posterior=Logistic((1.0,), 0.0),
        packs=(),
    )
    paper = SelectorOptions.paper()
    assert (paper.rule, paper.tau, paper.beta, paper.max_candidates) == ("paper", 0.5, 0.15, None)
    assert Calibration() == Calibration(
        head=Logistic((1.0,), 0.0),
        tag=Logistic((1.0, 1.0, 0.0), 0.0),
        second_pass=Logistic((0.64, 0.37, 6.8), -2.85),
        text=Logistic((0.0, 0.0), 0.0),
        floor=None,
        negatives=False,
    )
    bare = PackScore(
        name="north", languages=("ky",), head=2.0, calibration=Calibration(), shares=(1.0,)
    )
    assert bare.log_odds == bare.head_log_odds == 2.0 and bare.tag is None
    assert (bare.primary_uncertainty, bare.best_tag, bare.penalty) == (0.0, 0.0, 0.0)
    assert Decision("north", True, "").runner_up is None
    asked = replace(bare, tag=1.0, primary_uncertainty=-5.0, penalty=0.5)
    assert asked.log_odds == 2.5, "the primary's doubt has no weight by default"
    written = replace(asked, confidence=-0.5, phonotactics=3.0)
    assert written.log_odds == 2.5, "nor has the text"
    weighed = replace(written, calibration=Calibration(text=Logistic((2.0, 0.25), 0.125)))
    assert weighed.log_odds == 2.5 - 1.0 + 0.75 + 0.125
    assert replace(weighed, tag=None).log_odds == 1.5, "without a tag step there is no text"
    assert replace(asked, rescored=-1.0).log_odds == -1.0, "the penalty is in it already"
    with pytest.raises(ValueError):
        Logistic((1.0, 2.0))(1.0)


def test_language_probs_without_the_primary_and_of_a_shared_language():
    """A language of two pipelines has the odds of both; without the primary, packs have it all."""
    rows = [score("north", np.log(2), 0.0, ("de",)), score("west", 0.0, 0.0, ("ga", "gv"))]
    probs = language_probs({"en": 0.75, "de": 0.25}, rows)
    assert probs == pytest.approx({"de": 2.25 / 4, "en": 0.75 / 4, "ga": 0.5 / 4, "gv": 0.5 / 4})
    assert list(probs)[0] == "de"
    alone = language_probs({}, rows)
    assert alone == pytest.approx({"de": 2 / 3, "ga": 1 / 6, "gv": 1 / 6})
    shares = replace(rows[1], shares=(0.9, 0.1))
    assert language_probs({}, [shares]) == pytest.approx({"ga": 0.9, "gv": 0.1})


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
