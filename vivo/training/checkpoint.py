"""Checkpoints: a folder written under a temporary name, then renamed; safetensors and JSON only.

    checkpoints/step_00000200/
        model.safetensors config.json tokenizer.json ...   transformers' convention
        optimizer.safetensors                               "<parameter>/<state>" of AdamW or SGD
        averages.safetensors                                of the weights, where `optim.ema` is above 0
        state.json                                          {"step": updates done, "run": what must not change,
                                                             "files": {name: {"bytes", "sha256"}}, ...,
                                                             "sha256": of all the rest of it}

The order of data, masks and dropout are functions of (seed, step), so the step is all the state that a loop has.
state.json is written last and names every other file with its hash, and has one of its own: what does not fit is not
loaded. A folder that is called as if it were of another step is not loaded either.
"""

import hashlib
import json
import os
import re
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.distributed.tensor import DTensor, distribute_tensor
from transformers import PreTrainedModel, PreTrainedTokenizerFast
from transformers.utils import logging as transformers_logging

from vivo.data.region_format import sha256_of
from vivo.errors import UserError
from vivo.training.averages import Averages
from vivo.training.optim import states_of

_NAME = re.compile(r"step_(\d{8})")
STATE = "state.json"
_NEEDED = ("model.safetensors", "optimizer.safetensors")


@dataclass
class Checkpoint:
    """One checkpoint that is whole, and what its state.json says.

    Attributes:
        path: the folder. step: updates done. run: settings that decide the run; see `vivo.training.identity`.
        extra: whatever else was saved ("wandb_id", "scaler").
    """

    path: Path
    step: int
    run: dict[str, Any] = field(default_factory=dict)
    extra: dict[str, Any] = field(default_factory=dict)


def save_checkpoint(
    folder: Path,
    step: int,
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerFast,
    optimizer: torch.optim.Optimizer,
    averages: Averages | None,
    keep: int,
    run: Mapping[str, Any],
    extra: Mapping[str, Any],
    writes: bool = True,
) -> Path:
    """Write `folder`/step_<step>; older ones beyond `keep` are removed afterwards.

    All processes call it, for sharded weights are gathered here; `writes` is True on the one that writes.

    Raises:
        OSError: the disk is full, or gone; nothing is left of the new checkpoint, and the older ones stay.
    """
    final = folder / f"step_{step:08d}"
    weights = gathered(model.state_dict())
    states = gathered(_optimizer_tensors(model, optimizer))
    averaged = gathered(averages.tensors) if averages else None
    if not writes:
        return final
    temporary = folder / f"{final.name}.tmp"
    try:
        shutil.rmtree(temporary, ignore_errors=True)
        temporary.mkdir(parents=True)
        save_model(temporary, model, tokenizer, weights)
        save_file(states, temporary / "optimizer.safetensors")
        if averaged is not None:
            save_file(averaged, temporary / "averages.safetensors")
        files = {
            file.name: {"bytes": file.stat().st_size, "sha256": sha256_of(file)} for file in sorted(temporary.iterdir())
        }
        state = {"step": step, "run": dict(run), **extra, "files": files}
        (temporary / STATE).write_text(state_text(state))
        for file in temporary.iterdir():  # on the disk before the name is: a power cut must not leave empty files
            with file.open("rb") as opened:
                os.fsync(opened.fileno())
    except (OSError, SafetensorError) as error:
        shutil.rmtree(temporary, ignore_errors=True)
        raise OSError(f"checkpoint {final}: {cause_of(error)}") from error
    shutil.rmtree(final, ignore_errors=True)
    temporary.rename(final)
    for old in list_checkpoints(folder)[:-keep]:
        shutil.rmtree(old)
    return final


