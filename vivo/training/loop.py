"""The training loop: one function, on one screen.

Whatever is trained brings a model, a loss and batches; this file knows none of them. A batch says
through `target_ids` how many tokens it supervises, so the global count is known before the first
forward pass and the loss is divided by it once: the gradient does not depend on how the global
batch was split over processes and micro-batches.
"""

import math
import time
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from pathlib import Path

import torch
from accelerate import Accelerator
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerFast

from vivo.config import TrainConfig
from vivo.data.collate import Batch, to_device
from vivo.errors import UserError
from vivo.training.checkpoint import save_checkpoint
from vivo.training.measure import Meter
from vivo.training.runtime import seed_step
from vivo.training.schedule import Schedule
from vivo.training.tracking import Tracker

Loss = Callable[[dict[str, Tensor], Batch], dict[str, Tensor]]
Validate = Callable[[PreTrainedModel, int], dict[str, float]]


def train(
    config: TrainConfig,
    schedule: Schedule,
    start: int,
    accelerator: Accelerator,
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerFast,
    optimizer: torch.optim.Optimizer,
    batches: Iterator[Batch],
    micro_batches: int,
    loss_of: Loss,
    validate: Validate | None,
    tracker: Tracker,
) -> None:
    """Updates `start` .. `schedule.steps` - 1.

    Args:
        model, optimizer: prepared by `accelerator`. batches: yields this process's micro-batches,
            `micro_batches` of them an update.
        loss_of: (model output, batch) -> {"loss": sum over tokens, "count": tokens, ...more sums}. The log has
            each sum per token, or per picture where its name ends in "_pictures".
        validate: called with the unwrapped model as `schedule` says.

    Raises:
        UserError: the loss or the gradient is not finite; nothing has been updated then.
    """
    optim, tracking = config.optim, config.tracking
    trained = [p for p in model.parameters() if p.requires_grad]
    checkpoints = Path(config.out) / "checkpoints"
    meter = Meter(accelerator.unwrap_model(model), accelerator)
    model.train()
    sums: dict[str, float] = {}
    since, pictures = time.monotonic(), 0
    for step in range(start, schedule.steps):
        for group in optimizer.param_groups:
            group["lr"] = schedule.learning_rate(step)
        seed_step(config.seed, step, accelerator.process_index)
        update = [to_device(meter.saw(next(batches)), accelerator.device) for _ in range(micro_batches)]
        supervised = torch.tensor(float(sum(b["target_ids"].shape[0] for b in update)), device=accelerator.device)
        supervised = accelerator.reduce(supervised, "sum").clamp(min=1.0)

        parts = {}
        for index, batch in enumerate(update):
            # gradients travel once an update; DDP averages over processes, the loss wants their sum
            last = index == micro_batches - 1
            with nullcontext() if last else accelerator.no_sync(model):
                with accelerator.autocast():
                    output = model(batch)
                losses = loss_of(output, batch)
                accelerator.backward(losses["loss"] * accelerator.num_processes / supervised)
            for name, value in losses.items():
                parts[name] = parts.get(name, 0.0) + value.detach().float()
        clip = optim.clip_norm or math.inf
        norm = accelerator.clip_grad_norm_(trained, clip)

        names = sorted(parts)
        totals = accelerator.reduce(torch.stack([parts[name] for name in names]), "sum").tolist()
        if not (math.isfinite(totals[names.index("loss")]) and math.isfinite(float(norm))):
            pictures_of_step = [i for batch in update for i in batch["image_ids"]][:8]
            raise UserError(
                f"step {step}: loss {totals[names.index('loss')]}, gradient norm {float(norm)}; stopped before the "
                f"update. Pictures of this process: {', '.join(pictures_of_step)} ..."
            )
        with meter.watching(schedule.due(schedule.log_every, step + 1)):
            optimizer.step()
        optimizer.zero_grad(set_to_none=True)

        for name, value in zip(names, totals, strict=True):
            sums[name] = sums.get(name, 0.0) + value
        pictures += optim.batch_size
        done = step + 1
        record = None
        if schedule.due(schedule.log_every, done):
            seconds = time.monotonic() - since
            tokens = max(1.0, sums.pop("count"))
            record = {n: value / (pictures if n.endswith("_pictures") else tokens) for n, value in sums.items()}
            record |= {
                "lr": optimizer.param_groups[0]["lr"],
                "gradient_norm": float(norm),
                "tokens_per_step": tokens / (pictures / optim.batch_size),
                "pictures_per_second": pictures / seconds,
                "pictures": float(done * optim.batch_size),
            } | meter.record(seconds)
            tracker.log(done, record)
            sums, since, pictures = {}, time.monotonic(), 0
        tracker.advance(done, record)
        if validate and schedule.due(schedule.validate_every, done):
            model.eval()
            found = validate(accelerator.unwrap_model(model), done)
            tracker.log(done, found | {"pictures": float(done * optim.batch_size)})
            tracker.log_table(done)
            model.train()
            since = time.monotonic()
        if schedule.due(schedule.save_every, done) and done < schedule.steps and accelerator.is_main_process:
            save_checkpoint(checkpoints, done, accelerator.unwrap_model(model), tokenizer, optimizer, tracking.keep)
