"""Step 2 of the built-in base: train a small Whisper from scratch on `prepare.py`'s shards.

    python recipes/micro/train.py --data runs/micro --out runs/micro/model --steps 6000

It runs on a CPU or a GPU, and exports the model at the end. Batches, padding and masks are
functions of (seed, step), so that a stopped run goes on from its newest checkpoint to the same
result. Matrices are trained with Muon, the rest with AdamW. On a CPU each core computes its own
share of a batch: small matrices divide badly among threads.

Two auxiliary losses make the encoder useful early: classification of each frame's phone at half
depth (the synthesiser knows the phones), and CTC over characters at the end. Their heads stay in
the checkpoint, not in the export. A guided-attention loss (Tachibana et al. 2017, arXiv 1710.08969)
holds two cross-attention heads a layer near the diagonal at first. Without it the decoder stayed a
language model for 2,300 steps here, while CTC fell from 6.2 to 1.3. Clips are padded at random, up
to the whole window: a Whisper that was trained on clips at their own length alone fails when plain
transformers pads them.
"""

import argparse
import copy
import json
import math
import os
import shutil
import time
from concurrent.futures import ThreadPoolExecutor
from itertools import repeat
from pathlib import Path

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F
from tqdm import tqdm

from dualasr.audio.torchaudio_fault import torchaudio_fault  # noqa: F401  before transformers

# isort: split
from transformers import (
    GenerationConfig,
    WhisperConfig,
    WhisperFeatureExtractor,
    WhisperForConditionalGeneration,
    WhisperTokenizer,
)

from dualasr.audio.augment import spec_augment
from dualasr.parallel import worker_pool

WINDOW_FRAMES, NO_SPEECH = 1500, "nospeech"


class Clips:
    """The shards in memory-mapped form: `mel(i)` is (80, frames) float32, `rows[i]` its label."""

    def __init__(self, folder: Path):
        self.rows, self.shards = [], []
        for index in sorted(folder.glob("shard-*.jsonl")):
            self.shards.append(np.load(index.with_suffix(".npy"), mmap_mode="r"))
            for line in index.read_text().splitlines():
                self.rows.append(json.loads(line) | {"shard": len(self.shards) - 1})

    def mel(self, i: int) -> np.ndarray:
        row = self.rows[i]
        return self.shards[row["shard"]][row["offset"] : row["offset"] + row["frames"]].T.astype(
            np.float32
        )


def build_model(tokenizer: WhisperTokenizer, width: int, encoder_layers: int, decoder_layers: int):
    """Make a Whisper with random weights, whose ids have Whisper's order."""
    ident = tokenizer.convert_tokens_to_ids
    languages = [t for t in tokenizer.get_added_vocab() if len(t) == 6 and t.startswith("<|")]
    config = WhisperConfig(
        vocab_size=len(tokenizer),
        num_mel_bins=80,
        d_model=width,
        encoder_layers=encoder_layers,
        decoder_layers=decoder_layers,
        encoder_attention_heads=width // 64,
        decoder_attention_heads=width // 64,
        encoder_ffn_dim=4 * width,
        decoder_ffn_dim=4 * width,
        max_source_positions=WINDOW_FRAMES // 2,
        max_target_positions=448,
        dropout=0.0,
        attention_dropout=0.0,
        activation_dropout=0.0,
        bos_token_id=ident("<|endoftext|>"),
        eos_token_id=ident("<|endoftext|>"),
        pad_token_id=ident("<|endoftext|>"),
        decoder_start_token_id=ident("<|startoftranscript|>"),
        suppress_tokens=None,
        begin_suppress_tokens=None,
    )
    model = WhisperForConditionalGeneration(config)
    model.generation_config = GenerationConfig(
        decoder_start_token_id=config.decoder_start_token_id,
        eos_token_id=config.eos_token_id,
        pad_token_id=config.pad_token_id,
        bos_token_id=config.bos_token_id,
        max_length=448,
        is_multilingual=True,
        task="transcribe",  # else plain generate without a language leaves the task token out
        lang_to_id={token: ident(token) for token in languages},
        task_to_id={"translate": ident("<|translate|>"), "transcribe": ident("<|transcribe|>")},
        no_timestamps_token_id=ident("<|notimestamps|>"),
        prev_sot_token_id=ident("<|startofprev|>"),
        # it has the tokens for time, and never learnt them: no max_initial_timestamp_index
        return_timestamps=False,
        begin_suppress_tokens=[ident("<|endoftext|>")],
        suppress_tokens=[
            ident(t)
            for t in (
                "<|startoftranscript|>",
                *languages,
                "<|translate|>",
                "<|transcribe|>",
                "<|startoflm|>",
                "<|startofprev|>",
            )
        ],
    )
    return model


