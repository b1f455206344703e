"""What Show and Tell learns from, on the engine of everything else: its pictures, its model at step 0, its tasks.

    phase 1   show_and_tell.freeze_encoder true, data.regions    the encoder's outputs are computed once, and kept
    phase 2   freeze_encoder false, data.pictures, init: the model of phase 1
    scst      either way, after it

A frozen encoder without `data.regions` is run in every update, which allows random views of the pictures.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from accelerate import Accelerator
from transformers import PreTrainedModel, PreTrainedTokenizerFast

from vivo.captioners import captioner_class
from vivo.config import DecodeConfig, RecurrentConfig, TrainConfig
from vivo.data.collate import Batch
from vivo.data.datasets import CaptionPictures
from vivo.data.examples import read_caption_examples
from vivo.data.nocaps import read_nocaps
from vivo.data.region_format import MANIFEST, fingerprint_of
from vivo.data.regions import RegionStore
from vivo.data.tag_source import TagSource
from vivo.data.text import load_tokenizer
from vivo.data.types import CaptionExample, Regions
from vivo.data.vocabulary import cut_tokenizer, read_pieces
from vivo.detectors.backbone import open_backbone
from vivo.detectors.extract import extract_regions
from vivo.doctor.all_reduce import launched
from vivo.errors import UserError
from vivo.metrics.cider import DocumentFrequencies
from vivo.metrics.reward import CaptionReward
from vivo.randomness import example_generator
from vivo.show_and_tell.collate import PictureSampleCollator, SentenceCollator, recurrent_captions
from vivo.show_and_tell.model_config import ShowAndTellConfig
from vivo.show_and_tell.modeling import ShowAndTell
from vivo.show_and_tell.pictures import PictureStore, files_of
from vivo.show_and_tell.scheduled import ScheduledSampling
from vivo.show_and_tell.words import word_tokenizer
from vivo.training.runtime import seed_start
from vivo.training.schedule import Schedule
from vivo.training.self_critical import SelfCritical, scst_loss
from vivo.training.tables import TableWriter
from vivo.training.tasks import Prepare, Task, as_it_is, caption_loss_of, drop_worst_of
from vivo.training.validation import CaptionValidation
from vivo.weights import bert_folder, load_model


class CaptionedPixels(CaptionPictures):
    """`CaptionPictures` of a `PictureStore`: items have another random view of the picture in each epoch."""

    def __init__(self, examples: Sequence[CaptionExample], store: PictureStore, seed: int, augment: str):
        super().__init__(examples, store, TagSource("none"), 0.0, seed)
        self.augment = augment

    def _regions(self, image_id: str, epoch: int) -> Regions:
        if self.augment == "none":
            return self.store[image_id]
        generator = example_generator(self.seed, epoch, image_id, "view")
        return self.store.reader.random_view(self.store.open(image_id), self.augment, generator)


def _check_brought(asked: RecurrentConfig, brought: ShowAndTellConfig, init: str) -> None:
    """Refuse sizes, encoder or words other than those that the model `init` brings; defaults are not asked for."""
    words = "words" if brought.words else "pieces"
    for name, has in {
        "encoder": brought.encoder,
        "picture_size": brought.picture_size,
        "picture_resize": brought.picture_resize,
        "standardise_features": brought.standardise_features,
        "embedding_size": brought.embedding_size,
        "lstm_size": brought.lstm_size,
        "vocabulary": words,
    }.items():
        said = getattr(asked, name)
        if said not in (has, getattr(RecurrentConfig(), name)):
            raise UserError(f"show_and_tell.{name}: {said}, but the model of init {init} has {has}; leave it out")


def starting_model(config: TrainConfig, captions: Sequence[str]) -> tuple[PreTrainedTokenizerFast, ShowAndTell]:
    """Tokenizer and model at step 0, from `config.init`: "random", or the folder of a Show and Tell model, which brings
    its own encoder, sizes and words.

    Args:
        captions: of the training pictures, whose words become the vocabulary.
    """
    seed_start(config.seed)
    show_and_tell = config.show_and_tell
    changes = {
        "dropout": config.model.dropout,
        "encoder_dropout": show_and_tell.encoder_dropout,
        "training_stage": "captions",
    }
    if config.init == "random":
        tokenizer = _tokenizer(config, captions)
        network, mean, std = open_backbone(
            show_and_tell.encoder, show_and_tell.weights, show_and_tell.sha256, "show_and_tell"
        )
        names = ("pad", "unk", "cls", "sep", "mask")
        model = ShowAndTell(
            ShowAndTellConfig(
                vocab_size=len(tokenizer),
                encoder=show_and_tell.encoder,
                feature_size=network.num_features,
                picture_size=show_and_tell.picture_size,
                picture_resize=show_and_tell.picture_resize or show_and_tell.picture_size,
                pixel_mean=mean,
                pixel_std=std,
                standardise_features=show_and_tell.standardise_features,
                embedding_size=show_and_tell.embedding_size,
                lstm_size=show_and_tell.lstm_size,
                initializer_range=show_and_tell.init_range,
                max_caption_tokens=config.model.max_caption_tokens,
                words=show_and_tell.vocabulary == "words",
                **{f"{name}_token_id": getattr(tokenizer, f"{name}_token_id") for name in names},
                **changes,
            )
        )
        model.encoder.network.load_state_dict(network.state_dict())
    else:
        if captioner_class(config.init) is not ShowAndTell:
            raise UserError(f'init {config.init}: is no Show and Tell model; give one, or "random"')
        tokenizer, model = load_tokenizer(config.init), load_model(ShowAndTell, config.init, **changes)
        _check_brought(show_and_tell, model.config, config.init)
    model.freeze_encoder(show_and_tell.freeze_encoder, show_and_tell.batch_norm, show_and_tell.batch_norm_momentum)
    # While the encoder is trained, no store of its outputs can be right
    model.config.region_fingerprint = (
        fingerprint_of(model.encoder.detector().fingerprint()) if show_and_tell.freeze_encoder else ""
    )
    return tokenizer, model


def _tokenizer(config: TrainConfig, captions: Sequence[str]) -> PreTrainedTokenizerFast:
    """Of words, or of BERT's word pieces."""
    if config.show_and_tell.vocabulary == "words":
        return word_tokenizer(captions, config.show_and_tell.least_count)
    whole, pieces = load_tokenizer(bert_folder("minilm")), config.model.vocabulary
    return cut_tokenizer(whole, read_pieces(pieces), pieces)[0] if pieces else whole


