"""Train a secondary with transformers' Trainer, over cached trunk activations.

Everything random is a function of (seed, step, clip). So a run that was killed at any moment
resumes to the weights of an unbroken one, and several processes (torchrun, accelerate launch) that
share each batch come to the losses of one. `OUT.run` holds the run: arguments, metrics.jsonl,
loss.png and checkpoints. A run that learns nothing, or forgets what it has learnt, is stopped
(`loss_curve.trouble`).
"""

import json
import os
import shutil
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.data import DataLoader

from dualasr.audio.torchaudio_fault import torchaudio_fault  # noqa: F401  before transformers

# isort: split
from tqdm import tqdm
from transformers import Trainer, TrainerCallback, TrainingArguments
from transformers.trainer_callback import PrinterCallback

from dualasr.atomic import atomic_file
from dualasr.errors import RunError
from dualasr.metrics import character_errors
from dualasr.model.precision import Precision, autocast, resolve_precision
from dualasr.model.search import ctc_greedy
from dualasr.model.secondary import Secondary
from dualasr.parallel import return_memory, worker_pool
from dualasr.progress import progress_bar
from dualasr.text import normalise
from dualasr.training.dataset import (
    NEGATIVE_FRAMES,
    CachedClips,
    Clip,
    Item,
    collate,
    plan_batches,
    share_frames,
    shares_of,
)
from dualasr.training.loss_curve import draw_loss_curve, trouble
from dualasr.training.options import TrainingOptions

TRIM_EVERY = 5  # steps between two times that free memory is given back
PLAIN_FRAMES = 600  # 12 s: attention over fewer is not fused


def dev_cer(secondary: Secondary, clips: Sequence[Clip], batch: int = 16) -> float:
    """Measure CER on dev by the CTC head's best path, mark-safe. It needs no search, so it is fast.

    Args:
        secondary: The secondary in training.
        clips: Dev clips; the first entry of each is used, the clip itself.
        batch: Clips encoded together.

    Returns:
        The character error rate over all clips, 1.0 for 100 %.
    """
    device = next(secondary.parameters()).device
    refs, hyps = [], []
    with torch.no_grad():
        for first in range(0, len(clips), batch):
            group = clips[first : first + batch]
            values = [
                torch.from_numpy(np.load(clip.entries[0]).astype(np.float32)) for clip in group
            ]
            lengths = torch.tensor([len(v) for v in values])
            trunk = torch.nn.utils.rnn.pad_sequence(values, batch_first=True)
            encoded = secondary.encode(trunk.to(device), lengths.to(device))
            frames = secondary.ctc_log_probs(encoded).cpu().numpy()
            hyps += [
                secondary.tokenizer.decode_characters(ctc_greedy(f[:n]))
                for f, n in zip(frames, lengths, strict=True)
            ]
            refs += [clip.text for clip in group]
    return character_errors(
        [normalise(t, "marks") for t in refs], [normalise(t, "marks") for t in hyps]
    ).rate


