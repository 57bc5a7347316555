"""The arithmetic of a pack's pipeline, by hand: lengths, masks, pooling, scores, losses, limits."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from dualasr.model import secondary as module
from dualasr.model.las_decoder import LASDecoder, LASOptions
from dualasr.model.search import Hypothesis
from dualasr.model.secondary import (
    Candidate,
    SearchOptions,
    Secondary,
    SecondaryOptions,
    adapt_layers,
    best_candidate,
    length_mask,
    pool,
    slice_trunk,
)


def test_the_numbers_that_packs_on_disk_depend_on():
    assert module.MARGIN == 8 and module.MOST_TOKENS == 440
    assert module.DECODERS == ("las", "whisper", "ctc")
    assert module.LORA_TARGETS == ("q_proj", "k_proj", "v_proj", "out_proj", "fc1", "fc2")
    assert SecondaryOptions() == SecondaryOptions(16, 0.0, -1, "whisper", LASOptions())
    assert SearchOptions() == SearchOptions(beam=1, ctc_weight=0.5, units_per_second=20.0)


def test_the_shape_is_filled_in_for_a_base():
    options = SecondaryOptions(rank=4, las=LASOptions(units=8))
    assert options.resolve(6) == SecondaryOptions(4, 4.0, 3, "whisper", LASOptions(units=8))
    assert options.resolve(5).fork == 2, "the half, rounded down"
    assert replace(options, fork=0, alpha=8.0).resolve(6) == replace(options, fork=0, alpha=8.0)
    assert replace(options, fork=6).resolve(6).fork == 6
    with pytest.raises(ValueError, match="fork 7 is outside the encoder: .* layers 0 to 5"):
        replace(options, fork=7).resolve(6)
    with pytest.raises(ValueError, match="no decoder 'rnn'; there is: las, whisper, ctc"):
        replace(options, decoder="rnn").resolve(6)


def test_a_window_is_cut_to_the_longest_clip_and_its_margin():
    """Eight frames more than the clip, and no more than there are."""
    hidden = torch.arange(2 * 50 * 3.0).view(2, 50, 3)
    for frames, lengths in (
        ([10, 20], [18, 28]),
        ([20, 10], [28, 18]),
        ([41, 42], [49, 50]),
        ([43, 1], [50, 9]),
        ([50, 50], [50, 50]),
    ):
        values, found = slice_trunk(hidden, frames)
        assert found.tolist() == lengths
        assert torch.equal(values, hidden[:, : max(lengths)])
    assert slice_trunk(hidden, [10, 20], margin=0)[1].tolist() == [10, 20]


def test_frames_after_the_end_are_masked():
    mask = length_mask(torch.tensor([3, 1]), 3, torch.float32)
    assert mask.shape == (2, 1, 1, 3) and mask.dtype == torch.float32
    assert mask[:, 0, 0].tolist() == [[0, 0, 0], [0, -1e4, -1e4]]
    assert length_mask(torch.tensor([3, 3]), 3, torch.float32) is None
    assert length_mask(torch.tensor([2, 2]), 3, torch.float64).dtype == torch.float64


def test_mean_and_deviation_over_a_clips_own_frames():
    hidden = torch.tensor([[[1.0, 0.0], [3.0, 4.0], [99.0, 99.0]], [[2.0, 1.0]] * 3])
    found = pool(hidden, torch.tensor([2, 3]))
    assert found.shape == (2, 4)
    small = 1e-5**0.5  # of a feature that stands still
    deviations = [(1 + 1e-5) ** 0.5, (4 + 1e-5) ** 0.5]
    assert found[0].tolist() == pytest.approx([2.0, 2.0, *deviations])
    assert found[1].tolist() == pytest.approx([2.0, 1.0, small, small], abs=1e-5)


def candidate(attention, ctc, text):
    return Candidate(Hypothesis((1,), text, attention), ctc)


def test_the_joint_score_weighs_ctc_by_its_weight():
    """(1 - w) attention + w CTC, for two candidates that each judge the other way."""
    first, second = candidate(-1.0, -10.0, "a"), candidate(-5.0, -2.0, "b")
    by_weight = {0.0: (-1, -5), 0.3: (-3.7, -4.1), 0.7: (-7.3, -2.9), 1.0: (-10, -2)}
    for weight, scores in by_weight.items():
        assert (first.score(weight), second.score(weight)) == pytest.approx(scores)
        best = "a" if scores[0] > scores[1] else "b"
        assert best_candidate([first, second], weight).hypothesis.text == best
    assert best_candidate([second, first], 0).hypothesis.text == "b", (
        "without CTC the first is the attention decoder's best, whatever its sum"
    )
    assert best_candidate([second, first], 0.3).hypothesis.text == "a"


def test_layers_without_lora_are_the_bases_own_in_other_modules(backbone):
    layers = backbone.encoder.layers
    own = adapt_layers(layers, 0, 1.0)
    assert own is not layers and own[0] is not layers[0]
    theirs = {p.data_ptr() for p in layers.parameters()}
    assert {p.data_ptr() for p in own.parameters()} == theirs


@pytest.mark.parametrize("alpha, scale", [(0.0, 1.0), (12.0, 3.0)])
def test_lora_adds_b_times_a_scaled_by_alpha_over_rank(backbone, make_secondary, alpha, scale):
    """In each of the six projections, without dropout."""
    secondary = make_secondary(backbone, rank=4, alpha=alpha, fork=1)
    base, own = backbone.encoder.layers[1], secondary.layers[0].train()
    torch.manual_seed(0)
    for name in module.LORA_TARGETS:
        holder = "" if name in ("fc1", "fc2") else "self_attn."
        plain, adapted = (layer.get_submodule(holder + name) for layer in (base, own))
        x = torch.randn(3, plain.in_features)
        a, b = adapted.lora_A["default"].weight, adapted.lora_B["default"].weight
        assert a.shape == (4, plain.in_features) and b.shape == (plain.out_features, 4)
        with torch.no_grad():
            assert torch.allclose(adapted(x), plain(x) + scale * x @ a.T @ b.T, atol=1e-5), name


def test_what_belongs_to_the_pack(backbone, make_secondary):
    """LoRA, LayerNorm, heads and decoder; of the decoder's layers LoRA alone."""
    for kind in module.DECODERS:
        secondary = make_secondary(backbone, decoder=kind, fork=1)
        own = {name for name, _ in secondary.own_tensors()}
        heads = {
            f"{head}.{p}" for head in ("ctc_head", "language_head") for p in ("weight", "bias")
        }
        assert {"layer_norm.weight", "layer_norm.bias", *heads} <= own
        adapted = {name for name in own if ".layers." in name or name.startswith("layers.")}
        assert all(".lora_" in name for name in adapted)
        assert sum(name.startswith("layers.") for name in own) == 12
        theirs = {p.data_ptr() for p in backbone.model.parameters()}
        rest = [p for name, p in secondary.named_parameters() if name not in own]
        assert all(p.data_ptr() in theirs for p in rest)
        assert secondary.ctc_head.out_features == 1 + len(secondary.tokenizer.characters)
        assert secondary.language_head.weight.shape == (2, 2 * backbone.width)


