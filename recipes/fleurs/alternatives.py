"""Other ways of adding a language, on the same clips and in as many steps.

A whole Whisper may be trained, or LoRA on its encoder and decoder, with Whisper's own vocabulary
and the tag of another language. This changes its results on the languages that it knew
(`train_whole`). Or a pack may have another shape: a decoder without LoRA, or a supplementary
encoder layer. These are the paper's two baselines (section 4; `fit_pack`).
"""

import copy
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import islice

import numpy as np
import torch

from dualasr.audio.torchaudio_fault import torchaudio_fault  # noqa: F401  before transformers

# isort: split
from peft import LoraConfig, get_peft_model
from torch import nn
from torch.nn import functional as F
from transformers import get_scheduler
from transformers.modeling_outputs import BaseModelOutput

from dualasr.audio.load import SAMPLE_RATE, SHORTEST, Sound, load_audio, split_windows
from dualasr.data.corpus import Utterance
from dualasr.model.dual_whisper import DecodeOptions, DualWhisper
from dualasr.model.las_decoder import LASOptions
from dualasr.model.pack import Pack, PackInfo
from dualasr.model.precision import autocast
from dualasr.model.secondary import LORA_TARGETS, MARGIN, MOST_TOKENS, Secondary, SecondaryOptions
from dualasr.model.tokenizer import PackTokenizer
from dualasr.model.whisper import Backbone
from dualasr.parallel import one_ahead, worker_pool
from dualasr.progress import progress_bar
from dualasr.training.calibration import choose_ctc_weight
from dualasr.training.dataset import plan_batches
from dualasr.training.options import AddLanguageOptions, TrainingOptions
from dualasr.training.prepare import make_tokenizer, prepare, read_corpora
from dualasr.training.trainer import train_secondary
from dualasr.training.trunk_cache import TrunkCache

BATCH = 16  # windows transcribed together


@dataclass(frozen=True)
class Example:
    """A clip and the primary's tokens for it, from start to end."""

    sound: Sound
    frames: int
    tokens: tuple[int, ...]


def borrow_tags(
    new: Sequence[str], known: Sequence[str], measured: Sequence[str]
) -> dict[str, str]:
    """Choose a tag for each new language, first those of languages that are not measured."""
    order = [tag for tag in known if tag not in measured] + [
        tag for tag in known if tag in measured
    ]
    return {code: order[k % len(order)] for k, code in enumerate(new)}


def text_tokens(backbone: Backbone, text: str) -> list[int]:
    """Return a text's tokens, with a space before it, as the base was trained."""
    return backbone.tokenizer(" " + text, add_special_tokens=False).input_ids


def examples_of(backbone: Backbone, utterances: Sequence[Utterance], tag: str) -> list[Example]:
    """Label clips with `tag`; a text longer than the decoder holds is left out."""
    ids, examples = backbone.special_ids, []
    for u in utterances:
        tokens = text_tokens(backbone, " ".join(u.text.split()))
        if len(tokens) <= MOST_TOKENS:
            row = (ids.start, backbone.languages[tag], *ids.prompt, *tokens, ids.end)
            examples.append(Example(u.sound, backbone.frames(round(u.duration * SAMPLE_RATE)), row))
    return examples


