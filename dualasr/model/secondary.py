"""The secondary pipeline of a pack: adapted upper layers, own LayerNorm, decoder, CTC head and
language head.

The layers are module objects of their own whose frozen weights are the base's own tensors; peft
puts LoRA on q, k, v, out, fc1 and fc2 of every layer from the fork up (paper, section 2.1). The
trunk arrives computed on the padded window and sliced to the clip ("pad the trunk, slice at the
fork"), in training and in use alike.
"""

import copy
import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace

import torch
from torch import nn
from torch.nn import functional as F

from dualasr.model.ctc_decoder import TagDecoder
from dualasr.model.las_decoder import LASDecoder, LASOptions
from dualasr.model.search import Hypothesis, beam_search, ctc_prefix_beam
from dualasr.model.tokenizer import PackTokenizer
from dualasr.model.whisper import Backbone
from dualasr.model.whisper_decoder import WhisperDecoder, units_from_base

DECODERS = ("las", "whisper", "ctc")
# text units of one window; Whisper's decoder holds 448, the prompt and the end among them
MOST_TOKENS = 440
MARGIN = 8  # frames kept after the clip's end, 0.16 s
LORA_TARGETS = ("q_proj", "k_proj", "v_proj", "out_proj", "fc1", "fc2")


@dataclass(frozen=True)
class SecondaryOptions:
    """Shape of a secondary. alpha 0 means alpha = rank (h = Wx + BAx); fork -1 means half depth;
    rank 0 means no LoRA.

    decoder: "las", the paper's; "whisper", the base's own with LoRA of the same rank; "ctc", none
        beside the CTC head.
    """

    rank: int = 16
    alpha: float = 0.0
    fork: int = -1
    decoder: str = "whisper"
    las: LASOptions = LASOptions()

    def resolve(self, layers: int) -> "SecondaryOptions":
        """The same with every default filled in for a base of so many encoder layers."""
        fork = layers // 2 if self.fork < 0 else self.fork
        if not 0 <= fork <= layers:
            raise ValueError(
                f"fork {fork} is outside the encoder: this base has layers 0 to {layers - 1}."
            )
        if self.decoder not in DECODERS:
            raise ValueError(
                f"there is no decoder {self.decoder!r}; there is: {', '.join(DECODERS)}."
            )
        return SecondaryOptions(
            self.rank, self.alpha or float(self.rank), fork, self.decoder, self.las
        )


def adapt_layers(layers: nn.ModuleList, rank: int, alpha: float) -> nn.ModuleList:
    """Copies of encoder layers that share the tensors of `layers`, with LoRA of `rank` injected (B
    = 0).
    """
    shared = {id(tensor): tensor for tensor in [*layers.parameters(), *layers.buffers()]}
    own = copy.deepcopy(layers, shared)
    if rank == 0:
        return own
    from peft import LoraConfig, inject_adapter_in_model

    config = LoraConfig(
        r=rank, lora_alpha=alpha, target_modules=list(LORA_TARGETS), lora_dropout=0.0, bias="none"
    )
    return inject_adapter_in_model(config, own)


def length_mask(lengths: torch.Tensor, frames: int, dtype: torch.dtype) -> torch.Tensor | None:
    """Additive attention mask (batch, 1, 1, frames), or None where no clip is shorter than the
    batch.
    """
    if bool((lengths == frames).all()):
        return None
    beyond = torch.arange(frames, device=lengths.device) >= lengths.unsqueeze(1)
    return torch.zeros(beyond.shape, dtype=dtype, device=lengths.device).masked_fill(beyond, -1e4)[
        :, None, None
    ]


def slice_trunk(
    hidden: torch.Tensor, frames: list[int], margin: int = MARGIN
) -> tuple[torch.Tensor, torch.Tensor]:
    """Keep each clip's frames and a margin: (batch, positions, width) -> (batch, longest, width),
    lengths (batch,).
    """
    lengths = torch.tensor(
        [min(count + margin, hidden.shape[1]) for count in frames], device=hidden.device
    )
    return hidden[:, : int(lengths.max())], lengths