def test_a_checksum_is_of_settings_vocabulary_and_every_tensor(backbone, make_secondary):
    secondary = make_secondary(backbone)
    seen = {secondary.checksum}
    assert make_secondary(backbone).checksum in seen
    for _, parameter in secondary.own_tensors():
        with torch.no_grad():
            parameter.view(-1)[-1] += 1
        seen.add(secondary.checksum)
    assert len(seen) == 1 + len(list(secondary.own_tensors()))
    for changes in ({"alpha": 2.0}, {"las": LASOptions(dropout=0.5)}):
        seen.add(make_secondary(backbone, **changes).checksum)
    base = make_secondary(backbone)
    characters = base.tokenizer.characters[::-1]
    base.tokenizer = replace(base.tokenizer, characters=characters)
    seen.add(base.checksum)
    assert len(seen) == 4 + len(list(secondary.own_tensors()))


@pytest.mark.parametrize("kind", ["las", "whisper"])
def test_the_loss_by_hand(backbone, make_secondary, clips, kind):
    """Sums over two clips of unlike length and a negative, over the labels of a step."""
    secondary = make_secondary(backbone, decoder=kind)
    tokenizer, fork = secondary.tokenizer, secondary.options.fork
    trunk, lengths = slice_trunk(backbone.trunk(backbone.features(clips[:3]), fork), [50, 100, 150])
    texts, tag = ["Тоодо кар жаады.", "Ат суу ичти."], tokenizer.tag("ky")
    rows = [[tag, *tokenizer.encode(text), tokenizer.end] for text in texts]
    rows.append([tokenizer.other])
    spelled = [tokenizer.encode_characters(text) for text in texts] + [[]]

    def pad(lists, value):
        tensors = [torch.tensor(one, dtype=torch.long) for one in lists]
        return torch.nn.utils.rnn.pad_sequence(tensors, True, value)

    inputs = [[tokenizer.end, *row[:-1]] for row in rows]
    batch = {
        "trunk": trunk,
        "lengths": lengths,
        "tokens": pad(inputs, 0),
        "labels": pad(rows, -100),
        "characters": pad(spelled, 0),
        "character_lengths": torch.tensor([len(row) for row in spelled]),
    }
    attention = smooth = ctc = 0.0
    with torch.no_grad():
        for i, row in enumerate(rows):
            here, count = trunk[i : i + 1, : lengths[i]], lengths[i : i + 1]
            encoded = secondary.encode(here, count)
            log_probs = secondary.decoder(encoded, count, torch.tensor([inputs[i]]))[0]
            for step, label in enumerate(row):
                attention -= float(log_probs[step, label])
                may = log_probs[step] > -100
                smooth -= float(log_probs[step][may].sum()) / log_probs.shape[1]
            if spelled[i]:
                frames = secondary.ctc_log_probs(encoded)[0]
                ctc += float(
                    F.ctc_loss(
                        frames[:, None],
                        torch.tensor([spelled[i]]),
                        torch.tensor([len(frames)]),
                        torch.tensor([len(spelled[i])]),
                        reduction="sum",
                    )
                )
        labels = sum(map(len, rows))
        for weight, items in ((1.0, None), (0.25, 7)):
            found = secondary(**batch, ctc_weight=weight, num_items_in_batch=items)
            over = labels if items is None else items
            assert float(found["attention"]) == pytest.approx(attention / over, rel=1e-4)
            assert float(found["ctc"]) == pytest.approx(ctc / over, rel=1e-4)
            whole = (attention + 0.02 * smooth + weight * ctc) / over
            assert float(found["loss"]) == pytest.approx(whole, rel=1e-4)
        nothing = secondary(**batch | {"labels": torch.full_like(batch["labels"], -100)})
        assert float(nothing["attention"].nan_to_num()) == 0


