"""A frozen Whisper, cut into the parts that the two pipelines need.

This is the only file that knows transformers' Whisper. Window length, mel bins, vocabulary and
languages are all read from the checkpoint.

The encoder runs layer by layer with transformers' own modules, so that
`upper(trunk(mel, fork), fork)` equals `encoder(mel)` bit for bit. The decoder runs in
transformers' own `generate`, on encoder output that is computed once.
"""

import copy
import functools
import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from huggingface_hub import hf_hub_download, snapshot_download
from safetensors import SafetensorError
from torch.nn import functional as F

from dualasr.audio.torchaudio_fault import torchaudio_fault  # noqa: F401  before transformers

# isort: split
from transformers import (
    StoppingCriteria,
    StoppingCriteriaList,
    WhisperFeatureExtractor,
    WhisperForConditionalGeneration,
    WhisperTokenizer,
)
from transformers.modeling_outputs import BaseModelOutput
from transformers.models.whisper.modeling_whisper import (
    WhisperAttention,
    WhisperDecoder,
    WhisperEncoder,
    WhisperEncoderLayer,
)
from transformers.models.whisper.tokenization_whisper import TO_LANGUAGE_CODE

from dualasr.audio.load import SAMPLE_RATE
from dualasr.errors import BaseModelError, RunError
from dualasr.model.interrupt import OnStep, uninterrupted
from dualasr.model.search import Hypothesis
from dualasr.model.token_words import token_words
from dualasr.model.whisper_formats import as_transformers, is_ct2, read_object

BUILT_IN = {"micro": Path(__file__).parent / "micro"}
SIZES = tuple(
    size + english for size in ("tiny", "base", "small", "medium") for english in ("", ".en")
) + ("large-v1", "large-v2", "large-v3", "large-v3-turbo")
LATEST = {"large": "large-v3", "turbo": "large-v3-turbo"}
# Most beams in one call of `generate`, and most bytes that they may need. Each keeps the keys and
# values of a whole window, and for every token a score of each unit of the vocabulary.
MOST_BEAMS = 20
MOST_BYTES = 1_000_000_000
# what transformers raises for a file that is cut off or holds something else
_DAMAGED = (
    SafetensorError,
    json.JSONDecodeError,
    UnicodeDecodeError,
    TypeError,
    LookupError,
    AttributeError,
)
MOST_ENGLISH_ONLY = 51864  # units of OpenAI's English-only vocabulary; the others have more
_TIED = "proj_out.weight"  # is the embedding


def base_path(name: str) -> Path:
    """Return the folder of a built-in base, in transformers format.

    Raises:
        BaseModelError: No built-in base has this name.
    """
    if name not in BUILT_IN:
        raise BaseModelError(
            f"There is no built-in base {name!r}; there is: {', '.join(BUILT_IN)}."
        )
    return BUILT_IN[name]


def find_device(name: str) -> str:
    """Return the name of a torch device; for "auto" the GPU where there is one, else the CPU.

    Raises:
        RunError: This machine, or this build of torch, does not have the device.
    """
    if name == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    try:
        torch.empty(0, device=name)
    except (RuntimeError, AssertionError) as error:  # an AssertionError: torch was built without it
        raise RunError(
            f"--device {name} is not available here: {str(error).splitlines()[0]}"
        ) from error
    return name


def special_tokens(vocabulary: Mapping[str, int], size: int) -> dict[str, Any]:
    """Return what the generation_config of a multilingual Whisper says of its special tokens.

    Whispers that were fine-tuned with an early version of transformers have a file without it, or
    none. They would pass for English-only ones.

    Args:
        vocabulary: Ids of all tokens.
        size: Size of the vocabulary.

    Returns:
        Fields by name; none for a vocabulary of OpenAI's English-only size or smaller.
    """
    if size <= MOST_ENGLISH_ONLY or "<|notimestamps|>" not in vocabulary:
        return {}
    tags = {f"<|{code}|>" for code in TO_LANGUAGE_CODE.values()}
    return {
        "is_multilingual": True,
        "lang_to_id": {tag: ident for tag, ident in sorted(vocabulary.items()) if tag in tags},
        "task_to_id": {task: vocabulary[f"<|{task}|>"] for task in ("transcribe", "translate")},
        "no_timestamps_token_id": vocabulary["<|notimestamps|>"],
        "max_initial_timestamp_index": 50,  # as in all of OpenAI's
    }


