"""The promises of the dual pipeline, on a two-layer random Whisper."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from transformers import WhisperForConditionalGeneration

from dualasr.errors import PackError
from dualasr.model.dual_whisper import DecodeOptions, DualWhisper
from dualasr.model.fallback import Fallback
from dualasr.model.language_id import MIN_UNCERTAINTY, NO_TEXT, encode, text_scores
from dualasr.model.language_statistics import fit_statistics
from dualasr.model.ngrams import CharacterModel
from dualasr.model.pack import Pack, PackInfo
from dualasr.model.secondary import best_candidate, slice_trunk
from dualasr.model.selector import Calibration, Logistic, SelectorOptions


def test_encode_from_fork_equals_full_encode(backbone, clips):
    mel = backbone.features(clips)
    plain = backbone.encoder(mel).last_hidden_state
    for fork in range(backbone.layers + 1):
        assert torch.equal(backbone.upper(backbone.trunk(mel, fork), fork), plain)


@pytest.mark.parametrize("fork", [0, 1])
def test_secondary_with_zero_b_equals_base_unsliced(backbone, clips, make_secondary, fork):
    trunk = backbone.trunk(backbone.features(clips), fork)
    secondary = make_secondary(backbone, fork=fork, zero_b=True)
    assert torch.equal(secondary.encode(trunk), backbone.upper(trunk, fork))
    moved = make_secondary(backbone, fork=fork).encode(trunk)
    assert not torch.allclose(moved, backbone.upper(trunk, fork), atol=1e-3)


def test_secondary_shares_the_base_tensors(backbone, make_secondary):
    base = {tensor.data_ptr() for tensor in backbone.model.parameters()}
    secondary = make_secondary(backbone, fork=1)
    own = {tensor.data_ptr() for _, tensor in secondary.own_tensors()}
    everything = {tensor.data_ptr() for tensor in secondary.parameters()}
    assert not own & base
    assert everything - own <= base
    assert len(everything - own) == 16 - 1  # one Whisper encoder layer: k_proj has no bias


def test_batch_of_n_equals_n_of_one(make_model, clips):
    model = make_model(("north", "ky"))
    together = model.encode_audio(clips)
    for i, clip in enumerate(clips):
        alone = model.encode_audio([clip])
        assert torch.allclose(alone.encoded[0], together.encoded[i], atol=1e-5)
        trunk, lengths = slice_trunk(alone.trunks[1], [alone.frames[0]])
        encoded = model.packs["north"].secondary.encode(trunk, lengths)
        many, many_lengths = slice_trunk(together.trunks[1], list(together.frames))
        batch = model.packs["north"].secondary.encode(many, many_lengths)
        assert int(many_lengths[i]) == int(lengths[0])
        assert torch.allclose(encoded[0], batch[i, : int(lengths[0])], atol=1e-5)
    for options in (DecodeOptions(), DecodeOptions(beam=3, ctc_weight=0.3)):
        batch = model.transcribe_windows(clips, route="north", options=options)
        single = [
            model.transcribe_windows([clip], route="north", options=options)[0] for clip in clips
        ]
        assert [r.tokens for r in batch] == [r.tokens for r in single]


def test_more_beams_than_are_followed_at_once_are_decoded_part_by_part(
    make_model, clips, monkeypatch
):
    heard, options = make_model(("north", "ky")).encode_audio(clips), DecodeOptions(beam=2)
    model, rows = make_model(("north", "ky")), []
    whole, languages = model.decode(heard, "primary", options=options)
    generate = model.backbone.model.generate

    def count(**asked):
        rows.append(len(asked["encoder_outputs"].last_hidden_state) * asked["num_beams"])
        return generate(**asked)

    monkeypatch.setattr(model.backbone.model, "generate", count)
    monkeypatch.setattr("dualasr.model.whisper.MOST_BEAMS", 5)
    parts, same = model.decode(heard, "primary", options=options)
    assert max(rows) <= 5 and sum(rows) == 2 * len(clips)
    assert [h.tokens for h in parts] == [h.tokens for h in whole] and same == languages


def test_candidates_scored_once_serve_every_ctc_weight(make_model, clips):
    model = make_model(("north", "ky"))
    heard = model.encode_audio(clips)
    candidates, chosen = model.candidates(heard, "north", beam=3), set()
    for weight in (0.0, 0.3, 0.7, 1.0):
        found, _ = model.decode(heard, "north", options=DecodeOptions(beam=3, ctc_weight=weight))
        best = [best_candidate(clip, weight) for clip in candidates]
        assert [h.tokens for h in found] == [c.hypothesis.tokens for c in best]
        assert all(
            abs(h.logprob - c.ctc) < 1e-3 for h, c in zip(found, best, strict=True) if weight
        )
        chosen.add(tuple(h.tokens for h in found))
    assert len(chosen) > 1, "on a random model the two scores disagree"


def test_primary_is_plain_transformers(make_model, tiny_folder, clips):
    plain = WhisperForConditionalGeneration.from_pretrained(tiny_folder).eval()
    model = make_model(("north", "ky"), ("west", "ga"))
    before = {name: tensor.clone() for name, tensor in model.backbone.model.state_dict().items()}
    bare = model.without_pack("north").without_pack("west")
    for sounds in [*([clip] for clip in clips), clips]:
        expected = plain.generate(model.backbone.features(sounds)).tolist()
        for chosen in (bare, model.without_pack("west"), model):
            results = chosen.transcribe_windows(sounds, route="primary")
            for row, result in zip(expected, results, strict=True):
                end = plain.generation_config.eos_token_id
                assert list(result.tokens) == (row[: row.index(end)] if end in row else row)
    after = model.backbone.model.state_dict()
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_adding_or_removing_a_pack_changes_no_transcript_of_another(make_model, clips):
    one, two = make_model(("north", "ky")), make_model(("north", "ky"), ("west", "ga"))
    for route in ("primary", "north"):
        a = one.transcribe_windows(clips, route=route)
        b = two.transcribe_windows(clips, route=route)
        c = two.without_pack("west").transcribe_windows(clips, route=route)
        assert [r.tokens for r in a] == [r.tokens for r in b] == [r.tokens for r in c]


def test_the_primarys_doubt_is_the_share_of_its_other_languages(make_model, clips):
    model = make_model(("north", "ky"), ("west", "ga"))
    heard = model.encode_audio(clips)
    others = heard.language_log_probs.exp().sort(-1).values[:, :-1].sum(-1)
    for row, share in zip(model.score_packs(heard)[0], others.tolist(), strict=True):
        assert [score.primary_uncertainty for score in row] == pytest.approx(
            [math.log(share)] * 2, abs=1e-4
        )
    sure = torch.full_like(heard.language_log_probs, -50.0)
    sure[:, 0] = 0.0
    assert {
        score.primary_uncertainty
        for row in model.score_packs(replace(heard, language_log_probs=sure))[0]
        for score in row
    } == {MIN_UNCERTAINTY}


def test_language_probs_sum_to_one(make_model, clips):
    model = make_model(("north", "ky"), ("west", "ga"))
    for result in model.transcribe_windows(clips):
        assert np.isclose(sum(result.language_probs.values()), 1.0)
        assert {"ky", "ga", *model.backbone.languages} == set(result.language_probs)
        assert result.route in ("primary", "north", "west")
        assert result.reason


def test_a_second_pass_weighs_the_packs_lead_over_the_primary(make_model, clips):
    """By hand: 0.5 x first + lead per second - 2 x mean log-probability of the primary + 0.25."""
    model = make_model(("north", "ky"), ("west", "ga"))
    calibration = Calibration(second_pass=Logistic((0.5, 1.0, 2.0), 0.25))
    packs = {
        name: replace(pack, info=replace(pack.info, calibration=calibration))
        for name, pack in model.packs.items()
    }
    model = replace(model, packs=packs, selector=SelectorOptions(tau=1e9, beta=-0.75))
    heard = model.encode_audio(clips)
    first, _ = model.decode(heard, "primary")
    said = {name: model.decode(heard, name)[0] for name in packs}
    scores, leads = model.score_packs(heard)[0], []
    for i, result in enumerate(model.transcribe_encoded(heard)):
        name = result.runner_up
        [before] = [score.log_odds for score in scores[i] if score.name == name]
        lead = (said[name][i].logprob - first[i].logprob) / (len(clips[i]) / 16_000)
        leads.append(lead)
        doubt = -first[i].logprob / (len(first[i].tokens) + 1)
        odds = 0.5 * before + max(-3.0, min(3.0, lead)) + 2.0 * doubt + 0.25
        assert result.scores[name]["log_odds"] == pytest.approx(odds, abs=1e-3)
        assert result.route == (name if odds - 0.75 > 0 else "primary")
        chosen = first[i] if result.route == "primary" else said[name][i]
        assert result.tokens == chosen.tokens and set(result.hypotheses) == {"primary", name}
        for route, hypothesis in (("primary", first[i]), (name, said[name][i])):
            raw = result.scores[route]
            assert raw["avg_logprob"] == pytest.approx(hypothesis.avg_logprob, abs=1e-4)
            rate = hypothesis.logprob / (len(clips[i]) / 16_000)
            assert raw["logprob_per_second"] == pytest.approx(rate, abs=1e-3)
    assert all(abs(lead) > 1e-3 for lead in leads)


def test_packs_give_way_to_the_one_whose_statistics_fit(make_model, clips):
    """Of three packs two bring statistics: the first's are of these clips, the second's of
    something else.
    """
    model = make_model(("north", "ky"), ("west", "ga"), ("south", "or"))
    heard = model.encode_audio(clips)
    mine, rng = heard.pooled_features.numpy(), np.random.default_rng(0)
    assert mine.shape == (len(clips), 3 * model.backbone.width)
    rows = {"north": mine, "west": mine + rng.standard_normal(mine.shape[1])}
    told = {
        name: (
            replace(pack, statistics=fit_statistics(rows[name], np.zeros(len(mine), int), 1))
            if name in rows
            else pack
        )
        for name, pack in model.packs.items()
    }
    alone = model.score_packs(heard)[0]
    for row, before in zip(replace(model, packs=told).score_packs(heard)[0], alone, strict=True):
        assert row[0].penalty == row[2].penalty == 0.0 < row[1].penalty
        assert row[1].head_log_odds == pytest.approx(before[1].head_log_odds - row[1].penalty)
    assert not any(score.penalty for row in alone for score in row)
    narrow = model.encode_audio(clips[:1])
    assert torch.allclose(narrow.pooled_features, heard.pooled_features[:1], atol=1e-4), (
        "a clip's impression is its own"
    )


def test_only_candidate_languages_are_heard(make_model, clips):
    """Of the primary and of packs; what a pack says of a clip does not depend on what else may be
    heard.
    """
    model = make_model(("north", "ky"), ("west", "ga"))
    heard = model.encode_audio(clips)
    one, two, *_ = model.backbone.languages
    few = model.among([two, "ky"])
    assert set(few.packs) == {"north"} and model.among([one]).packs == {}
    for result in few.transcribe_encoded(heard):
        assert set(result.language_probs) == {two, "ky"} and sum(
            result.language_probs.values()
        ) == pytest.approx(1.0)
        assert result.language in (two, "ky")
    assert few.decode(heard, "primary")[1] == [two] * len(clips)
    pack_scores, alone = few.score_packs(heard)[0], model.without_pack("west").score_packs(heard)[0]
    assert pack_scores == alone, "the primary's doubt is of all its languages"
    packs = model.among(["ky", "ga"])
    for result in packs.transcribe_encoded(heard):
        assert result.route in ("north", "west") and set(result.language_probs) == {"ky", "ga"}
        assert sum(result.language_probs.values()) == pytest.approx(1.0)
    with pytest.raises(PackError, match="'xx'.*nearest: "):
        model.among(["ky", "xx"])


def test_candidates_within_a_pack_of_several_languages(backbone, make_secondary, clips):
    secondary = make_secondary(backbone, ("ky", "ga", "or")).requires_grad_(False)
    pack = Pack(PackInfo("group", {"ky": "Kyrgyz", "ga": "Irish", "or": "Odia"}), secondary)
    model = DualWhisper(backbone).with_pack(pack).among(["ga", "or"])
    heard = model.encode_audio(clips)
    assert set(model.decode(heard, "group")[1]) <= {"ga", "or"}
    full = DualWhisper(backbone).with_pack(pack)
    trunk, lengths = slice_trunk(heard.trunks[secondary.options.fork], list(heard.frames))
    logits = secondary.language_logits(trunk, lengths)
    for row, whole, score in zip(
        model.score_packs(heard, tags=False)[0],
        logits,
        full.score_packs(heard, tags=False)[0],
        strict=True,
    ):
        assert row[0].languages == ("ga", "or") and score[0].languages == ("ky", "ga", "or")
        assert row[0].head == pytest.approx(float(whole[2:].logsumexp(0) - whole[0]), abs=1e-5)
        assert row[0].shares == pytest.approx(whole[2:].softmax(0).tolist(), abs=1e-5)


@pytest.mark.parametrize(
    "selector",
    [
        SelectorOptions(tau=0.0),
        SelectorOptions(tau=0.0, beta=-2.0),
        SelectorOptions(tau=0.0, floors={"north": 99.0}),
        SelectorOptions(tau=0.0, no_speech=-1.0),
    ],
)
def test_what_is_detected_goes_where_it_would_be_transcribed(make_model, clips, selector):
    """Where one look settles it; the language is the likeliest of those that the route knows."""
    model = replace(make_model(("north", "ky"), ("west", "ga")), selector=selector)
    heard = model.encode_audio(clips)
    for found, said in zip(model.detect(heard), model.transcribe_encoded(heard), strict=True):
        assert (found.route, found.language_probs, found.reason) == (
            said.route,
            said.language_probs,
            said.reason,
        )
        assert found.language == said.language and not found.text
        mine = {"north": {"ky"}, "west": {"ga"}}.get(found.route, set(model.backbone.languages))
        assert found.language == max(mine, key=found.language_probs.get)


@pytest.mark.parametrize("no_speech", [-1.0, 2.0])
def test_a_language_of_two_pipelines_is_detected_by_the_one_that_has_the_window(
    make_model, clips, no_speech
):
    model = replace(
        make_model(("north", "de")),
        selector=SelectorOptions(tau=0.0, beta=99.0, no_speech=no_speech),
    )
    for one in (model, model.among(["de"])):
        heard = one.encode_audio(clips[:2])
        for found, said in zip(one.detect(heard), one.transcribe_encoded(heard), strict=True):
            assert (found.route, found.language) == (said.route, said.language)


@pytest.mark.parametrize("most, run", [(1, 1), (2, 2), (None, 3)])
def test_how_many_packs_run_their_upper_layers(make_model, clips, most, run):
    """Of three packs, all of whose heads are above the floor, those with the best heads."""
    model = make_model(("north", "ky"), ("west", "ga"), ("south", "or"))
    model = replace(model, selector=SelectorOptions(max_candidates=most, head_threshold=-1e9))
    rows, encodings = model.score_packs(model.encode_audio(clips[:2]))
    for i, row in enumerate(rows):
        heads = {score.name: score.calibration.head(score.head) for score in row}
        told = {score.name for score in row if score.tag is not None}
        assert told == set(sorted(heads, key=heads.get)[-run:])
        assert told == {name for name, encoding in encodings.items() if i in encoding.rows}


def test_a_pack_runs_its_upper_layers_above_the_threshold_alone(make_model, clips):
    """Its calibrated head score minus its penalty; at the threshold itself it does not."""
    model = make_model(("north", "ky"))
    calibration = Calibration(head=Logistic((2.0,), 0.5))
    pack = model.packs["north"]
    pack = replace(pack, info=replace(pack.info, calibration=calibration))
    model, heard = replace(model, packs={"north": pack}), model.encode_audio(clips)
    heads = [row[0].head_log_odds for row in model.score_packs(heard, tags=False)[0]]
    assert heads == pytest.approx(
        [2.0 * row[0].head + 0.5 for row in model.score_packs(heard, tags=False)[0]]
    )
    for threshold in (*heads, min(heads) - 1e-6):
        asked = replace(model, selector=SelectorOptions(head_threshold=threshold))
        told = [row[0].tag is not None for row in asked.score_packs(heard)[0]]
        assert told == [head > threshold for head in heads]
        paper = replace(SelectorOptions.paper(), head_threshold=threshold)
        rows = replace(model, selector=paper).score_packs(heard)[0]
        assert all(row[0].tag is not None for row in rows), "the paper asks every pack"


def test_the_tag_step_of_a_group_by_hand(backbone, make_secondary, clips):
    """Its tags together against `<|other|>`, each one's share among them, and the best of them."""
    secondary = make_secondary(backbone, ("ky", "ga")).requires_grad_(False)
    pack = Pack(PackInfo("group", {"ky": "Kyrgyz", "ga": "Irish"}), secondary)
    model = DualWhisper(backbone, selector=SelectorOptions(head_threshold=-1e9)).with_pack(pack)
    heard = model.encode_audio(clips)
    trunk, lengths = slice_trunk(heard.trunks[secondary.options.fork], list(heard.frames))
    steps = secondary.tag_step(secondary.encode(trunk, lengths), lengths)
    for (score,), (other, ky, ga) in zip(
        model.score_packs(heard)[0], steps.exp().tolist(), strict=True
    ):
        assert score.tag == pytest.approx(math.log((ky + ga) / other), abs=1e-3)
        assert score.shares == pytest.approx((ky / (ky + ga), ga / (ky + ga)), abs=1e-4)
        assert score.best_tag == pytest.approx(math.log(max(ky, ga) / (ky + ga)), abs=1e-3)


