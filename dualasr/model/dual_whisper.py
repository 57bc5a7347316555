"""DualWhisper: one frozen primary, any number of packs, and the selector between them.

A batch of windows goes through four steps. Each hands its results to the next:

    encode_audio(clips) -> EncodedAudio   the encoder and the primary's first decoder step, once
    route(audio)        -> Routing        each pack's scores, and the selector's first decisions
    decode_routes(...)  -> Decoded        hypotheses by the routes that are needed
    conclude(...)       -> WindowResult   final decisions (second pass) and transcripts

`transcribe_encoded` and `transcribe_windows` run all steps. An evaluation runs them one by one,
because it needs hypotheses of further routes.
"""

import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import Any

import numpy as np
import torch
from torch import nn

from dualasr.audio.load import SAMPLE_RATE
from dualasr.errors import PackError
from dualasr.languages import codes_of, nearest, tag_among
from dualasr.model.fallback import Fallback, decode_with_fallback
from dualasr.model.interrupt import OnStep, uninterrupted
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

# a pipeline's hypothesis for a window, and the language that it was decoded in
DecodedWindow = tuple[Hypothesis, str]
Cached = Mapping[str, Mapping[int, DecodedWindow]]  # by route, and by number in the batch
NOTHING_CACHED: Cached = MappingProxyType({})


@dataclass(frozen=True)
class DecodeOptions:
    """Settings of decoding. A pack uses `beam` and `ctc_weight` alone.

    Attributes:
        beam: Beam width of both pipelines (the paper evaluates with 5); 1 is greedy.
        ctc_weight: Weight of CTC in a pack's joint score; None for the weight that was fitted for
            each pack.
        prompt: Text that was said before; it conditions the primary.
        context: Text that follows `prompt`. If both are too long, it is cut first.
        timestamps: Whether the primary writes timestamps.
        fallback: When the primary decodes a window again; None for never.
        generate: Further options of transformers' `generate`.
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
    """A window's transcript, with the scores and the hypotheses behind it.

    Attributes:
        text: The transcript.
        language: Code of the language that it was decoded in.
        route: "primary" or a pack's name.
        language_probs: Probability of every candidate language, the most likely first.
        no_speech_prob: The primary's probability that the window holds no speech.
        avg_logprob: Mean log-probability per token.
        tokens: Token ids, of the tokenizer of the pipeline that wrote the text.
        temperature: The sampling temperature; 0 for a greedy or beam search.
        scores: Raw scores, by "primary" and by pack.
        reason: Why the window has this route.
        runner_up: The pack that came nearest; None if there is no pack, or if the caller chose the
            route.
        hypotheses: Hypothesis and language of every route that decoded the window.
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
    hypotheses: Mapping[str, DecodedWindow] = field(default_factory=dict)


@dataclass(frozen=True, eq=False, kw_only=True)
class Routing:
    """The first decisions for a batch of windows, and the scores behind them.

    Attributes:
        decisions: One for each window.
        pack_scores: For each window, the scores of all packs.
        primary_log_probs: Log-probabilities of the primary's languages, over the allowed ones,
            (batch, languages); None if none of them is allowed.
        best_tags: Log-probability of the primary's best language, for each window.
        encodings: By pack, the encoder output that was computed to score windows.
        language: The language that the caller chose; None if each decoder chooses its own.
    """

    decisions: tuple[Decision, ...]
    pack_scores: tuple[tuple[PackScore, ...], ...]
    primary_log_probs: torch.Tensor | None
    best_tags: tuple[float, ...]
    encodings: Mapping[str, PackEncoding]
    language: str | None = None

    def plan(self, also: str | None = None, *, runners_up: bool = False) -> dict[str, list[int]]:
        """Return the windows to decode by each route; both routes where a decision is not final.

        Args:
            also: A route that decodes all windows, first and as one batch.
            runners_up: Whether the pack that came nearest decodes each window, too.

        Returns:
            Numbers of windows in the batch, by route.
        """
        wanted = {} if also is None else {also: list(range(len(self.decisions)))}
        for i, decision in enumerate(self.decisions):
            names: list[str | None] = [decision.route]
            if not decision.final:
                names = [PRIMARY, decision.runner_up]
            if runners_up:
                names.append(decision.runner_up)
            for name in dict.fromkeys(names):
                if name is not None and name != also:
                    wanted.setdefault(name, []).append(i)
        return wanted