@dataclass(frozen=True, eq=False)
class LanguageStep:
    """The result of the primary decoder's first step, which predicts the language.

    Attributes:
        log_probs: (batch, languages) log-probabilities, normalised over the languages.
        no_speech_prob: (batch,) probability that the window holds no speech.
        state: (batch, width) output of the decoder's last layer.
    """

    log_probs: torch.Tensor
    no_speech_prob: torch.Tensor
    state: torch.Tensor


@dataclass(frozen=True)
class Span:
    """The part of a window's text that stands between two timestamps.

    Attributes:
        start: Seconds from the window's start.
        end: Seconds from the window's start.
        text: The text, without space at its ends.
        tokens: Ids of its tokens, with the timestamps; empty where they are not known.
    """

    start: float
    end: float
    text: str
    tokens: tuple[int, ...] = ()


@dataclass(frozen=True)
class SpecialIds:
    """Token ids of the primary that are no text.

    Attributes:
        start: Start of transcript.
        end: End of text.
        languages: The language tags; the start alone for an English-only Whisper.
        prompt: What stands between the language tag and the text: task and no-timestamps.
        times: The timestamps; empty where the vocabulary has none.
    """

    start: int
    end: int
    languages: tuple[int, ...]
    prompt: tuple[int, ...]
    times: range


