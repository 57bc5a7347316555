"""A frozen Whisper, cut where the dual pipeline needs it cut. The only file that knows
transformers' Whisper.

Everything is read from the checkpoint: window length, mel bins, vocabulary, languages. The encoder
is run layer by layer with transformers' own modules, so that `upper(trunk(mel, fork), fork)` is bit
for bit what `encoder(mel)` gives; the decoder is driven by transformers' own `generate`, on encoder
output that is computed once.
"""

import copy
import functools
import hashlib
import json
import string
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from dualasr.audio.torchaudio_fault import torchaudio_fault  # noqa: F401  before transformers

# isort: split
from transformers import WhisperFeatureExtractor, WhisperForConditionalGeneration, WhisperTokenizer
from transformers.modeling_outputs import BaseModelOutput
from transformers.models.whisper.tokenization_whisper import LANGUAGES, TO_LANGUAGE_CODE

from dualasr.audio.load import SAMPLE_RATE
from dualasr.errors import BaseModelError, RunError
from dualasr.model.search import Hypothesis

BUILT_IN = {"micro": Path(__file__).parent / "micro"}
SIZES = tuple(
    size + english for size in ("tiny", "base", "small", "medium") for english in ("", ".en")
) + ("large-v1", "large-v2", "large-v3", "large-v3-turbo")
LATEST = {"large": "large-v3", "turbo": "large-v3-turbo"}
# Words are told apart as by openai-whisper (MIT licence), whose lists these are.
_SPACELESS = ("chinese", "japanese", "thai", "lao", "myanmar", "cantonese")
_OPENING, _CLOSING = "\"'“¡¿([{-", "\"'.。,，!！?？:：”)]}、"
_REPLACEMENT = "\ufffd"
# that `generate` follows at once: each has keys and values of the whole window to itself
MOST_BEAMS = 20


def base_path(name: str) -> Path:
    """The folder of a built-in base, in the format `transformers` reads. Raises BaseModelError for
    another name.
    """
    if name not in BUILT_IN:
        raise BaseModelError(
            f"There is no built-in base {name!r}; there is: {', '.join(BUILT_IN)}."
        )
    return BUILT_IN[name]


def find_device(name: str) -> str:
    """A device of torch's, of which "auto" is the GPU where there is one. Raises RunError where it
    is not to be had.
    """
    if name == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    try:
        torch.empty(0, device=name)
    except (RuntimeError, AssertionError) as error:  # an AssertionError: torch was built without it
        raise RunError(
            f"--device {name} is not to be had here: {str(error).splitlines()[0]}"
        ) from error
    return name


@dataclass(frozen=True)
class LanguageStep:
    """The primary decoder's first step: log-probabilities over its languages, the no-speech
    probability, and its state.
    """

    log_probs: torch.Tensor  # (batch, languages), normalised over the languages
    no_speech_prob: torch.Tensor  # (batch,)
    state: torch.Tensor  # (batch, width), what the decoder's last layer makes of it


@dataclass(frozen=True)
class Span:
    """A part of a window's text, between two timestamps in seconds of the window, with its tokens
    where they are known.
    """

    start: float
    end: float
    text: str
    tokens: tuple[int, ...] = ()


@dataclass(frozen=True)
class SpecialIds:
    """Token ids of the primary: start of transcript, end, languages, what stands between tag and
    text, timestamps.
    """

    start: int
    end: int
    languages: tuple[int, ...]
    prompt: tuple[int, ...]
    times: range