class _Progress(TrainerCallback):
    """Write metrics.jsonl, show progress, draw loss.png, and stop a run that is in trouble."""

    def __init__(self, run: Path):
        self.run = run
        self.bar: tqdm | None = None
        self.told: dict[str, str] = {}

    def on_train_begin(self, args, state, control, **_):
        if state.is_world_process_zero:
            self.bar = progress_bar(
                desc="train", total=state.max_steps, unit="step", initial=state.global_step
            )

    def on_train_end(self, args, state, control, **_):
        if self.bar is not None:
            self.bar.close()

    def on_step_end(self, args, state, control, **_):
        if self.bar is not None:
            self.bar.update()
        if state.global_step % TRIM_EVERY == 0:
            return_memory()
        if state.global_step == state.max_steps and args.eval_strategy != "no":
            control.should_evaluate = True

    def on_log(self, args, state, control, logs=None, **_):
        if state.is_world_process_zero:
            row = {"step": state.global_step, "time": time.time(), **(logs or {})}
            with (self.run / "metrics.jsonl").open("a") as file:
                file.write(json.dumps(row) + "\n")
            for name, key, shown in (("loss", "loss", "{:.2f}"), ("dev CER", "dev_cer", "{:.1%}")):
                if key in row:
                    self.told[name] = shown.format(row[key])
            if self.bar is not None:
                values = (f"{name} {value}" for name, value in self.told.items())
                self.bar.set_postfix_str(", ".join(values), refresh=False)
            if "dev_cer" in row:
                draw_loss_curve(state.log_history, self.run / "loss.png")
        # every process has the same losses, and stops at the same step
        if reason := trouble(state.log_history, state.max_steps):
            if state.is_world_process_zero:
                draw_loss_curve(state.log_history, self.run / "loss.png")
            raise RunError(
                f"Training was stopped at step {state.global_step} of {state.max_steps}: {reason}."
                f" See {self.run / 'loss.png'}. Start again with a lower --learning-rate (it was"
                f" {args.learning_rate:g}), and look for wrong transcripts with `dualasr corpus"
                " check`."
            )


def save_own(secondary: Secondary, path: Path) -> None:
    """Write the secondary's own tensors as safetensors, whole or not at all.

    Raises:
        RunError: The file cannot be written.
    """
    with atomic_file(path) as part:
        save_file(
            {name: p.detach().cpu().contiguous() for name, p in secondary.own_tensors()}, part
        )


def load_own(secondary: Secondary, path: Path) -> None:
    """Read the secondary's own tensors, as `save_own` wrote them, in place."""
    tensors = load_file(path)
    with torch.no_grad():
        for name, parameter in secondary.own_tensors():
            parameter.copy_(tensors[name])