def pool(hidden: torch.Tensor, lengths: torch.Tensor) -> torch.Tensor:
    """Mean and standard deviation over each clip's frames: (batch, frames, width) -> (batch, 2 x
    width).
    """
    inside = (torch.arange(hidden.shape[1], device=hidden.device) < lengths.unsqueeze(1)).unsqueeze(
        -1
    )
    count = lengths.view(-1, 1).to(hidden.dtype)
    mean = (hidden * inside).sum(1) / count
    spread = (((hidden - mean.unsqueeze(1)) * inside).square().sum(1) / count + 1e-5).sqrt()
    return torch.cat([mean, spread], -1)


@dataclass(frozen=True)
class Candidate:
    """A hypothesis with the attention decoder's log-probability, and the CTC head's."""

    hypothesis: Hypothesis
    ctc: float

    def score(self, ctc_weight: float) -> float:
        """(1 - w) log p_attention + w log p_ctc."""
        return (1 - ctc_weight) * self.hypothesis.logprob + ctc_weight * self.ctc


def best_candidate(clip: Sequence[Candidate], ctc_weight: float) -> Candidate:
    """The highest joint score; with weight 0 the first, the attention decoder's own best."""
    if ctc_weight == 0:
        return clip[0]
    return max(clip, key=lambda candidate: candidate.score(ctc_weight))


@dataclass(frozen=True)
class SearchOptions:
    """How a pack decodes: width of both beams, weight of CTC in the joint score, length limit in
    units a second.
    """

    beam: int = 1
    ctc_weight: float = 0.5
    units_per_second: float = 20.0


def make_decoder(
    backbone: Backbone, tokenizer: PackTokenizer, options: SecondaryOptions
) -> nn.Module:
    """The decoder that resolved options ask for, untrained."""
    if options.decoder == "las":
        return LASDecoder(tokenizer.size, tokenizer.first_text, backbone.width, options.las)
    if options.decoder == "ctc":
        return TagDecoder(tokenizer.first_text, backbone.width)
    base = backbone.decoder
    embeddings, special = base.embed_tokens.weight, backbone.special_ids
    # `<|other|>` and the pack's: the mean of the base's
    tags = [special.languages] * (tokenizer.first_text - 1)
    pieces = [backbone.piece_ids(piece) for piece in tokenizer.pieces]
    layers = adapt_layers(base.layers, options.rank, options.alpha)
    norm = copy.deepcopy(base.layer_norm).requires_grad_(True)
    return WhisperDecoder(
        layers,
        norm,
        base.embed_positions.weight,
        units_from_base([[special.start], *tags, *pieces], embeddings),
        units_from_base([[special.end], *tags, *pieces], embeddings),
        embeddings[list(special.prompt)],
        tokenizer.first_text,
    )