def save_model(
    folder: Path,
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerFast,
    weights: Mapping[str, Tensor] | None = None,
) -> None:
    """Weights, config and tokenizer, as `from_pretrained` reads them.

    Args:
        weights: of sharded models, gathered; default: the model's own.

    Raises:
        OSError: the disk is full, or gone.
    """
    transformers_logging.disable_progress_bar()
    try:
        model.save_pretrained(folder, state_dict=dict(weights) if weights is not None else None)
        tokenizer.save_pretrained(folder)
    except SafetensorError as error:  # it hides the system's error in a text
        raise OSError(cause_of(error)) from error


def list_checkpoints(folder: Path) -> list[Path]:
    """Checkpoints, oldest first (temporary names are what a killed writer left)."""
    return sorted(p for p in folder.glob("step_*") if _NAME.fullmatch(p.name)) if folder.is_dir() else []


def list_damaged(folder: Path) -> list[Path]:
    """Checkpoints that were set aside, oldest first."""
    return sorted(p for p in folder.glob("step_*.damaged") if _NAME.fullmatch(p.stem)) if folder.is_dir() else []


def open_checkpoint(path: Path) -> Checkpoint:
    """Read state.json, which must be whole itself, and compare every file with its size and hash.

    Raises:
        UserError: which file is damaged or missing.
    """
    try:
        state = _read_state(path)
        step, run, files = state.pop("step"), state.pop("run"), state.pop("files")
        for name, told in files.items():
            file = path / name
            if not file.is_file():
                raise UserError(f"{file}: is missing")
            if file.stat().st_size != told["bytes"]:
                raise UserError(f"{file}: has {file.stat().st_size:,} bytes instead of {told['bytes']:,}")
            if sha256_of(file) != told["sha256"]:
                raise UserError(f"{file}: is damaged (its SHA-256 is not the one in {STATE})")
    except UserError:
        raise
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        raise UserError(f"{path / STATE}: cannot be read ({type(error).__name__}: {error})") from error
    return Checkpoint(path, step, run, state)


def state_text(state: Mapping[str, Any]) -> str:
    """The content of a state.json that says `state`."""
    return json.dumps({**state, "sha256": _hash_of(state)}, indent=1)


def _read_state(path: Path) -> dict[str, Any]:
    """What the state.json of the checkpoint `path` says, without its hash.

    Raises:
        UserError: it is not what was written, or it is not of this checkpoint.
    """
    file = path / STATE
    state = json.loads(file.read_text(encoding="utf-8"))
    told = state.pop("sha256", None)
    if told is None:
        raise UserError(f"{file}: has no hash of itself: it is damaged, or of an older version of vivo")
    if told != _hash_of(state):
        raise UserError(f"{file}: is damaged (it does not have the SHA-256 that it names)")
    step = state["step"]
    if type(step) is not int or step < 0:
        raise UserError(f"{file}: holds no number of updates, but step {step!r}")
    if not isinstance(state["run"], dict):
        raise UserError(f"{file}: holds no settings of the run, but {state['run']!r}")
    if lacking := [name for name in _NEEDED if name not in state["files"]]:
        raise UserError(f"{file}: names no {lacking[0]} among its files")
    # a copy may have any name, but none that says another step
    if (name := _NAME.fullmatch(path.name)) and int(name[1]) != step:
        raise UserError(f"{file}: says step {step}, but the folder's name says {int(name[1])}; was it exchanged?")
    return state


def _hash_of(state: Mapping[str, Any]) -> str:
    """SHA-256 of what a state.json says, however it is spaced."""
    told = {key: value for key, value in state.items() if key != "sha256"}
    return hashlib.sha256(json.dumps(told, sort_keys=True).encode()).hexdigest()


def newest_checkpoint(folder: Path, say: Callable[[str], None]) -> Checkpoint | None:
    """The newest whole checkpoint in `folder`; damaged ones are named and passed over, and stay as they are."""
    for path in reversed(list_checkpoints(folder)):
        try:
            return open_checkpoint(path)
        except UserError as error:
            say(f"checkpoint passed over: {error}")
    return None