@dataclass(frozen=True)
class Backbone:
    """A frozen Whisper with its tokenizer and feature extractor. `name` is what the user called it."""

    name: str
    model: WhisperForConditionalGeneration
    tokenizer: WhisperTokenizer
    extractor: WhisperFeatureExtractor

    @classmethod
    def load(
        cls, name: str | Path, *, device: str = "cpu", dtype: torch.dtype = torch.float32
    ) -> "Backbone":
        """Load a built-in base, a folder in transformers format, a hub id (HF_HUB_OFFLINE is
        honoured), or one of OpenAI's by its size, as `small`.

        Raises BaseModelError where nothing is found or what is found is not Whisper.
        """
        source = BUILT_IN.get(str(name), Path(name))
        if not source.exists() and (size := LATEST.get(str(name), str(name))) in SIZES:
            source = Path("openai", f"whisper-{size}")
        if source.is_dir():
            config = source / "config.json"
            kind = json.loads(config.read_text()).get("model_type") if config.exists() else None
            if kind != "whisper":
                found = f"its model_type is {kind!r}" if kind else "it has no config.json"
                raise BaseModelError(f"{source} is not a Whisper in transformers format: {found}.")
        try:
            model = WhisperForConditionalGeneration.from_pretrained(source, dtype=torch.float32)
            tokenizer = WhisperTokenizer.from_pretrained(source)
            extractor = WhisperFeatureExtractor.from_pretrained(source)
        except (OSError, ValueError, RuntimeError) as error:
            reason, called = (
                str(error).strip().splitlines()[0],
                ("" if str(source) == str(name) else f" ({source})"),
            )
            raise BaseModelError(
                f"Cannot load the base {str(name)!r}{called}: {reason} Give a folder in"
                " transformers format, a hub id that can be reached or is cached, or a built-in"
                f" base ({', '.join(BUILT_IN)})."
            ) from error
        model.eval().requires_grad_(False)
        backbone = cls(str(name), model, tokenizer, extractor)
        if dtype != torch.float32:
            _ = backbone.checksum  # of the float32 weights, before they are rounded
        model.to(device=device, dtype=dtype)
        return backbone

    @functools.cached_property
    def checksum(self) -> str:
        """SHA-256 over names and float32 values of all tensors: the identity that packs are tied
        to.
        """
        digest = hashlib.sha256()
        for name, tensor in sorted(self.model.state_dict().items()):
            if name != "proj_out.weight":  # tied to the embedding
                digest.update(name.encode() + str(tuple(tensor.shape)).encode())
                digest.update(tensor.float().cpu().numpy().tobytes())
        return digest.hexdigest()

    @property
    def encoder(self) -> nn.Module:
        return self.model.model.encoder

    @property
    def decoder(self) -> nn.Module:
        return self.model.model.decoder

    @functools.cached_property
    def special_ids(self) -> SpecialIds:
        """An English-only Whisper has no tags: its start stands for them."""
        config, languages = self.model.generation_config, tuple(self.languages.values())
        task = getattr(config, "task_to_id", None) or {}
        timeless = getattr(config, "no_timestamps_token_id", None)
        prompt = [task.get("transcribe") if languages else None, timeless]
        start = config.decoder_start_token_id
        times = range(0) if timeless is None else range(timeless + 1, self.model.config.vocab_size)
        return SpecialIds(
            start,
            config.eos_token_id,
            languages or (start,),
            tuple(i for i in prompt if i is not None),
            times,
        )

    def piece_ids(self, piece: str) -> list[int]:
        """Ids of the primary's tokens that a piece of byte-level BPE falls into; `piece` in GPT-2's
        alphabet of bytes.
        """
        return [token.id for token in self.tokenizer.backend_tokenizer.model.tokenize(piece)]

    @property
    def device(self) -> torch.device:
        return self.model.device

    @property
    def width(self) -> int:
        return self.model.config.d_model

    @property
    def layers(self) -> int:
        return self.model.config.encoder_layers

    @property
    def positions(self) -> int:
        """Encoder frames in a window."""
        return self.model.config.max_source_positions

    @property
    def window_samples(self) -> int:
        return self.extractor.n_samples

    @property
    def window_s(self) -> float:
        return self.window_samples / SAMPLE_RATE

    @property
    def frame_s(self) -> float:
        """Seconds of an encoder frame."""
        return self.window_s / self.positions

    @functools.cached_property
    def languages(self) -> dict[str, int]:
        """Language code to tag id, in the order of `LanguageStep.log_probs`; empty for an
        English-only Whisper.
        """
        tags = getattr(self.model.generation_config, "lang_to_id", None) or {}
        return {tag.strip("<|>"): ident for tag, ident in tags.items()}

    @property
    def codes(self) -> list[str]:
        """The languages that it can transcribe, in the order of a `LanguageStep`; one that has no
        tags knows English alone.
        """
        return list(self.languages) or ["en"]

    @property
    def language_names(self) -> dict[str, str]:
        """Whisper's English names of its languages, in lower case, aliases among them, and their
        codes.
        """
        return {name: code for name, code in TO_LANGUAGE_CODE.items() if code in self.codes}

    def frames(self, samples: int) -> int:
        """Encoder frames that a clip of so many samples fills (at least one, at most the window)."""
        return max(1, min(self.positions, -(-samples * self.positions // self.window_samples)))

    def features(self, clips: list[np.ndarray]) -> torch.Tensor:
        """Log-mel of clips of at most a window, padded to the window: (batch, mels, 2 x positions)."""
        mel = self.extractor(clips, sampling_rate=SAMPLE_RATE, return_tensors="pt").input_features
        return mel.to(self.device, self.model.dtype)

    @torch.no_grad()
    def trunk(self, mel: torch.Tensor, fork: int) -> torch.Tensor:
        """Convolutions, positions and the layers below `fork`: (batch, mels, 2 x positions) ->
        (batch, positions, width).
        """
        encoder = self.encoder
        hidden = F.gelu(encoder.conv2(F.gelu(encoder.conv1(mel)))).permute(0, 2, 1)
        hidden = hidden + encoder.embed_positions.weight
        for layer in encoder.layers[:fork]:
            hidden = layer(hidden, None)
        return hidden

    @torch.no_grad()
    def upper(self, hidden: torch.Tensor, fork: int) -> torch.Tensor:
        """The frozen layers from `fork` up and the final LayerNorm: the primary's encoder output,
        same shape.
        """
        for layer in self.encoder.layers[fork:]:
            hidden = layer(hidden, None)
        return self.encoder.layer_norm(hidden)

    @torch.no_grad()
    def language_step(self, encoded: torch.Tensor) -> LanguageStep:
        """One decoder step after <|startoftranscript|>: (batch, positions, width) -> LanguageStep."""
        config = self.model.generation_config
        start = torch.full((len(encoded), 1), config.decoder_start_token_id, device=self.device)
        output = self.decoder(input_ids=start, encoder_hidden_states=encoded, use_cache=False)
        logits, state = (
            self.model.proj_out(output.last_hidden_state)[:, -1].float(),
            output.last_hidden_state[:, -1].float(),
        )
        no_speech = self.tokenizer.convert_tokens_to_ids(["<|nospeech|>", "<|nocaptions|>"])
        known = [i for i in no_speech if i is not None and i != self.tokenizer.unk_token_id]
        silence = logits.softmax(-1)[:, known].sum(-1)
        if not self.languages:
            return LanguageStep(torch.zeros(len(encoded), 1, device=self.device), silence, state)
        return LanguageStep(
            logits[:, list(self.languages.values())].log_softmax(-1), silence, state
        )

    @property
    def tells_time(self) -> bool:
        """Whether it was trained to write timestamp tokens: its generation_config then limits the
        first of them.
        """
        config = self.model.generation_config
        return (
            bool(self.special_ids.times)
            and getattr(config, "max_initial_timestamp_index", None) is not None
        )

    @torch.no_grad()
    def decode(
        self,
        encoded: torch.Tensor,
        languages: list[str],
        *,
        beam: int = 1,
        prompt: str = "",
        context: str = "",
        timestamps: bool = False,
        **options,
    ) -> list[Hypothesis]:
        """Primary decoding by transformers' `generate`: (batch, positions, width) and a language
        each -> hypotheses.

        With beam 1 and no options the tokens are those of plain `generate` on the same batch, bit
        for bit, if it is of at most MOST_BEAMS windows; more are decoded part by part. `prompt` and
        `context` are what was said before all of them (`prompt_ids`). With `timestamps` the tokens
        hold timestamps, too (`spans`). Raises BaseModelError for a language or a prompt that it
        cannot take.
        """
        if prompt.strip() or context.strip():
            options["prompt_ids"] = self.prompt_ids(prompt, context)
        if self.languages:
            unknown = sorted(set(languages) - set(self.languages))
            if unknown:
                raise BaseModelError(
                    f"{self.name} has no language {unknown[0]!r}; it has"
                    f" {', '.join(self.languages)}."
                )
            options.setdefault("task", "transcribe")
        size, hypotheses = max(1, MOST_BEAMS // beam), []
        for i in range(0, len(encoded), size):
            if self.languages:
                options["language"] = [f"<|{code}|>" for code in languages[i : i + size]]
            hypotheses += self._generate(
                encoded[i : i + size], num_beams=beam, return_timestamps=timestamps, **options
            )
        return hypotheses

    def _generate(self, encoded: torch.Tensor, **options) -> list[Hypothesis]:
        output = self.model.generate(
            encoder_outputs=BaseModelOutput(encoded),
            return_dict_in_generate=True,
            output_scores=True,
            force_unique_generate_call=True,
            **options,
        )
        # with beams too: Whisper's generate has gathered the scores along the winning beam already
        sums = self.model.compute_transition_scores(
            output.sequences, output.scores, normalize_logits=True
        )
        steps = sums.shape[1]
        hypotheses = []
        for sequence, scores in zip(output.sequences[:, -steps:].tolist(), sums, strict=True):
            end = self.model.generation_config.eos_token_id
            count = sequence.index(end) if end in sequence else len(sequence)
            logprob = float(scores[: count + 1].float().nan_to_num(neginf=0.0).sum())
            text = self.tokenizer.decode(sequence[:count], skip_special_tokens=True)
            hypotheses.append(
                Hypothesis(tuple(sequence[:count]), text.strip(), logprob, count < len(sequence))
            )
        return hypotheses

    def prompt_ids(self, prompt: str, context: str = "") -> torch.Tensor:
        """The token ids of a prompt and what was said since, `<|startofprev|>` first.

        There is room for half of what the decoder can hold: for the end of the prompt, then for
        that of the context. Raises BaseModelError for one that holds a special token.
        """
        try:
            first, *ids = self.tokenizer.get_prompt_ids(prompt).tolist()
            _, *more = self.tokenizer.get_prompt_ids(context).tolist()
        except ValueError as error:
            raise BaseModelError(
                f"The prompt holds a special token of {self.name}: {error} Leave it out."
            ) from error
        room = self.model.config.max_target_positions // 2 - 1
        ids = ids[-room:] if prompt.strip() else []
        more = more[-(room - len(ids)) :] if context.strip() and len(ids) < room else []
        return torch.tensor([first, *ids, *more], device=self.device)

    def text_tokens(self, tokens: Sequence[int]) -> list[int]:
        """Those that spell text, without timestamps."""
        return [token for token in tokens if token not in self.special_ids.times]

    def spans(self, tokens: Sequence[int], seconds: float) -> tuple[Span, ...]:
        """What stands between the timestamps of a window that lasts so long; () where there are
        none, and no empty text.
        """
        times = self.special_ids.times
        if not any(token in times for token in tokens):
            return ()
        spans, start, inside = [], 0.0, []

        def close(end: float) -> None:
            text = self.tokenizer.decode(self.text_tokens(inside), skip_special_tokens=True).strip()
            if text:
                spans.append(Span(min(start, end), end, text, tuple(inside)))

        for token in tokens:
            inside.append(token)
            if token in times:
                at = min((token - times.start) * self.window_s / self.positions, seconds)
                close(at)
                start, inside = at, [token]
        close(seconds)
        return tuple(spans)

    @functools.cached_property
    def _attentive(self) -> nn.Module:
        """The decoder's modules once more, on the same tensors, with attention that gives its
        weights.
        """
        shared = {
            id(tensor): tensor for tensor in [*self.decoder.parameters(), *self.decoder.buffers()]
        }
        own = copy.deepcopy(self.decoder, shared)
        own.set_attn_implementation("eager")
        return own

    @torch.no_grad()
    def attend(
        self,
        encoded: torch.Tensor,
        language: str | None,
        tokens: Sequence[int],
        task: str = "transcribe",
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Where the decoder looks while it reads a transcript: one window's (1, positions, width)
        and its text tokens.

        Cross-attention (heads, tokens + 1, positions), the last row the end's, and each token's
        probability (tokens,). The heads are the generation_config's alignment_heads; without any,
        those of the upper half of the layers.
        """
        config, special = self.model.generation_config, self.special_ids
        start = [special.start]
        if self.languages:
            start += [self.languages[language], config.task_to_id[task]]
        start += [special.times.start - 1] if special.times else []
        ids = torch.tensor([[*start, *tokens]], device=self.device)
        output = self._attentive(
            input_ids=ids, encoder_hidden_states=encoded, output_attentions=True, use_cache=False
        )
        layers = self.model.config.decoder_layers
        upper = [
            (i, h)
            for i in range(layers // 2, layers)
            for h in range(self.model.config.decoder_attention_heads)
        ]
        heads = getattr(config, "alignment_heads", None) or upper
        weights = torch.stack([output.cross_attentions[i][0, h] for i, h in heads])[
            :, len(start) - 1 :
        ].float()
        probs = (
            self.model.proj_out(output.last_hidden_state)[0, len(start) - 1 : -1]
            .float()
            .softmax(-1)
        )
        return weights, probs.gather(
            -1, torch.tensor(tokens, device=self.device).unsqueeze(-1)
        ).squeeze(-1)

    def token_words(self, tokens: Sequence[int], language: str | None) -> list[tuple[str, int]]:
        """The words that text tokens spell, with the space before it part of a word, and how many
        tokens each has.
        """
        spaceless = LANGUAGES.get(language or "en") in _SPACELESS
        parts = self._whole_characters(tokens)
        words = [
            (text, count) for text, count, _ in (parts if spaceless else _join_at_spaces(parts))
        ]
        return _join_punctuation(words)

    def _whole_characters(self, tokens: Sequence[int]) -> list[tuple[str, int, bool]]:
        """The shortest runs of tokens that spell whole characters: text, number of tokens, whether
        a special token.
        """
        full, end = self._decoded(tokens), self.tokenizer.eos_token_id
        parts, run, at = [], [], 0
        for token in tokens:
            run.append(token)
            text = self._decoded(run)
            # a part of a character, unless the whole text holds it, too
            cut = text.find(_REPLACEMENT)
            if cut < 0 or full[at + cut : at + cut + 1] in ("", _REPLACEMENT):
                parts.append((text, len(run), run[0] >= end))
                run, at = [], at + len(text)
        return parts

    def _decoded(self, tokens: Sequence[int]) -> str:
        return self.tokenizer.decode(tokens, decode_with_timestamps=True)


def _join_at_spaces(parts: Sequence[tuple[str, int, bool]]) -> list[tuple[str, int, bool]]:
    """A part without a space before it goes to the word before; punctuation and special tokens
    stand alone.
    """
    words: list[tuple[str, int, bool]] = []
    for text, count, special in parts:
        if words and not (special or text.startswith(" ") or text.strip() in string.punctuation):
            before, counted, kind = words.pop()
            text, count, special = before + text, counted + count, kind
        words.append((text, count, special))
    return words


def _join_punctuation(words: Sequence[tuple[str, int]]) -> list[tuple[str, int]]:
    """Opening punctuation goes to the word after it, then closing punctuation to the word before
    it.
    """
    opened: list[tuple[str, int]] = []  # from the last to the first
    for text, count in reversed(words):
        if opened and text.startswith(" ") and text.strip() in _OPENING:
            after, counted = opened.pop()
            text, count = text + after, count + counted
        opened.append((text, count))
    closed: list[tuple[str, int]] = []
    for text, count in reversed(opened):
        if closed and not closed[-1][0].endswith(" ") and text in _CLOSING:
            before, counted = closed.pop()
            text, count = before + text, counted + count
        closed.append((text, count))
    return closed