class SecondaryTrainer(Trainer):
    """transformers' Trainer with planned batches and smaller checkpoints.

    Batches are planned beforehand (`plan_batches`). Checkpoints hold the pack's own tensors, are
    written in a folder beside, and appear by rename.

    On a CPU each core of `pool` computes shares of a batch of its own (parallel.py). Of several
    processes each takes its share of every batch, and torch's DistributedDataParallel adds up the
    gradients.

    Args:
        run: Folder of the run.
        batches: Micro-batches of (clip's index, position).
        pool: A thread for each core.
        cores: Number of threads.
        options: Weight of the CTC loss, and which weights are kept.
        precision: "bfloat16" or "float32".
        kwargs: Arguments of Trainer.
    """

    def __init__(
        self,
        *,
        run: Path,
        batches: list[list[Item]],
        pool: ThreadPoolExecutor,
        cores: int,
        options: TrainingOptions,
        precision: Precision,
        **kwargs,
    ):
        super().__init__(data_collator=collate, **kwargs)
        self.run, self.batches, self.pool, self.cores = run, batches, pool, cores
        self.options, self.precision = options, precision
        self.most_frames = share_frames(self.secondary)
        self.remove_callback(PrinterCallback)

    @property
    def secondary(self) -> Secondary:
        assert isinstance(self.model, Secondary)
        return self.model

    def compute_loss(self, model, inputs, *args, **kwargs):
        weighted = inputs | {"ctc_weight": self.options.ctc_weight}
        return super().compute_loss(model, weighted, *args, **kwargs)

    def evaluate(self, *args, **kwargs) -> dict[str, float]:
        """Measure CER on dev, log it, and keep the best weights if they are wanted."""
        self.control.should_evaluate = False  # once a step, also at the end of an epoch
        if not self.args.should_save:  # one process measures
            return {}
        self.secondary.eval()
        assert isinstance(self.eval_dataset, Sequence)  # of clips
        with autocast(self.args.device, self.precision):
            rate = dev_cer(self.secondary, self.eval_dataset)
        self.secondary.train()
        best = self.run / "best.json"
        if self.options.keep == "best" and (
            not best.exists() or rate < json.loads(best.read_text())["cer"]
        ):
            save_own(self.secondary, self.run / "best.safetensors")
            with atomic_file(best) as part:
                part.write_text(json.dumps({"cer": rate, "step": self.state.global_step}))
        self.log({"dev_cer": rate})
        return {"dev_cer": rate}

    def training_step(self, model, inputs, num_items_in_batch=None) -> torch.Tensor:
        if self.args.device.type != "cpu" or self.args.world_size > 1:
            return super().training_step(model, inputs, num_items_in_batch)
        model.train()
        own = [p for p in model.parameters() if p.requires_grad]

        def gradients(share: dict[str, torch.Tensor]):
            with self.compute_loss_context_manager():
                loss = self.compute_loss(model, share, num_items_in_batch=num_items_in_batch)
            assert isinstance(loss, torch.Tensor)  # a tuple only with return_outputs
            return loss.detach(), torch.autograd.grad(
                loss, own, allow_unused=True, materialize_grads=True
            )

        # losses are sums over a step's labels, so those of the shares add up to that of the batch
        shares = shares_of(inputs, self.cores, self.most_frames)
        total = torch.zeros(())
        with self._attention(int(inputs["lengths"].max())):
            for loss, grads in self.pool.map(gradients, shares):
                total += loss
                for parameter, grad in zip(own, grads, strict=True):
                    parameter.grad = grad if parameter.grad is None else parameter.grad.add_(grad)
        return total

    def _attention(self, frames: int) -> AbstractContextManager:
        """Return the context of attention over so many frames.

        torch's fused attention saves memory where clips are long. In bfloat16 on a CPU its backward
        pass takes three times as long as plain matrix products where they are short.
        """
        plain = self.precision == "bfloat16" and frames <= PLAIN_FRAMES
        return sdpa_kernel(SDPBackend.MATH) if plain else nullcontext()

    def get_train_dataloader(self) -> DataLoader:
        world, rank = self.args.world_size, self.args.process_index
        assert self.train_dataset is not None
        if world == 1:
            return self.accelerator.prepare(
                DataLoader(self.train_dataset, batch_sampler=self.batches, collate_fn=collate)
            )
        # a process without a clip of a batch takes one that has no labels
        mine = [batch[rank::world] or [(batch[0][0], None)] for batch in self.batches]
        # `prepare` would give whole batches to the processes in turn
        return DataLoader(self.train_dataset, batch_sampler=mine, collate_fn=collate)

    def _get_output_dir(self, trial) -> str:
        return str(self.run / "saving")

    def _save_checkpoint(self, model, trial) -> None:
        saving, name = self.run / "saving", f"checkpoint-{self.state.global_step}"
        if self.args.should_save:
            shutil.rmtree(saving, ignore_errors=True)
        self.accelerator.wait_for_everyone()
        super()._save_checkpoint(model, trial)
        self.accelerator.wait_for_everyone()
        if not self.args.should_save:
            return
        shutil.rmtree(self.run / name, ignore_errors=True)
        os.replace(saving / name, self.run / name)
        for old in checkpoints(self.run)[:-1]:
            shutil.rmtree(old, ignore_errors=True)

    def _save(self, output_dir=None, state_dict=None) -> None:
        if not self.args.should_save:  # Trainer calls this in every process
            return
        save_own(self.secondary, Path(output_dir) / "own.safetensors")

    def _load_from_checkpoint(self, resume_from_checkpoint, model=None) -> None:
        load_own(self.secondary, Path(resume_from_checkpoint) / "own.safetensors")


def checkpoints(run: Path) -> list[Path]:
    """Return the complete checkpoints of a run, oldest first."""
    return sorted(run.glob("checkpoint-*"), key=lambda path: int(path.name.split("-")[1]))


