"""Word times: cross-attention that is known, the primary's own, and both pipelines in a file."""

import sys
from dataclasses import replace

import numpy as np
import pytest
import torch

from dualasr.audio.load import split_windows
from dualasr.data.espeak import Speaker, draw_voice
from dualasr.errors import BaseModelError, RunError
from dualasr.model.dual_whisper import DecodeOptions
from dualasr.model.fallback import Fallback
from dualasr.model.selector import PRIMARY
from dualasr.model.whisper import Backbone, Span
from dualasr.packs.load import load_model
from dualasr.transcription.alignment import FILTER_WIDTH, warp, warp_words, words_of, words_of_clip
from dualasr.transcription.recording import Piece, _segments, sentences
from dualasr.transcription.request import TranscribeOptions
from dualasr.transcription.transcribe import transcribe
from dualasr.transcription.transcript import Word


def staircase(places, frames: int, heads: int = 2) -> torch.Tensor:
    """Attention that rests on each token's frames, the last token the end's: (heads, tokens,
    frames).
    """
    weights = torch.full((heads, len(places), frames), 1e-4)
    for row, (first, last) in enumerate(places):
        weights[:, row, first:last] = 1.0
    return weights


def test_words_begin_where_the_attention_comes_to_them():
    weights = staircase([(0, 20), (20, 30), (30, 60), (60, 80)], 80)
    probs = torch.tensor([0.5, 0.7, 0.9])
    one, two = warp_words(weights, probs, [("Kar", 2), (" too", 1)], 0.02, 1.6)
    assert (one.word, two.word) == ("Kar", " too") and not one.shared and not two.shared
    assert one.start == 0 and one.end == two.start == pytest.approx(30 * 0.02, abs=0.03)
    assert two.end == pytest.approx(60 * 0.02, abs=0.03)
    assert one.probability == pytest.approx(0.6) and two.probability == pytest.approx(0.9)
    assert warp_words(weights, probs, [("Kar", 2), (" too", 1)], 0.02, 0.7)[1].end == 0.7


def warp_by_hand(cost: np.ndarray) -> list[tuple[int, int]]:
    """The slow version: what it takes to come to each cell, then back from the last by the cheapest
    cell before.
    """
    total = {}
    for i, j in np.ndindex(cost.shape):
        before = [total[cell] for cell in ((i - 1, j - 1), (i, j - 1), (i - 1, j)) if cell in total]
        total[i, j] = cost[i, j] + min(before, default=0.0)
    path = [(cost.shape[0] - 1, cost.shape[1] - 1)]
    while path[-1] != (0, 0):
        i, j = path[-1]
        before = [cell for cell in ((i - 1, j - 1), (i, j - 1), (i - 1, j)) if cell in total]
        path.append(min(before, key=total.get))  # of equal ones the first
    return path[::-1]


@pytest.mark.parametrize("shape", [(1, 1), (1, 9), (9, 1), (2, 2), (5, 40), (30, 25)])
@pytest.mark.parametrize("values", [2, 4, 10**6])  # of few values many ways cost the same
def test_the_way_is_that_of_the_slow_version(shape, values):
    for seed in range(10):
        cost = np.random.default_rng(seed).integers(-values, values, shape) / 8  # sums are exact
        assert list(zip(*warp(cost), strict=True)) == warp_by_hand(cost)


def test_the_way_through_a_small_matrix():
    rows, columns = warp(np.array([[0.0, 1, 9, 9], [9, 0, 0, 9], [9, 9, 9, 0]]))
    assert (rows.tolist(), columns.tolist()) == ([0, 1, 1, 2], [0, 1, 2, 3])


