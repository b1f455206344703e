"""Captioning checkpoints of Oscar and VinVL (`BertForImageCaptioning`) as models of ours.

They are the same architecture under other names, so a checkpoint comes in by a key map alone:

    theirs                                  ours
    bert.embeddings, bert.encoder           as of any BERT (vivo/weights.py)
    bert.img_embedding                      vivo.regions.linear: the input is [features ; the same six box numbers]
    bert.LayerNorm (use_img_layernorm)      vivo.regions.norm, with an epsilon of its own
    cls.predictions.decoder                 the word embeddings where the two are equal, else head.output
    bert.pooler, cls.seq_relationship       left out: captioning does not read them

What of their input differs from ours is configuration: tags are one text with [SEP] behind it, at positions
from 40 on and with segment 1 (`tags_as_text`, `tag_position_offset`, `tag_segment`); regions have neither position
nor segment in both. Their attention mask is ours (vivo/attention_mask.py). Their search is vivo/decoding/oscar.py.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from vivo.errors import UserError
from vivo.model_config import VivoConfig
from vivo.modeling import VivoForCaptioning
from vivo.tensor_files import TensorFiles
from vivo.weights import bert_config, copy_tensors, key_map, read_configuration

BOX_NUMBERS = 6
_REGIONS = {
    "vivo.regions.linear.weight": "img_embedding.weight",
    "vivo.regions.linear.bias": "img_embedding.bias",
}
_REGION_NORM = {"vivo.regions.norm.weight": "LayerNorm.weight", "vivo.regions.norm.bias": "LayerNorm.bias"}
_UNREAD = ("pooler.", "cls.seq_relationship.", "embeddings.position_ids", "cls.predictions.decoder.")
# Their heads where a checkpoint has not learned to caption: sentence pairs of pre-training.
_PRETRAINING_HEAD = "cls.seq_relationship.weight"


@dataclass(frozen=True)
class InputLengths:
    """How long the input of a training was, which Oscar keeps in a pickle (training_args.bin) that is not read.

    Attributes:
        caption_tokens: `max_seq_a_length`; tags stand at positions from here on.
        tag_tokens: `max_seq_length` - `max_seq_a_length`, with the [SEP] behind the tags.
        regions: `max_img_seq_length`.
    """

    caption_tokens: int = 40
    tag_tokens: int = 30
    regions: int = 50


def is_oscar(folder: Path) -> bool:
    """Whether the configuration in `folder` is one of Oscar's: it says how long a region's numbers are."""
    return "img_feature_dim" in read_configuration(folder / "config.json")


def load_oscar(folder: Path, lengths: InputLengths | None = None, **ours: Any) -> VivoForCaptioning:
    """A model of ours with the weights of an Oscar or VinVL checkpoint.

    Args:
        folder: config.json with pytorch_model.bin or model.safetensors, whole or in shards.
        ours: fields of the VivoConfig that the checkpoint does not say: `region_fingerprint`, ids of special tokens.

    Raises:
        UserError: another kind of model, a tensor that is missing, of another shape, or not understood.
    """
    tensors = TensorFiles(folder)
    config = oscar_config(folder, tensors, lengths or InputLengths(), **ours)
    model = VivoForCaptioning(config).eval()
    names = key_map(config.num_hidden_layers, config.tie_word_embeddings) | _REGIONS
    if config.region_layer_norm:
        names |= _REGION_NORM
    missing = copy_tensors(model, tensors, names, str(folder))
    if missing:
        theirs = names[missing[0]]
        raise UserError(
            f"{folder}: lacks {theirs if isinstance(theirs, str) else theirs[0]}; is it a captioning checkpoint?"
        )
    known = {name for theirs in names.values() for name in ([theirs] if isinstance(theirs, str) else theirs)}
    odd = [name for name in tensors if name not in known and not name.startswith(_UNREAD)]
    if odd:
        raise UserError(
            f"{folder}: holds {odd[0]}, which is no part of the model that its config.json describes; captions would"
            " not be its own"
        )
    return model


def oscar_config(folder: Path, tensors: Mapping[str, Tensor], lengths: InputLengths, **ours: Any) -> VivoConfig:
    """The VivoConfig of an Oscar checkpoint; see `load_oscar`."""
    path = folder / "config.json"
    told = read_configuration(path)
    size = told.get("img_feature_dim")
    if not isinstance(size, int) or size <= BOX_NUMBERS:
        raise UserError(
            f'{path}: "img_feature_dim" is {size!r}, so this is no checkpoint of Oscar or VinVL; a BERT is given to a'
            " training as init=FOLDER, without import"
        )
    if str(told.get("img_feature_type", "frcnn")).startswith("dis_code"):
        raise UserError(f"{path}: its regions are codes ({told['img_feature_type']}); only features can be read")
    _check_output_weights(path, told, tensors)
    norm = bool(told.get("use_img_layernorm"))
    longest = lengths.caption_tokens + lengths.tag_tokens
    config = bert_config(
        folder,
        feature_size=size - BOX_NUMBERS,
        region_layer_norm=norm,
        region_layer_norm_eps=told.get("img_layer_norm_eps", 1e-12),
        hidden_dropout_prob=told.get("hidden_dropout_prob", 0.1),
        attention_probs_dropout_prob=told.get("attention_probs_dropout_prob", 0.1),
        tag_segment=1,
        tags_as_text=True,
        max_regions=lengths.regions,
        max_tag_tokens=lengths.tag_tokens,
        max_caption_tokens=lengths.caption_tokens,
        tag_position_offset=lengths.caption_tokens,
        training_stage="pairs" if _PRETRAINING_HEAD in tensors else "captions",
        **ours,
    )
    if longest > config.max_position_embeddings:
        raise UserError(f"{path}: has {config.max_position_embeddings} positions, {longest} are asked for")
    return config


def _check_output_weights(path: Path, told: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> None:
    """Refuse what the original code would not compute with these files either."""
    output, words = "cls.predictions.decoder.weight", "embeddings.word_embeddings.weight"
    tied = bool(told.get("tie_weights"))
    if output not in tensors and not tied and _PRETRAINING_HEAD not in tensors:
        raise UserError(f"{path}: says no tie_weights, but there is no {output}: the checkpoint is not whole")
    if tied and output in tensors and words in tensors and not torch.equal(tensors[output], tensors[words]):
        raise UserError(f"{path}: says tie_weights, but {output} differs from the word embeddings; which is right?")
