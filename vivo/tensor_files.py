"""The tensors of a checkpoint by name, whatever files they lie in: safetensors or torch.save's, whole or in shards.

torch.save's files are pickles, which may hold programs: they are read with `weights_only=True` alone, which knows
tensors and plain containers and refuses everything else.
"""

import json
import pickle
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from vivo.errors import UserError

# In this order, as transformers looks for them.
_LAYOUTS = (
    "model.safetensors",
    "model.safetensors.index.json",
    "pytorch_model.bin",
    "pytorch_model.bin.index.json",
)
# How BERT's first conversion from TensorFlow called the weights of a layer norm.
_RENAMED = {"LayerNorm.gamma": "LayerNorm.weight", "LayerNorm.beta": "LayerNorm.bias"}


class TensorFiles(Mapping[str, Tensor]):
    """The tensors of a checkpoint; each is read when it is asked for, where its file allows that.

    A prefix "bert." is taken off the names, and the old names of layer norms are the new ones.

    Args:
        source: a folder in transformers' layout, or one weight file.

    Raises:
        UserError: no weights there, a shard is missing, a file is damaged or holds more than tensors.
    """

    def __init__(self, source: str | Path):
        self._pickled: dict[Path, dict[str, Tensor]] = {}
        self._places: dict[str, tuple[Path, str]] = {}
        for file in weight_files(source):
            for name in self._names(file):
                self._places[_plain(name)] = (file, name)

    def __iter__(self) -> Iterator[str]:
        return iter(self._places)

    def __len__(self) -> int:
        return len(self._places)

    def __getitem__(self, name: str) -> Tensor:
        file, stored = self._places[name]
        if file.suffix != ".safetensors":
            return self._pickled[file][stored]
        with safe_open(str(file), framework="pt") as opened:
            return opened.get_tensor(stored)

    def _names(self, file: Path) -> list[str]:
        if not file.is_file():
            raise UserError(f"{file}: is missing, but the index beside it names it; copy the checkpoint again")
        if file.suffix != ".safetensors":
            self._pickled[file] = _tensors_of(file)
            return list(self._pickled[file])
        try:
            with safe_open(str(file), framework="pt") as opened:
                return list(opened.keys())
        except (OSError, SafetensorError) as error:
            raise UserError(f"{file}: cannot be read ({_reason(error)}); copy the file again") from error


def weight_files(source: str | Path) -> list[Path]:
    """The weight files of a checkpoint, its shards in the order of the index; nothing in them is read.

    Raises:
        UserError: there are none.
    """
    source = Path(source)
    if source.is_file():
        return [source]
    for name in _LAYOUTS:
        if (source / name).is_file():
            return _shards(source / name) if name.endswith(".index.json") else [source / name]
    if not source.is_dir():
        raise UserError(f"{source}: no such file or folder; give a checkpoint folder or its weight file")
    raise UserError(
        f"{source}: no weights there ({', '.join(_LAYOUTS)}); convert the checkpoint to one of these with transformers"
    )


def _shards(index: Path) -> list[Path]:
    try:
        named = json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()
        return [index.parent / Path(name).name for name in dict.fromkeys(named)]
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(f"{index}: no readable index of shards ({_reason(error)}); copy it again") from error


def _tensors_of(file: Path) -> dict[str, Tensor]:
    try:
        content = torch.load(file, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(file))
    except pickle.UnpicklingError as error:
        raise UserError(
            f"{file}: is no file of tensors alone, which is all that is read from a pickle (it could run programs):"
            " save the model's state_dict, best as .safetensors"
        ) from error
    except (OSError, EOFError, RuntimeError, ValueError, KeyError, AttributeError) as error:
        raise UserError(f"{file}: cannot be read ({_reason(error)}); copy the file again") from error
    if not isinstance(content, dict) or not all(isinstance(value, Tensor) for value in content.values()):
        raise UserError(f"{file}: holds no table of tensors by name; save the model's state_dict")
    return content


def _plain(name: str) -> str:
    name = name.removeprefix("bert.")
    for old, new in _RENAMED.items():
        if name.endswith(old):
            return name.removesuffix(old) + new
    return name


def _reason(error: Exception) -> str:
    return (str(error) or repr(error)).splitlines()[0]