class Secondary(nn.Module):
    """One pack's pipeline on a backbone. Its own (trainable) tensors are `own_tensors()`; the rest
    is the base's.
    """

    # the Trainer then counts the labels of a step over its shares, micro-batches and processes
    accepts_loss_kwargs = True

    def __init__(
        self,
        backbone: Backbone,
        tokenizer: PackTokenizer,
        options: SecondaryOptions = SecondaryOptions(),
    ):
        super().__init__()
        self.options = options.resolve(backbone.layers)
        self.tokenizer, self.frame_s = tokenizer, backbone.frame_s
        self.layers = adapt_layers(
            backbone.encoder.layers[self.options.fork :], self.options.rank, self.options.alpha
        )
        self.layer_norm = copy.deepcopy(backbone.encoder.layer_norm).requires_grad_(True)
        width = backbone.width
        self.decoder = make_decoder(backbone, tokenizer, self.options)
        self.ctc_head = nn.Linear(width, len(tokenizer.characters) + 1)
        # fitted, not trained: language_head.py
        self.language_head = nn.Linear(2 * width, len(tokenizer.languages) + 1)

    def own_tensors(self) -> Iterator[tuple[str, nn.Parameter]]:
        """Names and parameters that belong to the pack: LoRA, LayerNorm, decoder, heads."""
        shared = ("layers.", "decoder.layers.")  # the base's tensors, but for LoRA's
        return (
            (n, p) for n, p in self.named_parameters() if ".lora_" in n or not n.startswith(shared)
        )

    @torch.no_grad()
    def inherit(self, other: "Secondary") -> None:
        """Go on from a secondary of the same settings, units and characters, whose languages are
        the first of these.

        The language head and the tags of further languages stay as they are.
        """
        theirs, first, mine = (
            dict(other.own_tensors()),
            other.tokenizer.first_text,
            self.tokenizer.first_text,
        )
        for name, parameter in self.own_tensors():
            if name.startswith("language_head."):
                continue
            if parameter.shape == theirs[name].shape:
                parameter.copy_(theirs[name])
            else:  # a row for each token
                parameter[:first], parameter[mine:] = theirs[name][:first], theirs[name][first:]

    @property
    def checksum(self) -> str:
        """SHA-256 over settings, vocabulary, and the names and values of all own tensors."""
        vocabulary = [self.tokenizer.bpe.to_str(), self.tokenizer.characters]
        digest = hashlib.sha256(json.dumps([self.settings(), vocabulary]).encode())
        for name, parameter in sorted(self.own_tensors()):
            digest.update(name.encode() + parameter.detach().float().cpu().numpy().tobytes())
        return digest.hexdigest()

    def settings(self) -> dict:
        return asdict(self.options)

    def encode(self, trunk: torch.Tensor, lengths: torch.Tensor | None = None) -> torch.Tensor:
        """Adapted upper layers and own LayerNorm: (batch, frames, width) -> same; frames past
        `lengths` are masked.
        """
        mask = None if lengths is None else length_mask(lengths, trunk.shape[1], trunk.dtype)
        hidden = trunk
        for layer in self.layers:
            hidden = layer(hidden, mask)
        return self.layer_norm(hidden)

    def language_logits(self, trunk: torch.Tensor, lengths: torch.Tensor) -> torch.Tensor:
        """The language head on pooled trunk features: (batch, frames, width) -> (batch, other +
        languages) logits.
        """
        return self.language_head(pool(trunk, lengths)).float()

    @torch.no_grad()
    def tag_step(self, encoded: torch.Tensor, lengths: torch.Tensor) -> torch.Tensor:
        """The decoder's first step: log-probabilities (batch, other + languages)."""
        start = torch.full((len(encoded),), self.tokenizer.end, device=encoded.device)
        log_probs, _ = self.decoder.step(start, *self.decoder.start(encoded, lengths))
        return log_probs[:, 1 : self.tokenizer.first_text]

    def ctc_log_probs(self, encoded: torch.Tensor) -> torch.Tensor:
        """(batch, frames, width) -> (batch, frames, blank + characters) log-probabilities."""
        return self.ctc_head(encoded).float().log_softmax(-1)

    def forward(
        self,
        trunk,
        lengths,
        tokens,
        labels,
        characters,
        character_lengths,
        seeds=None,
        *,
        ctc_weight: float = 1.0,
        num_items_in_batch=None,
    ) -> dict[str, torch.Tensor]:
        """Training losses, summed over the batch and divided by `num_items_in_batch` (default: the
        labels here).

        trunk (batch, frames, width), lengths (batch,), tokens and labels (batch, steps) with -100
        where nothing is asked, characters (batch, most) with character_lengths (batch,), 0 for
        negatives; seeds (batch,) of the dropout, None for none.
        """
        items = (labels != -100).sum() if num_items_in_batch is None else num_items_in_batch
        encoded = self.encode(trunk, lengths)
        log_probs = self.decoder(encoded, lengths, tokens, seeds)
        labels = labels[:, : log_probs.shape[1]]
        attention = F.nll_loss(
            log_probs.flatten(0, 1), labels.flatten(), ignore_index=-100, reduction="sum"
        )
        # label smoothing on what is allowed
        smooth = -(log_probs * (log_probs > -100)).mean(-1)[labels != -100].sum()
        speech = character_lengths > 0
        ctc = attention.new_zeros(())
        if bool(speech.any()):
            ctc = F.ctc_loss(
                self.ctc_log_probs(encoded[speech]).transpose(0, 1),
                characters[speech],
                lengths[speech],
                character_lengths[speech],
                reduction="sum",
                zero_infinity=True,
            )
        loss = (attention + 0.02 * smooth + ctc_weight * ctc) / items
        return {"loss": loss, "attention": attention.detach() / items, "ctc": ctc.detach() / items}

    @torch.no_grad()
    def decode(
        self,
        encoded: torch.Tensor,
        lengths: torch.Tensor,
        language: list[str],
        options: SearchOptions = SearchOptions(),
    ) -> list[Hypothesis]:
        """Joint CTC/attention decoding (Watanabe et al. 2017) in two passes: candidates of both,
        scored by both.

        The log-probability of a hypothesis is the CTC head's: with little data the attention
        decoder's own means little, here -20 to -70 a second whatever it heard. With ctc_weight 0
        all is the attention decoder's plain beam search.
        """
        if options.ctc_weight == 0 and self.decoder.spells:
            found = self._search(encoded, lengths, language, options)
            return [
                Hypothesis(rows[0][0], self.tokenizer.decode(rows[0][0])[0], *rows[0][1:])
                for rows in found
            ]
        scored = self.candidates(encoded, lengths, language, options)
        best = [best_candidate(clip, options.ctc_weight) for clip in scored]
        return [replace(candidate.hypothesis, logprob=candidate.ctc) for candidate in best]

    @torch.no_grad()
    def candidates(
        self,
        encoded: torch.Tensor,
        lengths: torch.Tensor,
        language: list[str],
        options: SearchOptions = SearchOptions(),
    ) -> list[list[Candidate]]:
        """Each clip's candidates: the attention decoder's beam, its best first, and the best CTC
        prefixes.
        """
        tokenizer, frames, scored = self.tokenizer, self.ctc_log_probs(encoded), []
        spelled = (
            self._search(encoded, lengths, language, options)
            if self.decoder.spells
            else [[]] * len(encoded)
        )
        for i, rows in enumerate(spelled):
            here = frames[i, : int(lengths[i])]
            prefixes = ctc_prefix_beam(here.cpu().numpy(), beam=max(4, options.beam))[
                : max(1, options.beam)
            ]
            if not self.decoder.spells:
                texts = [(tokenizer.decode_characters(units), score) for units, score in prefixes]
                scored.append(
                    [
                        Candidate(Hypothesis(tuple(tokenizer.encode(t)), t, score), score)
                        for t, score in texts
                    ]
                )
                continue
            finished = {tokens: ended for tokens, _, ended in rows}
            for tokens in (
                tuple(tokenizer.encode(tokenizer.decode_characters(units))) for units, _ in prefixes
            ):
                if len(tokens) <= MOST_TOKENS:
                    finished.setdefault(tokens, True)
            scored.append(
                self._score(finished, encoded[i], lengths[i], tokenizer.tag(language[i]), here)
            )
        return scored

    def _search(self, encoded, lengths, language, options):
        """The attention decoder's beams: (tokens, log-probability, finished) for each clip, best
        first.
        """
        prefix = torch.tensor(
            [[self.tokenizer.end, self.tokenizer.tag(code)] for code in language],
            device=encoded.device,
        )
        limits = ((lengths * self.frame_s * options.units_per_second).long() + 5).clamp_max(
            MOST_TOKENS
        )
        return beam_search(self.decoder, encoded, lengths, prefix, beam=options.beam, limits=limits)

    def _score(
        self, finished: dict[tuple[int, ...], bool], encoded, length, tag: int, frames
    ) -> list[Candidate]:
        """Both scores of token sequences of one clip, in one batch."""
        device, end, count = encoded.device, self.tokenizer.end, len(finished)
        sequences = [torch.tensor([end, tag, *tokens, end], device=device) for tokens in finished]
        padded = nn.utils.rnn.pad_sequence(sequences, batch_first=True, padding_value=-1)
        tokens, labels = padded[:, :-1].clamp_min(0), padded[:, 1:]
        log_probs = self.decoder(encoded.expand(count, -1, -1), length.expand(count), tokens)
        picked = log_probs.gather(-1, labels.clamp_min(0).unsqueeze(-1)).squeeze(-1)
        attention = (picked * (labels >= 0))[:, 1:].sum(-1)  # the tag is given, not scored
        texts = [self.tokenizer.decode(tokens)[0] for tokens in finished]
        units = [self.tokenizer.encode_characters(text) for text in texts]
        sizes = torch.tensor([len(u) for u in units], device=device)
        targets = torch.tensor([c for u in units for c in u], device=device, dtype=torch.long)
        ctc = -F.ctc_loss(
            frames.unsqueeze(1).expand(-1, count, -1),
            targets,
            length.expand(count),
            sizes,
            reduction="none",
        )
        rows = zip(finished.items(), texts, attention.tolist(), ctc.tolist(), strict=True)
        return [
            Candidate(Hypothesis(tokens, text, score, ended), c)
            for (tokens, ended), text, score, c in rows
        ]