@dataclass(frozen=True, eq=False)
class Decoded:
    """Hypotheses by route and window, and the encoder output of packs that they were decoded from.

    Attributes:
        hypotheses: By route, and by the window's number in the batch.
        encodings: By pack.
    """

    hypotheses: Mapping[str, Mapping[int, DecodedWindow]]
    encodings: Mapping[str, PackEncoding]


@dataclass(frozen=True, eq=False)
class DualWhisper:
    """A frozen Whisper and its packs.

    Adding or removing a pack makes a new object; nothing is changed in place.

    Attributes:
        backbone: The frozen Whisper.
        packs: The loaded packs, by name.
        selector: The selector's settings.
        languages: The only allowed languages, by the codes of the pipelines that know them; None
            allows all.
    """

    backbone: Backbone
    packs: dict[str, Pack] = field(default_factory=dict)
    selector: SelectorOptions = SelectorOptions()
    languages: frozenset[str] | None = None

    def with_pack(self, pack: Pack) -> "DualWhisper":
        """Return the model with one more pack.

        Raises:
            PackError: A loaded pack has the same name or one of the same languages.
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
        """Return the model without a pack; one that is not loaded changes nothing."""
        return replace(self, packs={key: pack for key, pack in self.packs.items() if key != name})

    def language_code(self, name: str) -> str:
        """Return the code of a language.

        Args:
            name: Its code or its name; case does not matter. A code may have a region or a script,
                as `pt-BR`: where no pipeline knows that, the language itself is meant.

        Raises:
            PackError: No loaded pipeline knows it; the message offers the nearest names.
        """
        named = dict(self.backbone.language_names)
        for pack in self.packs.values():
            named |= {title.lower(): code for code, title in pack.info.languages.items()}
        codes = {code.lower(): code for code in named.values()}
        wanted = name.strip().lower()
        if found := codes.get(wanted) or named.get(wanted):
            return found
        for code in codes_of(wanted):
            if found := codes.get(code) or tag_among(code, self.backbone.languages):
                return found
        raise PackError(
            f"No loaded pipeline knows the language {name!r}; nearest:"
            f" {nearest(name, [*codes, *named])}."
        )

    def among(self, languages: Sequence[str]) -> "DualWhisper":
        """Return the model for audio in one of these languages, without the packs of others.

        Args:
            languages: Their codes.

        Raises:
            PackError: No loaded pipeline knows one of them.
        """
        codes = {self._own_code(code) for code in languages}
        packs = {
            name: pack for name, pack in self.packs.items() if codes & set(pack.info.languages)
        }
        return replace(self, packs=packs, languages=frozenset(codes))

    def _own_code(self, language: str) -> str:
        """Return the code by which the pipeline that knows a language calls it."""
        if self.route_of(language) != PRIMARY:
            return language
        tag = tag_among(language, self.backbone.codes)
        assert tag is not None, language
        return tag

    @torch.no_grad()
    def encode_audio(
        self, clips: Sequence[np.ndarray], on_step: OnStep = uninterrupted
    ) -> EncodedAudio:
        """Encode windows, and run the primary's first decoder step, once.

        Args:
            clips: Windows as (samples,) float arrays at 16 kHz, each of at most
                `backbone.window_samples`.
            on_step: Function that is called between steps; it may raise, to stop the work.

        Returns:
            All that routing and decoding need of the windows.
        """
        backbone = self.backbone
        # 1. the encoder, layer by layer; the output below each pack's fork is kept
        layers = backbone.encoder.layers
        assert isinstance(layers, nn.ModuleList)
        forks = sorted({pack.secondary.options.fork for pack in self.packs.values()})
        at = min(forks, default=0)
        trunks: dict[int, torch.Tensor] = {}
        hidden = backbone.trunk(backbone.features(list(clips)), at, on_step)
        for fork in forks:
            for layer in layers[at:fork]:
                on_step()
                hidden = layer(hidden, None)
            at, trunks[fork] = fork, hidden
        encoded = backbone.upper(hidden, at, on_step)
        # 2. the first decoder step: languages, no speech
        step = backbone.language_step(encoded)
        frames = [backbone.frames(len(clip)) for clip in clips]
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
        self, audio: EncodedAudio, *, tags: bool = True, on_step: OnStep = uninterrupted
    ) -> tuple[list[list[PackScore]], dict[str, PackEncoding]]:
        """Score every window with every pack (`language_id.score_packs`).

        Args:
            audio: The encoded windows.
            tags: False runs no tag step.
            on_step: Function that is called between steps; it may raise, to stop the work.

        Returns:
            For each window the scores of all packs; and by pack the encoder output that was
            computed for them.
        """
        packs = tuple(self.packs.values())
        return score_packs(
            packs,
            audio,
            self.selector,
            self._discriminant,
            self.languages,
            tags=tags,
            on_step=on_step,
        )

    @functools.cached_property
    def _discriminant(self) -> Discriminant | None:
        """The discriminant between the packs that have statistics; None if fewer than two have."""
        found = [pack.statistics for pack in self.packs.values() if pack.statistics is not None]
        return Discriminant.between(found) if len(found) > 1 else None

    def route(
        self,
        audio: EncodedAudio,
        *,
        route: str | None = None,
        language: str | None = None,
        on_step: OnStep = uninterrupted,
    ) -> Routing:
        """Choose a route for each window, before anything is decoded.

        Args:
            audio: The encoded windows.
            route: "primary" or a pack's name; None for the selector's choice.
            language: A language's code. The pipeline that knows it decodes the windows, unless
                `route` names another.
            on_step: Function that is called between steps; it may raise, to stop the work.

        Returns:
            The decisions, and the scores behind them.

        Raises:
            PackError: The route or the language is unknown.
        """
        route = self._forced_route(route, language)
        scores, encodings = self.score_packs(audio, tags=route is None, on_step=on_step)
        log_probs = self._primary_log_probs(audio)
        best_tags = (
            (audio.language_log_probs if log_probs is None else log_probs).max(-1).values.tolist()
        )
        if route is None:
            decisions = [
                select(
                    tag,
                    row,
                    self.selector,
                    primary=log_probs is not None,
                    restricted=self.languages is not None,
                    no_speech_prob=silence,
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
        """Return the route that the caller chose, by name or by a language.

        None if the selector chooses. Raises PackError.
        """
        if route is None:
            return None if language is None else self.route_of(language)
        return route if route == PRIMARY else self.pack(route).name

    def _primary_log_probs(self, audio: EncodedAudio) -> torch.Tensor | None:
        """Return log-probabilities of the primary's languages over the allowed ones.

        Shape (batch, languages); None if none is allowed.
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
        on_step: OnStep = uninterrupted,
    ) -> Decoded:
        """Decode windows: the windows of each route as one batch.

        Args:
            audio: The encoded windows.
            routing: Their routing, from `route`.
            plan: By route, the windows that it decodes: `routing.plan()`, or more.
            options: Settings of decoding.
            cached: Hypotheses of an earlier run with the same settings. Their windows are not
                decoded again.
            on_step: Function that is called between steps; it may raise, to stop the work.

        Returns:
            Hypotheses of all windows of the plan.
        """
        hypotheses: dict[str, dict[int, DecodedWindow]] = {}
        encodings = dict(routing.encodings)
        for name, rows in plan.items():
            known = cached.get(name, {})
            hypotheses[name] = {i: known[i] for i in rows if i in known}
            todo = [i for i in rows if i not in known]
            languages = None if routing.language is None else [routing.language] * len(todo)
            if not todo:
                continue
            if name == PRIMARY:
                found, codes = self.decode(audio.of(todo), PRIMARY, languages, options, on_step)
            else:
                pack = self.pack(name)
                ready = encodings[name].of(todo) if name in encodings else None
                if ready is None:
                    encodings[name] = encode(pack, audio, todo, on_step)
                    ready = encodings[name].encoded, encodings[name].lengths
                found, codes = self._decode_pack(pack, *ready, languages, options, on_step)
            hypotheses[name] |= zip(todo, zip(found, codes, strict=True), strict=True)
        return Decoded(hypotheses, encodings)

    def conclude(
        self, audio: EncodedAudio, routing: Routing, decoded: Decoded
    ) -> list[WindowResult]:
        """Make the final decisions, and choose each window's transcript.

        Args:
            audio: The encoded windows.
            routing: Their routing, from `route`.
            decoded: Their hypotheses, from `decode_routes`, by at least the routes of
                `routing.plan()`.

        Returns:
            A result for each window.
        """
        results = []
        for i, (decision, scores) in enumerate(
            zip(routing.decisions, routing.pack_scores, strict=True)
        ):
            if not decision.final:
                decision, scores = self._second_pass(i, decision, scores, audio, decoded)
            hypotheses = {
                name: windows[i] for name, windows in decoded.hypotheses.items() if i in windows
            }
            chosen, language = hypotheses[decision.route]
            result = WindowResult(
                text=chosen.text,
                language=language,
                route=decision.route,
                language_probs=self._posterior(routing, i, scores),
                no_speech_prob=audio.no_speech_prob[i],
                avg_logprob=chosen.avg_logprob,
                tokens=chosen.tokens,
                temperature=chosen.temperature,
                scores=_raw_scores(routing.best_tags[i], scores, hypotheses, audio.seconds[i]),
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
        """Return the final decision for a window that both pipelines decoded, and new scores."""
        [runner_up] = [score for score in scores if score.name == first.runner_up]
        primary, _ = decoded.hypotheses[PRIMARY][row]
        secondary, _ = decoded.hypotheses[runner_up.name][row]
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
        """Transcribe encoded windows as a batch, each by its route.

        Args:
            audio: The encoded windows.
            route: "primary" or a pack's name; None for the selector's choice.
            language: A language's code. The pipeline that knows it decodes the windows, unless
                `route` names another.
            options: Settings of decoding.

        Returns:
            A result for each window.

        Raises:
            PackError: The route or the language is unknown.
        """
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
            route: "primary" or a pack's name; None for the selector's choice.
            language: A language's code. The pipeline that knows it decodes the windows, unless
                `route` names another.
            options: Settings of decoding.

        Returns:
            A result for each window.

        Raises:
            PackError: The route or the language is unknown.
        """
        self._forced_route(route, language)
        return self.transcribe_encoded(
            self.encode_audio(clips), route=route, language=language, options=options
        )

    def detect(self, audio: EncodedAudio, on_step: OnStep = uninterrupted) -> list[WindowResult]:
        """Identify the languages of windows, and decode nothing.

        There is no second pass: a decision that is not final stands as it is. The `language` of a
        result is the most likely one of those that its `route` knows.

        Args:
            audio: The encoded windows.
            on_step: Function that is called between steps; it may raise, to stop the work.

        Returns:
            A result without text for each window.
        """
        routing = self.route(audio, on_step=on_step)
        results = []
        for i, (decision, scores) in enumerate(
            zip(routing.decisions, routing.pack_scores, strict=True)
        ):
            if decision.route == PRIMARY:
                assert routing.primary_log_probs is not None
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
        """Return `language_probs` of a window."""
        known = self.backbone.codes
        mine: dict[str, float] = {}
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
        on_step: OnStep = uninterrupted,
    ) -> tuple[list[Hypothesis], list[str]]:
        """Decode a batch by one route.

        Args:
            audio: The encoded windows; no window gives empty lists.
            route: "primary" or a pack's name.
            languages: A code for each window; None for the decoder's best tag of each.
            options: Settings of decoding.
            on_step: Function that is called between steps; it may raise, to stop the work.

        Returns:
            A hypothesis and a language for each window. A language has the pipeline's own code:
            `zh` where `cmn` was given.

        Raises:
            PackError: There is no such route.
            BaseModelError: The primary has no such language, or cannot take the prompt.
        """
        if not len(audio):
            return [], []
        if route == PRIMARY:
            return self._decode_primary(audio, languages, options, on_step)
        encoding = encode(self.pack(route), audio, on_step=on_step)
        return self._decode_pack(
            self.pack(route), encoding.encoded, encoding.lengths, languages, options, on_step
        )

    def _decode_primary(
        self,
        audio: EncodedAudio,
        languages: Sequence[str] | None,
        options: DecodeOptions,
        on_step: OnStep,
    ) -> tuple[list[Hypothesis], list[str]]:
        """Decode a batch by the primary; see `decode`."""
        known = self.backbone.codes
        chosen = [tag_among(code, known) or code for code in languages or ()]
        if not chosen:
            log_probs = self._primary_log_probs(audio)
            if log_probs is None:
                log_probs = audio.language_log_probs
            chosen = [known[i] for i in log_probs.argmax(-1).tolist()]
        settings: dict[str, Any] = {
            "beam": options.beam,
            "prompt": options.prompt,
            "context": options.context,
            "timestamps": options.timestamps,
            "on_step": on_step,
            **options.generate,
        }
        if options.fallback is None:
            found = self.backbone.decode(audio.encoded, chosen, **settings)
        else:
            silence = audio.no_speech_prob
            found = decode_with_fallback(
                self.backbone, audio.encoded, chosen, silence, options.fallback, **settings
            )
        return found, chosen

    def _decode_pack(
        self,
        pack: Pack,
        encoded: torch.Tensor,
        lengths: torch.Tensor,
        languages: Sequence[str] | None,
        options: DecodeOptions,
        on_step: OnStep,
    ) -> tuple[list[Hypothesis], list[str]]:
        """Decode a batch by a pack, from its encoder output; see `decode`."""
        languages = list(languages or self._pack_languages(pack, encoded, lengths))
        weight = pack.info.ctc_weight if options.ctc_weight is None else options.ctc_weight
        search = SearchOptions(beam=options.beam, ctc_weight=weight)
        return pack.secondary.decode(encoded, lengths, languages, search, on_step), languages

    def candidates(self, audio: EncodedAudio, name: str, beam: int = 5) -> list[list[Candidate]]:
        """Return a pack's candidate hypotheses of every window, each with both of its scores.

        Args:
            audio: The encoded windows.
            name: The pack's name.
            beam: Beam width.

        Returns:
            For each window its candidates.
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
        """Return a pack's best allowed language of every window."""
        codes = list(pack.info.languages)
        may = allowed(codes, self.languages) or range(len(codes))
        if len(may) == 1:
            return [codes[may[0]]] * len(encoded)
        tags = pack.secondary.tag_step(encoded, lengths)[:, [1 + i for i in may]]
        return [codes[may[i]] for i in tags.argmax(-1).tolist()]

    def pack(self, name: str) -> Pack:
        """Return a loaded pack by name.

        Raises:
            PackError: No such pack is loaded; the message lists the routes.
        """
        if name not in self.packs:
            raise PackError(
                f"There is no route {name!r}; there is: {', '.join([PRIMARY, *self.packs])}."
            )
        return self.packs[name]

    def route_of(self, language: str) -> str:
        """Return the pipeline that knows a language: "primary" or a pack's name.

        If both know it, the pack is returned. The primary also knows a language of FLEURS by
        FLEURS' code: `cmn` for its own `zh`.

        Args:
            language: Its code.

        Raises:
            PackError: No loaded pipeline knows it.
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
        raise PackError(
            f"No loaded pipeline knows {language!r}; nearest: {nearest(language, known)}."
        )


def _raw_scores(
    best_tag: float,
    pack_scores: Sequence[PackScore],
    hypotheses: Mapping[str, DecodedWindow],
    seconds: float,
) -> dict[str, dict[str, float | None]]:
    """Return a window's raw scores, by "primary" and by pack."""
    scores: dict[str, dict[str, float | None]] = {PRIMARY: {"best_tag": best_tag}}
    for score in pack_scores:
        scores[score.name] = {"head": score.head, "tag": score.tag, "log_odds": score.log_odds}
    for name, (hypothesis, _) in hypotheses.items():
        scores[name]["logprob_per_second"] = hypothesis.logprob / max(seconds, 0.1)
        scores[name]["avg_logprob"] = hypothesis.avg_logprob
    return scores
