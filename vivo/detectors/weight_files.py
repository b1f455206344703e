"""Weights from files that users bring, without running what is in them.

`.safetensors` holds numbers only and is always read. `.pth`, `.pt`, `.bin` and `.pkl` are pickles, which may hold
programs: they are read only where the user states the SHA-256 that the publisher of the file gives, and
even then nothing in them is run: `.pth` through `torch.load(weights_only=True)`, detectron2's `.pkl` by an
unpickler that knows numpy arrays and plain containers and refuses everything else.
"""

import hashlib
import pickle
from collections import OrderedDict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from vivo.errors import UserError

# What the pickle of a numpy array names, in numpy 1 and 2.
_NUMPY = {("multiarray", "_reconstruct"), ("multiarray", "scalar"), ("numpy", "ndarray"), ("numpy", "dtype")}


def read_weights(path: str | Path, sha256: str = "") -> dict[str, Tensor]:
    """The tensors of a weight file by name; a `{"model": {...}}` or `{"state_dict": {...}}` around them is taken off.

    Args:
        path: .safetensors, or with `sha256` also .pth, .pt, .bin (torch.save) and .pkl (detectron2's model zoo).
        sha256: what the file's SHA-256 must be, whole or its first 8 digits or more; checked for every kind.

    Raises:
        UserError: missing, a pickle without `sha256`, another hash, damaged, or not a table of tensors.
    """
    path = Path(path)
    if not path.is_file():
        raise UserError(f"weights {path} do not exist: check the path")
    pickled = path.suffix.lower() != ".safetensors"
    if pickled and not sha256:
        raise UserError(
            f"weights {path} are a pickle, which could run programs: convert them to .safetensors, or"
            " add sha256=... as the publisher of the file states it (docs/detectors.md)"
        )
    if sha256:
        _check_hash(path, sha256.lower())
    try:
        if not pickled:
            return load_file(path)
        if path.suffix.lower() == ".pkl":
            with path.open("rb") as file:
                content = _ArraysOnly(file, encoding="latin1").load()
        else:
            content = torch.load(path, map_location="cpu", weights_only=True)
    except (OSError, SafetensorError, pickle.UnpicklingError, EOFError, RuntimeError, ValueError, KeyError) as error:
        reason = (str(error) or repr(error)).splitlines()[0]
        raise UserError(f"weights {path} cannot be read ({reason}): copy the file again or convert it") from None
    return _tensors_in(content, path)


def fill(module: nn.Module, tensors: dict[str, Tensor], where: str, strict: bool = True) -> list[str]:
    """Copy `tensors` into a network by name, each with its shape checked.

    Returns:
        names in `tensors` that the network has not (with `strict` that is an error).

    Raises:
        UserError: a weight is missing or has another shape; names the first ones.
    """
    state = module.state_dict()
    missing = [name for name in state if name not in tensors and not name.endswith("num_batches_tracked")]
    extra = [name for name in tensors if name not in state]
    if missing or (strict and extra):
        what = f"lack {missing[0]} and {len(missing) - 1} more" if missing else f"hold {extra[0]}, unknown to it"
        raise UserError(f"{where}: the weights do not fit the network, they {what}; give the weights of this model")
    for name, tensor in state.items():
        if name in tensors and tensors[name].shape != tensor.shape:
            raise UserError(
                f"{where}: {name} has shape {tuple(tensors[name].shape)}, the network {tuple(tensor.shape)}; another"
                " number of classes or another model?"
            )
    module.load_state_dict({name: tensors.get(name, tensor) for name, tensor in state.items()})
    return extra


class _ArraysOnly(pickle.Unpickler):
    """Reads dictionaries, lists, numbers, texts and numpy arrays; any other name in the pickle is an error."""

    def find_class(self, module: str, name: str) -> Any:
        known = {(module.rpartition(".")[2], name), (module, name)} & _NUMPY
        if known and module.split(".")[0] == "numpy":
            # Through numpy's own current place: older files name numpy.core, which is gone.
            place = np.ndarray if name == "ndarray" else np.dtype if name == "dtype" else None
            return place or getattr(np._core.multiarray, name)
        if (module, name) == ("collections", "OrderedDict"):
            return OrderedDict
        if (module, name) == ("_codecs", "encode"):  # bytes in pickles of protocol 2
            return _encode_latin1
        raise pickle.UnpicklingError(f"it names {module}.{name}, which is not needed for weights")


def _encode_latin1(text: str, encoding: str) -> bytes:
    if encoding != "latin1":
        raise pickle.UnpicklingError(f"bytes in {encoding}")
    return text.encode("latin1")


def _check_hash(path: Path, wanted: str) -> None:
    with path.open("rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    if len(wanted) < 8 or not found.startswith(wanted):
        raise UserError(f"weights {path} have SHA-256 {found}, expected {wanted}: another or a damaged file")


def _tensors_in(content: Any, path: Path) -> dict[str, Tensor]:
    for key in ("model", "state_dict"):
        if isinstance(content, dict) and isinstance(content.get(key), dict):
            content = content[key]
    if not isinstance(content, dict):
        raise UserError(f"weights {path} hold a {type(content).__name__}, not tensors by name: save a state_dict")
    tensors = {}
    for name, value in content.items():
        if isinstance(value, np.ndarray):
            if value.dtype == object:
                raise UserError(f"weights {path}: {name} is no array of numbers: convert the file")
            value = torch.from_numpy(np.ascontiguousarray(value))
        if isinstance(value, Tensor):
            tensors[str(name)] = value
    if not tensors:
        raise UserError(f"weights {path} hold no tensors: save a state_dict")
    return tensors
