"""When loss or gradient is not finite: stop on all processes before the update, and keep all that shows why.

    <out>/nonfinite/step_00001234/
        model/                      the weights that the step began with
        rank0_0.safetensors .json   the tensors and the picture ids of each micro-batch of each process
        state.json                  {"objective", "step", "seed", "loss", "gradient_norm"}

`--replay FOLDER` of the training programs runs it alone (vivo/training/replay.py).
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NoReturn

import torch
from accelerate import Accelerator
from accelerate.utils import gather_object
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from vivo.config import TrainConfig
from vivo.data.collate import Batch, picture_rows
from vivo.errors import UserError
from vivo.training.checkpoint import cause_of, gathered

SHOWN = 8


def stop_before_update(
    config: TrainConfig,
    step: int,
    loss: float,
    norm: float,
    update: Sequence[Batch],
    accelerator: Accelerator,
    model: nn.Module,
) -> NoReturn:
    """Save batches and weights, and raise on every process with the same message.

    Pictures are named whose features are not finite; where all are, those of the whole update.

    Raises:
        UserError: always; step, loss, gradient norm, picture ids, the folder.
    """
    plain = accelerator.unwrap_model(model)
    weights = gathered(plain.state_dict())
    guilty = gather_object([i for batch in update for i in pictures_not_finite(batch)])
    named = guilty or gather_object([i for batch in update for i in batch["image_ids"]])
    folder = Path(config.out) / "nonfinite" / f"step_{step:08d}"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for index, batch in enumerate(update):
            save_batch(folder / f"rank{accelerator.process_index}_{index}.safetensors", batch)
        if accelerator.is_main_process:
            plain.save_pretrained(folder / "model", state_dict=weights)
            state = {"objective": config.objective, "step": step, "seed": config.seed}
            state |= {"loss": str(loss), "gradient_norm": str(norm)}
            (folder / "state.json").write_text(json.dumps(state))
        saved = f"saved in {folder}: look with --replay {folder}"
    except (OSError, SafetensorError) as error:
        saved = f"could not be saved in {folder} ({cause_of(error)})"
    accelerator.wait_for_everyone()
    what = "Pictures with features that are not finite" if guilty else "Pictures of the update"
    shown = ", ".join(named[:SHOWN]) + (f" and {len(named) - SHOWN} more" if len(named) > SHOWN else "")
    raise UserError(
        f"step {step}: loss {loss}, gradient norm {norm}; stopped before the update. {what}: {shown}. "
        f"The batch is {saved}"
    )


def pictures_not_finite(batch: Batch) -> list[str]:
    """Ids of the pictures of a batch whose features are not finite (each row of a batch is one picture)."""
    finite = torch.isfinite(picture_rows(batch)).flatten(1).all(dim=1)
    return [i for i, fine in zip(batch["image_ids"], finite.tolist(), strict=True) if not fine]


def save_batch(path: Path, batch: Batch) -> None:
    """Tensors as safetensors, the picture ids as JSON beside them."""
    save_file({k: v.cpu().contiguous() for k, v in batch.items() if isinstance(v, Tensor)}, path)
    path.with_suffix(".json").write_text(json.dumps({"image_ids": batch["image_ids"]}))


def load_batch(path: Path) -> Batch:
    """What `save_batch` wrote.

    Raises:
        UserError: one of its two files is missing or damaged.
    """
    try:
        tensors = load_file(path)
    except (OSError, SafetensorError) as error:
        raise UserError(f"{path}: cannot be read ({cause_of(error)})") from error
    ids = read_json(path.with_suffix(".json"), ("image_ids",))["image_ids"]
    if not isinstance(ids, list) or len(ids) != _pictures_in(tensors):
        raise UserError(f"{path}: holds no batch of the pictures that {path.with_suffix('.json').name} names")
    return tensors | {"image_ids": [str(i) for i in ids]}


def _pictures_in(tensors: Batch) -> int:
    """Rows of the pictures among the tensors of a file; -1 where it has none."""
    try:
        return len(picture_rows(tensors))
    except StopIteration:
        return -1


def read_json(path: Path, keys: Sequence[str]) -> dict[str, Any]:
    """A JSON object that has `keys`.

    Raises:
        UserError: it is missing, damaged, or something else.
    """
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror})") from error
    except ValueError as error:
        raise UserError(f"{path}: is damaged ({error})") from error
    lacking = [key for key in keys if key not in found] if isinstance(found, dict) else keys
    if lacking:
        raise UserError(f"{path}: does not say {', '.join(lacking)}: it is damaged, or of an older version of vivo")
    return found
