"""What a run learns from: pictures, how they become batches, in which order, and what is minimised on them.

    tags       masked tags of image-tag pairs (VIVO's pre-training, Hu et al. 2021, section 3.2)
    captions   masked caption tokens of image-sentence pairs: fine-tuning, and pre-training with objective "pairs"
    both       updates of the two kinds by turns (vivo/data/mixed.py)
    scst       captions that the model samples, by their reward (vivo/training/self_critical.py)

A caption reads tags and regions, which never see it, in pre-training as in fine-tuning: one mask for both stages, so
what is learned there is what captioning asks for. (In Oscar's pre-training all parts see each other.)
"""

from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import Dataset
from transformers import PreTrainedModel, PreTrainedTokenizerFast

from vivo.config import TrainConfig
from vivo.data.collate import Batch, CaptionCollator, Limits, SampleCollator, TagCollator
from vivo.data.datasets import CaptionPictures, TagPictures, read_vocabulary
from vivo.data.examples import read_caption_examples, read_tag_examples
from vivo.data.held_out import hold_out, without
from vivo.data.mixed import MixedBatches, MixedCollator, MixedPictures
from vivo.data.regions import RegionStore
from vivo.data.sampler import StepBatches
from vivo.data.text import used_pieces
from vivo.errors import UserError
from vivo.losses import caption_loss, tag_set_loss
from vivo.metrics.cider import DocumentFrequencies
from vivo.metrics.reward import CaptionReward
from vivo.self_tagging import open_tag_source
from vivo.training.gradients import Loss
from vivo.training.schedule import Schedule
from vivo.training.self_critical import SelfCritical, scst_loss
from vivo.weights import read_configuration

Prepare = Callable[[PreTrainedModel, Batch, int], Batch]


def as_it_is(model: PreTrainedModel, batch: Batch, step: int) -> Batch:
    """The batch as the collator made it."""
    return batch


@dataclass(frozen=True)
class Task:
    """What `vivo.training.runs` trains a model on.

    Attributes:
        data: pictures, read by (epoch, index). collator: makes a batch of them. loss: see `vivo.training.loop.train`.
        order: `StepBatches` or what takes its arguments.
        prepare: what an update still adds to a batch of the collator, as a function of the model and the step.
    """

    data: Dataset
    collator: Any
    loss: Loss
    order: Callable[..., StepBatches] = StepBatches
    prepare: Prepare = as_it_is


def tag_pictures(config: TrainConfig) -> tuple[TagPictures, TagPictures | None]:
    """The image-tag pairs of `data.examples` to train on, and the share of them that is held out, if any."""
    data, store = config.data, RegionStore(config.data.regions)
    tags = open_tag_source(data.tags, store, [], data.tag_file)
    hints = open_tag_source(data.hints, store, [], data.tag_file)
    vocabulary = read_vocabulary(data.vocabulary)
    examples, held_out = hold_out(read_tag_examples(data.examples), data.validation_share)
    unseen = TagPictures(held_out, store, tags, vocabulary, 0.0, config.seed, hints) if held_out else None
    return TagPictures(examples, store, tags, vocabulary, data.region_dropout, config.seed, hints), unseen


def caption_pictures(
    config: TrainConfig, examples: str, regions: str, tags: str, tagger: str = "", held_out: Collection[str] = ()
) -> CaptionPictures:
    """Image-sentence pairs: caption examples, their RegionStore, and the tags that stand beside the captions.

    Args:
        held_out: ids of pictures that must not be among them.
    """
    found, store = without(read_caption_examples(examples), held_out), RegionStore(regions)
    if held_out and not len(found):
        raise UserError(f"{examples}: data.validation_share holds out all of its pictures; give more pairs")
    ids = [e.image_id for e in found]
    source = open_tag_source(tags, store, ids, config.data.tag_file, tagger, keeps_repeats(config))
    return CaptionPictures(found, store, source, config.data.region_dropout, config.seed, config.data.named_tags_only)


def keeps_repeats(config: TrainConfig) -> bool:
    """Whether the model of `init` knows tags as one text, with repetitions: an imported one of Oscar or VinVL does."""
    path = Path(config.init) / "config.json"
    return path.is_file() and bool(read_configuration(path).get("tags_as_text", False))


def tagger_of(config: TrainConfig) -> str:
    """Folder of the model that writes the tags of `data.tags: self`: the pre-trained one, which a captioner carries."""
    carried = str(Path(config.init) / "tagger") if config.objective == "scst" else config.init
    return config.data.tagger or carried


