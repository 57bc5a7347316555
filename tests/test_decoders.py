"""The decoder slot: the base's own decoder with LoRA reproduces the base; every tenant trains, is
saved, loads and decodes.
"""

from dataclasses import replace

import pytest
import torch
from safetensors import safe_open
from transformers.modeling_outputs import BaseModelOutput

from dualasr.model.dual_whisper import DualWhisper
from dualasr.model.pack import Pack, PackInfo
from dualasr.model.search import beam_search
from dualasr.model.secondary import DECODERS, MOST_TOKENS, SearchOptions, SecondaryOptions
from dualasr.model.whisper_decoder import WhisperDecoder
from dualasr.packs.format import load_pack, save_pack

INFO = PackInfo("north", {"ky": "Kyrgyz"})


def the_base_as_a_pack(backbone):
    """A decoder whose units are the base's own tokens, its tag token first: 0 end, 1 English's tag,
    2.. all tokens.
    """
    base, special = backbone.decoder, backbone.special_ids
    embeddings = base.embed_tokens.weight.detach()
    english = embeddings[[backbone.languages["en"]]]
    units = torch.cat([embeddings[[special.start]], english, embeddings])
    outputs = torch.cat([embeddings[[special.end]], english, embeddings])
    return WhisperDecoder(
        base.layers,
        base.layer_norm,
        base.embed_positions.weight.detach(),
        units,
        outputs,
        embeddings[list(special.prompt)],
        2,
    )


@torch.no_grad()
def test_the_bases_own_embeddings_give_the_bases_own_logits(backbone, clips):
    encoded, special = (
        backbone.upper(backbone.trunk(backbone.features(clips), 0), 0),
        backbone.special_ids,
    )
    lengths = torch.full((len(clips),), encoded.shape[1])
    text = torch.randint(300, 700, (len(clips), 9), generator=torch.Generator().manual_seed(3))
    prompt = torch.tensor([special.start, backbone.languages["en"], *special.prompt]).expand(
        len(clips), -1
    )
    expected = backbone.model(
        encoder_outputs=BaseModelOutput(encoded), decoder_input_ids=torch.cat([prompt, text], 1)
    ).logits
    decoder = the_base_as_a_pack(backbone)
    found = decoder(encoded, lengths, torch.cat([torch.tensor([[0, 1]] * len(clips)), 2 + text], 1))
    wanted = expected[:, prompt.shape[1] - 1 :]
    # without the tag's, which no text step allows
    columns = [special.end, *range(wanted.shape[-1])]
    wanted = wanted[..., columns].log_softmax(-1)
    assert torch.allclose(found[:, 1:, [0, *range(2, found.shape[-1])]], wanted, atol=1e-4)
    assert torch.equal(found[:, 0].argmax(-1), torch.ones(len(clips), dtype=torch.long)), (
        "the tag step allows the tag alone"
    )


@torch.no_grad()
@pytest.mark.parametrize("kind", ["las", "whisper"])
def test_steps_equal_teacher_forcing_and_a_batch_equals_its_clips(
    backbone, make_secondary, clips, kind
):
    secondary = make_secondary(backbone, decoder=kind)
    decoder, trunk = (
        secondary.decoder,
        backbone.trunk(backbone.features(clips), secondary.options.fork),
    )
    encoded, lengths = secondary.encode(trunk), torch.tensor([60, 45, 80, 30])
    tokens = torch.randint(3, 40, (4, 8), generator=torch.Generator().manual_seed(5))
    tokens[:, 0], tokens[:, 1] = 0, 2
    together = decoder(encoded, lengths, tokens)
    memory, state = decoder.start(encoded, lengths)
    for column in range(tokens.shape[1]):
        log_probs, state = decoder.step(tokens[:, column], memory, state)
        assert torch.allclose(log_probs, together[:, column], atol=1e-4), column
    for i, length in enumerate(lengths.tolist()):
        alone = decoder(encoded[i : i + 1, :length], lengths[i : i + 1], tokens[i : i + 1])
        assert torch.allclose(alone[0], together[i], atol=1e-4)
    prefix, limits = tokens[:, :2], torch.tensor([9, 9, 9, 9])
    wide = beam_search(decoder, encoded, lengths, prefix, beam=3, limits=limits)
    for i, length in enumerate(lengths.tolist()):
        one = beam_search(
            decoder,
            encoded[i : i + 1, :length],
            lengths[i : i + 1],
            prefix[:1],
            beam=3,
            limits=limits[:1],
        )
        assert [row[0] for row in one[0]] == [row[0] for row in wide[i]]


@pytest.mark.parametrize("kind", DECODERS)
def test_every_decoder_is_saved_and_loads(backbone, make_secondary, clips, tmp_path, kind):
    secondary = make_secondary(backbone, decoder=kind)
    save_pack(tmp_path / "north", Pack(INFO, secondary), backbone)
    loaded = load_pack(tmp_path / "north", backbone)
    assert loaded.secondary.options == secondary.options and loaded.secondary.decoder.kind == kind
    model = DualWhisper(backbone).with_pack(loaded)
    twin = DualWhisper(backbone).with_pack(Pack(INFO, secondary.requires_grad_(False)))
    for result, expected in zip(
        *(m.transcribe_windows(clips, route="north") for m in (model, twin)), strict=True
    ):
        assert (result.text, result.avg_logprob) == (expected.text, expected.avg_logprob)
    assert model.transcribe_windows(clips)[0].scores["north"]["tag"] is not None or kind != "ctc"


