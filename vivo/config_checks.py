"""Checks of a configuration across its fields: what each value allows of the others. `UserError` names the key."""

from typing import TYPE_CHECKING

from vivo.durations import parse_duration
from vivo.errors import UserError

if TYPE_CHECKING:
    from vivo.config import DecodeConfig, EvalConfig, TrainConfig


MOST_HYPOTHESES = 2**13
"""Of a picture in constrained beam search; each constraint doubles them."""


def check_evaluation(config: "EvalConfig") -> None:
    """What an evaluation needs."""
    for name in ("checkpoint", "references"):
        if not getattr(config, name):
            raise UserError(f"{name}: is needed")
    if bool(config.regions) == bool(config.pictures):
        raise UserError("regions: is needed, or pictures for a captioner that sees pixels; give one of the two")
    if config.tags == "file" and not config.tag_file:
        raise UserError("tag_file: is needed with tags: file")
    check_decoding(config.decode)
    found = config.decode.beam if config.decode.conventions == "vivo" else 1
    if config.n_best > found:
        hint = "give decode.beam" if config.decode.conventions == "vivo" else "Oscar's search keeps the best alone"
        raise UserError(f"n_best: {config.n_best} captions, but the search finds {found} of a picture; {hint}")


def check_decoding(decode: "DecodeConfig") -> None:
    """The cross-field checks of a search."""
    if decode.beam % decode.groups:
        raise UserError(f"decode.beam: {decode.beam} does not divide by decode.groups: {decode.groups}")
    if decode.min_tokens > decode.max_tokens:
        raise UserError(f"decode.min_tokens: {decode.min_tokens} is more than decode.max_tokens: {decode.max_tokens}")
    if decode.diversity and decode.groups == 1:
        raise UserError("decode.diversity: is for decode.groups of 2 or more")
    hypotheses = decode.beam << decode.constraints_at_most
    if decode.constraints != "none" and hypotheses > MOST_HYPOTHESES:
        raise UserError(
            f"decode.constraints_at_most: {decode.constraints_at_most} constraints are up to {hypotheses:,} hypotheses "
            f"a picture with decode.beam={decode.beam}, more than {MOST_HYPOTHESES:,}: take fewer (docs/decoding.md)"
        )
    if decode.groups > 1 and decode.conventions != "vivo":
        raise UserError(f"decode.groups: diverse beams are not part of decode.conventions: {decode.conventions}")
    if decode.constraints != "none" and decode.conventions != "vivo":
        raise UserError(f"decode.constraints: are not part of decode.conventions: {decode.conventions}")
    if decode.constraints == "none":
        for name in ("constraint_regions", "constraint_classes", "constraint_hierarchy"):
            if getattr(decode, name):
                raise UserError(f"decode.{name}: is for decode.constraints: detector")
    elif decode.groups > 1:
        raise UserError("decode.groups: diverse beams and decode.constraints are two searches; choose one")
    if decode.constraint_hierarchy and not decode.constraint_classes:
        raise UserError("decode.constraint_hierarchy: has ids alone; give decode.constraint_classes, their names, too")


