"""DualWhisper: one frozen primary, any number of packs, and the selector between them.

What was computed of a window to name its language is handed on to the decoder.
"""

import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from difflib import get_close_matches
from types import MappingProxyType

import numpy as np
import torch

from dualasr.audio.load import SAMPLE_RATE
from dualasr.errors import PackError
from dualasr.languages import tag_among
from dualasr.model.fallback import Fallback, decode_with_fallback
from dualasr.model.language_id import Heard, Output, allowed, bids_of, encode
from dualasr.model.language_statistics import Discriminant
from dualasr.model.pack import Pack
from dualasr.model.search import Hypothesis
from dualasr.model.secondary import Candidate, SearchOptions, pool, slice_trunk
from dualasr.model.selector import PRIMARY, Bid, Decision, SelectorOptions, language_probs, select, settle
from dualasr.model.whisper import Backbone

Answer = tuple[Hypothesis, str]  # what a pipeline says of a window, and in which language


@dataclass(frozen=True)
class DecodeOptions:
    """beam of both pipelines (the paper evaluates with 5); ctc_weight None takes what each pack was fitted with.

    The rest is for the primary alone: what was said before (`context` after `prompt`, and cut first where room is short),
    whether it writes timestamps, when it tries again, and further options of transformers' `generate`.
    """

    beam: int = 1
    ctc_weight: float | None = None
    prompt: str = ""
    context: str = ""
    timestamps: bool = False
    fallback: Fallback | None = None
    generate: dict = field(default_factory=dict)


@dataclass(frozen=True)
class WindowResult:
    """A window's transcript with its evidence: raw values in `scores`, the posterior in `language_probs`."""

    text: str
    language: str
    route: str
    language_probs: dict[str, float]
    no_speech_prob: float
    avg_logprob: float
    tokens: tuple[int, ...]
    temperature: float
    scores: dict
    reason: str
    rival: str | None  # the pack that came nearest; None without packs, or where the caller chose the route
    hypotheses: dict[str, Answer]  # of every route that was decoded