def training_arguments(
    options: TrainingOptions, run: Path, *, cpu: bool, precision: Precision, dev: bool
) -> TrainingArguments:
    """Translate the options into transformers' own. The schedule has three stages (paper, 3.2).

    Args:
        options: How it is trained.
        run: Folder of the run.
        cpu: Whether it runs on the CPU.
        precision: "bfloat16" or "float32".
        dev: Whether there are clips to measure on.

    Returns:
        Arguments of `SecondaryTrainer`.
    """
    warmup, decay = (round(options.steps * share) for share in (options.warmup, options.decay))
    return TrainingArguments(
        output_dir=str(run),
        max_steps=options.steps,
        per_device_train_batch_size=options.batch,
        gradient_accumulation_steps=options.accumulation,
        learning_rate=options.learning_rate,
        weight_decay=0.01,
        lr_scheduler_type="warmup_stable_decay",
        warmup_steps=warmup,
        lr_scheduler_kwargs={"num_decay_steps": decay},
        max_grad_norm=5.0,
        seed=options.seed,
        data_seed=options.seed,
        logging_steps=25,
        save_steps=options.save_every,
        logging_nan_inf_filter=False,  # a loss that is no number stops the run
        eval_strategy="steps" if dev else "no",
        eval_steps=options.evaluate_every,
        report_to=list(options.report_to),
        remove_unused_columns=False,
        bf16=precision == "bfloat16",
        use_cpu=cpu,
        disable_tqdm=True,  # _Progress shows it
        dataloader_pin_memory=False,
        adam_beta2=0.98,
    )


def train_secondary(
    secondary: Secondary,
    train: Sequence[Clip],
    negatives: Sequence[Clip],
    dev: Sequence[Clip],
    run: Path,
    options: TrainingOptions,
    *,
    resume: bool = False,
) -> None:
    """Train a secondary in place.

    Args:
        secondary: The secondary, which is left in evaluation mode and frozen.
        train: Labelled clips.
        negatives: Clips in other languages.
        dev: Labelled clips to measure on while it trains; none are needed.
        run: Folder for checkpoints and metrics.jsonl.
        options: How it is trained.
        resume: Whether to go on from the newest complete checkpoint.

    Raises:
        RunError: A checkpoint cannot be written; the one before it stays valid. Or the run is in
            trouble (`loss_curve.trouble`).
    """
    # 1 plan the batches of all steps
    foreign = [min(c.frames, NEGATIVE_FRAMES) for c in negatives]
    batches = plan_batches([c.frames for c in train], foreign, options)
    clips = CachedClips([*train, *negatives], secondary.tokenizer, options)

    # 2 freeze all but the pack's own tensors; the language head is fitted later (language_head.py)
    own = {name for name, _ in secondary.own_tensors() if not name.startswith("language_head")}
    for name, parameter in secondary.named_parameters():
        parameter.requires_grad_(name in own)
    secondary.train()

    # 3 train, from the newest complete checkpoint if there is one
    device = next(secondary.parameters()).device
    cpu, precision = device.type == "cpu", resolve_precision(options.precision, device)
    found = checkpoints(run) if resume else []
    try:
        with worker_pool() as (pool, cores):
            trainer = SecondaryTrainer(
                run=run,
                model=secondary,
                args=training_arguments(options, run, cpu=cpu, precision=precision, dev=bool(dev)),
                train_dataset=clips,
                eval_dataset=dev or None,
                batches=batches,
                pool=pool,
                cores=cores,
                options=options,
                precision=precision,
                callbacks=[_Progress(run)],
            )
            trainer.train(resume_from_checkpoint=str(found[-1]) if found else None)
    except (OSError, SafetensorError) as error:
        reason = getattr(error, "strerror", None) or error
        raise RunError(
            f"Cannot write to {run}: {reason}. Free some space and go on with --resume; "
            "the checkpoints in it are whole."
        ) from error

    # 4 keep the best weights, or the last
    if options.keep == "best" and (run / "best.safetensors").exists():
        load_own(secondary, run / "best.safetensors")
    secondary.eval().requires_grad_(False)