def test_a_label_that_ctc_cannot_spell_in_time_has_no_loss(backbone, make_secondary, clips):
    secondary = make_secondary(backbone)
    trunk, lengths = slice_trunk(backbone.trunk(backbone.features(clips[:1]), 1), [1])
    spelled = secondary.tokenizer.encode_characters("Тоодо кар жаады.")
    assert len(spelled) > lengths[0]
    with torch.no_grad():
        found = secondary(
            trunk,
            lengths,
            torch.tensor([[0]]),
            torch.tensor([[2]]),
            torch.tensor([spelled]),
            torch.tensor([len(spelled)]),
        )
    assert float(found["ctc"]) == 0


@pytest.mark.parametrize("kind", module.DECODERS)
def test_candidates_have_both_scores(backbone, make_secondary, clips, kind):
    """Each is the score of its own text, found by teacher forcing and by CTC's sum over paths."""
    secondary = make_secondary(backbone, decoder=kind, fork=1)
    trunk, lengths = slice_trunk(
        backbone.trunk(backbone.features(clips[:2]), 1),
        [backbone.frames(len(c)) for c in clips[:2]],
    )
    encoded, tokenizer = secondary.encode(trunk, lengths).detach(), secondary.tokenizer
    secondary.requires_grad_(False)
    found = secondary.candidates(encoded, lengths, ["ky", "ky"], SearchOptions(beam=3))
    for i, clip in enumerate(found):
        frames = secondary.ctc_log_probs(encoded)[i, : lengths[i]]
        assert len({c.hypothesis.tokens for c in clip}) == len(clip) >= 3
        for c in clip:
            spelled = tokenizer.encode_characters(c.hypothesis.text)
            known = -float(
                F.ctc_loss(
                    frames[:, None],
                    torch.tensor([spelled], dtype=torch.long).view(1, -1),
                    lengths[i : i + 1],
                    torch.tensor([len(spelled)]),
                    reduction="sum",
                )
            )
            if kind == "ctc":  # the search's own sum, over the paths that it kept
                assert c.hypothesis.logprob == c.ctc <= known + 1e-3
                continue
            assert c.ctc == pytest.approx(known, rel=1e-4, abs=1e-3)
            text = [*c.hypothesis.tokens, tokenizer.end]
            row = torch.tensor([[tokenizer.end, tokenizer.tag("ky"), *c.hypothesis.tokens]])
            with torch.no_grad():
                steps = secondary.decoder(encoded[i : i + 1, : lengths[i]], lengths[i : i + 1], row)
            forced = sum(float(steps[0, 1 + k, token]) for k, token in enumerate(text))
            assert c.hypothesis.logprob == pytest.approx(forced, rel=1e-4, abs=1e-3)
    best = secondary.decode(encoded, lengths, ["ky", "ky"], SearchOptions(3, 0.3))
    for clip, chosen in zip(found, best, strict=True):
        joint = [0.7 * c.hypothesis.logprob + 0.3 * c.ctc for c in clip]
        top = clip[int(np.argmax(joint))]
        assert chosen.text == top.hypothesis.text and chosen.logprob == pytest.approx(top.ctc)


