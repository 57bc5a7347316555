"""The frozen base: its checksum, what is read from the checkpoint, and one decoding call."""

import hashlib
import json
import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch
from transformers import WhisperConfig

from dualasr.errors import BaseModelError, RunError
from dualasr.model import whisper
from dualasr.model.whisper import Backbone, Span, SpecialIds, base_path, find_device, special_tokens


def test_a_checksum_sees_every_tensor(backbone, tiny_folder):
    """Each value, name and shape: a pack must not be taken by a base that differs in one."""
    first = backbone.checksum
    assert Backbone.load(tiny_folder).checksum == first
    seen, tensors = {first}, dict(backbone.model.named_parameters())
    del tensors["model.encoder.embed_positions.weight"]  # sinusoids, which are left out
    for name, tensor in tensors.items():
        flat = tensor.view(-1)
        for place in {0, len(flat) // 2, len(flat) - 1}:
            kept = flat[place].clone()
            flat[place] += 1e-3
            seen.add(replace(backbone).checksum)
            flat[place] = kept
        assert replace(backbone).checksum == first, name
    changed = sum(len({0, p.numel() // 2, p.numel() - 1}) for p in tensors.values())
    assert len(tensors) > 60 and len(seen) == 1 + changed
    layers = backbone.encoder.layers
    layers[0], layers[1] = layers[1], layers[0]
    assert replace(backbone).checksum != first, "the same tensors in another order"


def test_a_checksum_is_of_names_shapes_and_values(backbone):
    """Packs on disk hold it: float16 without the sinusoids; float32 in packs of before."""
    rounded, whole = hashlib.sha256(), hashlib.sha256()
    for name, tensor in sorted(backbone.model.state_dict().items()):
        if name == "proj_out.weight":
            continue
        shape = "(" + ", ".join(map(str, tensor.shape)) + ("," if tensor.ndim == 1 else "") + ")"
        about = name.encode() + shape.encode()
        whole.update(about + tensor.numpy().astype("<f4").tobytes())
        if name != "model.encoder.embed_positions.weight":
            rounded.update(about + tensor.numpy().astype("<f2").tobytes())
    assert backbone.checksum == rounded.hexdigest()
    assert backbone.float32_checksum == whole.hexdigest()


def test_another_number_format_keeps_the_checksum(backbone, tiny_folder, tmp_path):
    half = Backbone.load(tiny_folder, dtype=torch.bfloat16)
    assert half.model.dtype == torch.bfloat16 and half.checksum == backbone.checksum
    assert half.float32_checksum == backbone.float32_checksum
    assert half.features([np.zeros(100, np.float32)]).dtype == torch.bfloat16
    kept = shutil.copytree(tiny_folder, tmp_path / "kept")
    half.model.save_pretrained(kept)
    assert Backbone.load(kept).model.dtype == torch.float32, "whatever it was stored in"


def test_what_is_read_from_the_checkpoint(backbone):
    """The built-in base's window is 15 s, with a frame of 20 ms."""
    assert (backbone.width, backbone.layers, backbone.positions) == (32, 2, 750)
    assert (backbone.window_samples, backbone.window_s) == (240_000, 15.0)
    assert backbone.frame_s == pytest.approx(0.02)
    assert not backbone.model.training
    assert not any(p.requires_grad for p in backbone.model.parameters())
    tokens = backbone.tokenizer.convert_tokens_to_ids
    assert backbone.codes == list(backbone.languages) == ["bg", "de", "en", "es", "tr"]
    assert backbone.languages["de"] == tokens("<|de|>")
    special = backbone.special_ids
    assert special == SpecialIds(
        start=tokens("<|startoftranscript|>"),
        end=tokens("<|endoftext|>"),
        languages=tuple(backbone.languages.values()),
        prompt=(tokens("<|transcribe|>"), tokens("<|notimestamps|>")),
        times=range(tokens("<|notimestamps|>") + 1, backbone.model.config.vocab_size),
    )
    names = backbone.language_names
    assert (
        names["german"] == "de"
        and names["castilian"] == "es"
        and set(names.values()) == set(backbone.codes)
    )


@pytest.mark.parametrize(
    "samples, frames",
    [(0, 1), (1, 1), (320, 1), (321, 2), (640, 2), (16_000, 50), (239_680, 749), (239_681, 750)]
    + [(240_000, 750), (999_999, 750)],
)
def test_frames_that_a_clip_fills(backbone, samples, frames):
    assert backbone.frames(samples) == frames


def test_a_base_is_found_by_its_name(tmp_path, monkeypatch):
    assert base_path("micro") == whisper.BUILT_IN["micro"] and base_path("micro").is_dir()
    with pytest.raises(BaseModelError, match="no built-in base 'nano'; there is: micro"):
        base_path("nano")
    monkeypatch.chdir(tmp_path)
    for name, found in (
        ("small", "openai/whisper-small"),
        ("tiny.en", "openai/whisper-tiny.en"),
        ("large", "openai/whisper-large-v3"),
        ("turbo", "openai/whisper-large-v3-turbo"),
        ("large-v1", "openai/whisper-large-v1"),
        ("you/whisper-yours", "you/whisper-yours"),
    ):
        assert str(whisper._find_source(name)) == found
    sizes = ["tiny", "base", "small", "medium"]
    sizes += [f"{size}.en" for size in sizes] + ["large-v1", "large-v2", "large-v3"]
    assert sorted(whisper.SIZES) == sorted([*sizes, "large-v3-turbo"]), "OpenAI's own"
    (tmp_path / "small").mkdir()
    with pytest.raises(BaseModelError, match="small is not a Whisper .*: it has no config.json"):
        Backbone.load("small")
    (tmp_path / "small" / "config.json").write_text(json.dumps({"model_type": "bert"}))
    with pytest.raises(BaseModelError, match="its model_type is 'bert'"):
        Backbone.load("small")
    WhisperConfig().save_pretrained(tmp_path / "small")
    assert str(whisper._find_source("small")) == "small", "a folder comes before a size"
    with pytest.raises(BaseModelError, match="Cannot load the base 'small': .* or a built-in"):
        Backbone.load("small")
    with pytest.raises(BaseModelError, match=r"'tiny' \(openai/whisper-tiny\): "):
        Backbone.load("tiny")


def test_a_folder_with_a_damaged_file_is_refused(tiny_folder, tmp_path):
    """Cut off, as by a download that broke; of another kind; or missing."""
    for place, content, why in (
        ("config.json", 0.5, "config.json is damaged, fetch it again"),
        ("config.json", b"[]", "config.json is damaged, .*no JSON object"),
        ("config.json", b"{}", "its model_type is None"),
        ("config.json", b"\xff", "config.json is damaged, fetch it again"),
        ("generation_config.json", 0.5, "generation_config.json is damaged, fetch it again"),
        ("model.safetensors", 0.5, r"a file is damaged, fetch it again \(SafetensorError: "),
        ("model.safetensors", None, "no file named model.safetensors"),
        ("tokenizer.json", 0.5, r"a file is damaged, fetch it again \(JSONDecodeError: "),
        ("tokenizer.json", b"{}", r"a file is damaged, fetch it again \(KeyError: "),
        ("tokenizer.json", None, "it has no tokenizer.json, nor vocab.json and merges.txt"),
        ("preprocessor_config.json", b"[]", "a file is damaged, fetch it again"),
    ):
        folder = tmp_path / "base"
        shutil.copytree(tiny_folder, folder)
        data = (folder / place).read_bytes()
        (folder / place).unlink()
        if content is not None:
            part = data[: int(content * len(data))] if isinstance(content, float) else content
            (folder / place).write_bytes(part)
        with pytest.raises(BaseModelError, match=why):
            Backbone.load(folder)
        shutil.rmtree(folder)


def test_a_device_that_is_not_there():
    assert find_device("cpu") == "cpu" and find_device("meta") == "meta"
    assert find_device("auto") == ("cuda" if torch.cuda.is_available() else "cpu")
    for name in ("nonsense", "cuda:99"):
        with pytest.raises(RunError, match=f"--device {name} is not available here: .") as error:
            find_device(name)
        assert "\n" not in str(error.value)


def test_the_language_step_is_the_first_of_the_decoder(backbone, clips, tiny_folder, tmp_path):
    encoded = backbone.upper(backbone.trunk(backbone.features(clips[:2]), 1), 1)
    step = backbone.language_step(encoded)
    start = torch.full((2, 1), backbone.special_ids.start)
    with torch.no_grad():
        output = backbone.model(
            encoder_outputs=(encoded,), decoder_input_ids=start, output_hidden_states=True
        )
    logits = output.logits[:, 0].float()
    tags = logits[:, list(backbone.languages.values())].log_softmax(-1)
    assert torch.allclose(step.log_probs, tags, atol=1e-5)
    silence = backbone.tokenizer.convert_tokens_to_ids("<|nospeech|>")
    assert torch.allclose(step.no_speech_prob, logits.softmax(-1)[:, silence], atol=1e-6)
    state = output.decoder_hidden_states[-1][:, -1]
    assert step.state.shape == (2, backbone.width) and torch.allclose(step.state, state, atol=1e-5)
    older = shutil.copytree(tiny_folder, tmp_path / "older")
    for name in ("tokenizer.json", "tokenizer_config.json"):
        text = (older / name).read_text("utf-8").replace("<|nospeech|>", "<|nocaptions|>")
        (older / name).write_text(text, "utf-8")
    older = Backbone.load(older)
    assert older.tokenizer.convert_tokens_to_ids("<|nocaptions|>") == silence
    assert torch.equal(older.language_step(encoded).no_speech_prob, step.no_speech_prob)


def test_a_hypothesis_is_the_sum_of_its_tokens_log_probabilities(backbone, clips):
    """Teacher forcing with what `generate` suppresses: its tokens, and the end where it came."""
    encoded = backbone.upper(backbone.trunk(backbone.features(clips), 1), 1)
    found = backbone.decode(encoded, ["en", "de", "en", "de"], max_new_tokens=12)
    short = backbone.decode(encoded, ["en", "de", "en", "de"], max_new_tokens=2)
    config, special = backbone.model.generation_config, backbone.special_ids
    for i, hypothesis in enumerate(found):
        tag = backbone.languages[["en", "de"][i % 2]]
        ids = [special.start, tag, *special.prompt, *hypothesis.tokens]
        with torch.no_grad():
            logits = backbone.model(
                encoder_outputs=(encoded[i : i + 1],), decoder_input_ids=torch.tensor([ids])
            ).logits[0, 3:]
        logits[:, config.suppress_tokens] = -torch.inf
        logits[0, config.begin_suppress_tokens] = -torch.inf
        targets = [*hypothesis.tokens, *[special.end] * hypothesis.finished]
        rows = logits.log_softmax(-1)
        known = sum(float(rows[k, token]) for k, token in enumerate(targets))
        assert hypothesis.logprob == pytest.approx(known, abs=1e-3)
        assert special.end not in hypothesis.tokens
        assert hypothesis.text == backbone.tokenizer.decode(hypothesis.tokens).strip()
        assert short[i].tokens == hypothesis.tokens[:2] and not short[i].finished
    assert {h.finished for h in found} <= {True, False} and any(h.tokens for h in found)
    with pytest.raises(BaseModelError, match="has no language 'xx'; it has bg, de, en, es, tr"):
        backbone.decode(encoded, ["xx"] * 4)


def test_a_large_batch_is_decoded_in_parts_with_its_own_languages(backbone, clips, monkeypatch):
    encoded = backbone.upper(backbone.trunk(backbone.features(clips), 1), 1)
    codes = ["en", "de", "tr", "bg"]
    alone = [backbone.decode(encoded[i : i + 1], codes[i : i + 1])[0] for i in range(4)]
    calls = []
    generate = backbone.model.generate

    def count(**asked):
        calls.append((len(asked["encoder_outputs"].last_hidden_state), asked["language"]))
        assert (asked["num_beams"], asked["return_timestamps"]) == (beam, False)
        return generate(**asked)

    monkeypatch.setattr(backbone.model, "generate", count)
    for beams, beam, sizes in ((3, 1, [3, 1]), (4, 1, [4]), (5, 2, [2, 2]), (1, 2, [1] * 4)):
        calls.clear()
        monkeypatch.setattr(whisper, "MOST_BEAMS", beams)
        found = backbone.decode(encoded, codes, beam=beam)
        assert [size for size, _ in calls] == sizes
        assert [tag for _, tags in calls for tag in tags] == [f"<|{code}|>" for code in codes]
        if beam == 1:
            assert [h.tokens for h in found] == [h.tokens for h in alone]


def test_prompt_and_context_share_half_of_the_places(backbone):
    tokenizer = backbone.tokenizer
    before = tokenizer.convert_tokens_to_ids("<|startofprev|>")
    most = backbone.model.config.max_target_positions // 2 - 1

    def ids(text):
        return tokenizer(" " + text, add_special_tokens=False).input_ids

    long, longer = " ".join("abcdefg" * 60), " ".join("hijk" * 90)
    assert len(ids(long)) > most and len(ids(longer)) > most
    for prompt, context, wanted in (
        ("the moon", "", ids("the moon")),
        ("", "the sun", ids("the sun")),
        ("the moon", "the sun", ids("the moon") + ids("the sun")),
        ("  ", " \n", []),
        (long, "", ids(long)[-most:]),
        ("", longer, ids(longer)[-most:]),
        (long, longer, ids(long)[-most:]),
        ("the moon", longer, ids("the moon") + ids(longer)[len(ids("the moon")) - most :]),
    ):
        found = backbone.prompt_ids(prompt, context).tolist()
        assert found == [before, *wanted], (prompt[:9], context[:9])
    with pytest.raises(BaseModelError, match="holds a special token .*Leave it out"):
        backbone.prompt_ids("<|en|>")


def test_spans_between_timestamps(backbone):
    """A timestamp is 20 ms; what follows the last one goes on to the end of the sound."""
    times, tokenizer = backbone.special_ids.times, backbone.tokenizer
    one, two = (tokenizer(text, add_special_tokens=False).input_ids for text in (" one", " two"))

    def at(seconds):
        return times.start + round(seconds / 0.02)

    assert backbone.spans([*one, *two], 3.0) == ()
    tokens = [at(0.5), *one, at(1.0), at(1.5), *two, at(9.0)]
    assert backbone.spans(tokens, 3.0) == (
        Span(0.5, 1.0, "one", (at(0.5), *one, at(1.0))),
        Span(1.5, 3.0, "two", (at(1.5), *two, at(9.0))),
    )
    assert backbone.spans([*one, at(1.0), *two], 3.0) == (
        Span(0.0, 1.0, "one", (*one, at(1.0))),
        Span(1.0, 3.0, "two", (at(1.0), *two)),
    )
    assert backbone.spans([at(2.0), *one, at(1.0)], 3.0)[0].start == 1.0, "no span ends early"
    assert backbone.spans([at(0.0), at(1.0)], 3.0) == ()
    assert backbone.text_tokens(tokens) == [*one, *two]


def test_attention_is_that_of_the_transcripts_own_tokens(backbone, clips, monkeypatch):
    """Row i attends for token i, the last row for the end; probabilities by teacher forcing."""
    encoded = backbone.upper(backbone.trunk(backbone.features(clips[:1]), 1), 1)
    tokens = backbone.tokenizer(" one two", add_special_tokens=False).input_ids
    special, eager = backbone.special_ids, backbone.model.config._attn_implementation
    for task in ("transcribe", "translate"):
        weights, probs = backbone.attend(encoded, "de", tokens, task)
        name = backbone.tokenizer.convert_tokens_to_ids(f"<|{task}|>")
        start = [special.start, backbone.languages["de"], name, special.times.start - 1]
        ids = torch.tensor([[*start, *tokens]])
        backbone.model.set_attn_implementation("eager")
        with torch.no_grad():
            output = backbone.model(
                encoder_outputs=(encoded,), decoder_input_ids=ids, output_attentions=True
            )
        backbone.model.set_attn_implementation(eager)
        for heads in ([(0, 0), (0, 1)], [(0, 1)]):  # all of the upper half, or those named
            known = torch.stack([output.cross_attentions[i][0, h, 3:] for i, h in heads])
            assert weights.shape == (len(heads), len(tokens) + 1, backbone.positions)
            assert torch.allclose(weights, known, atol=1e-5)
            monkeypatch.setattr(
                backbone.model.generation_config, "alignment_heads", [(0, 1)], raising=False
            )
            weights, _ = backbone.attend(encoded, "de", tokens, task)
        monkeypatch.undo()
        known = output.logits[0, 3:-1].softmax(-1)
        picked = [float(known[k, token]) for k, token in enumerate(tokens)]
        assert probs.tolist() == pytest.approx(picked, rel=1e-3)
    tensors = {id(tensor) for tensor in backbone.decoder.parameters()}
    assert {id(tensor) for tensor in backbone._attentive.parameters()} == tensors, "no copies"


@pytest.fixture
def english_only(backbone):
    """As OpenAI's *.en: neither language tags nor tasks."""
    config = backbone.model.generation_config
    del config.lang_to_id, config.task_to_id
    config.is_multilingual, config.task = False, None
    return backbone


@torch.no_grad()
def test_a_whisper_of_english_alone(english_only, clips):
    special, tokens = english_only.special_ids, english_only.tokenizer.convert_tokens_to_ids
    timeless = tokens("<|notimestamps|>")
    assert (english_only.languages, english_only.codes) == ({}, ["en"])
    assert english_only.language_names == {"english": "en"}
    assert (special.languages, special.prompt) == ((special.start,), (timeless,))
    encoded = english_only.upper(english_only.trunk(english_only.features(clips[:2]), 1), 1)
    step = english_only.language_step(encoded)
    assert step.log_probs.tolist() == [[0.0], [0.0]], "English for sure"
    plain = english_only.model.generate(english_only.features(clips[:2]), max_new_tokens=6)
    for row, found in zip(
        plain.tolist(), english_only.decode(encoded, ["en"] * 2, max_new_tokens=6), strict=True
    ):
        ids = [token for token in row if token not in (special.start, timeless, special.end)]
        assert list(found.tokens) == ids
    said = english_only.tokenizer(" one two", add_special_tokens=False).input_ids
    weights, probs = english_only.attend(encoded[:1], None, said)
    ids = torch.tensor([[special.start, timeless, *said]])
    logits = english_only.model(encoder_outputs=(encoded[:1],), decoder_input_ids=ids).logits
    known = [
        float(row[token]) for row, token in zip(logits[0, 1:-1].softmax(-1), said, strict=True)
    ]
    assert probs.tolist() == pytest.approx(known, rel=1e-3)
    assert weights.shape[1] == len(said) + 1


def test_a_whisper_without_timestamps(backbone, clips):
    config, tokens = backbone.model.generation_config, backbone.tokenizer.convert_tokens_to_ids
    config.max_initial_timestamp_index = 50
    assert replace(backbone).tells_time
    del config.no_timestamps_token_id
    special = backbone.special_ids
    assert special.prompt == (tokens("<|transcribe|>"),) and list(special.times) == []
    assert not backbone.tells_time, "it has none to write"
    encoded = backbone.upper(backbone.trunk(backbone.features(clips[:1]), 1), 1)
    weights, probs = backbone.attend(encoded, "de", [300, 301])
    ids = [special.start, tokens("<|de|>"), tokens("<|transcribe|>"), 300, 301]
    with torch.no_grad():
        logits = backbone.model(
            encoder_outputs=(encoded,), decoder_input_ids=torch.tensor([ids])
        ).logits[0]
    rows = logits.softmax(-1)
    assert probs.tolist() == pytest.approx([float(rows[2, 300]), float(rows[3, 301])], rel=1e-3)


def test_beams_that_a_gigabyte_holds(backbone, monkeypatch):
    """Keys and values of 2 x 2 x layers x 1500 x width, and 448 x 51,865 scores of four bytes."""
    sizes = {"max_source_positions": 1500, "vocab_size": 51_865, "max_target_positions": 448}
    for layers, width, beams, in_half in ((4, 384, 7, 8), (12, 768, 3, 4), (32, 1280, 1, 1)):
        shape = {"decoder_layers": layers, "d_model": width}
        backbone.model.config.update(sizes | shape)
        assert backbone.most_beams == beams, shape
        with monkeypatch.context() as patch:
            patch.setattr(type(backbone.model), "dtype", torch.bfloat16)
            assert backbone.most_beams == in_half, shape
    assert Backbone.load("micro").most_beams == 20, "more are no faster"


@pytest.mark.parametrize(
    "layers, heads", [(1, {0}), (2, {1}), (3, {1, 2}), (4, {2, 3}), (6, {3, 4, 5})]
)
def test_heads_of_the_upper_half_follow_the_sound(backbone, layers, heads):
    backbone.model.config.update({"decoder_layers": layers, "decoder_attention_heads": 3})
    assert backbone._alignment_heads == [
        (layer, head) for layer in sorted(heads) for head in range(3)
    ]


def test_work_is_interrupted_between_steps(backbone, clips):
    steps = []

    def count():
        steps.append(len(steps))

    mel = backbone.features(clips)
    trunk = backbone.trunk(mel, 1, count)
    assert len(steps) == 1, "after each layer below the fork"
    encoded = backbone.upper(trunk, 1, count)
    assert len(steps) == 2
    found = backbone.decode(encoded, ["en"] * 4, on_step=count, max_new_tokens=5)
    assert len(steps) == 2 + max(len(h.tokens) + h.finished for h in found)

    def stop():
        raise KeyboardInterrupt

    for work in (
        lambda: backbone.trunk(mel, 1, stop),
        lambda: backbone.upper(trunk, 1, stop),
        lambda: backbone.decode(encoded, ["en"] * 4, on_step=stop),
    ):
        with pytest.raises(KeyboardInterrupt):
            work()


def test_pieces_and_words_are_those_of_the_tokenizer(backbone):
    words = [
        backbone.tokenizer(f" {w}", add_special_tokens=False).input_ids for w in ("one", "two")
    ]
    assert backbone.piece_ids("\u0120one") == words[0], "GPT-2's letter for a space"
    spelt = [(" one", len(words[0])), (" two", len(words[1]))]
    assert backbone.token_words(sum(words, []), "en") == spelt


@pytest.mark.parametrize(
    "ours, theirs",
    [
        ({}, {}),
        ({"beam": 3}, {"num_beams": 3}),
        ({"timestamps": True}, {"return_timestamps": True}),
        ({"prompt": "the moon"}, {"prompt_ids": ("the moon", "")}),
        ({"context": "the sun"}, {"prompt_ids": ("", "the sun")}),
        ({"task": "translate"}, {"task": "translate"}),
    ],
)
def test_what_is_asked_reaches_generate(backbone, clips, ours, theirs):
    config, special = backbone.model.generation_config, backbone.special_ids
    config.task = "translate"  # only where nothing is asked, and `decode` asks
    if "timestamps" in ours:
        config.suppress_tokens = [i for i in config.suppress_tokens if i < special.times.start]
    features, length = backbone.features(clips[:2]), {"max_new_tokens": 6}
    encoded = backbone.upper(backbone.trunk(features, 1), 1)
    if "prompt_ids" in theirs:
        theirs = {"prompt_ids": backbone.prompt_ids(*theirs["prompt_ids"])}
    found = backbone.decode(encoded, ["de", "en"], **ours, **length)
    asked = {"language": ["de", "en"], "task": "transcribe"} | theirs | length
    rows = backbone.model.generate(features, **asked).tolist()
    said = [[token for token in row if token != special.end] for row in rows]
    assert [list(h.tokens) for h in found] == said
    if ours:
        plain = backbone.decode(encoded, ["de", "en"], **length)
        scores = [[h.logprob for h in one] for one in (plain, found)]
        assert scores[0] != scores[1], "it changes what is heard"


@pytest.mark.parametrize("fork", [0, 1, 2])
@pytest.mark.parametrize("frames", [1, 40, 750])
def test_the_start_of_the_trunk_is_that_of_the_whole(backbone, clips, fork, frames):
    mel = backbone.features(clips)
    whole = backbone.trunk(mel, fork)
    start = backbone.trunk_start(mel, fork, frames)
    torch.testing.assert_close(start, whole[:, :frames], atol=1e-5, rtol=1e-5)


def test_what_a_multilingual_vocabulary_says_of_itself():
    """As OpenAI's own generation_config: numbers of whisper-base."""
    vocabulary = {"a": 0, "<|sw|>": 50318, "<|en|>": 50259, "<|transcribe|>": 50359}
    vocabulary |= {"<|translate|>": 50358, "<|notimestamps|>": 50363, "<|nospeech|>": 50362}
    assert special_tokens(vocabulary, 51865) == {
        "is_multilingual": True,
        "lang_to_id": {"<|en|>": 50259, "<|sw|>": 50318},
        "task_to_id": {"transcribe": 50359, "translate": 50358},
        "no_timestamps_token_id": 50363,
        "max_initial_timestamp_index": 50,
    }
    assert special_tokens(vocabulary, 51864) == {}, "OpenAI's English-only vocabulary"
    assert special_tokens({"a": 0}, 99_999) == {}, "no Whisper's"
