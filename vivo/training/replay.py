"""`--replay FOLDER`: the update that was stopped because something was not finite, run again alone, on one process."""

import json
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from vivo.errors import UserError
from vivo.modeling import VivoForCaptioning, VivoForTagPretraining
from vivo.training.gradients import Loss
from vivo.training.nonfinite import load_batch, pictures_not_finite
from vivo.training.runtime import seed_step


def replay(
    folder: Path,
    model_class: type[VivoForTagPretraining | VivoForCaptioning],
    loss_of: Loss,
    say: Callable[[str], None],
) -> bool:
    """Forward and backward of each saved micro-batch, in fp32, with the dropout of its process.

    Says for each: its pictures, those with features that are not finite, the loss, the first module whose output is not
    finite, and the parameters whose gradient is not.

    Args:
        folder: what `vivo.training.nonfinite` left.
        loss_of: of the run.

    Returns:
        Whether anything was not finite.

    Raises:
        UserError: there is no such batch in `folder`.
    """
    files = sorted(folder.glob("rank*_*.safetensors"))
    if not files or not (folder / "state.json").is_file():
        raise UserError(f"{folder}: holds no saved update; give the folder that the stopped run named")
    state = json.loads((folder / "state.json").read_text())
    model = model_class.from_pretrained(folder / "model").train()
    say(f"step {state['step']}: loss was {state['loss']}, gradient norm {state['gradient_norm']}")
    broken = False
    for file in files:
        batch = load_batch(file)
        rank = int(file.stem.removeprefix("rank").split("_")[0])
        seed_step(state["seed"], state["step"], rank)
        model.zero_grad(set_to_none=True)
        first: list[str] = []
        hooks = [
            _watch(module, name, first) for name, module in model.named_modules() if name and not [*module.children()]
        ]
        losses = loss_of(model(batch), batch)
        losses["loss"].backward()
        for hook in hooks:
            hook.remove()
        odd = [n for n, p in model.named_parameters() if p.grad is not None and not torch.isfinite(p.grad).all()]
        say(f"{file.name}: {len(batch['image_ids'])} pictures: {', '.join(batch['image_ids'])}")
        say(f"  loss {float(losses['loss'].detach()):.6g} over {float(losses['count']):.0f} tokens")
        say(f"  features not finite: {', '.join(pictures_not_finite(batch)) or 'none'}")
        say(f"  first output not finite: {first[0] if first else 'none'}")
        say(f"  gradients not finite: {len(odd)} parameters{', the first ' + odd[0] if odd else ''}")
        broken |= bool(first or odd) or not bool(torch.isfinite(losses["loss"]))
    return broken


def _watch(module: nn.Module, name: str, found: list[str]) -> RemovableHandle:
    """Add `name` to `found` when the module's output is not finite."""
    return module.register_forward_hook(lambda _, inputs, output: found.append(name) if _odd(output) else None)


def _odd(output: object) -> bool:
    return isinstance(output, Tensor) and output.is_floating_point() and not bool(torch.isfinite(output).all())