def test_of_packs_with_equal_heads_no_more_are_asked_than_may_be(make_secondary, backbone, clips):
    model = DualWhisper(backbone, selector=SelectorOptions(max_candidates=2, head_threshold=-1e9))
    for name, language in (("north", "ky"), ("west", "ga"), ("south", "or")):
        twin = make_secondary(backbone, (language,), seed=0).requires_grad_(False)
        model = model.with_pack(Pack(PackInfo(name, {language: language}), twin))
    rows, _ = model.score_packs(model.encode_audio(clips[:2]))
    for row in rows:
        assert len({score.head for score in row}) == 1
        assert [score.name for score in row if score.tag is not None] == ["north", "west"]


class Stop(Exception):
    """What an interrupted piece of work raises here."""


@pytest.mark.parametrize(
    "route, options",
    [
        ("primary", DecodeOptions()),
        ("primary", DecodeOptions(beam=3)),
        ("primary", DecodeOptions(fallback=Fallback((0.5,)))),
        ("north", DecodeOptions(beam=2)),
    ],
)
def test_work_that_is_interrupted_at_any_step_leaves_nothing_behind(
    make_model, clips, route, options
):
    model = make_model(("north", "ky"))
    audio = model.encode_audio(clips[:2])
    random = torch.get_rng_state()
    steps = 0

    def count() -> None:
        nonlocal steps
        steps += 1

    wanted = model.decode(audio, route, None, options, count)
    assert steps > 3
    for last in {1, 2, steps // 2, steps}:
        left = last

        def stop() -> None:
            nonlocal left
            left -= 1
            if not left:
                raise Stop

        with pytest.raises(Stop):
            model.decode(audio, route, None, options, stop)
        assert torch.equal(torch.get_rng_state(), random)
    assert model.decode(audio, route, None, options) == wanted


def test_every_layer_of_an_encoder_is_a_step(make_model, clips):
    model = make_model(("north", "ky"))
    steps = []
    audio = model.encode_audio(clips, lambda: steps.append(1))
    assert len(steps) == model.backbone.layers
    steps.clear()
    model.route(audio, route="north", on_step=lambda: steps.append(1))
    assert not steps  # nothing runs but the language head
    model.score_packs(audio, on_step=lambda: steps.append(1))
    assert len(steps) == len(model.packs["north"].secondary.layers)


def test_a_reason_tells_whether_packs_are_left_out_or_missing(make_model, clips):
    model = make_model(("north", "ky"))
    reasons = {
        name: of.route(of.encode_audio(clips[:1])).decisions[0].reason
        for name, of in (
            ("missing", model.without_pack("north")),
            ("left out", model.among(["en"])),
        )
    }
    assert reasons == {
        "missing": "no pack is loaded",
        "left out": "no pack knows an allowed language",
    }


def test_the_scores_of_what_a_ctc_head_writes(make_model, clips):
    """Of the frames that write a character the mean entropy; of the text the gain by n-grams."""
    model = make_model(("north", "ky"))
    secondary = model.pack("north").secondary
    heard = model.encode_audio(clips)
    texts = [secondary.tokenizer.encode_characters(text) for text in ("тоо суу", "кар")]
    ngrams = CharacterModel.fit(texts, 1 + len(secondary.tokenizer.characters))
    pack = replace(model.pack("north"), ngrams=ngrams)
    encoding = encode(pack, heard)
    frames = secondary.ctc_log_probs(encoding.encoded).exp().numpy()
    written = 0
    found = text_scores(pack, encoding)
    for row, length, (confidence, phonotactics) in zip(
        frames, encoding.lengths.tolist(), found, strict=True
    ):
        path = row[:length].argmax(-1)
        text = [int(u) for u, before in zip(path, [0, *path], strict=False) if u and u != before]
        if not text:
            assert (confidence, phonotactics) == (NO_TEXT, NO_TEXT)
            continue
        written += 1
        inside = row[:length][path > 0]
        assert confidence == pytest.approx((inside * np.log(inside)).sum(-1).mean(), rel=1e-4)
        gain = ngrams.score(text)[:-1].sum() - ngrams.score(text, 1)[:-1].sum()
        assert phonotactics == pytest.approx(gain / len(text) ** 0.5)
    assert written
    without = text_scores(model.pack("north"), encoding)
    assert [row[0] for row in without] == [row[0] for row in found]
    assert {row[1] for row in without} <= {0.0, NO_TEXT}
    # a head that is sure of the blank writes nothing
    with torch.no_grad():
        secondary.ctc_head.bias[0] += 1000
    assert set(text_scores(pack, encoding)) == {(NO_TEXT, NO_TEXT)}
    # the scores reach the selector
    [first, *_] = model.score_packs(heard)[0]
    assert (first[0].confidence, first[0].phonotactics) == (NO_TEXT, NO_TEXT)
