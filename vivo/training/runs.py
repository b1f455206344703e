"""The training programs, assembled: `pretrain` (tags, image-sentence pairs or both), `finetune` (captions),
`show_and_tell` (captions, by the CNN + LSTM captioner) and `self_critical` (sampled captions by their reward, of
either).

pretrain/train.py, finetune/train.py, train_show_and_tell.py and train_scst.py parse a configuration and call these.
"""

from collections.abc import Callable
from pathlib import Path

import torch
from accelerate import Accelerator
from transformers import PreTrainedTokenizerFast

from vivo.captioners import captioner_class
from vivo.config import TrainConfig
from vivo.data.collate import Limits
from vivo.data.regions import RegionStore
from vivo.data.text import load_tokenizer
from vivo.data.vocabulary import cut_tokenizer, read_pieces
from vivo.errors import UserError
from vivo.modeling import VivoConfig, VivoForCaptioning, VivoForPretraining, VivoForTagPretraining
from vivo.oscar import is_oscar
from vivo.self_tagging import SelfTagger, save_tag_vocabulary
from vivo.show_and_tell import tasks as recurrent
from vivo.show_and_tell.modeling import ShowAndTell
from vivo.training.engine import run_training
from vivo.training.replay import replay
from vivo.training.runtime import seed_start
from vivo.training.tables import TableWriter
from vivo.training.tag_validation import TagValidation
from vivo.training.tasks import (
    Task,
    both_tasks,
    caption_pictures,
    caption_task,
    loss_of,
    scst_task,
    tag_pictures,
    tag_task,
    tagger_of,
)
from vivo.training.validation import CaptionValidation
from vivo.weights import bert_config, bert_folder, load_bert, load_model, read_configuration

PRETRAINED = {"tags": VivoForTagPretraining, "pairs": VivoForCaptioning, "both": VivoForPretraining}
"""Which model each objective of pre-training trains; their parameters are the same."""
Model = VivoForTagPretraining | VivoForCaptioning | VivoForPretraining


def pretrain(config: TrainConfig) -> Path:
    """Pre-training with the objective "tags", "pairs" or "both". Returns the folder of the trained model."""
    data = config.data
    tags, held_out = tag_pictures(config) if config.objective != "pairs" else (None, None)
    pairs = None
    if config.objective != "tags":
        unseen = set(held_out.image_ids) if held_out else set()
        regions = data.pairs_regions or data.regions
        pairs = caption_pictures(config, data.pairs, regions, data.pairs_tags, held_out=unseen)
    tokenizer, model = starting_model(config, PRETRAINED[config.objective], (tags or pairs).store, config.objective)
    limits = Limits.of(model.config)
    if tags and pairs:
        pairs.store.check_compatible(model.config.region_fingerprint, model.config.feature_size)
        pairs.store.check_all_fit(model.config.max_regions)
    tasks = [tag_task(config, tags, tokenizer, limits)] if tags else []
    tasks += [caption_task(config, pairs, tokenizer, limits)] if pairs else []
    task = tasks[0] if len(tasks) == 1 else both_tasks(config, *tasks)

    def write_vocabulary(folder: Path) -> None:
        if tags:
            save_tag_vocabulary(folder, model, tokenizer, tags)

    def validation(accelerator: Accelerator) -> TagValidation | None:
        if not held_out:
            return None
        files = dict.fromkeys(held_out.image_ids, "")
        table = TableWriter(Path(config.out), held_out.store, files, config.data.validation_pictures)
        return TagValidation(held_out, tokenizer, limits, accelerator, table)

    return run_training(config, tokenizer, model, task, write_vocabulary, validation)


def finetune(config: TrainConfig) -> Path:
    """Caption fine-tuning on image-sentence pairs. Returns the folder of the trained model."""
    return _train_captioner(config, caption_task)


def self_critical(config: TrainConfig, from_anything: bool = False) -> Path:
    """Self-critical training of a captioner. Returns the folder of the trained model.

    Args:
        from_anything: also of a model that has learned nothing, for a dry run.

    Raises:
        UserError: `init` is no captioner yet: its samples would have no reward to learn from.
    """
    path = Path(config.init) / "config.json"
    stage = read_configuration(path).get("training_stage", "") if path.is_file() else ""
    if stage != "captions" and not from_anything:
        raise UserError(f"init {config.init}: no fine-tuned captioner; give the model folder of finetune/train.py")
    if path.is_file() and captioner_class(config.init) is ShowAndTell:
        return _train_recurrent(config, recurrent.sampled_task)
    return _train_captioner(config, scst_task)


def show_and_tell(config: TrainConfig) -> Path:
    """Training of the CNN + LSTM captioner, either phase. Returns the folder of the trained model."""
    return _train_recurrent(config, recurrent.sentence_task)


def _train_recurrent(config: TrainConfig, task_of: Callable[..., Task]) -> Path:
    """Train a Show and Tell model on captioned pictures what `task_of` says."""
    examples = recurrent.training_examples(config)
    tokenizer, model = recurrent.starting_model(config, [caption for e in examples for caption in e.captions])
    data = recurrent.captioned_pictures(config, examples, model)

    def validation(accelerator: Accelerator) -> CaptionValidation | None:
        return recurrent.validation_of(config, tokenizer, model, accelerator)

    return run_training(config, tokenizer, model, task_of(config, data, tokenizer, model), lambda _: None, validation)


def _train_captioner(config: TrainConfig, task_of: Callable[..., Task]) -> Path:
    """Train on captioned pictures what `task_of` says."""
    tagger = tagger_of(config)
    data = caption_pictures(config, config.data.examples, config.data.regions, config.data.tags, tagger)
    tokenizer, model = starting_model(config, VivoForCaptioning, data.store, "captions")

    def keep_tagger(folder: Path) -> None:
        if config.data.tags == "self":  # at inference the same model writes the tags
            SelfTagger.from_pretrained(tagger).save_pretrained(folder / "tagger")

    def validation(accelerator: Accelerator) -> CaptionValidation | None:
        return CaptionValidation.of(config, tokenizer, accelerator)

    task = task_of(config, data, tokenizer, Limits.of(model.config))
    return run_training(config, tokenizer, model, task, keep_tagger, validation)


def replay_pretrain(config: TrainConfig, folder: Path) -> bool:
    """A stopped update of pre-training, run again; see `vivo.training.replay`."""
    return replay(folder, config.objective, PRETRAINED[config.objective], loss_of(config))


def replay_finetune(config: TrainConfig, folder: Path) -> bool:
    """A stopped update of fine-tuning of any captioner, run again; see `vivo.training.replay`."""
    return replay(folder, config.objective, None, loss_of(config))


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
    if is_oscar(folder):  # as a plain BERT it would lose its region projection and its layout of tags
        raise UserError(
            f"init {config.init}: a checkpoint of Oscar or VinVL as it was published; give init the folder that"
            " finetune/import_checkpoint.py makes of it"
        )
    tokenizer = load_tokenizer(folder)
    pieces = None
    if read_configuration(folder / "config.json").get("model_type") == VivoConfig.model_type:
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
            model.vivo.regions.set_statistics(torch.from_numpy(store.sample_features(store.image_ids)))
    store.check_all_fit(model.config.max_regions)
    model.freeze_vocabulary(shape.freeze_embeddings, shape.freeze_head_bias)
    return tokenizer, model