def encode(model, mel: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Run Whisper's encoder at any length.

    (batch, 80, frames) -> (batch, frames / 2, width) at half depth and at the end.
    """
    encoder = model.model.encoder
    x = F.gelu(encoder.conv2(F.gelu(encoder.conv1(mel)))).permute(0, 2, 1)
    x = x + encoder.embed_positions.weight[: x.shape[1]]
    for index, layer in enumerate(encoder.layers):
        if index == len(encoder.layers) // 2:
            middle = x
        x = layer(x, None)
    return middle, encoder.layer_norm(x)


def plan_epoch(
    frames: np.ndarray, budget: int, rng: np.random.Generator, short_first: bool
) -> list[np.ndarray]:
    """Plan batches of clips of like length, `budget` padded frames each, in random order.

    The first epoch begins with the short ones.
    """
    order = rng.permutation(len(frames))
    order = order[np.argsort(frames[order] * rng.uniform(0.9, 1.1, len(order)), kind="stable")]
    batches, batch, longest = [], [], 0
    for i in order:
        if batch and max(longest, frames[i]) * (len(batch) + 1) > budget:
            batches.append(np.array(batch))
            batch, longest = [], 0
        batch.append(i)
        longest = max(longest, frames[i])
    batches.append(np.array(batch))
    keys = (
        np.arange(len(batches)) / len(batches) + rng.uniform(0, 0.7, len(batches))
        if short_first
        else None
    )
    return [
        batches[i] for i in (np.argsort(keys) if short_first else rng.permutation(len(batches)))
    ]


def collate(clips, ids, tokenizer, alphabet, phones, rng, length: int, device):
    """Make a batch: mels, decoder ids, labels, CTC targets, and phones by frame.

    Mels are padded as Whisper's extractor pads, with the clip's lowest value.
    """
    ident = tokenizer.convert_tokens_to_ids
    mels, inputs, characters, lengths, spans = [], [], [], [], []
    sounding = torch.full((len(ids), length // 2), -100)
    for k, i in enumerate(ids):
        mel, row = clips.mel(i), clips.rows[i]
        floor = mel.max() - 2.0
        if rng.random() < 0.5:
            mel = spec_augment(mel, rng, bands=1, width=10, stretches=1, share=0.05)
        mels.append(np.pad(mel, ((0, 0), (0, length - mel.shape[1])), constant_values=floor))
        text = tokenizer.encode(" " + row["text"], add_special_tokens=False)
        start, end = (round(min(row[k], 15.0) / 0.02) for k in ("start", "end"))
        if row["lang"] == NO_SPEECH:
            inputs.append(["<|startoftranscript|>", "<|nospeech|>"])
        elif rng.random() < 0.15:
            inputs.append(
                [
                    "<|startoftranscript|>",
                    f"<|{row['lang']}|>",
                    "<|transcribe|>",
                    f"<|{start * 0.02:.2f}|>",
                    *text,
                    f"<|{end * 0.02:.2f}|>",
                ]
            )
        else:
            inputs.append(
                [
                    "<|startoftranscript|>",
                    f"<|{row['lang']}|>",
                    "<|transcribe|>",
                    "<|notimestamps|>",
                    *text,
                ]
            )
        inputs[-1] = [ident(t) if isinstance(t, str) else t for t in inputs[-1]]
        characters.append([alphabet[c] for c in row["text"].lower() if c in alphabet])
        lengths.append(mel.shape[1] // 2)
        spans.append((row["start"] * 50, row["end"] * 50, len(text)))
        starts = [0.0, *(second for _, second in row["phones"])]
        names = np.array([phones[""], *(phones[phone] for phone, _ in row["phones"])])
        middles = np.arange(lengths[-1]) * 0.02 + 0.01
        sounding[k, : lengths[-1]] = torch.from_numpy(
            names[np.searchsorted(starts, middles, side="right") - 1]
        )
    end = tokenizer.eos_token_id
    longest = max(map(len, inputs))
    tokens = torch.full((len(ids), longest), end)
    labels = torch.full((len(ids), longest), -100)
    for k, sequence in enumerate(inputs):
        tokens[k, : len(sequence)] = torch.tensor(sequence)
        labels[k, : len(sequence)] = torch.tensor(sequence[1:] + [end])
    targets = torch.tensor([c for sequence in characters for c in sequence])
    sizes = torch.tensor([len(sequence) for sequence in characters])
    lengths, spans = torch.tensor(lengths), torch.tensor(spans)
    return [
        t.to(device)
        for t in (
            torch.from_numpy(np.stack(mels)),
            tokens,
            labels,
            targets,
            lengths,
            sizes,
            spans,
            sounding,
        )
    ]


def watch_cross_attention(model) -> None:
    """Let the decoder's cross-attention, and nothing else, return its weights."""
    eager = copy.deepcopy(model.config)
    eager._attn_implementation = "eager"
    for layer in model.model.decoder.layers:
        layer.encoder_attn.config = eager


def guide(attentions, spans: torch.Tensor, width: float = 0.12) -> torch.Tensor:
    """Return the share of attention away from where each token is expected.

    A token is expected at its share of the speech's span. Two heads a layer are guided
    (Tachibana et al. 2017).

    Args:
        attentions: For each layer, (batch, heads, tokens, frames).
        spans: First and last frame of speech, and text tokens, (batch, 3).
        width: Deviation of the expected place, as a share of the span.
    """
    start, end, count = spans.unbind(-1)
    tokens, frames = attentions[0].shape[2:]
    # text is predicted from the fourth position on
    order = torch.arange(tokens, device=spans.device) - 3.0
    inside = (order >= 0) & (order < count[:, None])
    expected = start[:, None] + (end - start)[:, None] * (order + 0.5) / count[:, None].clamp_min(1)
    spread = (width * (end - start)).clamp_min(6.0)[:, None, None]
    distance = (torch.arange(frames, device=spans.device) - expected.unsqueeze(-1)) / spread
    away = (1 - torch.exp(-distance.square() / 2)) * inside.unsqueeze(-1)
    spent = sum((layer[:, :2] * away.unsqueeze(1)).sum() for layer in attentions)
    return spent / (2 * len(attentions) * inside.sum().clamp_min(1))


def learning_rate(step: int, steps: int, peak: float) -> float:
    """Return a step's rate: linear warm-up over 3 %, constant to 45 %, a cosine to 1 %."""
    if step < 0.03 * steps:
        return peak * (step + 1) / (0.03 * steps)
    progress = max(0.0, (step / steps - 0.45) / 0.55)
    return peak * (0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * min(1.0, progress))))


