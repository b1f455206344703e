"""The training loop: one function, on one screen.

Whatever is trained brings a model, a loss and batches; this file knows none of them. A batch says
through `target_ids` how many tokens it supervises, so the global count is known before the first
forward pass and the loss is divided by it once: the gradient does not depend on how the global
batch was split over processes and micro-batches.
"""

import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from accelerate import Accelerator
from torch.distributed.tensor import DTensor
from transformers import PreTrainedModel

from vivo.config import TrainConfig
from vivo.data.collate import Batch, to_device
from vivo.training.averages import Averages
from vivo.training.gradients import Loss, accumulate, check_all_have_gradients
from vivo.training.interruption import Interruption, Stopped
from vivo.training.means import means
from vivo.training.measure import Meter
from vivo.training.nonfinite import stop_before_update
from vivo.training.runtime import seed_step
from vivo.training.schedule import Schedule
from vivo.training.tracking import Tracker

MOST_LEFT_OUT = 30
"""Overflows in a row after which a gradient is taken to be not finite at any scale: 2^16 has been halved to 2^-14."""

Validate = Callable[[PreTrainedModel, int], dict[str, float]]


@dataclass
class Training:
    """What an update needs; `vivo/training/engine.py` puts it together.

    Attributes:
        start: updates done before.
        model, optimizer: prepared by `accelerator`.
        batches: this process's micro-batches, `micro_batches` of them an update.
        prepare: what a task still adds to a batch (vivo/training/tasks.py), with the unwrapped model and the step.
        loss_of: (model output, batch) -> {"loss": sum over tokens, "count": tokens, ...more sums}, the same
            names on every process. The log has them as `vivo.training.means` says.
        validate: called on all processes with the unwrapped model when `schedule` says so.
        validate_first: the run was stopped before the validation that was due after `start` updates.
        over: why the run is to end before its last update, "" while it is not; the same on all processes.
        save: called on all processes with the number of updates done, to write a checkpoint.
    """

    config: TrainConfig
    schedule: Schedule
    start: int
    accelerator: Accelerator
    model: torch.nn.Module
    optimizer: torch.optim.Optimizer
    averages: Averages | None
    batches: Iterator[Batch]
    prepare: Callable[[PreTrainedModel, Batch, int], Batch]
    micro_batches: int
    loss_of: Loss
    validate: Validate | None
    validate_first: bool
    over: Callable[[], str]
    save: Callable[[int], None]
    tracker: Tracker
    interruption: Interruption


def train(run: Training) -> None:
    """Updates `start` .. `schedule.steps` - 1.

    Raises:
        UserError: the loss or the gradient is not finite (nothing has been updated then), or a parameter that is
            to be trained has no gradient.
        Stopped: a signal came; the update was finished and a checkpoint written.
    """
    accelerator, schedule, optim = run.accelerator, run.schedule, run.config.optim
    trained = [p for p in run.model.parameters() if p.requires_grad]
    plain = accelerator.unwrap_model(run.model)
    meter = Meter(plain, accelerator)
    run.model.train()
    if run.validate_first or (run.start == 0 and run.config.tracking.validate_start):
        validate(run, run.start)
    left_out = 0  # updates in a row
    sums: dict[str, float] = {}
    since, pictures = time.monotonic(), 0
    for step in range(run.start, schedule.steps):
        if reason := run.over():
            run.tracker.say(f"{reason}; ended after update {step} of {schedule.steps}")
            return
        for group in run.optimizer.param_groups:
            group["lr"] = schedule.learning_rate(step) * group["scale"]
        seed_step(run.config.seed, step, accelerator.process_index)
        with accelerator.autocast():
            prepared = [run.prepare(plain, next(run.batches), step) for _ in range(run.micro_batches)]
        update = [to_device(meter.saw(batch), accelerator.device) for batch in prepared]
        parts = accumulate(accelerator, run.model, run.loss_of, update)
        if step == run.start:
            check_all_have_gradients(plain)
        norm = accelerator.clip_grad_norm_(trained, optim.clip_norm or math.inf)

        names = sorted(parts)
        stopping = torch.tensor(float(run.interruption.received > 0), device=accelerator.device)
        *totals, stop = accelerator.reduce(torch.stack([*(parts[n] for n in names), stopping]), "sum").tolist()
        loss, norm = totals[names.index("loss")], float(norm.full_tensor() if isinstance(norm, DTensor) else norm)
        # a scaled (fp16) gradient may overflow: the scaler then leaves the update out and lowers its scale
        left_out = left_out + 1 if accelerator.scaler is not None and not math.isfinite(norm) else 0
        if not (math.isfinite(loss) and (math.isfinite(norm) or 0 < left_out <= MOST_LEFT_OUT)):
            stop_before_update(run.config, step, loss, norm, update, accelerator, run.model)
        with meter.watching(schedule.due(schedule.log_every, step + 1)):
            run.optimizer.step()
        run.optimizer.zero_grad(set_to_none=True)
        done = step + 1
        if run.averages:
            run.averages.update(done)

        for name, value in zip(names, totals, strict=True):
            sums[name] = sums.get(name, 0.0) + value
        pictures += optim.batch_size
        record = None
        if schedule.due(schedule.log_every, done):
            seconds = time.monotonic() - since
            tokens = max(1.0, sums["count"])
            record = means(sums, pictures)
            record |= {
                "lr": run.optimizer.param_groups[0]["lr"],
                "gradient_norm": norm,
                "tokens_per_step": tokens / (pictures / optim.batch_size),
                "pictures_per_second": pictures / seconds,
                "pictures": float(done * optim.batch_size),
                **meter.record(seconds),
            }
            run.tracker.log(done, record)
            sums, since, pictures = {}, time.monotonic(), 0
        run.tracker.advance(done, record)
        if stop and done < schedule.steps:  # before a validation, for which the time may be too short
            run.save(done)
            run.tracker.say(f"stopped by a signal after update {done}; run the same command again to go on")
            raise Stopped(run.interruption.exit_status)
        if schedule.due(schedule.validate_every, done):
            validate(run, done)
            since = time.monotonic()
        if schedule.save_every and schedule.due(schedule.save_every, done):
            run.save(done)


def validate(run: Training, done: int) -> None:
    """Log what `run.validate`, if there is one, says of the model after `done` updates."""
    if run.validate:
        run.model.eval()
        found = run.validate(run.accelerator.unwrap_model(run.model), done)
        run.tracker.log(done, found | {"pictures": float(done * run.config.optim.batch_size)})
        run.tracker.log_table(done)
        run.model.train()