def test_peft_reads_the_decoders_adapter_too(
    tiny_folder, backbone, make_secondary, clips, tmp_path
):
    from peft import PeftModel
    from transformers import WhisperForConditionalGeneration

    secondary = make_secondary(backbone, decoder="whisper", fork=0)
    save_pack(tmp_path / "north", Pack(INFO, secondary), backbone)
    plain = PeftModel.from_pretrained(
        WhisperForConditionalGeneration.from_pretrained(tiny_folder), tmp_path / "north"
    ).eval()
    found = {name.replace(".default", "") for name in plain.state_dict() if ".lora_" in name}
    with safe_open(tmp_path / "north" / "adapter_model.safetensors", "numpy") as file:
        assert found == set(file.keys()), "it adapts these layers and no others"
    layers = plain.base_model.model.model.decoder.layers
    theirs = dict(layers.named_parameters())
    adapted = {
        name: own for name, own in secondary.decoder.layers.named_parameters() if ".lora_" in name
    }
    assert len(adapted) == 2 * 10, "A and B of four projections, twice, and of fc1 and fc2"
    assert all(torch.equal(theirs[name], own) for name, own in adapted.items())
    assert all(bool(own.any()) for name, own in adapted.items() if ".lora_B" in name)


@pytest.mark.parametrize("kind", DECODERS)
def test_only_the_packs_own_tensors_learn(backbone, make_secondary, clips, kind):
    secondary = make_secondary(backbone, decoder=kind)
    base = {id(p) for p in backbone.model.parameters()}
    own = [p for _, p in secondary.own_tensors()]
    assert own and not base & {id(p) for p in own}
    shared = [p for n, p in secondary.named_parameters() if id(p) in base]
    assert len(shared) > 0 and all(not p.requires_grad for p in shared)
    trunk = backbone.trunk(backbone.features(clips), secondary.options.fork)
    batch = {
        "trunk": trunk,
        "lengths": torch.full((4,), trunk.shape[1]),
        "tokens": torch.tensor([[0, 2, 5, 6]] * 4),
        "labels": torch.tensor([[2, 5, 6, 0]] * 4),
        "characters": torch.tensor([[1, 2]] * 4),
        "character_lengths": torch.full((4,), 2),
        "seeds": torch.arange(4),
    }
    for parameter in own:
        parameter.requires_grad_(True)
    secondary(**batch)["loss"].backward()
    without = {n for n, p in secondary.own_tensors() if p.grad is None}
    assert without <= {"language_head.weight", "language_head.bias"}
    assert all(p.grad is None for p in backbone.model.parameters())


def test_units_start_from_the_bases_pieces(backbone, make_secondary):
    secondary = make_secondary(backbone, decoder="whisper", rank=0)
    tokenizer, embeddings = secondary.tokenizer, backbone.decoder.embed_tokens.weight
    for unit in (tokenizer.encode("к")[0], tokenizer.size - 1):
        ids = backbone.piece_ids(tokenizer.pieces[unit - tokenizer.first_text])
        assert torch.allclose(secondary.decoder.embedding[unit], embeddings[ids].mean(0))
    assert torch.equal(secondary.decoder.output[0], embeddings[backbone.special_ids.end])
    assert not any(".lora_" in name for name, _ in secondary.named_parameters())


@torch.no_grad()
def test_a_text_that_the_decoder_cannot_hold_is_no_candidate(backbone, make_secondary):
    """On long sound a CTC head may hear more than the base's decoder has positions for."""
    secondary = make_secondary(backbone, decoder="whisper")
    encoded = torch.randn(
        1, backbone.positions, backbone.width, generator=torch.Generator().manual_seed(0)
    )
    ident = secondary.tokenizer.encode_characters("т")[0]
    frames = torch.full((1, backbone.positions, len(secondary.tokenizer.characters) + 1), -30.0)
    frames[0, 0::2, 0] = frames[0, 1::2, ident] = 0.0  # blank, т, blank, т: more bytes than 448
    secondary.ctc_log_probs = lambda _: frames.log_softmax(-1)
    found = secondary.candidates(encoded, torch.tensor([backbone.positions]), ["ky"])[0]
    assert found and all(len(c.hypothesis.tokens) <= MOST_TOKENS for c in found)


def test_a_ctc_pack_writes_what_ctc_hears(backbone, make_secondary, clips):
    secondary = make_secondary(backbone, decoder="ctc")
    trunk, lengths = backbone.trunk(backbone.features(clips), 1), torch.tensor([60, 45, 80, 30])
    encoded = secondary.encode(trunk, lengths)
    for weight in (0.0, 0.5, 1.0):
        options = SearchOptions(beam=4, ctc_weight=weight)
        rows = secondary.decode(encoded, lengths, ["ky"] * 4, options)
        clips_ = secondary.candidates(encoded, lengths, ["ky"] * 4, options)
        best = [max(candidates, key=lambda candidate: candidate.ctc) for candidates in clips_]
        assert [row.text for row in rows] == [candidate.hypothesis.text for candidate in best]
    assert secondary.tag_step(encoded, lengths).shape == (4, 2)


def test_an_unknown_decoder_is_refused(backbone, make_secondary):
    with pytest.raises(ValueError, match="there is no decoder 'rnn'; there is: las, whisper, ctc"):
        replace(SecondaryOptions(), decoder="rnn").resolve(2)