def training_record(args) -> dict:
    """Return what the weights were made from.

    This is the preparation, the settings, and the record of the base that they started from.
    """
    record = json.loads((args.data / "record.json").read_text())
    names = ("steps", "frames", "lr", "guided", "phones", "seed")
    record["training"] = {name: getattr(args, name) for name in names}
    before = args.init / "training_record.json" if args.init else None
    if before and before.exists():
        record["started_from"] = json.loads(before.read_text())
    return record


def export(model, averaged: dict, tokenizer, source: Path, out: Path, record: dict) -> None:
    """Write what `from_pretrained` reads, weights in float16, config dtype float32."""
    temporary = out.with_name(out.name + ".part")
    shutil.rmtree(temporary, ignore_errors=True)
    state = {k: v.half() for k, v in averaged.items()}
    copy = WhisperForConditionalGeneration(model.config)
    copy.load_state_dict(state)
    copy.generation_config = model.generation_config
    copy.half().save_pretrained(temporary)
    config = json.loads((temporary / "config.json").read_text())
    (temporary / "config.json").write_text(
        json.dumps(config | {"dtype": "float32"}, indent=2) + "\n"
    )
    tokenizer.save_pretrained(temporary)
    WhisperFeatureExtractor(feature_size=80, chunk_length=WINDOW_FRAMES // 100).save_pretrained(
        temporary
    )
    for name in ("vocab.json", "merges.txt"):
        shutil.copy(source / "tokenizer" / name, temporary)
    (temporary / "training_record.json").write_text(
        json.dumps(record, indent=1, ensure_ascii=False) + "\n"
    )
    shutil.rmtree(out, ignore_errors=True)
    os.replace(temporary, out)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, required=True, help="the --out of prepare.py")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--steps", type=int, default=6000)
    parser.add_argument("--width", type=int, default=192)
    parser.add_argument("--encoder-layers", type=int, default=4)
    parser.add_argument("--decoder-layers", type=int, default=2)
    parser.add_argument("--frames", type=int, default=14_000, help="padded mel frames a batch")
    parser.add_argument("--lr", type=float, default=1.5e-3)
    parser.add_argument(
        "--init", type=Path, help="start from the weights of an exported base instead of at random"
    )
    parser.add_argument(
        "--guided", type=float, default=0.6, help="share of the steps with guided attention"
    )
    parser.add_argument(
        "--phones", type=float, default=1.0, help="weight of the phone loss at half depth"
    )
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--log-every", type=int, default=100)
    parser.add_argument("--save-every", type=int, default=500)
    args = parser.parse_args()
    device = "cuda" if torch.cuda.is_available() else "cpu"
    with worker_pool() as (pool, cores):
        train(args, device, pool, cores if device == "cpu" else 1)


