"""Beam and CTC search against the obvious slow versions."""

import itertools

import numpy as np
import pytest
import torch

from dualasr.model.las_decoder import LASDecoder, LASOptions
from dualasr.model.search import beam_search, ctc_greedy, ctc_prefix_beam


@pytest.fixture
def decoder():
    torch.manual_seed(0)
    decoder = LASDecoder(8, 3, 16, LASOptions(units=12, heads=2, dropout=0.0)).eval()
    with torch.no_grad():
        for parameter in decoder.parameters():
            parameter.mul_(3)
    return decoder


@pytest.fixture
def encoded():
    torch.manual_seed(1)
    return torch.randn(3, 10, 16), torch.tensor([10, 6, 8])


PREFIX = torch.tensor([[0, 2]] * 3)


@torch.no_grad()
def slow_greedy(decoder, encoded, lengths, prefix, limit):
    """One clip at a time, by teacher forcing from scratch at every token."""
    found = []
    for i in range(len(encoded)):
        tokens, logprob = prefix[i].tolist(), 0.0
        for _ in range(limit + 1):
            here = encoded[i : i + 1, : int(lengths[i])]
            log_probs = decoder(here, lengths[i : i + 1], torch.tensor([tokens]))[0, -1]
            best = int(log_probs.argmax())
            if len(tokens) - 2 == limit:
                break
            logprob += float(log_probs[best])
            if best == 0:
                break
            tokens.append(best)
        found.append((tuple(tokens[2:]), logprob))
    return found


def test_beam_one_is_greedy(decoder, encoded):
    rows = beam_search(decoder, *encoded, PREFIX, beam=1, limits=torch.tensor([7, 7, 7]))
    expected = slow_greedy(decoder, *encoded, PREFIX, 7)
    for [(tokens, logprob, _)], (slow, total) in zip(rows, expected, strict=True):
        assert tokens == slow
        assert logprob == pytest.approx(total, abs=1e-4)


def test_wide_beam_finds_the_best_of_all_sequences(decoder, encoded):
    """Every text of at most two units, scored one by one by teacher forcing."""
    features, lengths = encoded
    rows = beam_search(decoder, features, lengths, PREFIX, beam=40, limits=torch.tensor([2, 2, 2]))
    for i in range(3):
        best, here = None, features[i : i + 1, : int(lengths[i])]
        for size in range(3):
            for text in itertools.product(range(3, 8), repeat=size):
                log_probs = decoder(here, lengths[i : i + 1], torch.tensor([[0, 2, *text]]))[0, 1:]
                total = sum(
                    float(log_probs[k, token]) for k, token in enumerate([*text, 0][: size + 1])
                )
                if size < 2 and (best is None or total / (size + 1) > best[1]):
                    best = (text, total / (size + 1))
        finished = [row for row in rows[i] if row[2]]
        assert finished[0][0] == best[0]
        assert finished[0][1] / (len(finished[0][0]) + 1) == pytest.approx(best[1], abs=1e-4)


def test_batch_equals_one_by_one(decoder, encoded):
    features, lengths = encoded
    together = beam_search(
        decoder, features, lengths, PREFIX, beam=4, limits=torch.tensor([6, 3, 5])
    )
    for i in range(3):
        alone = beam_search(
            decoder,
            features[i : i + 1, : int(lengths[i])],
            lengths[i : i + 1],
            PREFIX[:1],
            beam=4,
            limits=torch.tensor([[6, 3, 5][i]]),
        )[0]
        assert [row[0] for row in alone] == [row[0] for row in together[i]]


def test_limit_is_kept(decoder, encoded):
    rows = beam_search(decoder, *encoded, PREFIX, beam=3, limits=torch.tensor([2, 0, 4]))
    for limit, found in zip((2, 0, 4), rows, strict=True):
        assert found and all(len(tokens) <= limit for tokens, _, _ in found)


def test_ctc_greedy_known_answer():
    path = [0, 2, 2, 0, 2, 1, 1, 0]
    assert ctc_greedy(np.eye(3)[path]) == [2, 2, 1]


def test_ctc_prefix_beam_against_all_paths():
    rng = np.random.default_rng(0)
    frames = np.log(rng.dirichlet(np.ones(4), 5))
    totals: dict[tuple, float] = {}
    for path in itertools.product(range(4), repeat=5):
        text = tuple(u for i, u in enumerate(path) if u and (i == 0 or u != path[i - 1]))
        score = sum(frames[t, u] for t, u in enumerate(path))
        totals[text] = np.logaddexp(totals.get(text, -np.inf), score)
    best = sorted(totals.items(), key=lambda item: -item[1])[:3]
    found = ctc_prefix_beam(frames, beam=400, units=4)[:3]
    assert [text for text, _ in found] == [text for text, _ in best]
    assert np.allclose([score for _, score in found], [score for _, score in best])