def train_whole(
    backbone: Backbone,
    examples: Sequence[Example],
    options: TrainingOptions,
    variants: TrunkCache,
    *,
    rank: int = 0,
    targets: Sequence[str] = LORA_TARGETS,
    padded: float = 1.0,
) -> tuple[nn.Module, int]:
    """Train a copy of the base's model; return it, and the number of its trained parameters.

    All parameters are trained, or with `rank` LoRA on `targets`, which is merged at the end. AdamW
    runs with linear warm-up and decay, over as many steps and clips as a pack's training, with the
    same augmentation (`variants` makes it). A share of the batches, `padded`, fills the window as
    Whisper's does. The others end with their longest clip, which is several times faster; a base
    that was trained on such clips bears it.
    """
    model = copy.deepcopy(backbone.model).requires_grad_(rank == 0)
    torch.manual_seed(options.seed)
    if rank:
        lora = LoraConfig(
            r=rank,
            lora_alpha=rank,
            target_modules=list(targets),
            lora_dropout=0.0,
            bias="none",
        )
        model = get_peft_model(model, lora)
    own = [p for p in model.parameters() if p.requires_grad]
    optimiser = torch.optim.AdamW(own, lr=options.learning_rate, weight_decay=0.01)
    schedule = get_scheduler(
        "linear", optimiser, round(options.steps * options.warmup), options.steps
    )
    whisper = model.base_model.model if rank else model
    batches, rng = (
        plan_batches([e.frames for e in examples], [], options),
        np.random.default_rng([options.seed, 41]),
    )
    whole, device = rng.random(len(batches)) < padded, backbone.device

    def gradients(share: tuple[list, bool, int]) -> tuple:
        items, full, total = share
        rows = [examples[i] for i, _ in items]
        picked = [
            np.random.default_rng([options.seed, 7, position]).integers(options.variants)
            for _, position in items
        ]
        sounds = [
            variants.samples(row.sound, int(variant))
            for row, variant in zip(rows, picked, strict=True)
        ]
        longest = (
            backbone.positions
            if full
            else min(
                backbone.positions, max(backbone.frames(len(sound)) for sound in sounds) + MARGIN
            )
        )
        tokens = [torch.tensor(row.tokens, device=device) for row in rows]
        inputs = nn.utils.rnn.pad_sequence(
            [t[:-1] for t in tokens], batch_first=True, padding_value=backbone.special_ids.end
        )
        labels = nn.utils.rnn.pad_sequence(
            [t[1:] for t in tokens], batch_first=True, padding_value=-100
        )
        mel = backbone.features(sounds)
        with autocast(device, options.precision):
            encoded = encode(whisper, mel, longest)
            logits = whisper(
                encoder_outputs=BaseModelOutput(encoded), decoder_input_ids=inputs, use_cache=False
            ).logits
        loss = (
            F.cross_entropy(
                logits.flatten(0, 1).float(), labels.flatten(), ignore_index=-100, reduction="sum"
            )
            / total
        )
        return torch.autograd.grad(loss, own, allow_unused=True, materialize_grads=True)

    with worker_pool() as (pool, cores):
        for batch, full in progress_bar(
            zip(batches, whole, strict=True), desc="train", total=len(batches), unit="step"
        ):
            total = sum(len(examples[i].tokens) - 1 for i, _ in batch)
            parts = min(cores, len(batch)) if device.type == "cpu" else 1
            shares = [(batch[part::parts], bool(full), total) for part in range(parts)]
            for parameter, *gradient in zip(own, *pool.map(gradients, shares), strict=True):
                parameter.grad = sum(gradient)
            nn.utils.clip_grad_norm_(own, 5.0)
            optimiser.step()
            schedule.step()
    if rank:
        model = model.merge_and_unload()
    return model.eval().requires_grad_(False), sum(p.numel() for p in own)


def encode(whisper: nn.Module, mel: torch.Tensor, frames: int) -> torch.Tensor:
    """Run Whisper's encoder on the first frames.

    (batch, mels, 2 x positions) -> (batch, frames, width)
    """
    encoder = whisper.model.encoder
    hidden = F.gelu(encoder.conv2(F.gelu(encoder.conv1(mel[:, :, : 2 * frames])))).permute(0, 2, 1)
    hidden = hidden + encoder.embed_positions.weight[:frames]
    for layer in encoder.layers:
        hidden = layer(hidden, None)
    return encoder.layer_norm(hidden)


class Supplementary(Secondary):
    """One more encoder layer on top of the frozen ones, and a decoder; no LoRA (paper, section 4).

    The layer starts from the weights of the last one.
    """

    def __init__(self, backbone: Backbone, tokenizer: PackTokenizer, options: SecondaryOptions):
        super().__init__(backbone, tokenizer, replace(options, rank=0, fork=backbone.layers))
        self.layers.append(copy.deepcopy(backbone.encoder.layers[-1]).requires_grad_(True))

    def own_tensors(self) -> Iterator[tuple[str, nn.Parameter]]:
        return self.named_parameters()


Make = Callable[[Backbone, PackTokenizer, SecondaryOptions], Secondary]


def parameters(
    make: Make, backbone: Backbone, tokenizer: PackTokenizer, options: SecondaryOptions
) -> int:
    """Return how many parameters a pack of this shape adds."""
    return sum(p.numel() for _, p in make(backbone, tokenizer, options).own_tensors())