def train(args: argparse.Namespace, device: str, pool: ThreadPoolExecutor, workers: int) -> None:
    """Train to `args.steps` from the newest checkpoint, and export.

    Each of `workers` computes a share of every batch.
    """
    record = training_record(args)
    tokenizer = WhisperTokenizer.from_pretrained(args.data / "tokenizer")
    clips = Clips(args.data / "shards")
    frames = np.array([row["frames"] for row in clips.rows])
    letters = sorted({c for row in clips.rows for c in row["text"].lower()})
    alphabet = {c: i + 1 for i, c in enumerate(letters)}
    phones = {
        p: i
        for i, p in enumerate(sorted({"", *(p for row in clips.rows for p, _ in row["phones"])}))
    }

    torch.manual_seed(args.seed)
    model = build_model(tokenizer, args.width, args.encoder_layers, args.decoder_layers).to(device)
    if args.init:
        model.load_state_dict(
            WhisperForConditionalGeneration.from_pretrained(
                args.init, dtype=torch.float32
            ).state_dict()
        )
    watch_cross_attention(model)
    heads = nn.ModuleDict(
        {
            "ctc": nn.Linear(args.width, len(alphabet) + 1),
            "phones": nn.Sequential(nn.LayerNorm(args.width), nn.Linear(args.width, len(phones))),
        }
    ).to(device)
    parameters = {
        k: p for k, p in [*model.named_parameters(), *heads.named_parameters()] if p.requires_grad
    }
    matrices = [p for k, p in parameters.items() if ".layers." in k and p.ndim == 2]
    others = [p for k, p in parameters.items() if not (".layers." in k and p.ndim == 2)]
    optimizers = [torch.optim.AdamW(others, lr=args.lr, betas=(0.9, 0.98), weight_decay=0.01)]
    for worker in range(workers):
        optimizers.append(
            torch.optim.Muon(
                matrices[worker::workers], weight_decay=0.05, adjust_lr_fn="match_rms_adamw"
            )
        )
    averaged = {k: v.detach().clone() for k, v in model.state_dict().items()}
    print(
        f"{sum(p.numel() for p in model.parameters()) / 1e6:.2f} M parameters, {len(frames)} clips,"
        f" {frames.sum() / 360_000:.1f} hours, {len(phones)} phones, {device}",
        flush=True,
    )

    checkpoint = args.out.with_name(args.out.name + ".checkpoint.pt")
    step = 0
    if checkpoint.exists():
        saved = torch.load(checkpoint, map_location=device, weights_only=True)
        model.load_state_dict(saved["model"])
        heads.load_state_dict(saved["heads"])
        for optimizer, state in zip(optimizers, saved["optimizers"], strict=True):
            optimizer.load_state_dict(state)
        averaged, step = saved["averaged"], saved["step"]

    def gradients(worker: int, ids: np.ndarray, length: int, step: int):
        """Return the gradient of the mean loss of these clips, and the four losses."""
        rng = np.random.default_rng([args.seed, 2, step, worker])
        batch = collate(clips, ids, tokenizer, alphabet, phones, rng, length, device)
        mel, tokens, labels, targets, lengths, sizes, spans, sounding = batch
        guided = step < args.guided * args.steps
        with torch.autocast(device, torch.bfloat16, enabled=device == "cuda"):
            middle, encoded = encode(model, mel)
            hidden = model.model.decoder(
                input_ids=tokens,
                encoder_hidden_states=encoded,
                use_cache=False,
                output_attentions=guided,
            )
            logits = model.proj_out(hidden.last_hidden_state).float()
            likelihoods = heads["ctc"](encoded).float().log_softmax(-1).transpose(0, 1)
            sounds = heads["phones"](middle).float()
        ce = F.cross_entropy(
            logits.flatten(0, 1), labels.flatten(), ignore_index=-100, label_smoothing=0.05
        )
        ctc = F.ctc_loss(likelihoods, targets, lengths, sizes, reduction="none", zero_infinity=True)
        # a clip without text has no length to divide by
        speech = sizes > 0
        ctc = (ctc[speech] / sizes[speech]).sum() / speech.sum().clamp_min(1)
        phone = F.cross_entropy(sounds.flatten(0, 1), sounding.flatten(), ignore_index=-100)
        off = guide(hidden.cross_attentions, spans) if guided else ce.new_zeros(())
        loss = (
            ce + (1.0 if step < 0.3 * args.steps else 0.5) * ctc + args.phones * phone + 2.0 * off
        )
        gradient = torch.autograd.grad(loss, list(parameters.values()))
        return gradient, np.array([ce.item(), ctc.item(), phone.item(), off.item()])

    epoch, done, plan = -1, 0, []
    log = args.out.with_name(args.out.name + ".log.jsonl").open("a")
    bar, began, sums = tqdm(total=args.steps, initial=step, mininterval=5), time.time(), np.zeros(6)
    while step < args.steps:
        while step >= done + len(plan):  # the plan of an epoch is a function of (seed, epoch)
            epoch, done = epoch + 1, done + len(plan)
            first = epoch == 0 and not args.init
            plan = plan_epoch(frames, args.frames, np.random.default_rng([args.seed, epoch]), first)
        rng = np.random.default_rng([args.seed, 1, step])
        ids = rng.permutation(plan[step - done])
        longest = int(frames[ids].max())
        length = min(WINDOW_FRAMES, longest + int(rng.integers(0, 80)))
        late = step > 0.8 * args.steps
        if rng.random() < (0.35 if late else 0.12):
            length = (
                WINDOW_FRAMES
                if rng.random() < 0.6
                else int(rng.integers(length, WINDOW_FRAMES + 1))
            )
            ids = ids[: max(4, args.frames // length)]
        length += length % 2

        for optimizer in optimizers:
            for group in optimizer.param_groups:
                group["lr"] = learning_rate(step, args.steps, args.lr)
        parts = [ids[worker::workers] for worker in range(workers)]
        results = list(pool.map(gradients, range(workers), parts, repeat(length), repeat(step)))
        for parameter, *grads in zip(
            parameters.values(), *(gradient for gradient, _ in results), strict=True
        ):
            parameter.grad = sum(grads) / workers
        nn.utils.clip_grad_norm_(parameters.values(), 1.0)
        list(pool.map(lambda optimizer: optimizer.step(), optimizers))
        step += 1
        keep = min(0.998, 1 - 10 / (10 + step))
        with torch.no_grad():
            for key, value in model.state_dict().items():
                averaged[key].lerp_(value, 1 - keep)
        sums += (*np.mean([losses for _, losses in results], 0), frames[ids].sum() / 100, 1)
        bar.update()
        if step % args.log_every == 0:
            mean = sums / sums[5]
            row = {
                "step": step,
                "ce": mean[0],
                "ctc": mean[1],
                "phone": mean[2],
                "off": mean[3],
                "audio_s": sums[4],
                "seconds": time.time() - began,
                "lr": optimizers[0].param_groups[0]["lr"],
            }
            log.write(json.dumps(row) + "\n")
            log.flush()
            began, sums = time.time(), np.zeros(6)
        if step % args.save_every == 0 or step == args.steps:
            part = checkpoint.with_suffix(".part")
            torch.save(
                {
                    "model": model.state_dict(),
                    "heads": heads.state_dict(),
                    "averaged": averaged,
                    "step": step,
                    "optimizers": [optimizer.state_dict() for optimizer in optimizers],
                },
                part,
            )
            os.replace(part, checkpoint)
            export(model, averaged, tokenizer, args.data, args.out, record)


if __name__ == "__main__":
    main()