def captioned_pictures(config: TrainConfig, examples: Sequence[CaptionExample], model: ShowAndTell) -> CaptionPictures:
    """The training pictures, as outputs of the frozen encoder or as pixels; the model gets its statistics of them."""
    data, show_and_tell = config.data, config.show_and_tell
    if show_and_tell.freeze_encoder and data.regions:
        store: RegionStore | PictureStore = encoder_outputs(model, data.regions, examples, data.pictures)
        pictures = CaptionPictures(examples, store, TagSource("none"), data.region_dropout, config.seed)
    else:
        store = PictureStore.of(examples, data.pictures, model.reader())
        pictures = CaptionedPixels(examples, store, config.seed, show_and_tell.augment)
    model.check_store(store)
    if config.init == "random" and show_and_tell.standardise_features:
        if isinstance(store, RegionStore):
            sample = store.sample_features(pictures.image_ids)
        else:
            detector, ids = model.encoder.detector(), pictures.image_ids[:: max(1, len(pictures) // 1000)]
            sample = np.concatenate([detector.detect([store.open(i)])[0].features for i in ids]).astype(np.float32)
        model.set_statistics(torch.from_numpy(sample))
    return pictures


def encoder_outputs(
    model: ShowAndTell, path: str | Path, examples: Sequence[CaptionExample], folder: str
) -> RegionStore:
    """The RegionStore at `path` of what the model's encoder says of these pictures; what is missing is computed now.

    Args:
        folder: of the picture files; may be "" where nothing is missing.

    Raises:
        UserError: pictures are missing and there is no folder, or several processes would all compute them.
    """
    path = Path(path)
    store = RegionStore(path) if (path / MANIFEST).is_file() else None
    missing = [e for e in examples if store is None or e.image_id not in store]
    if not missing and store is not None:
        return store
    if not folder:
        raise UserError(f"{path}: has no outputs of the encoder for {len(missing)} pictures; give data.pictures, too")
    if launched():
        raise UserError(
            f"{path}: lacks {len(missing)} pictures, and the processes of a launcher do not compute them; start the "
            "same command once without it, or pretrain/extract_regions.py --detector whole:... with it"
        )
    if store is not None:
        model.check_store(store)
    files = files_of(missing, folder)
    extract_regions(list(files.values()), path, model.encoder.detector(), image_ids=list(files))
    return RegionStore(path)


def make_outputs(config: TrainConfig) -> None:
    """The outputs of the frozen encoder that a run of `config` would compute first, of validation pictures too."""
    examples, data = training_examples(config), config.data
    _, model = starting_model(config, [caption for e in examples for caption in e.captions])
    encoder_outputs(model, data.regions, examples, data.pictures)
    if data.validation_references and data.validation_regions:
        folder = data.validation_pictures or data.pictures
        encoder_outputs(model, data.validation_regions, read_nocaps(data.validation_references), folder)


def sentence_task(
    config: TrainConfig, data: CaptionPictures, tokenizer: PreTrainedTokenizerFast, model: ShowAndTell
) -> Task:
    """Predict each word of captions from the picture and the words before it."""
    most = config.show_and_tell.scheduled_sampling
    collator = SentenceCollator(
        tokenizer, model.config.max_caption_tokens, config.seed, config.data.captions_per_picture, most > 0
    )
    scheduled = ScheduledSampling(Schedule.of(config, len(data)), most) if most else as_it_is
    return Task(
        data, collator, caption_loss_of(config), prepare=_one_after_another(drop_worst_of(config, len(data)), scheduled)
    )


def _one_after_another(first: Prepare, second: Prepare) -> Prepare:
    def both(model: PreTrainedModel, batch: Batch, step: int) -> Batch:
        return second(model, first(model, batch, step), step)

    return both


def sampled_task(
    config: TrainConfig, data: CaptionPictures, tokenizer: PreTrainedTokenizerFast, model: ShowAndTell
) -> Task:
    """Make sampled captions of high reward more likely (vivo/training/self_critical.py)."""
    scst = config.scst
    tokens = min(scst.max_tokens, model.config.max_caption_tokens - 1)
    table = DocumentFrequencies.load(scst.frequencies) if scst.frequencies else None
    reward = CaptionReward((e.captions for e in data.examples), table, scst.frequencies)
    prepare = SelfCritical(tokenizer, reward, data.image_ids, scst.baseline, recurrent_captions)
    return Task(data, PictureSampleCollator(config.seed, scst.samples, tokens), scst_loss, prepare=prepare)


def training_examples(config: TrainConfig) -> Sequence[CaptionExample]:
    """The captioned pictures of `data.examples`."""
    return read_caption_examples(config.data.examples)


def validation_of(
    config: TrainConfig, tokenizer: PreTrainedTokenizerFast, model: ShowAndTell, accelerator: Accelerator
) -> CaptionValidation | None:
    """From `data.validation_*`; None where the run has no captions to validate."""
    data = config.data
    if not data.validation_references:
        return None
    examples = read_nocaps(data.validation_references)
    folder = data.validation_pictures or data.pictures
    if data.validation_regions and model.config.encoder_frozen:
        store: RegionStore | PictureStore = encoder_outputs(model, data.validation_regions, examples, folder)
    else:
        store = PictureStore.of(examples, folder, model.reader())
    model.check_store(store)
    files = {e.image_id: e.file_name for e in examples}
    table = TableWriter(Path(config.out), store, files, data.validation_pictures)
    return CaptionValidation(store, examples, TagSource("none"), accelerator, tokenizer, DecodeConfig(), table)