def set_aside_newer(kept: Path) -> None:
    """Rename the checkpoints after `kept` in its folder, all of them damaged, so that they are not counted among those
    that are kept. Their names say which they are: what is in them cannot be believed."""
    for path in list_checkpoints(kept.parent):
        if path.name > kept.name:
            aside = path.with_name(f"{path.name}.damaged")
            shutil.rmtree(aside, ignore_errors=True)
            path.rename(aside)


def load_checkpoint(
    path: Path, model: nn.Module, optimizer: torch.optim.Optimizer, averages: Averages | None = None
) -> None:
    """Weights, optimizer state and averages into the given objects, in place; sharded ones take their part.

    Raises:
        UserError: the checkpoint is of another shape, or has no averages where they are wanted.
    """
    weights = load_file(path / "model.safetensors")
    own = dict(model.state_dict())
    if own.keys() != weights.keys() or any(own[name].shape != value.shape for name, value in weights.items()):
        odd = sorted(own.keys() ^ weights.keys()) or [n for n in own if own[n].shape != weights[n].shape]
        raise UserError(f"{path}: is of another model: {odd[0]} does not fit; choose another `out`")
    with torch.no_grad():
        for name, value in own.items():
            value.copy_(_like(weights[name], value))
    tensors = load_file(path / "optimizer.safetensors")
    kinds = states_of(optimizer)
    for name, parameter in model.named_parameters():
        if parameter.requires_grad and kinds:
            if any(f"{name}/{kind}" not in tensors for kind in kinds):
                raise UserError(
                    f"{path}: {name} was not trained there by this optimizer; model.freeze_* and optim.optimizer must "
                    "stay as they were"
                )
            optimizer.state[parameter] = {
                kind: tensors[f"{name}/{kind}"] if kind == "step" else _like(tensors[f"{name}/{kind}"], parameter)
                for kind in kinds
            }
    if averages:
        if not (path / "averages.safetensors").is_file():
            raise UserError(f"{path}: has no averages of the weights; optim.ema must stay 0 in this run")
        saved = load_file(path / "averages.safetensors")
        averages.load({name: _like(saved[name], own) for name, own in averages.tensors.items()})


def gathered(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Whole tensors on the CPU; those sharded by FSDP2 are collected, which all processes must do together.

    What lies whole on the CPU already is not copied: write it before it changes.
    """
    whole = {name: t.full_tensor() if isinstance(t, DTensor) else t for name, t in tensors.items()}
    return {name: t.detach().cpu().contiguous() for name, t in whole.items()}


def is_sharded(model: nn.Module) -> bool:
    """Whether FSDP2 keeps only a part of each parameter in this process."""
    return any(isinstance(p, DTensor) for p in model.parameters())


def whole_copy(model: PreTrainedModel, weights: Mapping[str, Tensor]) -> PreTrainedModel:
    """A model with the gathered `weights`, to caption with: captions are written outside `forward`, which is where
    FSDP2 would have collected the parameters."""
    copy = type(model)(model.config)
    copy.load_state_dict(weights)
    return copy.to(model.device).eval()


def _like(value: Tensor, own: Tensor) -> Tensor:
    """`value` on the device of `own`, sharded as it is, and in its memory format: a fused optimizer goes through
    weight, gradient and state in the order in which they lie (those of a channels-last encoder got mixed up)."""
    if isinstance(own, DTensor):
        return distribute_tensor(value.to(own.device), own.device_mesh, own.placements)
    return torch.empty_like(own, dtype=value.dtype, requires_grad=False).copy_(value)


def _optimizer_tensors(model: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """The optimizer's state by parameter name. All parameters have one after the first update."""
    names = {parameter: name for name, parameter in model.named_parameters()}
    return {
        f"{names[parameter]}/{kind}": value
        for parameter, state in optimizer.state.items()
        for kind, value in state.items()
    }


def cause_of(error: Exception) -> str:
    """Why a file could not be written (safetensors hides the system's error in its text)."""
    return error.strerror if isinstance(error, OSError) and error.strerror else " ".join(str(error).split())
