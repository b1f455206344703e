"""The gradient of one update: accumulated over micro-batches and processes, normalised once."""

from collections.abc import Callable, Sequence
from contextlib import nullcontext

import torch
from accelerate import Accelerator
from torch import Tensor, nn

from vivo.data.collate import Batch
from vivo.errors import UserError

Loss = Callable[[dict[str, Tensor], Batch], dict[str, Tensor]]


def accumulate(accelerator: Accelerator, model: nn.Module, loss_of: Loss, update: Sequence[Batch]) -> dict[str, Tensor]:
    """Forward and backward over the micro-batches `update` of this process.

    The sum of all processes' losses is divided by the number of supervised tokens of the global batch, so the gradient
    is that of one process with one batch. It is found in `model`'s parameters.

    Returns:
        This process's sums as `loss_of` names them, float32 scalars.
    """
    count = float(sum(b["target_ids"].shape[0] for b in update))
    supervised = torch.full((), count, device=accelerator.device)  # no copy, which would wait for a GPU
    supervised = accelerator.reduce(supervised, "sum").clamp(min=1.0)
    parts: dict[str, Tensor] = {}
    for index, batch in enumerate(update):
        # gradients travel once an update; DDP and FSDP average over processes, the loss wants their sum
        last = index == len(update) - 1
        with nullcontext() if last else accelerator.no_sync(model):
            with accelerator.autocast():
                output = model(batch)
            losses = loss_of(output, batch)
            accelerator.backward(losses["loss"] * accelerator.num_processes / supervised)
        for name, value in losses.items():
            parts[name] = parts.get(name, 0.0) + value.detach().float()
    return parts


def check_all_have_gradients(model: nn.Module) -> None:
    """After a backward pass every parameter to be trained has a gradient.

    Raises:
        UserError: names the first that have none: parts of the model that nothing trains stay at their initial
            values in silence otherwise.
    """
    without = [name for name, p in model.named_parameters() if p.requires_grad and p.grad is None]
    if without:
        raise UserError(
            f"no gradient for {len(without)} parameters to be trained after the first update: "
            f"{', '.join(without[:5])}; freeze them, or use them in the loss"
        )