def units_for(
    make: Make, backbone: Backbone, tokenizer: PackTokenizer, options: SecondaryOptions, wanted: int
) -> int:
    """Find the LSTM units with which a shape adds as many parameters as wanted, at least 4."""

    def size(units: int) -> int:
        return parameters(make, backbone, tokenizer, replace(options, las=LASOptions(units=units)))

    low, high = 4, 4
    while size(high) < wanted:
        low, high = high, 2 * high
    while high - low > 4:
        middle = (low + high) // 8 * 4
        low, high = (middle, high) if size(middle) < wanted else (low, middle)
    return min((low, high), key=lambda units: abs(size(units) - wanted))


def rank_for(
    backbone: Backbone, tokenizer: PackTokenizer, options: SecondaryOptions, wanted: int
) -> int:
    """Find the LoRA rank with which a pack adds as many parameters as wanted.

    The parameters are a linear function of the rank.
    """
    one, two = (
        parameters(Secondary, backbone, tokenizer, replace(options, rank=rank)) for rank in (1, 2)
    )
    return max(1, 1 + round((wanted - one) / (two - one)))


def whole_rank(backbone: Backbone, wanted: int) -> int:
    """Find the rank with which LoRA on a whole Whisper adds as many parameters as wanted."""
    layers = nn.ModuleList([*backbone.encoder.layers, *backbone.decoder.layers])
    adapted = (
        layer for name, layer in layers.named_modules() if name.rpartition(".")[2] in LORA_TARGETS
    )
    return max(1, round(wanted / sum(layer.in_features + layer.out_features for layer in adapted)))


@dataclass(frozen=True)
class Fitted:
    """A trained pack, with dev CER at its best CTC weight and its training seconds (`clock`)."""

    pack: Pack
    dev_cer: float
    seconds: float


def clock(device: str) -> Callable[[], float]:
    """Return a clock in seconds: the process's CPU time on a CPU, which others may use, too.

    On anything else it is the wall clock.
    """
    return time.process_time if device == "cpu" else time.perf_counter


def new_pack(options: AddLanguageOptions, backbone: Backbone, make: Make = Secondary) -> Pack:
    """Make an untrained pack of any shape, with the vocabulary of its training text."""
    train = read_corpora(options, backbone.window_s).train
    tokenizer = make_tokenizer(options, backbone, train)
    torch.manual_seed(options.training.seed)
    secondary = make(backbone, tokenizer, options.secondary).to(backbone.device)
    return Pack(PackInfo(options.out.name, dict(options.languages)), secondary)


def fit_pack(options: AddLanguageOptions, backbone: Backbone, make: Make = Secondary) -> Fitted:
    """Train a pack of any shape for pipeline-aware use: it is not calibrated."""
    pack = new_pack(options, backbone, make)
    secondary, corpora = pack.secondary, read_corpora(options, backbone.window_s)
    resolved = replace(options, secondary=secondary.options)
    data = prepare(resolved, backbone, secondary.tokenizer, corpora)
    # never resumed, so that the seconds are those of all steps
    shutil.rmtree(options.run, ignore_errors=True)
    options.run.mkdir(parents=True)
    now = clock(options.device)
    began = now()
    train_secondary(
        secondary, data.train, data.negatives, data.dev[:64], options.run, options.training
    )
    seconds = now() - began
    shutil.rmtree(options.run)
    model, refs = DualWhisper(backbone).with_pack(pack), [clip.text for clip in data.dev[:96]]
    weight, rates = choose_ctc_weight(model, pack.name, data.dev_audio[:96], refs)
    return Fitted(replace(pack, info=replace(pack.info, ctc_weight=weight)), rates[weight], seconds)


def transcripts(
    model: DualWhisper, utterances: Sequence[Utterance], route: str, options: DecodeOptions
) -> list[str]:
    """Transcribe clips by one pipeline. Clips longer than the window are cut as by `evaluate`."""
    windows = (
        (i, samples[start:end])
        for i, utterance in enumerate(utterances)
        for samples in [load_audio(utterance.sound)]
        for start, end in split_windows(samples, model.backbone.window_s)
        if end - start >= SHORTEST
    )
    batches, texts = iter(lambda: list(islice(windows, BATCH)), []), [[] for _ in utterances]
    with worker_pool() as (pool, _):
        for batch, audio in one_ahead(
            pool, lambda batch: model.encode_audio([samples for _, samples in batch]), batches
        ):
            results = model.transcribe_encoded(audio, route=route, options=options)
            for (i, _), result in zip(batch, results, strict=True):
                texts[i].append(result.text)
    return [" ".join(filter(None, parts)) for parts in texts]
