"""The two training programs, assembled: `pretrain` (tags) and `finetune` (captions): data, model, loss.

pretrain/train.py and finetune/train.py parse a configuration and call these.
"""

import json
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import torch
from accelerate import Accelerator
from torch import Tensor
from transformers import PreTrainedTokenizerFast

from vivo.config import TrainConfig
from vivo.data.collate import Batch, CaptionCollator, Limits, TagCollator
from vivo.data.datasets import CaptionPictures, TagPictures, read_vocabulary
from vivo.data.examples import read_caption_examples, read_tag_examples
from vivo.data.held_out import hold_out
from vivo.data.regions import RegionStore
from vivo.data.text import load_tokenizer, used_pieces
from vivo.data.vocabulary import cut_tokenizer, read_pieces
from vivo.errors import UserError
from vivo.losses import caption_loss, tag_set_loss
from vivo.modeling import VivoConfig, VivoForCaptioning, VivoForTagPretraining
from vivo.self_tagging import SelfTagger, open_tag_source, save_tag_vocabulary
from vivo.training.engine import run_training
from vivo.training.gradients import Loss
from vivo.training.runtime import seed_start
from vivo.training.tables import TableWriter
from vivo.training.tag_validation import TagValidation
from vivo.training.validation import CaptionValidation
from vivo.weights import bert_config, bert_folder, load_bert, load_model

STATISTICS_PICTURES = 1000
Model = VivoForTagPretraining | VivoForCaptioning


def pretrain(config: TrainConfig) -> Path:
    """Masked-tag pre-training on image-tag pairs. Returns the folder of the trained model."""
    store = RegionStore(config.data.regions)
    examples = read_tag_examples(config.data.examples)
    vocabulary = read_vocabulary(config.data.vocabulary)
    source = open_tag_source(config.data.tags, store, [], config.data.tag_file)
    hints = open_tag_source(config.data.hints, store, [], config.data.tag_file)
    examples, held_out = hold_out(examples, config.data.validation_share)
    data = TagPictures(examples, store, source, vocabulary, config.data.region_dropout, config.seed, hints)
    tokenizer, model = starting_model(config, VivoForTagPretraining, store, "tags")
    masking = config.masking
    collator = TagCollator(
        tokenizer,
        Limits.of(model.config),
        config.seed,
        masking.share_min,
        masking.share_max,
        masking.at_most,
        masking.next_piece,
        config.data.tag_dropout,
        competing_pieces(config, tokenizer, (tag for i in range(len(data)) for tag in data.tags_of(i))),
    )

    def write_vocabulary(folder: Path) -> None:
        save_tag_vocabulary(folder, model, tokenizer, data)

    def validation(accelerator: Accelerator) -> TagValidation | None:
        if not held_out:
            return None
        unseen = TagPictures(held_out, store, source, vocabulary, 0.0, config.seed, hints)
        table = TableWriter(
            Path(config.out), store, dict.fromkeys(unseen.image_ids, ""), config.data.validation_pictures
        )
        return TagValidation(unseen, tokenizer, Limits.of(model.config), accelerator, table)

    return run_training(config, tokenizer, model, data, collator, tag_loss_of(config), write_vocabulary, validation)


def finetune(config: TrainConfig) -> Path:
    """Caption fine-tuning on image-sentence pairs. Returns the folder of the trained model."""
    store = RegionStore(config.data.regions)
    examples = read_caption_examples(config.data.examples)
    tagger = config.data.tagger or config.init
    source = open_tag_source(config.data.tags, store, [e.image_id for e in examples], config.data.tag_file, tagger)
    data = CaptionPictures(
        examples, store, source, config.data.region_dropout, config.seed, config.data.named_tags_only
    )
    tokenizer, model = starting_model(config, VivoForCaptioning, store, "captions")
    masking = config.masking
    collator = CaptionCollator(
        tokenizer,
        Limits.of(model.config),
        config.seed,
        masking.caption,
        masking.caption_probability,
        config.data.captions_per_picture,
        config.data.tag_dropout,
        competing_pieces(config, tokenizer, (caption for e in examples for caption in e.captions)),
    )

    def keep_tagger(folder: Path) -> None:
        if config.data.tags == "self":  # at inference the same model writes the tags
            SelfTagger.from_pretrained(tagger).save_pretrained(folder / "tagger")

    def validation(accelerator: Accelerator) -> CaptionValidation | None:
        return CaptionValidation.of(config, tokenizer, accelerator)

    return run_training(config, tokenizer, model, data, collator, caption_loss_of(config), keep_tagger, validation)


