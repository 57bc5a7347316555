"""DualWhisper: one frozen primary, any number of packs, and the selector between them.

A batch of windows goes through four steps, and each hands on what it computed:

    encode_audio(clips) -> EncodedAudio     the encoder and the primary's first step, once
    route(audio)        -> Routing          every pack's scores, and the selector's first decisions
    decode_routes(...)  -> Decoded          hypotheses by the routes that are wanted
    conclude(...)       -> WindowResult     the second pass where a decision was not final, and the evidence

`transcribe_encoded` and `transcribe_windows` run them in turn. An evaluation runs them itself,
because it wants further routes.
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
from dualasr.model.language_id import EncodedAudio, PackEncoding, allowed, encode, score_packs
from dualasr.model.language_statistics import Discriminant
from dualasr.model.pack import Pack
from dualasr.model.search import Hypothesis
from dualasr.model.secondary import Candidate, SearchOptions, pool, slice_trunk
from dualasr.model.selector import (
    PRIMARY,
    Decision,
    PackScore,
    SelectorOptions,
    language_probs,
    rescore,
    select,
)
from dualasr.model.whisper import Backbone

# a pipeline's hypothesis for a window, and the language it was decoded in
Answer = tuple[Hypothesis, str]
Cached = Mapping[str, Mapping[int, Answer]]  # by route and row of the batch
NOTHING_CACHED: Cached = MappingProxyType({})


@dataclass(frozen=True)
class DecodeOptions:
    """How windows are decoded.

    Attributes:
        beam: Beam width of both pipelines (the paper evaluates with 5); 1 is greedy.
        ctc_weight: Weight of CTC in a pack's joint score; None takes what each pack was fitted
        with. prompt: Text that was said before. This and what follows is for the primary alone.
        context: Text after `prompt`; where room is short it is cut first. timestamps: Whether the
        primary writes timestamps. fallback: When the primary decodes a window again; None for
        never. generate: Further options of transformers' `generate`.
    """

    beam: int = 1
    ctc_weight: float | None = None
    prompt: str = ""
    context: str = ""
    timestamps: bool = False
    fallback: Fallback | None = None
    generate: dict = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class WindowResult:
    """A window's transcript with its evidence.

    Attributes:
        text: The transcript.
        language: Code of the language that it was decoded in. route: "primary" or a pack's name.
        language_probs: Probability of every candidate language, the most likely first.
        no_speech_prob: The primary's probability that nobody speaks. avg_logprob: Mean
        log-probability of a token. tokens: Token ids of the pipeline that wrote the text.
        temperature: At which it was drawn; 0 for a search. scores: Raw values, by "primary" and by
        pack. reason: Why it went where it did. runner_up: The pack that came nearest; None without
        packs, or where the caller chose the route. hypotheses: By every route that was decoded, its
        hypothesis and language.
    """

    text: str
    language: str
    route: str
    language_probs: dict[str, float]
    no_speech_prob: float
    avg_logprob: float = 0.0
    tokens: tuple[int, ...] = ()
    temperature: float = 0.0
    scores: dict = field(default_factory=dict)
    reason: str = ""
    runner_up: str | None = None
    hypotheses: Mapping[str, Answer] = field(default_factory=dict)


@dataclass(frozen=True, eq=False, kw_only=True)
class Routing:
    """The first decisions for a batch of windows, and what they rest on.

    Attributes:
        decisions: One a window.
        pack_scores: For each window the scores of all packs. primary_log_probs: Of the primary's
        languages that may be heard, (batch, languages); None where none may. best_tags:
        Log-probability of the primary's best language, of each window. encodings: By pack, the
        encoder output that was computed to score windows. language: The language that the caller
        chose; None for the decoder's own choice.
    """

    decisions: tuple[Decision, ...]
    pack_scores: tuple[tuple[PackScore, ...], ...]
    primary_log_probs: torch.Tensor | None
    best_tags: tuple[float, ...]
    encodings: Mapping[str, PackEncoding]
    language: str | None = None

    def plan(self, also: str | None = None, *, runners_up: bool = False) -> dict[str, list[int]]:
        """Return the windows to decode by each route: by both routes where a decision is not final.

        Args:
            also: A route that decodes all windows, first and as one batch.
            runners_up: Whether the pack that came nearest decodes a window, too.
        """
        wanted = {} if also is None else {also: list(range(len(self.decisions)))}
        for i, decision in enumerate(self.decisions):
            names = [decision.route] if decision.final else [PRIMARY, decision.runner_up]
            if runners_up and decision.runner_up:
                names.append(decision.runner_up)
            for name in dict.fromkeys(names):
                if name != also:
                    wanted.setdefault(name, []).append(i)
        return wanted


@dataclass(frozen=True, eq=False)
class Decoded:
    """What the routes wrote: hypotheses by route and window, and the packs' encoder output behind
    them.
    """

    answers: Mapping[str, Mapping[int, Answer]]
    encodings: Mapping[str, PackEncoding]


@dataclass(frozen=True)
class DualWhisper:
    """A frozen Whisper and its packs, by name. Adding or removing a pack makes a new object;
    nothing is changed in place.

    Attributes:
        backbone: The frozen Whisper.
        packs: The loaded packs by name. selector: The selector's settings. languages: The only
        languages that may be heard, by the codes of the pipelines that know them; None for all.
    """

    backbone: Backbone
    packs: dict[str, Pack] = field(default_factory=dict)
    selector: SelectorOptions = SelectorOptions()
    languages: frozenset[str] | None = None

    def with_pack(self, pack: Pack) -> "DualWhisper":
        """The model with one more pack. Raises PackError where its name or a language of it is
        taken by another pack.
        """
        if pack.name in self.packs or pack.name == PRIMARY:
            raise PackError(
                f"Two packs are called {pack.name!r}; rename the folder's pack or load one of them."
            )
        for other in self.packs.values():
            clash = sorted(set(other.info.languages) & set(pack.info.languages))
            if clash:
                raise PackError(
                    f"Packs {other.name!r} and {pack.name!r} both hold {', '.join(clash)}; load one"
                    " of them."
                )
        return replace(self, packs={**self.packs, pack.name: pack})

    def without_pack(self, name: str) -> "DualWhisper":
        return replace(self, packs={key: pack for key, pack in self.packs.items() if key != name})

    def language_code(self, name: str) -> str:
        """The code of a language by its code or name in any case. Raises PackError that offers the
        nearest.
        """
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
        raise PackError(
            f"No loaded pipeline knows the language {name!r}; nearest: {', '.join(near)}."
        )

    def among(self, languages: Sequence[str]) -> "DualWhisper":
        """The model for audio that is in one of these languages. Raises PackError for one that
        nobody loaded knows.
        """
        codes = {
            code if self.route_of(code) != PRIMARY else tag_among(code, self.backbone.codes)
            for code in languages
        }
        packs = {
            name: pack for name, pack in self.packs.items() if codes & set(pack.info.languages)
        }
        return replace(self, packs=packs, languages=frozenset(codes))

    @torch.no_grad()
    def encode_audio(self, clips: Sequence[np.ndarray]) -> EncodedAudio:
        """Encode windows, and run the primary's first decoder step, once.

        Args:
            clips: Windows as (samples,) float arrays at 16 kHz, each of at most
                `backbone.window_samples`.
        """
        backbone = self.backbone
        forks = sorted({pack.secondary.options.fork for pack in self.packs.values()})
        at, trunks = min(forks, default=0), {}
        hidden = backbone.trunk(backbone.features(list(clips)), at)
        for fork in forks:
            for layer in backbone.encoder.layers[at:fork]:
                hidden = layer(hidden, None)
            at, trunks[fork] = fork, hidden
        encoded = backbone.upper(hidden, at)
        step, frames = (
            backbone.language_step(encoded),
            [backbone.frames(len(clip)) for clip in clips],
        )
        return EncodedAudio(
            seconds=tuple(len(clip) / SAMPLE_RATE for clip in clips),
            frames=tuple(frames),
            trunks=trunks,
            encoded=encoded,
            language_log_probs=step.log_probs,
            no_speech_prob=tuple(step.no_speech_prob.tolist()),
            pooled_features=torch.cat(
                [pool(*slice_trunk(encoded, frames)).float(), step.state], -1
            ),
        )

    def score_packs(
        self, audio: EncodedAudio, *, tags: bool = True
    ) -> tuple[list[list[PackScore]], dict[str, PackEncoding]]:
        """Return each pack's scores for every window, and the encoder output behind them
        (`language_id.score_packs`).
        """
        packs = tuple(self.packs.values())
        return score_packs(
            packs, audio, self.selector, self._discriminant, self.languages, tags=tags
        )

    @functools.cached_property
    def _discriminant(self) -> Discriminant | None:
        """Between the packs that have statistics, where two or more do."""
        found = [pack.statistics for pack in self.packs.values() if pack.statistics is not None]
        return Discriminant.between(found) if len(found) > 1 else None

    def route(
        self, audio: EncodedAudio, *, route: str | None = None, language: str | None = None
    ) -> Routing:
        """Decide where windows go, before anything is decoded.

        Args:
            audio: The encoded windows.
            route: "primary" or a pack's name; None for the selector's choice. language: A
            language's code: it is decoded by the pipeline that knows it, unless `route` names one.

        Raises:
            PackError: The route or the language is unknown.
        """
        route = self._forced_route(route, language)
        scores, encodings = self.score_packs(audio, tags=route is None)
        log_probs = self._primary_log_probs(audio)
        best_tags = (
            (audio.language_log_probs if log_probs is None else log_probs).max(-1).values.tolist()
        )
        if route is None:
            decisions = [
                select(
                    tag, row, self.selector, primary=log_probs is not None, no_speech_prob=silence
                )
                for tag, row, silence in zip(best_tags, scores, audio.no_speech_prob, strict=True)
            ]
        else:
            decisions = [Decision(route, True, "the caller chose the route")] * len(audio)
        return Routing(
            decisions=tuple(decisions),
            pack_scores=tuple(map(tuple, scores)),
            primary_log_probs=log_probs,
            best_tags=tuple(best_tags),
            encodings=encodings,
            language=language,
        )

    def _forced_route(self, route: str | None, language: str | None) -> str | None:
        """The route that the caller chose, by name or by a language; None: the selector's. Raises
        PackError.
        """
        if route is None:
            return None if language is None else self.route_of(language)
        return route if route == PRIMARY else self.pack(route).name

    def _primary_log_probs(self, audio: EncodedAudio) -> torch.Tensor | None:
        """Of the primary's languages, over those that may be heard: (batch, languages); None where
        none may.
        """
        may = allowed(self.backbone.codes, self.languages)
        if len(may) == audio.language_log_probs.shape[1]:
            return audio.language_log_probs
        log_probs = torch.full_like(audio.language_log_probs, -torch.inf)
        log_probs[:, may] = audio.language_log_probs[:, may].log_softmax(-1)
        return log_probs if may else None

    def decode_routes(
        self,
        audio: EncodedAudio,
        routing: Routing,
        plan: Mapping[str, Sequence[int]],
        options: DecodeOptions = DecodeOptions(),
        *,
        cached: Cached = NOTHING_CACHED,
    ) -> Decoded:
        """Decode windows, each route its own as one batch.

        Args:
            audio: The encoded windows.
            routing: What `route` gave for them. plan: By route, the windows that it decodes;
            `routing.plan()`, or more. options: How they are decoded. cached: Answers of an earlier
            run with the same settings; these windows are not decoded again.
        """
        answers: dict[str, dict[int, Answer]] = {}
        encodings = dict(routing.encodings)
        for name, rows in plan.items():
            known = cached.get(name, {})
            answers[name] = {i: known[i] for i in rows if i in known}
            todo = [i for i in rows if i not in known]
            languages = None if routing.language is None else [routing.language] * len(todo)
            if not todo:
                continue
            if name == PRIMARY:
                hypotheses, chosen = self.decode(audio.of(todo), PRIMARY, languages, options)
            else:
                pack = self.pack(name)
                ready = encodings[name].of(todo) if name in encodings else None
                if ready is None:
                    encodings[name] = encode(pack, audio, todo)
                    ready = encodings[name].encoded, encodings[name].lengths
                hypotheses, chosen = self._decode_pack(pack, *ready, languages, options)
            answers[name] |= zip(todo, zip(hypotheses, chosen, strict=True), strict=True)
        return Decoded(answers, encodings)

    def conclude(
        self, audio: EncodedAudio, routing: Routing, decoded: Decoded
    ) -> list[WindowResult]:
        """Make the final decisions, and put each window's transcript and evidence together.

        Args:
            audio: The encoded windows.
            routing: What `route` gave for them.
            decoded: What `decode_routes` gave for at least `routing.plan()`.
        """
        results = []
        for i, (decision, pack_scores) in enumerate(
            zip(routing.decisions, routing.pack_scores, strict=True)
        ):
            if not decision.final:
                decision, pack_scores = self._second_pass(i, decision, pack_scores, audio, decoded)
            hypotheses = {
                name: answers[i] for name, answers in decoded.answers.items() if i in answers
            }
            scores = {PRIMARY: {"best_tag": routing.best_tags[i]}}
            scores |= {
                s.name: {"head": s.head, "tag": s.tag, "log_odds": s.log_odds} for s in pack_scores
            }
            for name, (hypothesis, _) in hypotheses.items():
                scores[name]["logprob_per_second"] = hypothesis.logprob / max(audio.seconds[i], 0.1)
                scores[name]["avg_logprob"] = hypothesis.avg_logprob
            chosen, language = hypotheses[decision.route]
            result = WindowResult(
                text=chosen.text,
                language=language,
                route=decision.route,
                language_probs=self._posterior(routing, i, pack_scores),
                no_speech_prob=audio.no_speech_prob[i],
                avg_logprob=chosen.avg_logprob,
                tokens=chosen.tokens,
                temperature=chosen.temperature,
                scores=scores,
                reason=decision.reason,
                runner_up=decision.runner_up,
                hypotheses=hypotheses,
            )
            results.append(result)
        return results

    def _second_pass(
        self,
        row: int,
        first: Decision,
        scores: Sequence[PackScore],
        audio: EncodedAudio,
        decoded: Decoded,
    ) -> tuple[Decision, tuple[PackScore, ...]]:
        """The final decision for a window that both pipelines decoded, and the packs' scores after
        it.
        """
        [runner_up] = [score for score in scores if score.name == first.runner_up]
        primary, _ = decoded.answers[PRIMARY][row]
        secondary, _ = decoded.answers[runner_up.name][row]
        final, rescored = rescore(
            first, runner_up, primary, secondary, audio.seconds[row], self.selector
        )
        return final, tuple(rescored if score is runner_up else score for score in scores)

    def transcribe_encoded(
        self,
        audio: EncodedAudio,
        *,
        route: str | None = None,
        language: str | None = None,
        options: DecodeOptions = DecodeOptions(),
    ) -> list[WindowResult]:
        """Transcribe encoded windows as a batch, each by its route; see `transcribe_windows`."""
        routing = self.route(audio, route=route, language=language)
        return self.conclude(
            audio, routing, self.decode_routes(audio, routing, routing.plan(), options)
        )

    def transcribe_windows(
        self,
        clips: Sequence[np.ndarray],
        *,
        route: str | None = None,
        language: str | None = None,
        options: DecodeOptions = DecodeOptions(),
    ) -> list[WindowResult]:
        """Transcribe windows as a batch, each by its route.

        Args:
            clips: Windows as (samples,) float arrays at 16 kHz, each of at most
                `backbone.window_samples`.
            route: "primary" or a pack's name; None for the selector's choice. language: A
            language's code: it is decoded by the pipeline that knows it, unless `route` names one.
            options: How they are decoded.

        Raises:
            PackError: The route or the language is unknown.
        """
        self._forced_route(route, language)
        return self.transcribe_encoded(
            self.encode_audio(clips), route=route, language=language, options=options
        )

    def detect(self, audio: EncodedAudio) -> list[WindowResult]:
        """Name the languages of windows, and decode nothing: a close decision stands as it is,
        without a second pass.

        `language` is the most likely one of those that `route` knows.
        """
        routing, results = self.route(audio), []
        for i, (decision, scores) in enumerate(
            zip(routing.decisions, routing.pack_scores, strict=True)
        ):
            if decision.route == PRIMARY:
                language = self.backbone.codes[int(routing.primary_log_probs[i].argmax())]
            else:
                score = next(score for score in scores if score.name == decision.route)
                language = score.languages[int(np.argmax(score.shares))]
            result = WindowResult(
                text="",
                language=language,
                route=decision.route,
                language_probs=self._posterior(routing, i, scores),
                no_speech_prob=audio.no_speech_prob[i],
                reason=decision.reason,
            )
            results.append(result)
        return results

    def _posterior(
        self, routing: Routing, row: int, scores: Sequence[PackScore]
    ) -> dict[str, float]:
        """`language_probs` of a window."""
        known, mine = self.backbone.codes, {}
        if routing.primary_log_probs is not None:
            probs = routing.primary_log_probs[row].exp().tolist()
            mine = {known[k]: probs[k] for k in allowed(known, self.languages)}
        return language_probs(mine, scores, self.selector.posterior)

    def decode(
        self,
        audio: EncodedAudio,
        route: str,
        languages: Sequence[str] | None = None,
        options: DecodeOptions = DecodeOptions(),
    ) -> tuple[list[Hypothesis], list[str]]:
        """Decode a batch by one route.

        Args:
            audio: The encoded windows; none gives empty lists.
            route: "primary" or a pack's name.
            languages: One a window; None for each decoder's own best tag.
            options: How they are decoded.

        Returns:
            A hypothesis and a language for each window. A language has the pipeline's own code:
                `zh` where `cmn` was asked for.

        Raises:
            PackError: There is no such route.
            BaseModelError: The primary has no such language, or cannot take the prompt.
        """
        if not len(audio):
            return [], []
        if route == PRIMARY:
            return self._decode_primary(audio, languages, options)
        encoding = encode(self.pack(route), audio)
        return self._decode_pack(
            self.pack(route), encoding.encoded, encoding.lengths, languages, options
        )

    def _decode_primary(
        self, audio: EncodedAudio, languages: Sequence[str] | None, options: DecodeOptions
    ) -> tuple[list[Hypothesis], list[str]]:
        known = self.backbone.codes
        chosen = [tag_among(code, known) or code for code in languages or ()]
        if not chosen:
            log_probs = self._primary_log_probs(audio)
            chosen = [
                known[i]
                for i in (
                    (audio.language_log_probs if log_probs is None else log_probs)
                    .argmax(-1)
                    .tolist()
                )
            ]
        asked = {
            "beam": options.beam,
            "prompt": options.prompt,
            "context": options.context,
            "timestamps": options.timestamps,
            **options.generate,
        }
        if options.fallback is None:
            return self.backbone.decode(audio.encoded, chosen, **asked), chosen
        silence = audio.no_speech_prob
        return (
            decode_with_fallback(
                self.backbone, audio.encoded, chosen, silence, options.fallback, **asked
            ),
            chosen,
        )

    def _decode_pack(
        self,
        pack: Pack,
        encoded: torch.Tensor,
        lengths: torch.Tensor,
        languages: Sequence[str] | None,
        options: DecodeOptions,
    ) -> tuple[list[Hypothesis], list[str]]:
        languages = list(languages or self._pack_languages(pack, encoded, lengths))
        weight = pack.info.ctc_weight if options.ctc_weight is None else options.ctc_weight
        search = SearchOptions(beam=options.beam, ctc_weight=weight)
        return pack.secondary.decode(encoded, lengths, languages, search), languages

    def candidates(self, audio: EncodedAudio, name: str, beam: int = 5) -> list[list[Candidate]]:
        """Return the hypotheses that a pack considers for every window, each with both of its
        scores.
        """
        pack = self.pack(name)
        encoding = encode(pack, audio)
        languages = self._pack_languages(pack, encoding.encoded, encoding.lengths)
        return pack.secondary.candidates(
            encoding.encoded, encoding.lengths, languages, SearchOptions(beam=beam)
        )

    def _pack_languages(
        self, pack: Pack, encoded: torch.Tensor, lengths: torch.Tensor
    ) -> list[str]:
        """A pack's best language of every window."""
        codes = list(pack.info.languages)
        may = allowed(codes, self.languages) or range(len(codes))
        if len(may) == 1:
            return [codes[may[0]]] * len(encoded)
        tags = pack.secondary.tag_step(encoded, lengths)[:, [1 + i for i in may]]
        return [codes[may[i]] for i in tags.argmax(-1).tolist()]

    def pack(self, name: str) -> Pack:
        """Return a loaded pack by name. Raises PackError that lists the loaded ones."""
        if name not in self.packs:
            raise PackError(
                f"There is no route {name!r}; there is: {', '.join([PRIMARY, *self.packs])}."
            )
        return self.packs[name]

    def route_of(self, language: str) -> str:
        """The pipeline that knows a language; a pack goes before the primary. Raises PackError
        where none does.

        The primary knows a language of FLEURS by Whisper's name for it, too: `cmn` where it has
        `zh`.
        """
        for name, pack in self.packs.items():
            if language in pack.info.languages:
                return name
        if tag_among(language, self.backbone.codes):
            return PRIMARY
        known = [
            *self.backbone.codes,
            *(code for pack in self.packs.values() for code in pack.info.languages),
        ]
        raise PackError(f"No loaded pipeline knows {language!r}; known: {', '.join(known)}.")