def tag_task(config: TrainConfig, data: TagPictures, tokenizer: PreTrainedTokenizerFast, limits: Limits) -> Task:
    """Predict the masked tags of a picture as a set."""
    masking = config.masking
    collator = TagCollator(
        tokenizer,
        limits,
        config.seed,
        masking.share_min,
        masking.share_max,
        masking.at_most,
        masking.next_piece,
        config.data.tag_dropout,
        competing_pieces(config, tokenizer, (tag for i in range(len(data)) for tag in data.tags_of(i))),
        windows=torch.cuda.is_available(),
    )

    return Task(data, collator, tag_loss_of(config))


def caption_task(
    config: TrainConfig, data: CaptionPictures, tokenizer: PreTrainedTokenizerFast, limits: Limits
) -> Task:
    """Predict the masked tokens of captions."""
    masking = config.masking
    collator = CaptionCollator(
        tokenizer,
        limits,
        config.seed,
        masking.caption,
        masking.caption_probability,
        config.data.captions_per_picture,
        config.data.tag_dropout,
        competing_pieces(config, tokenizer, (caption for e in data.examples for caption in e.captions)),
        masking.caption_at_most,
    )

    return Task(data, collator, caption_loss_of(config), prepare=drop_worst_of(config, len(data)))


def scst_task(config: TrainConfig, data: CaptionPictures, tokenizer: PreTrainedTokenizerFast, limits: Limits) -> Task:
    """Make sampled captions of high reward more likely."""
    scst = config.scst
    tokens = min(scst.max_tokens, limits.max_caption_tokens - 1)
    collator = SampleCollator(tokenizer, limits, config.seed, scst.samples, tokens, config.data.tag_dropout)
    table = DocumentFrequencies.load(scst.frequencies) if scst.frequencies else None
    reward = CaptionReward((e.captions for e in data.examples), table, scst.frequencies)
    prepare = SelfCritical(tokenizer, reward, data.image_ids, scst.baseline)
    return Task(data, collator, scst_loss, prepare=prepare)


def both_tasks(config: TrainConfig, tags: Task, pairs: Task) -> Task:
    """Updates of the two tasks by turns, `data.pairs_share` of them of pairs."""
    data = MixedPictures(tags.data, pairs.data)
    prepare = drop_worst_of(config, len(data))
    order = partial(MixedBatches, tags=len(tags.data), share=config.data.pairs_share)
    return Task(data, MixedCollator(tags.collator, pairs.collator), both_loss_of(config), order, prepare)


def loss_of(config: TrainConfig) -> Loss:
    """The loss of the objective of `config`."""
    if config.objective == "scst":
        return scst_loss
    return {"tags": tag_loss_of, "both": both_loss_of}.get(config.objective, caption_loss_of)(config)


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
        worst = float(batch.get("drop_worst", 0.0))
        return caption_loss(output["logits"], batch["target_ids"], config.loss.label_smoothing, worst)

    return loss


def drop_worst_of(config: TrainConfig, pictures: int) -> Prepare:
    """Write into caption batches which share of their worst tokens the loss leaves out at this step, if any.

    In the batch, so that a batch that was kept (vivo/training/nonfinite.py) has it too.
    """
    share, first = config.loss.drop_worst, Schedule.of(config, pictures).drop_worst_from
    if not share:
        return as_it_is

    def prepare(model: PreTrainedModel, batch: Batch, step: int) -> Batch:
        if step < first or "text_ids" not in batch:
            return batch
        return batch | {"drop_worst": torch.tensor(share, dtype=torch.float64)}

    return prepare


def both_loss_of(config: TrainConfig) -> Loss:
    """The loss of either kind of batch; its sums stand under the kind's name too ("tags/...", "pairs/...")."""
    losses = {"tags": tag_loss_of(config), "pairs": caption_loss_of(config)}

    def loss(output: dict[str, Tensor], batch: Batch) -> dict[str, Tensor]:
        kind = "pairs" if "text_ids" in batch else "tags"
        of_kind = losses[kind](output, batch)
        pictures = torch.tensor(float(len(batch["image_ids"])), device=of_kind["loss"].device)
        named = {f"{kind}/{name}": value for name, value in of_kind.items()} | {f"{kind}/pictures": pictures}
        return {"loss": of_kind["loss"], "count": of_kind["count"], **named}

    return loss


def competing_pieces(config: TrainConfig, tokenizer: PreTrainedTokenizerFast, texts: Iterable[str]) -> Tensor | None:
    """int64 [P]: the pieces that these texts (and the end of a caption) use, None where all compete."""
    if config.loss.competing == "all":
        return None
    return torch.tensor(used_pieces(tokenizer, texts), dtype=torch.int64)