def tag_loss_of(config: TrainConfig) -> Loss:
    """The masked-tag loss of `config`, and how many pictures have tags that can be exchanged."""

    def loss(output: dict[str, Tensor], batch: Batch) -> dict[str, Tensor]:
        losses = tag_set_loss(
            output["logits"], batch["target_ids"], batch["group_slots"], batch["group_size"], config.loss.hungarian
        )
        return losses | {"matchable_pictures": batch["matchable"].sum()}

    return loss


def caption_loss_of(config: TrainConfig) -> Loss:
    """The caption loss of `config`."""

    def loss(output: dict[str, Tensor], batch: Batch) -> dict[str, Tensor]:
        return caption_loss(output["logits"], batch["target_ids"], config.loss.label_smoothing)

    return loss


def competing_pieces(config: TrainConfig, tokenizer: PreTrainedTokenizerFast, texts: Iterable[str]) -> Tensor | None:
    """int64 [P]: the pieces that these texts (and the end of a caption) use, None where all compete."""
    if config.loss.competing == "all":
        return None
    return torch.tensor(used_pieces(tokenizer, texts), dtype=torch.int64)


def starting_model(
    config: TrainConfig, model_class: type[Model], store: RegionStore, stage: str
) -> tuple[PreTrainedTokenizerFast, Model]:
    """Tokenizer and model at step 0, from `config.init`:

    1. a checkpoint folder of ours: all weights, either stage; its features must come from the same detector;
    2. "minilm" or the folder of a BERT: text weights; region projection (and a missing head) from the seed;
    3. "random": everything from the seed, with the tokenizer of "minilm".
    """
    seed_start(config.seed)
    shape, dropout = (
        config.model,
        {
            "hidden_dropout_prob": config.model.dropout,
            "attention_probs_dropout_prob": config.model.dropout,
        },
    )
    folder = bert_folder("minilm" if config.init == "random" else config.init)
    if not (folder / "config.json").is_file():
        raise UserError(f'init {config.init}: no config.json there; give a checkpoint folder, "minilm" or "random"')
    tokenizer = load_tokenizer(folder)
    pieces = None
    if json.loads((folder / "config.json").read_text()).get("model_type") == VivoConfig.model_type:
        model = load_model(model_class, folder, training_stage=stage, **dropout)
        store.check_compatible(model.config.region_fingerprint, model.config.feature_size)
    else:
        if shape.vocabulary:
            tokenizer, pieces = cut_tokenizer(tokenizer, read_pieces(shape.vocabulary), shape.vocabulary)
        ours = {
            "vocab_size": len(tokenizer),
            **{f"{name}_token_id": getattr(tokenizer, f"{name}_token_id") for name in ("pad", "cls", "sep", "mask")},
            "feature_size": store.feature_size,
            "region_fingerprint": store.fingerprint,
            "training_stage": stage,
            "region_layer_norm": shape.region_layer_norm,
            "standardise_regions": shape.standardise_regions,
            "tag_segment": shape.tag_segment,
            "tag_slots": shape.tag_slots,
            "max_regions": shape.max_regions,
            "max_tag_tokens": shape.max_tag_tokens,
            "max_caption_tokens": shape.max_caption_tokens,
            "tag_position_offset": shape.max_caption_tokens,
            **dropout,
        }
        if config.init == "random":
            model = model_class(
                VivoConfig(
                    hidden_size=shape.hidden_size,
                    num_attention_heads=shape.heads,
                    intermediate_size=shape.intermediate_size,
                    num_hidden_layers=shape.layers or 6,
                    **ours,
                )
            )
        else:
            model = model_class(bert_config(folder, shape.layers, **ours))
            load_bert(model, folder, pieces)
        if shape.standardise_regions:
            ids = store.image_ids[:: max(1, len(store) // STATISTICS_PICTURES)]
            sample = np.concatenate([store[i].features for i in ids]).astype(np.float32)
            model.vivo.regions.set_statistics(torch.from_numpy(sample))
    store.check_all_fit(model.config.max_regions)
    model.freeze_vocabulary(shape.freeze_embeddings, shape.freeze_head_bias)
    return tokenizer, model
