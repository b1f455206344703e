"""What a run learns, in a few values that every checkpoint carries: a run that goes on must have the same.

The step of a checkpoint stands for so many updates from these pictures, tags and captions, masked in this way, with
this loss, by this model. Where one of them is another, the run would go on with a different meaning of what it has, and
its final model would name what it was not trained on. What only decides how, how long and how fast is learned (`optim`
but for the batch size, `model.dropout`, `tracking`, `engine`, loader workers, number of processes) is free to change;
so is where the files lie.
"""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from transformers import PreTrainedModel, PreTrainedTokenizerFast

from vivo.config import TrainConfig
from vivo.data.datasets import CaptionPictures, TagPictures
from vivo.data.mixed import MixedPictures
from vivo.data.region_format import sha256_of
from vivo.errors import UserError
from vivo.model_config import VivoConfig
from vivo.self_tagging import VOCABULARY
from vivo.show_and_tell.model_config import ShowAndTellConfig
from vivo.training.tasks import tagger_of

_DATA = (
    "tags",
    "hints",
    "pairs_tags",
    "pairs_share",
    "named_tags_only",
    "tag_dropout",
    "region_dropout",
    "captions_per_picture",
)
# Of the model's own configuration, by its type: what does not show in the shapes of its weights.
_MODEL = {
    VivoConfig.model_type: (
        "num_attention_heads",
        "region_layer_norm",
        "standardise_regions",
        "tag_segment",
        "tag_slots",
        "tag_position_offset",
        "max_regions",
        "max_tag_tokens",
        "max_caption_tokens",
    ),
    ShowAndTellConfig.model_type: (
        "encoder",
        "picture_size",
        "picture_resize",
        "pixel_mean",
        "pixel_std",
        "standardise_features",
        "encoder_frozen",
        "batch_norm",
        "max_caption_tokens",
    ),
}
# Of the training of a CNN + LSTM captioner.
_SHOW_AND_TELL = ("augment", "batch_norm_momentum", "encoder_dropout", "scheduled_sampling", "scheduled_from")


def identity(
    config: TrainConfig,
    data: TagPictures | CaptionPictures | MixedPictures,
    tokenizer: PreTrainedTokenizerFast,
    model: PreTrainedModel,
) -> dict[str, Any]:
    """Name -> value or hash, as JSON keeps them; read on every process, for each reads its own files.

    Args:
        model: at step 0, whose configuration says on which detector's features it learns.
    """
    return {
        "seed": config.seed,
        "objective": config.objective,
        "optim.batch_size": config.optim.batch_size,
        "number of pictures": len(data),
        "examples": data.digest(),
        "detector": model.config.region_fingerprint,
        "word pieces": _short(json.dumps(sorted(tokenizer.get_vocab().items(), key=lambda item: item[1]))),
        **{f"data.{name}": getattr(config.data, name) for name in _DATA},
        **{f"masking.{name}": value for name, value in asdict(config.masking).items()},
        **{f"loss.{name}": value for name, value in asdict(config.loss).items()},
        **(
            {f"scst.{name}": value for name, value in asdict(config.scst).items()} if config.objective == "scst" else {}
        ),
        **_files(config),  # last: a hash instead of a path
        **{f"model.{name}": getattr(model.config, name) for name in _MODEL[model.config.model_type]},
        **(
            {f"show_and_tell.{name}": getattr(config.show_and_tell, name) for name in _SHOW_AND_TELL}
            if model.config.model_type == ShowAndTellConfig.model_type
            else {}
        ),
        "model.freeze_embeddings": config.model.freeze_embeddings,
        "model.freeze_head_bias": config.model.freeze_head_bias,
    }


def check_same_everywhere(identities: Sequence[dict[str, Any]]) -> None:
    """All processes of a job learn the same; files of the same name may differ between nodes.

    Args:
        identities: by process.

    Raises:
        UserError: the first process that differs, and in what.
    """
    for process, found in enumerate(identities):
        for name, value in found.items():
            if value != identities[0][name]:
                raise UserError(
                    f"process {process} has {name} {value}, process 0 has {identities[0][name]}: give all nodes the "
                    "same configuration and the same files"
                )


def check_goes_on(told: dict[str, Any], now: dict[str, Any], path: Path) -> None:
    """The run of the checkpoint `path` may go on as the one that `now` describes.

    Args:
        told: what the checkpoint says; what later versions have added to `identity` may be missing.

    Raises:
        UserError: the first value that is another one.
    """
    for name, value in now.items():
        if told.get(name, value) != value:
            raise UserError(
                f"{path}: was trained with {name} {told[name]}, and now it is {value}: its step would stand for other "
                "learning; go on with what it had, or choose another out (and init to start from its weights)"
            )


def _files(config: TrainConfig) -> dict[str, str]:
    """Hashes of the other files that decide what the model sees, of those that are read."""
    data, found = config.data, {}
    if "file" in (data.tags, data.hints, data.pairs_tags):
        found["data.tag_file"] = Path(data.tag_file)
    if data.vocabulary:
        found["data.vocabulary"] = Path(data.vocabulary)
    if config.objective == "scst" and config.scst.frequencies:
        found["scst.frequencies"] = Path(config.scst.frequencies)
    if data.tags == "self":
        tagger = Path(tagger_of(config))
        found |= {"weights of the tagger": tagger / "model.safetensors", "tags of the tagger": tagger / VOCABULARY}
    return {name: sha256_of(path)[:16] for name, path in found.items()}


def _short(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:16]