@dataclass(frozen=True)
class DualWhisper:
    """A frozen Whisper and its packs, by name. Adding or removing a pack makes a new object; nothing is mutated.

    `languages` are the only ones that may be heard, by the names of those who know them; None for all.
    """

    backbone: Backbone
    packs: dict[str, Pack] = field(default_factory=dict)
    selector: SelectorOptions = SelectorOptions()
    languages: frozenset[str] | None = None

    def with_pack(self, pack: Pack) -> "DualWhisper":
        """The model with one more pack. Raises PackError where its name or a language of it is taken by another pack."""
        if pack.name in self.packs or pack.name == PRIMARY:
            raise PackError(f"Two packs are called {pack.name!r}; rename the folder's pack or load one of them.")
        for other in self.packs.values():
            clash = sorted(set(other.info.languages) & set(pack.info.languages))
            if clash:
                raise PackError(f"Packs {other.name!r} and {pack.name!r} both hold {', '.join(clash)}; load one of them.")
        return replace(self, packs={**self.packs, pack.name: pack})

    def without_pack(self, name: str) -> "DualWhisper":
        return replace(self, packs={key: pack for key, pack in self.packs.items() if key != name})

    def language_code(self, name: str) -> str:
        """The code of a language by its code or name in any case. Raises PackError that offers the nearest."""
        named = dict(self.backbone.language_names)
        for pack in self.packs.values():
            named |= {title.lower(): code for code, title in pack.info.languages.items()}
        codes = {code.lower(): code for code in named.values()}
        wanted = name.strip().lower()
        if found := codes.get(wanted) or named.get(wanted):
            return found
        if (tag := tag_among(wanted, list(self.backbone.languages))) is not None:
            return tag
        near = get_close_matches(wanted, [*codes, *named], n=3) or sorted(codes)
        raise PackError(f"No loaded pipeline knows the language {name!r}; nearest: {', '.join(near)}.")

    def among(self, languages: Sequence[str]) -> "DualWhisper":
        """The model for audio that is in one of these languages. Raises PackError for one that nobody loaded knows."""
        codes = {code if self.route_of(code) != PRIMARY else tag_among(code, self.backbone.codes) for code in languages}
        packs = {name: pack for name, pack in self.packs.items() if codes & set(pack.info.languages)}
        return replace(self, packs=packs, languages=frozenset(codes))

    def _primary_log_probs(self, heard: Heard) -> torch.Tensor | None:
        """Of the primary's languages, over those that may be heard: (batch, languages); None where none may."""
        may = allowed(self.backbone.codes, self.languages)
        if len(may) == heard.language_log_probs.shape[1]:
            return heard.language_log_probs
        log_probs = torch.full_like(heard.language_log_probs, -torch.inf)
        log_probs[:, may] = heard.language_log_probs[:, may].log_softmax(-1)
        return log_probs if may else None

    @torch.no_grad()
    def listen(self, clips: Sequence[np.ndarray]) -> Heard:
        """Encode windows of at most `backbone.window_samples` samples, once, and ask the primary for the language."""
        backbone = self.backbone
        forks = sorted({pack.secondary.options.fork for pack in self.packs.values()})
        at, trunks = min(forks, default=0), {}
        hidden = backbone.trunk(backbone.features(list(clips)), at)
        for fork in forks:
            for layer in backbone.encoder.layers[at:fork]:
                hidden = layer(hidden, None)
            at, trunks[fork] = fork, hidden
        encoded = backbone.upper(hidden, at)
        step, frames = backbone.language_step(encoded), [backbone.frames(len(clip)) for clip in clips]
        impression = torch.cat([pool(*slice_trunk(encoded, frames)).float(), step.state], -1)
        return Heard(
            tuple(len(clip) / SAMPLE_RATE for clip in clips), tuple(frames), trunks, encoded, step.log_probs,
            tuple(step.no_speech_prob.tolist()), impression,
        )  # fmt: skip

    def bids(self, heard: Heard, *, ask: bool = True) -> tuple[list[list[Bid]], dict[str, Output]]:
        """What every pack says of every window, and which windows were encoded for it (`bidding.bids_of`)."""
        packs = tuple(self.packs.values())
        return bids_of(packs, heard, self.selector, self._discriminant, self.languages, ask=ask)

    @functools.cached_property
    def _discriminant(self) -> Discriminant | None:
        """Between the packs that brought statistics, where two or more did."""
        found = [pack.statistics for pack in self.packs.values() if pack.statistics is not None]
        return Discriminant.between(found) if len(found) > 1 else None

    def decode(self, heard: Heard, route: str, languages: Sequence[str] | None = None,
               options: DecodeOptions = DecodeOptions()) -> tuple[list[Hypothesis], list[str]]:  # fmt: skip
        """Decode a batch through one route; languages default to each decoder's own best tag. Empty in, empty out.

        A language comes back by the primary's name for it: `zh` where `cmn` was asked for.
        """
        if not heard.seconds:
            return [], []
        if route == PRIMARY:
            known = self.backbone.codes
            chosen = [tag_among(code, known) or code for code in languages or ()]
            if not chosen:
                log_probs = self._primary_log_probs(heard)
                chosen = [known[i] for i in (heard.language_log_probs if log_probs is None else log_probs).argmax(-1).tolist()]
            asked = {"beam": options.beam, "prompt": options.prompt, "context": options.context,
                     "timestamps": options.timestamps, **options.generate}  # fmt: skip
            if options.fallback is None:
                return self.backbone.decode(heard.encoded, chosen, **asked), chosen
            silence = heard.no_speech_prob
            return decode_with_fallback(self.backbone, heard.encoded, chosen, silence, options.fallback, **asked), chosen
        pack = self.pack(route)
        return self._decode_pack(pack, *encode(pack, heard), languages, options)

    def candidates(self, heard: Heard, name: str, beam: int = 5) -> list[list[Candidate]]:
        """What a pack considers for every window, with both scores of each."""
        pack = self.pack(name)
        encoded, lengths = encode(pack, heard)
        languages = self._pack_languages(pack, encoded, lengths)
        return pack.secondary.candidates(encoded, lengths, languages, SearchOptions(beam=beam))

    def _pack_languages(self, pack: Pack, encoded: torch.Tensor, lengths: torch.Tensor) -> list[str]:
        """A pack's best language of every window."""
        codes = list(pack.info.languages)
        may = allowed(codes, self.languages) or range(len(codes))
        if len(may) == 1:
            return [codes[may[0]]] * len(encoded)
        return [codes[may[i]] for i in pack.secondary.tag_step(encoded, lengths)[:, [1 + i for i in may]].argmax(-1).tolist()]

    def _decode_pack(self, pack: Pack, encoded: torch.Tensor, lengths: torch.Tensor, languages: Sequence[str] | None,
                     options: DecodeOptions) -> tuple[list[Hypothesis], list[str]]:  # fmt: skip
        languages = list(languages or self._pack_languages(pack, encoded, lengths))
        weight = pack.info.ctc_weight if options.ctc_weight is None else options.ctc_weight
        search = SearchOptions(beam=options.beam, ctc_weight=weight)
        return pack.secondary.decode(encoded, lengths, languages, search), languages

    def pack(self, name: str) -> Pack:
        """A loaded pack by name. Raises PackError that lists the loaded ones."""
        if name not in self.packs:
            raise PackError(f"There is no route {name!r}; there is: {', '.join([PRIMARY, *self.packs])}.")
        return self.packs[name]

    def transcribe_windows(self, clips: Sequence[np.ndarray], *, route: str | None = None, language: str | None = None,
                           options: DecodeOptions = DecodeOptions()) -> list[WindowResult]:  # fmt: skip
        """Transcribe windows as a batch, each by its route: (samples,) arrays of at most one window -> results.

        `route` forces a pipeline, `language` a language (and the pipeline that knows it). Raises PackError for either
        that is unknown.
        """
        route = self._route(route, language)
        return self.transcribe_heard(self.listen(clips), route=route, language=language, options=options)

    def transcribe_heard(self, heard: Heard, *, route: str | None = None, language: str | None = None,
                         also: Sequence[str] = (), rivals: bool = False,
                         given: Mapping[str, Mapping[int, Answer]] = MappingProxyType({}),
                         options: DecodeOptions = DecodeOptions()) -> list[WindowResult]:  # fmt: skip
        """`transcribe_windows` after `listen`.

        Every window is decoded by the routes of `also`, too, and with `rivals` by the pack that came nearest. What is
        `given` (by route and row, of an earlier run with the same settings) is not decoded again.
        """
        route = self._route(route, language)
        bids, outputs = self.bids(heard, ask=route is None)
        log_probs = self._primary_log_probs(heard)
        best_tags = _best_tags(heard, log_probs)
        if route is None:
            decisions = self._decisions(heard, bids, best_tags, log_probs is not None)
        else:
            decisions = [Decision(route, True, "the caller chose the route")] * len(bids)
        forced = None if language is None else [language]
        wanted: dict[str, list[int]] = {name: list(range(len(bids))) for name in also}
        for i, decision in enumerate(decisions):
            names = [decision.route] if decision.settled else [PRIMARY, decision.rival]
            if rivals and decision.rival:
                names.append(decision.rival)
            for name in dict.fromkeys(names):
                if name not in also:
                    wanted.setdefault(name, []).append(i)
        found: dict[tuple[str, int], Answer] = {}
        for name, rows in wanted.items():
            ready = given.get(name, {})
            found |= {(name, i): ready[i] for i in rows if i in ready}
            if not (rows := [i for i in rows if i not in ready]):
                continue
            languages = None if forced is None else forced * len(rows)
            asked, encoded, lengths = outputs.get(name, ([], None, None))
            if set(rows) <= set(asked):  # encoded already, to name the language
                index = torch.tensor([asked.index(i) for i in rows], device=encoded.device)
                pair = encoded[index], lengths[index]
                hypotheses, chosen = self._decode_pack(self.pack(name), *pair, languages, options)
            else:
                hypotheses, chosen = self.decode(heard.of(rows), name, languages, options)
            found |= {(name, i): pair for i, pair in zip(rows, zip(hypotheses, chosen, strict=True), strict=True)}
        results = []
        for i, decision in enumerate(decisions):
            if not decision.settled:
                k = list(self.packs).index(decision.rival)
                pair = found[PRIMARY, i][0], found[decision.rival, i][0]
                decision, bids[i][k] = settle(decision, bids[i][k], *pair, heard.seconds[i], self.selector)
            hypothesis, chosen = found[decision.route, i]
            scores = {PRIMARY: {"best_tag": best_tags[i]}}
            scores |= {b.name: {"head": b.head, "tag": b.tag, "log_odds": b.log_odds} for b in bids[i]}
            for name in wanted:
                if (name, i) in found:
                    scores[name]["logprob_per_second"] = found[name, i][0].logprob / max(heard.seconds[i], 0.1)
                    scores[name]["avg_logprob"] = found[name, i][0].avg_logprob
            probs = self._posterior(None if log_probs is None else log_probs[i], bids[i])
            results.append(WindowResult(
                hypothesis.text, chosen, decision.route, probs, heard.no_speech_prob[i], hypothesis.avg_logprob,
                hypothesis.tokens, hypothesis.temperature, scores, decision.reason, decision.rival,
                {name: found[name, i] for name in wanted if (name, i) in found},
            ))  # fmt: skip
        return results

    def _decisions(self, heard: Heard, bids: Sequence[Sequence[Bid]], best_tags: Sequence[float],
                   served: bool) -> list[Decision]:  # fmt: skip
        """First ones, of every window; `best_tags` are the primary's, which is `served` if it may hear any language."""
        return [select(tag, row, self.selector, primary=served, no_speech_prob=silence)
                for tag, row, silence in zip(best_tags, bids, heard.no_speech_prob, strict=True)]  # fmt: skip

    def _route(self, route: str | None, language: str | None) -> str | None:
        """The route that is forced, by itself or by a language; None: the selector's. Raises PackError for an unknown one."""
        if route is None:
            return None if language is None else self.route_of(language)
        return route if route == PRIMARY else self.pack(route).name

    def _posterior(self, log_probs: torch.Tensor | None, bids: Sequence[Bid]) -> dict[str, float]:
        """`language_probs` of a window: the primary's log-probabilities (languages,), None where it may hear none."""
        known = self.backbone.codes
        probs = [] if log_probs is None else log_probs.exp().tolist()
        mine = {known[k]: probs[k] for k in allowed(known, self.languages)} if probs else {}
        return language_probs(mine, bids, self.selector.posterior)

    def detect(self, heard: Heard) -> list[WindowResult]:
        """The languages of windows, with no text: nothing is decoded, so that a close decision stands without a duel.

        `language` is the likeliest of those that `route` knows.
        """
        bids, _ = self.bids(heard)
        log_probs, results = self._primary_log_probs(heard), []
        decisions = self._decisions(heard, bids, _best_tags(heard, log_probs), log_probs is not None)
        for i, decision in enumerate(decisions):
            probs = self._posterior(None if log_probs is None else log_probs[i], bids[i])
            if decision.route == PRIMARY:
                language = self.backbone.codes[int(log_probs[i].argmax())]
            else:
                bid = next(bid for bid in bids[i] if bid.name == decision.route)
                language = bid.languages[int(np.argmax(bid.shares))]
            results.append(WindowResult("", language, decision.route, probs, heard.no_speech_prob[i], 0.0, (), 0.0, {},
                                        decision.reason, None, {}))  # fmt: skip
        return results

    def route_of(self, language: str) -> str:
        """The pipeline that knows a language; a pack goes before the primary. Raises PackError where none does.

        The primary knows a language of FLEURS by Whisper's name for it, too: `cmn` where it has `zh`.
        """
        for name, pack in self.packs.items():
            if language in pack.info.languages:
                return name
        if tag_among(language, self.backbone.codes):
            return PRIMARY
        known = [*self.backbone.codes, *(code for pack in self.packs.values() for code in pack.info.languages)]
        raise PackError(f"No loaded pipeline knows {language!r}; known: {', '.join(known)}.")


def _best_tags(heard: Heard, log_probs: torch.Tensor | None) -> list[float]:
    """Log-probability of the primary's best language of every window; of all its languages where it may hear none."""
    return (heard.language_log_probs if log_probs is None else log_probs).max(-1).values.tolist()


