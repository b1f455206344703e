"""Checkpoints: a folder written under a temporary name, then renamed; safetensors and JSON only.

    checkpoints/step_00000200/
        model.safetensors config.json tokenizer.json ...   transformers' convention
        optimizer.safetensors                               "<parameter>/<state>" of AdamW
        state.json                                          {"step": updates done, ...}

The order of data, masks and dropout are functions of (seed, step), so the step is all the state
that a loop has.
"""

import json
import re
import shutil
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from transformers import PreTrainedModel, PreTrainedTokenizerFast
from transformers.utils import logging as transformers_logging

_NAME = re.compile(r"step_(\d{8})")


def save_checkpoint(
    folder: Path,
    step: int,
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerFast,
    optimizer: torch.optim.Optimizer,
    keep: int,
) -> Path:
    """Write `folder`/step_<step>; older ones beyond `keep` are removed afterwards."""
    final = folder / f"step_{step:08d}"
    temporary = folder / f"{final.name}.tmp"
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir(parents=True)
    save_model(temporary, model, tokenizer)
    save_file(_optimizer_tensors(model, optimizer), temporary / "optimizer.safetensors")
    (temporary / "state.json").write_text(json.dumps({"step": step}))
    shutil.rmtree(final, ignore_errors=True)
    temporary.rename(final)
    for old in list_checkpoints(folder)[:-keep]:
        shutil.rmtree(old)
    return final


def save_model(folder: Path, model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast) -> None:
    """Weights, config and tokenizer, as `from_pretrained` reads them."""
    transformers_logging.disable_progress_bar()
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def list_checkpoints(folder: Path) -> list[Path]:
    """Complete checkpoints, oldest first (temporary names are what a killed writer left)."""
    return sorted(p for p in folder.glob("step_*") if _NAME.fullmatch(p.name)) if folder.is_dir() else []


def load_checkpoint(path: Path, model: PreTrainedModel, optimizer: torch.optim.Optimizer) -> int:
    """Weights and optimizer state into the given objects, in place. Returns the number of updates done."""
    model.load_state_dict(load_file(path / "model.safetensors"), strict=True)
    tensors = load_file(path / "optimizer.safetensors")
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            state = {kind: tensors[f"{name}/{kind}"] for kind in ("step", "exp_avg", "exp_avg_sq")}
            optimizer.state[parameter] = {
                kind: value if kind == "step" else value.to(parameter.device) for kind, value in state.items()
            }
    return json.loads((path / "state.json").read_text())["step"]


def _optimizer_tensors(model: PreTrainedModel, optimizer: torch.optim.Optimizer) -> dict[str, torch.Tensor]:
    """AdamW's state by parameter name. All parameters have one after the first update."""
    names = {parameter: name for name, parameter in model.named_parameters()}
    return {
        f"{names[parameter]}/{kind}": value.detach().cpu().contiguous()
        for parameter, state in optimizer.state.items()
        for kind, value in state.items()
    }