def test_a_text_as_long_as_the_decoder_holds_is_a_candidate(
    backbone, make_secondary, clips, monkeypatch
):
    secondary = make_secondary(backbone, fork=1)
    trunk, lengths = slice_trunk(backbone.trunk(backbone.features(clips[:1]), 1), [50])
    encoded = secondary.encode(trunk, lengths)
    frames = secondary.ctc_log_probs(encoded)[0, : lengths[0]].detach()
    [(text, _)] = secondary._prefixes(frames, 1)
    tokens = tuple(secondary.tokenizer.encode(text))
    assert len(tokens) > 3
    for most, there in ((len(tokens), True), (len(tokens) - 1, False)):
        monkeypatch.setattr(module, "MOST_TOKENS", most)
        [found] = secondary.candidates(encoded, lengths, ["ky"])
        assert (tokens in {c.hypothesis.tokens for c in found}) == there


def test_the_length_limit_of_a_text(backbone, make_secondary, clips):
    """So many units a second and five more, and what the base's decoder has places for."""
    secondary = make_secondary(backbone)
    trunk = backbone.trunk(backbone.features(clips[:2]), secondary.options.fork)
    lengths = torch.tensor([50, 100])
    encoded = secondary.encode(trunk[:, :100], lengths)
    assert secondary.frame_s == pytest.approx(0.02)
    for rate, limits in ((2.0, [7, 9]), (0.0, [5, 5])):
        options = SearchOptions(beam=1, ctc_weight=0.0, units_per_second=rate)
        with torch.no_grad():
            secondary.decoder.output.bias[secondary.tokenizer.end] -= 1e3  # it never ends by itself
        found = secondary.decode(encoded, lengths, ["ky", "ky"], options)
        assert [len(h.tokens) for h in found] == limits and not any(h.finished for h in found)


def test_a_tag_step_is_the_log_probability_of_each_tag(backbone, make_secondary, clips):
    secondary = make_secondary(backbone, ("ky", "ga"))
    trunk, lengths = slice_trunk(
        backbone.trunk(backbone.features(clips), secondary.options.fork), [50, 60, 70, 80]
    )
    encoded = secondary.encode(trunk, lengths)
    with torch.no_grad():
        forced = secondary.decoder(encoded, lengths, torch.zeros(4, 1, dtype=torch.long))[:, 0]
    found = secondary.tag_step(encoded, lengths)
    assert found.shape == (4, 3) and torch.allclose(found, forced[:, 1:4], atol=1e-5)
    assert torch.allclose(found.exp().sum(-1), torch.ones(4), atol=1e-5)
    assert secondary.language_logits(trunk, lengths).shape == (4, 3)


def test_a_secondary_goes_on_from_an_earlier_one(backbone, make_secondary):
    """The rows of its tags and of its text keep their meaning beside a further tag."""
    first = make_secondary(backbone, ("ky",), seed=1)
    both = make_secondary(backbone, ("ky", "ga"), seed=2)
    shape = dict(both.own_tensors())
    fresh = {name: p.clone() for name, p in shape.items()}
    both.inherit(first)
    theirs = dict(first.own_tensors())
    grown = 0
    for name, p in both.own_tensors():
        if name.startswith("language_head."):
            assert torch.equal(p, fresh[name]), name
        elif p.shape == theirs[name].shape:
            assert torch.equal(p, theirs[name]), name
        else:
            grown += 1
            assert torch.equal(p[:3], theirs[name][:3]) and torch.equal(p[4:], theirs[name][3:])
            assert torch.equal(p[3], fresh[name][3]), "the new tag's own row"
    assert grown and isinstance(both.decoder, LASDecoder) and isinstance(both, Secondary)
