"""`--replay FOLDER`: the update that was stopped because something was not finite, run again alone, on one process."""

from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from vivo.captioners import load_captioner
from vivo.errors import UserError
from vivo.modeling import VivoForCaptioning, VivoForPretraining, VivoForTagPretraining
from vivo.training.gradients import Loss
from vivo.training.nonfinite import load_batch, pictures_not_finite, read_json
from vivo.training.runtime import seed_step
from vivo.weights import load_model


def replay(
    folder: Path,
    objective: str,
    model_class: type[VivoForTagPretraining | VivoForCaptioning | VivoForPretraining] | None,
    loss_of: Loss,
    say: Callable[[str], None] = print,
) -> bool:
    """Forward and backward of each saved micro-batch, in fp32, with the dropout of its process.

    Says for each: its pictures, those with features that are not finite, the loss, the first module whose output is not
    finite, and the parameters whose gradient is not.

    Args:
        folder: what `vivo.training.nonfinite` left.
        objective, loss_of: of the run. model_class: of its model; None: a captioner, of whichever kind lies there.

    Returns:
        Whether anything was not finite.

    Raises:
        UserError: there is no such batch in `folder`, part of it is missing or damaged, or it is of another objective.
    """
    files = sorted(folder.glob("rank*_*.safetensors"))
    if not files or not (folder / "state.json").is_file():
        raise UserError(f"{folder}: holds no saved update; give the folder that the stopped run named")
    state = read_json(folder / "state.json", ("objective", "step", "seed", "loss", "gradient_norm"))
    if state["objective"] != objective:
        raise UserError(
            f"{folder}: is of a run with objective {state['objective']}, this configuration has {objective}; give the "
            "config.yaml of that run, to the program that trained it"
        )
    if type(state["step"]) is not int or type(state["seed"]) is not int:
        raise UserError(f"{folder / 'state.json'}: is damaged (step {state['step']!r}, seed {state['seed']!r})")
    weights = folder / "model"
    model = (load_model(model_class, weights) if model_class else load_captioner(weights)).train()
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
