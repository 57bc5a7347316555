"""A pack's pipeline: adapted upper layers, own LayerNorm, decoder, CTC head and language head.

The layers are modules of their own on the base's own tensors, which stay frozen. peft puts LoRA on
q, k, v, out, fc1 and fc2 of every layer from the fork up (paper, section 2.1).

The input is the trunk's activations. The trunk runs on the padded window, and then its output is
sliced to the clip ("pad the trunk, slice at the fork"), in training and in use alike.
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
from dualasr.model.interrupt import OnStep, uninterrupted
from dualasr.model.las_decoder import LASDecoder, LASOptions
from dualasr.model.search import Hypothesis, Scored, Tokens, beam_search, ctc_prefix_beam
from dualasr.model.tokenizer import PackTokenizer
from dualasr.model.whisper import Backbone
from dualasr.model.whisper_decoder import WhisperDecoder, units_from_base

DECODERS = ("las", "whisper", "ctc")
# Most text units of a window: Whisper's decoder has 448 positions, for prompt and end, too.
MOST_TOKENS = 440
MARGIN = 8  # frames kept after the clip's end: 0.16 s
LORA_TARGETS = ("q_proj", "k_proj", "v_proj", "out_proj", "fc1", "fc2")


@dataclass(frozen=True)
class SecondaryOptions:
    """The shape of a secondary.

    Attributes:
        rank: Rank of LoRA; 0 for none.
        alpha: Scale of LoRA: h = Wx + (alpha / rank) BAx. 0 means alpha = rank: h = Wx + BAx.
        fork: Number of encoder layers below the fork; -1 for half of them.
        decoder: "las", the paper's; "whisper", the base's own with LoRA of the same rank; "ctc",
            none besides the CTC head.
        las: The shape of the LAS decoder.
    """

    rank: int = 16
    alpha: float = 0.0
    fork: int = -1
    decoder: str = "whisper"
    las: LASOptions = LASOptions()

    def resolve(self, layers: int) -> "SecondaryOptions":
        """Return the same options with the defaults filled in for a base of `layers` layers.

        Raises:
            ValueError: The fork is outside the encoder, or there is no such decoder.
        """
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
    """Copy layers without copying their tensors, and add LoRA.

    Args:
        layers: Layers of the base.
        rank: Rank of LoRA; 0 for none.
        alpha: Scale of LoRA: h = Wx + (alpha / rank) BAx.

    Returns:
        The copies. LoRA's B is 0, so they compute what `layers` compute.
    """
    shared = {id(tensor): tensor for tensor in [*layers.parameters(), *layers.buffers()]}
    own = copy.deepcopy(layers, shared)
    if rank == 0:
        return own
    from peft import LoraConfig, inject_adapter_in_model

    config = LoraConfig(
        r=rank,
        lora_alpha=alpha,  # type: ignore[arg-type]  # peft only divides it by the rank
        target_modules=list(LORA_TARGETS),
        lora_dropout=0.0,
        bias="none",
    )
    adapted = inject_adapter_in_model(config, own)
    assert isinstance(adapted, nn.ModuleList)
    return adapted


def length_mask(lengths: torch.Tensor, frames: int, dtype: torch.dtype) -> torch.Tensor | None:
    """Return the mask that attention adds to its scores, or None where all clips are full.

    Args:
        lengths: (batch,) frames of each clip.
        frames: Frames of the batch.
        dtype: Type of the mask.

    Returns:
        (batch, 1, 1, frames): 0 for frames of the clip, -1e4 for those after its end.
    """
    if bool((lengths == frames).all()):
        return None
    beyond = torch.arange(frames, device=lengths.device) >= lengths.unsqueeze(1)
    mask = torch.zeros(beyond.shape, dtype=dtype, device=lengths.device)
    return mask.masked_fill(beyond, -1e4)[:, None, None]


def slice_trunk(
    hidden: torch.Tensor, frames: list[int], margin: int = MARGIN
) -> tuple[torch.Tensor, torch.Tensor]:
    """Cut a padded window's activations to the longest clip.

    Args:
        hidden: (batch, positions, width) activations at the fork.
        frames: Number of frames of each clip.
        margin: Number of frames that are kept after the clip's end.

    Returns:
        (batch, longest, width) activations and the number of each clip's frames (batch,), the
        margin included.
    """
    lengths = torch.tensor(
        [min(count + margin, hidden.shape[1]) for count in frames], device=hidden.device
    )
    return hidden[:, : int(lengths.max())], lengths


def pool(hidden: torch.Tensor, lengths: torch.Tensor) -> torch.Tensor:
    """Return mean and standard deviation of each feature over a clip's frames.

    Args:
        hidden: (batch, frames, width) activations.
        lengths: (batch,) frames of each clip.

    Returns:
        (batch, 2 x width): the means, then the deviations.
    """
    inside = torch.arange(hidden.shape[1], device=hidden.device) < lengths.unsqueeze(1)
    inside = inside.unsqueeze(-1)
    count = lengths.view(-1, 1).to(hidden.dtype)
    mean = (hidden * inside).sum(1) / count
    spread = (((hidden - mean.unsqueeze(1)) * inside).square().sum(1) / count + 1e-5).sqrt()
    return torch.cat([mean, spread], -1)


@dataclass(frozen=True)
class Candidate:
    """A hypothesis with both its log-probabilities.

    Attributes:
        hypothesis: The hypothesis; its `logprob` is the attention decoder's.
        ctc: Log-probability of the CTC head.
    """

    hypothesis: Hypothesis
    ctc: float

    def score(self, ctc_weight: float) -> float:
        """Return the joint score (1 - w) log p_attention + w log p_ctc (Watanabe et al. 2017)."""
        return (1 - ctc_weight) * self.hypothesis.logprob + ctc_weight * self.ctc


def best_candidate(clip: Sequence[Candidate], ctc_weight: float) -> Candidate:
    """Choose the candidate with the highest joint score.

    Args:
        clip: The candidates of a clip, the attention decoder's best first.
        ctc_weight: Weight of the CTC head in the joint score, from 0 to 1.

    Returns:
        The candidate; with weight 0 the first one, which is the attention decoder's best.
    """
    if ctc_weight == 0:
        return clip[0]
    return max(clip, key=lambda candidate: candidate.score(ctc_weight))


@dataclass(frozen=True)
class SearchOptions:
    """How a pack decodes.

    Attributes:
        beam: Width of the attention decoder's beam, and number of CTC prefixes.
        ctc_weight: Weight of the CTC head in the joint score, from 0 to 1; 0 for no CTC at all.
        units_per_second: Length limit of a text, in text units per second of audio.
    """

    beam: int = 1
    ctc_weight: float = 0.5
    units_per_second: float = 20.0


def make_decoder(
    backbone: Backbone, tokenizer: PackTokenizer, options: SecondaryOptions
) -> LASDecoder | TagDecoder | WhisperDecoder:
    """Build an untrained decoder.

    Args:
        backbone: The base.
        tokenizer: The pack's vocabulary.
        options: The shape of the secondary, resolved.

    Returns:
        The decoder.
    """
    if options.decoder == "las":
        return LASDecoder(tokenizer.size, tokenizer.first_text, backbone.width, options.las)
    if options.decoder == "ctc":
        return TagDecoder(tokenizer.first_text, backbone.width)
    base = backbone.decoder
    embeddings, special = base.embed_tokens.weight, backbone.special_ids
    # `<|other|>` and the pack's tags start from the mean of the base's tags.
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
    """A pack's pipeline on a base.

    The tensors of `own_tensors` are the pack's and trainable; all others are the base's.

    Args:
        backbone: The base.
        tokenizer: The pack's vocabulary.
        options: Its shape.
    """

    # transformers' Trainer then gives `num_items_in_batch`: the labels of a whole step, over all
    # micro-batches and processes.
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
        # fitted by logistic regression: training/language_head.py
        self.language_head = nn.Linear(2 * width, len(tokenizer.languages) + 1)

    def own_tensors(self) -> Iterator[tuple[str, nn.Parameter]]:
        """Yield names and parameters that belong to the pack: LoRA, LayerNorm, decoder, heads."""
        shared = ("layers.", "decoder.layers.")  # the base's tensors, LoRA's apart
        return (
            (n, p) for n, p in self.named_parameters() if ".lora_" in n or not n.startswith(shared)
        )

    @torch.no_grad()
    def inherit(self, other: "Secondary") -> None:
        """Copy the parameters of another secondary, to train further from them.

        The other secondary must have the same settings, text units and characters, and its
        languages must be the first ones of this secondary. The language head and the tags of
        further languages keep their values.
        """
        theirs = dict(other.own_tensors())
        first, mine = other.tokenizer.first_text, self.tokenizer.first_text
        for name, parameter in self.own_tensors():
            if name.startswith("language_head."):
                continue
            if parameter.shape == theirs[name].shape:
                parameter.copy_(theirs[name])
            else:  # a row for each unit: the new tags stand between the old tags and the text
                parameter[:first], parameter[mine:] = theirs[name][:first], theirs[name][first:]

    @property
    def checksum(self) -> str:
        """SHA-256 over settings, vocabulary, and names and float32 values of all own tensors."""
        vocabulary = [self.tokenizer.bpe.to_str(), self.tokenizer.characters]
        digest = hashlib.sha256(json.dumps([self.settings(), vocabulary]).encode())
        for name, parameter in sorted(self.own_tensors()):
            digest.update(name.encode() + parameter.detach().float().cpu().numpy().tobytes())
        return digest.hexdigest()

    def settings(self) -> dict:
        """Return its shape as pack.json holds it."""
        return asdict(self.options)

    def encode(
        self,
        trunk: torch.Tensor,
        lengths: torch.Tensor | None = None,
        on_step: OnStep = uninterrupted,
    ) -> torch.Tensor:
        """Run the adapted upper layers and the pack's LayerNorm.

        Args:
            trunk: (batch, frames, width) activations at the fork.
            lengths: (batch,) frames of each clip, the others are masked; None for no mask.
            on_step: Function that is called between steps; it may raise, to stop the work.

        Returns:
            (batch, frames, width) encoder output of the pack.
        """
        mask = None if lengths is None else length_mask(lengths, trunk.shape[1], trunk.dtype)
        hidden = trunk
        for layer in self.layers:
            on_step()
            hidden = layer(hidden, mask)
        return self.layer_norm(hidden)

    def language_logits(self, trunk: torch.Tensor, lengths: torch.Tensor) -> torch.Tensor:
        """Run the language head on the pooled trunk.

        Args:
            trunk: (batch, frames, width) activations at the fork.
            lengths: (batch,) frames of each clip.

        Returns:
            (batch, 1 + languages) logits: of any other language, then of the pack's.
        """
        return self.language_head(pool(trunk, lengths)).float()

    @torch.no_grad()
    def tag_step(self, encoded: torch.Tensor, lengths: torch.Tensor) -> torch.Tensor:
        """Run the decoder's first step, which predicts the language tag.

        Args:
            encoded: (batch, frames, width) encoder output of the pack.
            lengths: (batch,) frames of each clip.

        Returns:
            (batch, 1 + languages) log-probabilities: of `<|other|>`, then of the pack's tags.
        """
        start = torch.full((len(encoded),), self.tokenizer.end, device=encoded.device)
        log_probs, _ = self.decoder.step(start, *self.decoder.start(encoded, lengths))
        return log_probs[:, 1 : self.tokenizer.first_text]

    def ctc_log_probs(self, encoded: torch.Tensor) -> torch.Tensor:
        """Return the CTC head's log-probabilities (batch, frames, 1 + characters), blank first.

        `encoded` is the encoder output of the pack (batch, frames, width).
        """
        return self.ctc_head(encoded).float().log_softmax(-1)

    def forward(
        self,
        trunk: torch.Tensor,
        lengths: torch.Tensor,
        tokens: torch.Tensor,
        labels: torch.Tensor,
        characters: torch.Tensor,
        character_lengths: torch.Tensor,
        seeds: torch.Tensor | None = None,
        *,
        ctc_weight: float = 1.0,
        num_items_in_batch: torch.Tensor | int | None = None,
    ) -> dict[str, torch.Tensor]:
        """Return the training losses: sums over the batch, divided by the number of labels.

        Args:
            trunk: (batch, frames, width) activations at the fork.
            lengths: (batch,) frames of each clip.
            tokens: (batch, steps) the decoder's input.
            labels: (batch, steps) the unit that each step must predict; -100 for none.
            characters: (batch, most) CTC units of each text.
            character_lengths: (batch,) CTC units of each text; 0 for a negative, a clip of another
                language, which has no CTC loss.
            seeds: (batch,) seeds of the dropout; None for none.
            ctc_weight: Weight of the CTC loss.
            num_items_in_batch: Number of labels of the whole step; None for those of this batch.

        Returns:
            "loss", the sum that is trained on, with label smoothing; "attention" and "ctc", its
            parts.
        """
        items = (labels != -100).sum() if num_items_in_batch is None else num_items_in_batch
        encoded = self.encode(trunk, lengths)
        log_probs = self.decoder(encoded, lengths, tokens, seeds)
        labels = labels[:, : log_probs.shape[1]]
        attention = F.nll_loss(
            log_probs.flatten(0, 1), labels.flatten(), ignore_index=-100, reduction="sum"
        )
        # label smoothing, over the units that a step may predict
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
        on_step: OnStep = uninterrupted,
    ) -> list[Hypothesis]:
        """Decode clips by the attention decoder and CTC together (Watanabe et al. 2017).

        There are two passes. First both search their best texts, the candidates; then both score
        all candidates (`candidates`), and the one with the highest joint score is the hypothesis.

        The log-probability of a hypothesis is the CTC head's. After training on little data the
        attention decoder's is no measure: here it was -20 to -70 per second for every sound. With
        ctc_weight 0 there is no CTC: the hypothesis and its log-probability come from the attention
        decoder's beam search.

        Args:
            encoded: (batch, frames, width) encoder output of the pack.
            lengths: (batch,) frames of each clip.
            language: A language code of the pack for each clip.
            options: Widths, weights and limits.
            on_step: Function that is called between steps; it may raise, to stop the work.

        Returns:
            A hypothesis for each clip.
        """
        if options.ctc_weight == 0 and self.decoder.spells:
            found = self._search(encoded, lengths, language, options, on_step)
            return [
                Hypothesis(tokens, self.tokenizer.decode(tokens)[0], logprob, finished)
                for (tokens, logprob, finished), *_ in found
            ]
        scored = self.candidates(encoded, lengths, language, options, on_step)
        best = [best_candidate(clip, options.ctc_weight) for clip in scored]
        return [replace(candidate.hypothesis, logprob=candidate.ctc) for candidate in best]

    @torch.no_grad()
    def candidates(
        self,
        encoded: torch.Tensor,
        lengths: torch.Tensor,
        language: list[str],
        options: SearchOptions = SearchOptions(),
        on_step: OnStep = uninterrupted,
    ) -> list[list[Candidate]]:
        """Search texts of each clip by the attention decoder and by CTC, and score all by both.

        Args:
            encoded: (batch, frames, width) encoder output of the pack.
            lengths: (batch,) frames of each clip.
            language: A language code of the pack for each clip.
            options: Widths and limits.
            on_step: Function that is called between steps; it may raise, to stop the work.

        Returns:
            The candidates of each clip: first the attention decoder's beam, its best first, then
            the CTC prefixes that are not among them. A pack without an attention decoder has the
            CTC prefixes alone.
        """
        frames = self.ctc_log_probs(encoded)
        clips = [frames[i, : int(length)] for i, length in enumerate(lengths)]
        prefixes = [self._prefixes(clip, options.beam, on_step) for clip in clips]
        if not self.decoder.spells:
            return [
                [
                    Candidate(Hypothesis(tuple(self.tokenizer.encode(text)), text, score), score)
                    for text, score in found
                ]
                for found in prefixes
            ]
        scored: list[list[Candidate]] = []
        for i, beam in enumerate(self._search(encoded, lengths, language, options, on_step)):
            on_step()
            finished = {tokens: ended for tokens, _, ended in beam}
            for text, _ in prefixes[i]:
                tokens = tuple(self.tokenizer.encode(text))
                if len(tokens) <= MOST_TOKENS:
                    finished.setdefault(tokens, True)
            tag = self.tokenizer.tag(language[i])
            scored.append(self._score(finished, encoded[i], lengths[i], tag, clips[i]))
        return scored

    def _prefixes(
        self, frames: torch.Tensor, beam: int, on_step: OnStep = uninterrupted
    ) -> list[tuple[str, float]]:
        """Return the best texts of CTC for one clip's (frames, 1 + characters) log-probabilities.

        The search keeps at least 4 prefixes, even where fewer texts are wanted.
        """
        found = ctc_prefix_beam(frames.cpu().numpy(), beam=max(4, beam), on_step=on_step)
        found = found[: max(1, beam)]
        return [(self.tokenizer.decode_characters(units), score) for units, score in found]

    def _search(
        self,
        encoded: torch.Tensor,
        lengths: torch.Tensor,
        language: list[str],
        options: SearchOptions,
        on_step: OnStep,
    ) -> list[list[Scored]]:
        """Run the attention decoder's beam search after each clip's tag."""
        prefix = torch.tensor(
            [[self.tokenizer.end, self.tokenizer.tag(code)] for code in language],
            device=encoded.device,
        )
        limits = (lengths * self.frame_s * options.units_per_second).long() + 5
        limits = limits.clamp_max(MOST_TOKENS)
        return beam_search(
            self.decoder,
            encoded,
            lengths,
            prefix,
            beam=options.beam,
            limits=limits,
            on_step=on_step,
        )

    def _score(
        self,
        finished: dict[Tokens, bool],
        encoded: torch.Tensor,
        length: torch.Tensor,
        tag: int,
        frames: torch.Tensor,
    ) -> list[Candidate]:
        """Score texts of one clip by the decoder and by CTC, in one batch.

        `finished` maps the texts to whether they ended; encoded (frames, width) and length () are
        the clip's, frames (frames, 1 + characters) its CTC log-probabilities.
        """
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