def test_where_numba_can_keep_nothing_the_message_says_what_to_do(tmp_path, monkeypatch):
    (tmp_path / "librosa").mkdir()
    (tmp_path / "librosa" / "__init__.py").write_text(
        "raise RuntimeError('cannot cache function: no locator available')"
    )
    for name in [name for name in sys.modules if name.split(".")[0] == "librosa"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(RunError, match="no locator available. Set NUMBA_CACHE_DIR to a folder"):
        warp(np.zeros((2, 3)))


@pytest.mark.parametrize("frames", [1, 2, 3, FILTER_WIDTH - 1])
def test_a_window_shorter_than_the_filter_has_words(frames):
    [word] = warp_words(
        staircase([(0, 1), (frames - 1, frames)], frames),
        torch.tensor([0.5]),
        [("a", 1)],
        0.02,
        0.02 * frames,
    )
    assert 0 <= word.start <= word.end <= 0.02 * frames and word.probability == 0.5


@pytest.mark.parametrize(
    "language, text, words",
    [
        ("en", ' Well, "so" (he) said... no!', [" Well,", ' "so"', " (he)", " said...", " no!"]),
        ("es", " ¿Qué? ¡Sí, mañana!", [" ¿Qué?", " ¡Sí,", " mañana!"]),
        ("xx", " a - b", [" a", " -", " b"]),  # a dash between words is a word
        ("zh", "你好，世界。", ["你", "好，", "世", "界。"]),
        ("en", "你好，世界。", ["你好，世界。"]),
        ("en", " 😀👩 à!", [" 😀👩", " à!"]),  # several tokens a character
        ("en", "", []),
    ],
)
def test_tokens_are_joined_to_words(backbone, language, text, words):
    tokens = backbone.tokenizer(text, add_special_tokens=False).input_ids
    found = backbone.token_words(tokens, language)
    assert [word for word, _ in found] == words and sum(count for _, count in found) == len(tokens)
    at = 0
    for word, count in found:
        assert backbone.tokenizer.decode(tokens[at : at + count]) == word
        at += count


@pytest.fixture
def model(make_model):
    return make_model(("north", "ky"))


@pytest.mark.parametrize("route", [PRIMARY, "north"])
def test_words_are_the_text_in_order_within_the_window(model, clips, route):
    heard = model.encode_audio(clips[1:])
    results = model.transcribe_encoded(heard, route=route, options=DecodeOptions(beam=2))
    for seconds, result, words in zip(
        heard.seconds, results, words_of(model, heard, results), strict=True
    ):
        assert "".join(word.word for word in words).strip() == result.text.strip() != ""
        times = [t for word in words for t in (word.start, word.end)]
        assert times == sorted(times) and 0 <= times[0] and times[-1] <= seconds


def test_attending_changes_nothing(backbone, clips):
    encoded = backbone.upper(backbone.trunk(backbone.features(clips[:1]), 0), 0)
    before, kind = backbone.decode(encoded, ["en"]), backbone.model.config._attn_implementation
    tokens = before[0].tokens
    weights, probs = backbone.attend(encoded, "en", tokens)
    assert weights.shape == (2, len(tokens) + 1, backbone.positions) and probs.shape == (
        len(tokens),
    )
    assert torch.allclose(weights.sum(-1), torch.ones(()))
    assert (
        kind == backbone.model.config._attn_implementation != "eager"
        and backbone.decode(encoded, ["en"]) == before
    )
    assert backbone._attentive.embed_tokens.weight is backbone.decoder.embed_tokens.weight


def test_probabilities_are_those_of_decoding(backbone, clips):
    encoded = backbone.upper(backbone.trunk(backbone.features(clips[:1]), 0), 0)
    [hypothesis] = backbone.decode(encoded, ["en"])
    _, probs = backbone.attend(encoded, "en", hypothesis.tokens)
    # generate renormalises without the tokens that are suppressed
    suppressed = torch.log(probs).sum()
    assert float(suppressed) <= hypothesis.logprob + 1e-3


def test_words_of_a_clip_go_on_from_window_to_window(model, clips):
    samples = np.concatenate(clips * 5)  # 52 s
    (first, cut), *others = ranges = split_windows(samples, model.backbone.window_s)
    assert first == 0 and len(others) == len(ranges) - 1 > 0
    windows = [samples[a:b] for a, b in ranges]
    results = model.transcribe_windows(windows)
    words = words_of_clip(model, samples, results)
    said = "".join(result.text.strip() for result in results)
    assert "".join(word.word for word in words).replace(" ", "") == said.replace(" ", "")
    [mine] = words_of(model, model.encode_audio(windows[:1]), results[:1])
    assert (
        words[: len(mine)] == mine
        and min(word.start for word in words[len(mine) :]) >= cut / 16_000
    )
    assert words[-1].end <= len(samples) / 16_000 + 1e-6


def test_words_are_shared_out_among_timestamps(model, clips):
    """By their letters, whatever stands between the timestamps."""
    [result] = model.transcribe_windows(clips[2:3], route=PRIMARY)
    heard = model.encode_audio(clips[2:3])
    [words] = words_of(model, heard, [result])
    half = len(words) // 2
    texts = ["".join(w.word for w in part).strip() for part in (words[:half], words[half:])]
    spans = [Span(0.0, 1.0, texts[0]), Span(1.0, 3.1, texts[1])]
    piece, asked = Piece(30.0, 33.1, result, words), TranscribeOptions(words=True)
    first, second = _segments(piece, lambda tokens, seconds: tuple(spans), asked)
    assert [len(part.words) for part in (first, second)] == [half, len(words) - half]
    assert (
        first.words[0].start == 30 + words[0].start and second.words[-1].end == 30 + words[-1].end
    )


def stamp(backbone, seconds: float) -> list[int]:
    return [
        backbone.special_ids.times.start + round(seconds * backbone.positions / backbone.window_s)
    ]


def test_spans_stand_between_timestamps(backbone):
    def text(words: str) -> list[int]:
        return backbone.tokenizer(words, add_special_tokens=False).input_ids

    def at(seconds: float) -> list[int]:
        return stamp(backbone, seconds)

    whole = [
        *at(0.4),
        *text(" Ein Satz."),
        *at(2.0),
        *at(2.5),
        *text(" Noch"),
        *text(" einer."),
        *at(4.0),
    ]
    first, second = backbone.spans(whole, 5.0)
    assert first == Span(0.4, 2.0, "Ein Satz.", (*at(0.4), *text(" Ein Satz."), *at(2.0)))
    assert second == Span(
        2.5, 4.0, "Noch einer.", (*at(2.5), *text(" Noch"), *text(" einer."), *at(4.0))
    )
    cut = [*at(0.0), *text(" Ein Satz."), *at(2.0), *at(2.0), *text(" Noch")]
    assert [(s.start, s.end) for s in backbone.spans(cut, 3.3)] == [(0.0, 2.0), (2.0, 3.3)]
    assert backbone.spans(text(" Ein Satz."), 3.0) == () == backbone.spans([*at(0), *at(3)], 3.0)
    late = [*at(0.0), *text(" Ein"), *at(9.0)]
    assert [(s.start, s.end) for s in backbone.spans(late, 3.0)] == [(0.0, 3.0)]


def test_a_base_that_learnt_no_timestamps_is_not_asked_for_them(backbone):
    assert not backbone.tells_time and not load_model("micro").backbone.tells_time
    backbone.model.generation_config.max_initial_timestamp_index = 50
    assert backbone.tells_time


def test_timestamps_come_in_order_and_the_text_is_without_them(tiny_folder, clips):
    backbone = Backbone.load(tiny_folder)
    config, times = backbone.model.generation_config, backbone.special_ids.times
    config.suppress_tokens = [t for t in config.suppress_tokens if t not in times]
    encoded = backbone.upper(backbone.trunk(backbone.features(clips[:2]), 0), 0)
    for hypothesis in backbone.decode(encoded, ["en", "de"], timestamps=True):
        stamps = [token for token in hypothesis.tokens if token in times]
        assert stamps and stamps == sorted(stamps) and "<|" not in hypothesis.text
        assert backbone.text_tokens(hypothesis.tokens) == [
            t for t in hypothesis.tokens if t not in times
        ]


def test_a_prompt_is_heard_by_the_primary_alone(model, backbone, clips):
    heard = model.encode_audio(clips[1:3])
    plain, said = DecodeOptions(), DecodeOptions(prompt="Guten Morgen.")
    answers = [
        model.decode(heard, PRIMARY, ["de", "de"], options)[0]
        for options in (plain, said, replace(said, beam=2))
    ]
    assert answers[0] != answers[1] and all(
        h.text and "Guten Morgen" not in h.text for h in answers[1]
    )
    assert model.decode(heard, "north", options=said) == model.decode(heard, "north", options=plain)
    long = DecodeOptions(prompt="Guten Morgen. " * 500)
    assert [h.finished for h in model.decode(heard, PRIMARY, ["de", "de"], long)[0]]


def test_a_prompt_with_a_special_token_is_refused(backbone, clips):
    encoded = backbone.upper(backbone.trunk(backbone.features(clips[:1]), 0), 0)
    with pytest.raises(BaseModelError, match="special token"):
        backbone.decode(encoded, ["en"], prompt="<|startoftranscript|>")


def test_sentences_end_with_their_points_or_a_long_pause():
    said = [
        ("Кар", 0.5, 0.8),
        (" жаады.", 0.8, 1.2),
        (" «Апам", 1.5, 1.8),
        (" келди!»", 1.8, 2.2),
        (" Ошо", 2.4, 2.6),
        (" үчүн", 4.0, 4.3),
    ]
    words = [Word(start, end, text, None, False) for text, start, end in said]
    assert sentences(words) == (
        Span(0.5, 1.2, "Кар жаады."),
        Span(1.5, 2.2, "«Апам келди!»"),
        Span(2.4, 2.6, "Ошо"),
        Span(4.0, 4.3, "үчүн"),
    )
    assert sentences([]) == ()


def test_windows_are_cut_into_sentences(model, clips):
    window = TranscribeOptions(
        decode=DecodeOptions(fallback=Fallback((0.0,), no_speech_threshold=None)), batch=1
    )
    for route in (PRIMARY, "north"):
        [whole] = transcribe(model, clips[2], route=route, options=window).segments
        parts = transcribe(
            model, clips[2], route=route, options=replace(window, sentences=True)
        ).segments
        assert " ".join(part.text for part in parts) == whole.text and not any(
            part.words for part in parts
        )
        assert all(whole.start <= part.start <= part.end <= whole.end for part in parts)


@pytest.mark.parametrize("conditioned", [False, True])
def test_the_previous_window_is_the_prompt_of_the_next(model, clips, conditioned):
    sound = np.tile(np.concatenate(clips), 2)
    decode = DecodeOptions(fallback=Fallback((0.0,), None, None, None))  # nothing is a failure
    asked = TranscribeOptions(decode=decode, condition_on_previous_text=conditioned, batch=1)
    first, second, *_ = transcribe(
        model, sound, route=PRIMARY, language="de", options=asked
    ).segments
    window = sound[round(16_000 * second.start) : round(16_000 * second.end)]
    prompt = first.text if conditioned else ""
    [alone] = model.transcribe_windows(
        [window], route=PRIMARY, language="de", options=DecodeOptions(prompt=prompt)
    )
    assert second.text == alone.text.strip()


@pytest.mark.parametrize("code", ["en", "de", "tr"])
def test_words_of_the_built_in_base_are_where_espeak_says_them(code):
    text = {
        "en": "My brother reads a book.",
        "de": "Meine Mutter kauft Brot.",
        "tr": "Annem bugün ekmek aldı.",
    }[code]
    with Speaker() as speaker:
        said = speaker.utter(text, code, draw_voice(np.random.default_rng(5), "train"))
    model = load_model("micro")
    heard = model.encode_audio([said.samples])
    results = model.transcribe_encoded(heard, route=PRIMARY, language=code)
    [words] = words_of(model, heard, results)
    starts = [second for _, second in said.words]
    nearest = [min(abs(word.start - start) for start in starts) for word in words]
    assert len(words) >= 3 and np.median(nearest) <= 0.08