@dataclass(frozen=True, eq=False)
class Backbone:
    """A frozen Whisper with its tokenizer and feature extractor.

    Attributes:
        name: What the user called it: a folder, a hub id, a size or a built-in base.
        model: transformers' model, in evaluation mode, without gradients.
        tokenizer: Its tokenizer.
        extractor: Its feature extractor, from samples to log-mel.
    """

    name: str
    model: WhisperForConditionalGeneration
    tokenizer: WhisperTokenizer
    extractor: WhisperFeatureExtractor

    @classmethod
    def load(
        cls, name: str | Path, *, device: str = "cpu", dtype: torch.dtype = torch.float32
    ) -> "Backbone":
        """Load a Whisper and freeze it.

        Args:
            name: A built-in base; a folder in transformers' or CTranslate2's format; OpenAI's .pt
                file; a size of OpenAI's as `small`; or a hub id of either format. With
                HF_HUB_OFFLINE set, hub ids come from the cache alone.
            device: torch device of the weights.
            dtype: Type of the weights; the checksum is that of the weights before.

        Returns:
            The backbone.

        Raises:
            BaseModelError: Nothing is found, or what is found is not a Whisper.
        """
        source = _find_source(str(name))
        try:
            model = WhisperForConditionalGeneration.from_pretrained(source, dtype=torch.float32)
            tokenizer = _read_tokenizer(source)
            extractor = WhisperFeatureExtractor.from_pretrained(source)
        except (OSError, ValueError, RuntimeError, *_DAMAGED) as error:
            reason = (str(error).strip() or type(error).__name__).splitlines()[0]
            if isinstance(error, _DAMAGED):
                reason = f"a file is damaged, fetch it again ({type(error).__name__}: {reason})."
            called = "" if str(source) == str(name) else f" ({source})"
            raise BaseModelError(
                f"Cannot load the base {str(name)!r}{called}: {reason} Give a folder in"
                " transformers or CTranslate2 format, OpenAI's .pt file, a hub id that can be"
                f" reached or is cached, or a built-in base ({', '.join(BUILT_IN)})."
            ) from error
        model.eval().requires_grad_(False)
        known = special_tokens(tokenizer.get_vocab(), model.config.vocab_size)
        for key, value in known.items():
            if getattr(model.generation_config, key, None) is None:
                setattr(model.generation_config, key, value)
        backbone = cls(str(name), model, tokenizer, extractor)
        if dtype != torch.float32:  # before the weights are rounded
            _ = backbone.checksum, backbone.float32_checksum
        # mypy takes transformers' wrapper of Module.to for a function without its self
        model.to(device=device, dtype=dtype)  # type: ignore[call-arg]
        return backbone

    @functools.cached_property
    def checksum(self) -> str:
        """SHA-256 over names and values of all tensors, the values rounded to float16.

        A pack belongs to the base of this checksum and to no other. OpenAI published float16, so
        all formats of one Whisper have one checksum. The encoder's positions are left out: they are
        a table of sinusoids that each program computes by itself.
        """
        return self._digest(torch.float16, {_TIED, "model.encoder.embed_positions.weight"})

    @functools.cached_property
    def float32_checksum(self) -> str:
        """SHA-256 over names and float32 values, by which packs of format 4 know their base."""
        return self._digest(torch.float32, {_TIED})

    def _digest(self, dtype: torch.dtype, left_out: set[str]) -> str:
        digest = hashlib.sha256()
        for name, tensor in sorted(self.model.state_dict().items()):
            if name not in left_out:
                digest.update(name.encode() + str(tuple(tensor.shape)).encode())
                digest.update(tensor.to(dtype).cpu().numpy().tobytes())
        return digest.hexdigest()

    @property
    def encoder(self) -> WhisperEncoder:
        """The encoder, as transformers built it."""
        return self.model.model.encoder

    @property
    def decoder(self) -> WhisperDecoder:
        """The decoder, as transformers built it."""
        return self.model.model.decoder

    @functools.cached_property
    def special_ids(self) -> SpecialIds:
        """Ids of the tokens that are no text."""
        config, languages = self.model.generation_config, tuple(self.languages.values())
        timeless = getattr(config, "no_timestamps_token_id", None)
        prompt = [self._task_ids.get("transcribe") if languages else None, timeless]
        start = config.decoder_start_token_id
        times = range(0) if timeless is None else range(timeless + 1, self.model.config.vocab_size)
        return SpecialIds(
            start,
            config.eos_token_id,
            languages or (start,),
            tuple(i for i in prompt if i is not None),
            times,
        )

    @property
    def _task_ids(self) -> dict[str, int]:
        """Ids of the task tokens; empty for an English-only Whisper."""
        return getattr(self.model.generation_config, "task_to_id", None) or {}

    def piece_ids(self, piece: str) -> list[int]:
        """Return ids of the primary's tokens that spell a piece of byte-level BPE.

        The piece is written in GPT-2's alphabet of bytes (`tokenizer.byte_of_character`).
        """
        return [token.id for token in self.tokenizer.backend_tokenizer.model.tokenize(piece)]

    @property
    def device(self) -> torch.device:
        """The device of the weights."""
        return self.model.device

    @property
    def width(self) -> int:
        """Features of a frame in the encoder, and of a token in the decoder."""
        return self.model.config.d_model

    @property
    def layers(self) -> int:
        """Number of encoder layers."""
        return self.model.config.encoder_layers

    @property
    def positions(self) -> int:
        """Number of encoder frames in a window."""
        return self.model.config.max_source_positions

    @property
    def window_samples(self) -> int:
        """Number of samples in a window, at 16 kHz."""
        return self.extractor.n_samples

    @property
    def window_s(self) -> float:
        """Seconds of a window."""
        return self.window_samples / SAMPLE_RATE

    @property
    def frame_s(self) -> float:
        """Seconds of an encoder frame."""
        return self.window_s / self.positions

    @functools.cached_property
    def languages(self) -> dict[str, int]:
        """Language codes and the ids of their tags, in the order of `LanguageStep.log_probs`.

        Empty for an English-only Whisper.
        """
        tags = getattr(self.model.generation_config, "lang_to_id", None) or {}
        return {tag.strip("<|>"): ident for tag, ident in tags.items()}

    @property
    def codes(self) -> list[str]:
        """Codes of the languages that it can transcribe, in the order of `LanguageStep.log_probs`.

        A Whisper without language tags transcribes English alone.
        """
        return list(self.languages) or ["en"]

    @property
    def language_names(self) -> dict[str, str]:
        """Whisper's English names of its languages, in lower case, with their codes.

        Some languages have several names.
        """
        return {name: code for name, code in TO_LANGUAGE_CODE.items() if code in self.codes}

    def frames(self, samples: int) -> int:
        """Return the number of encoder frames that a clip of `samples` fills, rounded up.

        At least one, and at most those of a window.
        """
        return max(1, min(self.positions, -(-samples * self.positions // self.window_samples)))

    def features(self, clips: list[np.ndarray]) -> torch.Tensor:
        """Return log-mel features (batch, mels, 2 x positions) of clips, padded to a window.

        The clips are (samples,) arrays of 16 kHz mono, of at most a window each. They are computed
        in float32 in whatever context.
        """
        with torch.autocast(self.device.type, enabled=False):
            found = self.extractor(clips, sampling_rate=SAMPLE_RATE, return_tensors="pt")
        mel = found.input_features
        return mel.to(self.device, self.model.dtype)

    @torch.no_grad()
    def trunk(self, mel: torch.Tensor, fork: int, on_step: OnStep = uninterrupted) -> torch.Tensor:
        """Run the encoder's lower part: convolutions, positions and the layers below the fork.

        Args:
            mel: (batch, mels, 2 x positions) log-mel features.
            fork: Number of layers to run.
            on_step: Function that is called between steps; it may raise, to stop the work.

        Returns:
            (batch, positions, width) activations at the fork.
        """
        encoder = self.encoder
        hidden = F.gelu(encoder.conv2(F.gelu(encoder.conv1(mel)))).permute(0, 2, 1)
        hidden = hidden + encoder.embed_positions.weight
        for layer in encoder.layers[:fork]:
            on_step()
            hidden = layer(hidden, None)
        return hidden

    @torch.no_grad()
    def trunk_start(self, mel: torch.Tensor, fork: int, frames: int) -> torch.Tensor:
        """Run the encoder's lower part, and return its first positions alone.

        The last layer computes no others: only their keys and values are needed. For short clips
        that saves most of a layer.

        Args:
            mel: (batch, mels, 2 x positions) log-mel features.
            fork: Number of layers to run.
            frames: Number of positions to return.

        Returns:
            (batch, frames, width): `trunk(mel, fork)[:, :frames]`, but for rounding.
        """
        if fork == 0:
            return self.trunk(mel, 0)[:, :frames]
        hidden = self.trunk(mel, fork - 1)
        layer = cast(WhisperEncoderLayer, self.encoder.layers[fork - 1])
        attention, normed = layer.self_attn, layer.self_attn_layer_norm(hidden)
        keys, values = (heads(attention, f(normed)) for f in (attention.k_proj, attention.v_proj))
        hidden = hidden[:, :frames] + attend(attention, normed[:, :frames], keys, values)
        normed = layer.final_layer_norm(hidden)
        return hidden + layer.fc2(layer.activation_fn(layer.fc1(normed)))

    @torch.no_grad()
    def upper(
        self, hidden: torch.Tensor, fork: int, on_step: OnStep = uninterrupted
    ) -> torch.Tensor:
        """Run the encoder's upper part: the frozen layers from the fork up and the last LayerNorm.

        Args:
            hidden: (batch, positions, width) activations at the fork.
            fork: Number of layers that have run.
            on_step: Function that is called between steps; it may raise, to stop the work.

        Returns:
            (batch, positions, width) encoder output of the primary.
        """
        for layer in self.encoder.layers[fork:]:
            on_step()
            hidden = layer(hidden, None)
        return self.encoder.layer_norm(hidden)

    @torch.no_grad()
    def language_step(self, encoded: torch.Tensor) -> LanguageStep:
        """Return the decoder's step after <|startoftranscript|>, which predicts the language.

        `encoded` is the primary's encoder output (batch, positions, width).
        """
        start = torch.full((len(encoded), 1), self.special_ids.start, device=self.device)
        output = self.decoder(input_ids=start, encoder_hidden_states=encoded, use_cache=False)
        logits = self.model.proj_out(output.last_hidden_state)[:, -1].float()
        state = output.last_hidden_state[:, -1].float()
        no_speech = self.tokenizer.convert_tokens_to_ids(["<|nospeech|>", "<|nocaptions|>"])
        assert isinstance(no_speech, list)  # as its argument
        known = [i for i in no_speech if i is not None and i != self.tokenizer.unk_token_id]
        silence = logits.softmax(-1)[:, known].sum(-1)
        if self.languages:
            log_probs = logits[:, list(self.languages.values())].log_softmax(-1)
        else:  # English for sure
            log_probs = torch.zeros(len(encoded), 1, device=self.device)
        return LanguageStep(log_probs, silence, state)

    @property
    def tells_time(self) -> bool:
        """Whether it was trained to write timestamps.

        The generation_config of such a Whisper limits the first timestamp.
        """
        config = self.model.generation_config
        limit = getattr(config, "max_initial_timestamp_index", None)
        return bool(self.special_ids.times) and limit is not None

    @property
    def most_beams(self) -> int:
        """Most beams that `decode` gives to one call of `generate`, at least 1.

        They depend on the size of the model, so that decoding takes about MOST_BYTES at most.
        """
        config, size = self.model.config, self.model.dtype.itemsize
        # keys and values of the encoder output in each layer, and a copy of them
        kept = 4 * config.decoder_layers * self.positions * self.width * size
        scores = 4 * config.vocab_size * config.max_target_positions
        return max(1, min(MOST_BEAMS, MOST_BYTES // (kept + scores)))

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
        on_step: OnStep = uninterrupted,
        **options,
    ) -> list[Hypothesis]:
        """Decode windows by transformers' `generate`.

        With beam 1 and no options the tokens are those of plain `generate` on the same batch, bit
        for bit, if it holds at most `most_beams` windows. A larger batch is decoded in parts.

        Args:
            encoded: (batch, positions, width) encoder output of the primary.
            languages: A language code for each window.
            beam: Width of the beam search; 1 is greedy.
            prompt: Text that sets style and spelling, the same for all windows.
            context: What was said before these windows; it follows the prompt (`prompt_ids`).
            timestamps: Whether the tokens hold timestamps (`spans`).
            on_step: Function that is called between steps; it may raise, to stop the work.
            **options: Further arguments of `generate`.

        Returns:
            A hypothesis for each window.

        Raises:
            BaseModelError: The base does not have a language, or the prompt holds a special token.
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
        size = max(1, self.most_beams // beam)
        options["stopping_criteria"] = StoppingCriteriaList([_OnStep(on_step)])
        hypotheses: list[Hypothesis] = []
        for i in range(0, len(encoded), size):
            if self.languages:
                options["language"] = [f"<|{code}|>" for code in languages[i : i + size]]
            hypotheses += self._generate(
                encoded[i : i + size], num_beams=beam, return_timestamps=timestamps, **options
            )
        return hypotheses

    def _generate(self, encoded: torch.Tensor, **options) -> list[Hypothesis]:
        """Call `generate` once and collect each window's tokens, text and log-probability."""
        output = self.model.generate(
            encoder_outputs=BaseModelOutput(encoded),
            return_dict_in_generate=True,
            output_scores=True,
            force_unique_generate_call=True,
            **options,
        )
        # Whisper's generate has gathered the scores of the best beam: no beam indices are needed.
        # transformers annotates `self` of this method by a Protocol that no model of its fulfils.
        steps = len(output.scores)
        # one step at a time, as all steps at once would take their memory three times
        sums = torch.cat(
            [
                self.model.compute_transition_scores(  # type: ignore[misc]
                    output.sequences[:, : output.sequences.shape[1] - steps + i + 1],
                    output.scores[i : i + 1],
                    normalize_logits=True,
                )
                for i in range(steps)
            ],
            dim=1,
        )
        end = self.special_ids.end
        hypotheses = []
        for sequence, scores in zip(output.sequences[:, -steps:].tolist(), sums, strict=True):
            count = sequence.index(end) if end in sequence else len(sequence)
            logprob = float(scores[: count + 1].float().nan_to_num(neginf=0.0).sum())
            text = self.tokenizer.decode(sequence[:count], skip_special_tokens=True)
            hypotheses.append(
                Hypothesis(tuple(sequence[:count]), text.strip(), logprob, count < len(sequence))
            )
        return hypotheses

    def prompt_ids(self, prompt: str, context: str = "") -> torch.Tensor:
        """Return the token ids (tokens,) of a prompt and a context, after `<|startofprev|>`.

        They may take half of the decoder's positions. What does not fit is cut: first the
        beginning of the context, then the beginning of the prompt.

        Args:
            prompt: Text that sets style and spelling.
            context: What was said before the window.

        Raises:
            BaseModelError: The prompt or the context holds a special token.
        """
        try:
            first, *ids = self.tokenizer.get_prompt_ids(prompt).tolist()
            _, *more = self.tokenizer.get_prompt_ids(context).tolist()
        except ValueError as error:
            raise BaseModelError(
                f"The prompt holds a special token of {self.name}: {error} Leave it out."
            ) from error
        most = self.model.config.max_target_positions // 2 - 1
        ids = ids[-most:] if prompt.strip() else []
        more = more[-(most - len(ids)) :] if context.strip() and len(ids) < most else []
        return torch.tensor([first, *ids, *more], device=self.device)

    def text_tokens(self, tokens: Sequence[int]) -> list[int]:
        """Return the tokens that are no timestamps."""
        return [token for token in tokens if token not in self.special_ids.times]

    def spans(self, tokens: Sequence[int], seconds: float) -> tuple[Span, ...]:
        """Split a window's tokens at their timestamps.

        Args:
            tokens: Token ids of the window's transcript.
            seconds: Length of the window's sound; later timestamps are moved to its end.

        Returns:
            The spans that have text; none where the tokens hold no timestamp.
        """
        times = self.special_ids.times
        if not any(token in times for token in tokens):
            return ()
        spans: list[Span] = []
        start = 0.0
        inside: list[int] = []

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
    def _attentive(self) -> WhisperDecoder:
        """A second decoder on the same tensors, whose attention returns its weights."""
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
        """Read a transcript with the decoder and return its cross-attention.

        The heads are the alignment_heads of the generation_config. Without any, they are all heads
        of the upper half of the layers.

        Args:
            encoded: (1, positions, width) encoder output of one window.
            language: The transcript's language; None for an English-only Whisper.
            tokens: Text tokens of the transcript, without timestamps.
            task: "transcribe" or "translate".

        Returns:
            Attention weights (heads, tokens + 1, positions), the last row that of the end, and each
            token's probability (tokens,).
        """
        special = self.special_ids
        start = [special.start]
        if self.languages:
            assert language is not None, "a Whisper with language tags needs a language"
            start += [self.languages[language], self._task_ids[task]]
        start += [special.times.start - 1] if special.times else []  # <|notimestamps|>
        ids = torch.tensor([[*start, *tokens]], device=self.device)
        output = self._attentive(
            input_ids=ids, encoder_hidden_states=encoded, output_attentions=True, use_cache=False
        )
        # Row i predicts token i + 1: the last row of the start predicts the first text token.
        before = len(start) - 1
        weights = torch.stack([output.cross_attentions[i][0, h] for i, h in self._alignment_heads])
        logits = self.model.proj_out(output.last_hidden_state)[0, before:-1].float()
        picked = torch.tensor(tokens, device=self.device).unsqueeze(-1)
        probs = logits.softmax(-1).gather(-1, picked).squeeze(-1)
        return weights[:, before:].float(), probs

    @property
    def _alignment_heads(self) -> list[tuple[int, int]]:
        """(layer, head) of the cross-attention heads that follow the sound."""
        config = self.model.config
        layers, heads = config.decoder_layers, config.decoder_attention_heads
        upper = [(i, h) for i in range(layers // 2, layers) for h in range(heads)]
        return getattr(self.model.generation_config, "alignment_heads", None) or upper

    def token_words(self, tokens: Sequence[int], language: str | None) -> list[tuple[str, int]]:
        """Return the words that text tokens spell and the number of tokens of each.

        Args:
            tokens: Text tokens, without timestamps.
            language: Code of their language; None for English.
        """
        return token_words(self.tokenizer, tokens, language)


class _OnStep(StoppingCriteria):
    """Calls a function after each step of `generate`, and never stops it by itself."""

    def __init__(self, on_step: OnStep):
        self.on_step = on_step

    def __call__(self, input_ids: torch.Tensor, scores: object, **kwargs) -> torch.Tensor:
        self.on_step()
        return torch.zeros(len(input_ids), dtype=torch.bool, device=input_ids.device)


def heads(attention: WhisperAttention, values: torch.Tensor) -> torch.Tensor:
    """Return values of a layer's attention by head.

    Args:
        attention: The attention.
        values: (batch, steps, width).

    Returns:
        (batch, heads, steps, width of a head).
    """
    return values.view(*values.shape[:2], attention.num_heads, attention.head_dim).transpose(1, 2)


def attend(
    attention: WhisperAttention,
    normed: torch.Tensor,
    keys: torch.Tensor,
    values: torch.Tensor,
    mask: torch.Tensor | None = None,
) -> torch.Tensor:
    """Run Whisper's attention with keys and values that are computed already.

    Args:
        attention: The attention.
        normed: (batch, steps, width) what asks, after the LayerNorm.
        keys: (batch, heads, positions, width of a head).
        values: (batch, heads, positions, width of a head).
        mask: What may be attended to, as torch's attention takes it; None for everything.

    Returns:
        (batch, steps, width).
    """
    query = heads(attention, attention.q_proj(normed) * attention.scaling)
    found = F.scaled_dot_product_attention(query, keys, values, attn_mask=mask, scale=1.0)
    return attention.out_proj(found.transpose(1, 2).flatten(2))


def _find_source(name: str) -> Path:
    """Return the folder or hub id of a base in transformers' format; other formats are converted.

    Raises:
        BaseModelError: It is a folder of another model.
    """
    source = BUILT_IN.get(name, Path(name))
    if not source.exists() and (size := LATEST.get(name, name)) in SIZES:
        source = Path("openai", f"whisper-{size}")
    if not source.exists():
        source = _from_hub(source)
    if source.is_file() or is_ct2(source):
        return as_transformers(source)
    if source.is_dir():
        config = read_object(source / "config.json")
        kind = None if config is None else config.get("model_type")
        if kind != "whisper":
            found = "it has no config.json" if config is None else f"its model_type is {kind!r}"
            raise BaseModelError(
                f"{source} is not a Whisper in transformers or CTranslate2 format: {found}."
            )
        read_object(source / "generation_config.json")  # transformers passes over a damaged one
    return source


def _read_tokenizer(source: Path) -> WhisperTokenizer:
    """Return the tokenizer of a base; raise OSError if it has none."""
    tokenizer = WhisperTokenizer.from_pretrained(source)
    if not tokenizer.vocab_size:  # transformers makes an empty one where it finds none
        raise OSError("it has no tokenizer.json, nor vocab.json and merges.txt.")
    return tokenizer


def _from_hub(name: Path) -> Path:
    """Return the folder of a CTranslate2 model on the hub; any other name as it is."""
    try:
        config = Path(hf_hub_download(str(name), "config.json"))
        if "model_type" in (read_object(config) or {}):
            return name
        wanted = ["config.json", "model.bin", "tokenizer.json", "vocabulary.*"]
        return Path(snapshot_download(str(name), allow_patterns=wanted))
    except (OSError, ValueError):  # from_pretrained says what is the matter
        return name