def check_training(config: "TrainConfig") -> None:
    """The cross-field checks of a training run. What fine-tuning inherits from pre-training is not refused."""
    model, data, masking, optim, tracking = config.model, config.data, config.masking, config.optim, config.tracking
    if not config.init:
        raise UserError('init: is needed: a checkpoint folder, "minilm", the folder of a BERT, or "random"')
    if config.objective == "show_and_tell":
        _check_show_and_tell(config)
    with_tags, with_pairs = config.objective in ("tags", "both"), config.objective in ("pairs", "both")
    needed = ["pairs"] if config.objective == "pairs" else ["examples", "pairs"] if with_pairs else ["examples"]
    pictures = config.objective in ("show_and_tell", "scst") and data.pictures  # instead of regions
    if (config.objective != "pairs" or not data.pairs_regions) and not pictures:
        needed.insert(0, "regions")
    for name in needed:
        if not getattr(data, name):
            raise UserError(f"data.{name}: is needed" + (f" with objective {config.objective}" if with_pairs else ""))
    for name, read in (("tags", config.objective != "pairs"), ("hints", True), ("pairs_tags", with_pairs)):
        if read and getattr(data, name) == "file" and not data.tag_file:
            raise UserError(f"data.tag_file: is needed with data.{name}: file")
    whole, warmup = parse_duration(optim.duration), parse_duration(optim.warmup)
    if not whole.amount:
        raise UserError('optim.duration: is needed, as in "800 steps", "3 epochs" or "1e6 examples"')
    if optim.lr == 0:
        raise UserError("optim.lr: must be above 0")
    if whole.unit == warmup.unit and warmup.amount > whole.amount:
        raise UserError(f"optim.warmup: {warmup} is more than optim.duration, {whole}")
    if optim.micro_batch_size and optim.batch_size % optim.micro_batch_size:
        raise UserError(
            f"optim.micro_batch_size: {optim.micro_batch_size} does not divide optim.batch_size, {optim.batch_size}"
        )
    if model.hidden_size % model.heads:
        raise UserError(f"model.heads: {model.heads} does not divide model.hidden_size, {model.hidden_size}")
    if masking.share_min > masking.share_max:
        raise UserError(f"masking.share_min: {masking.share_min} is more than masking.share_max, {masking.share_max}")
    if with_tags:
        if data.tags == "none":
            raise UserError(f'data.tags: objective "{config.objective}" learns tags and cannot do without any')
        if data.tags == "self":
            raise UserError('data.tags: "self" needs a pre-trained model; it is for objective "captions"')
    elif data.hints != "none":
        raise UserError('data.hints: is for objectives "tags" and "both"; leave it out')
    if config.objective == "tags":
        for name, neutral in (("captions_per_picture", 1), ("named_tags_only", False)):
            if getattr(data, name) != neutral:
                raise UserError(f'data.{name}: is beside captions only; leave it out with objective "tags"')
        if data.tag_dropout and data.hints == "none":
            raise UserError("data.tag_dropout: leaves out hints in pre-training; give data.hints, or 0")
    if config.objective == "scst":
        _check_scst(config)
    if config.objective == "both" and not 0 < data.pairs_share < 1:
        raise UserError(f"data.pairs_share: {data.pairs_share} leaves one kind out; that is objective tags or pairs")
    captions = config.objective in ("captions", "scst", "show_and_tell")
    if data.validation_share and not with_tags:
        fix = "give data.validation_references" if captions else "leave it out"
        raise UserError(f'data.validation_share: is for objectives "tags" and "both"; {fix}')
    if tracking.validate_every and config.objective == "pairs":
        raise UserError('tracking.validate_every: objective "pairs" has no validation; leave it out')
    if tracking.validate_every and not (data.validation_references if captions else data.validation_share):
        needed = "data.validation_regions and data.validation_references" if captions else "data.validation_share"
        raise UserError(f'tracking.validate_every: needs {needed} with objective "{config.objective}"')
    for name in ("best", "validate_start"):
        if getattr(tracking, name) and not tracking.validate_every:
            raise UserError(f"tracking.{name}: needs tracking.validate_every")
    if tracking.stop_after and not tracking.best:
        raise UserError("tracking.stop_after: needs tracking.best, the metric that is to rise")
    if data.validation_references and not (data.validation_regions or pictures):
        raise UserError("data.validation_references: needs data.validation_regions")
    if (optim.schedule == "stairs") != bool(parse_duration(optim.decay_every).amount):
        raise UserError("optim.decay_every: is needed with optim.schedule: stairs, and with it alone")
    if optim.momentum and optim.optimizer != "sgd":
        raise UserError("optim.momentum: is of optim.optimizer: sgd; AdamW has beta1")
    if config.objective not in ("show_and_tell", "scst"):
        for name, neutral in (("encoder_rate", 1.0), ("encoder_decay", None)):
            if getattr(optim, name) != neutral:
                raise UserError(f"optim.{name}: is of the image encoder of Show and Tell; leave it out")


def _check_show_and_tell(config: "TrainConfig") -> None:
    """What the CNN + LSTM captioner cannot do."""
    show_and_tell, data = config.show_and_tell, config.data
    if show_and_tell.picture_resize and show_and_tell.picture_resize < show_and_tell.picture_size:
        raise UserError(
            f"show_and_tell.picture_resize: {show_and_tell.picture_resize} is less than show_and_tell.picture_size, "
            f"{show_and_tell.picture_size}; give 0 to squash pictures to that size"
        )
    if not show_and_tell.freeze_encoder and not data.pictures:
        raise UserError("data.pictures: is needed to train the encoder: the folder of the picture files")
    if show_and_tell.freeze_encoder and data.regions and show_and_tell.augment != "none":
        raise UserError(
            "show_and_tell.augment: the outputs of a frozen encoder are computed once, of pictures as they are; give "
            "none, or leave out data.regions, and they are computed in each update"
        )
    if show_and_tell.freeze_encoder:
        of_encoder = (("encoder_dropout", 0.0), ("batch_norm", "frozen"), ("batch_norm_momentum", 0.1))
        of_its_rate = (("encoder_rate", 1.0), ("encoder_decay", None))
        for group, names in (("show_and_tell", of_encoder), ("optim", of_its_rate)):
            for name, neutral in names:
                if getattr(getattr(config, group), name) != neutral:
                    raise UserError(f"{group}.{name}: is of an encoder that is trained; give freeze_encoder: false")
    if parse_duration(show_and_tell.scheduled_from).amount and not show_and_tell.scheduled_sampling:
        raise UserError("show_and_tell.scheduled_from: needs show_and_tell.scheduled_sampling")
    if data.region_dropout:
        raise UserError("data.region_dropout: Show and Tell has one region, which stays; leave it out")
    if config.loss.competing != "all":
        raise UserError('loss.competing: Show and Tell has all words compete; leave it at "all"')


def _check_scst(config: "TrainConfig") -> None:
    """What self-critical training cannot do."""
    loss, scst = config.loss, config.scst
    if scst.baseline == "others" and scst.samples < 2:
        raise UserError("scst.samples: baseline others compares a picture's samples with one another; 2 at least")
    for name, neutral in (("label_smoothing", 0.0), ("drop_worst", 0.0), ("competing", "all")):
        if getattr(loss, name) != neutral:
            raise UserError(f"loss.{name}: is of cross-entropy; objective scst wants {neutral}")
