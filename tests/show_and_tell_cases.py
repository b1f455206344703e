"""A small Show and Tell model, pictures and captions for the tests of it."""

from pathlib import Path

import numpy as np
import torch
from PIL import Image
from transformers import PreTrainedTokenizerFast

from vivo.show_and_tell.model_config import ShowAndTellConfig
from vivo.show_and_tell.modeling import ShowAndTell
from vivo.show_and_tell.pictures import PictureReader, Pixels
from vivo.show_and_tell.words import word_tokenizer

ENCODER = "tf_efficientnet_lite0/2"  # stem and three blocks
SIZE = 64
CAPTIONS = [["a dog on the grass .", "a dog"], ["a red car .", "one car"], ["two cats on a bed .", "cats"]]


def small_tokenizer() -> PreTrainedTokenizerFast:
    """Every word of the captions."""
    return word_tokenizer([caption for row in CAPTIONS for caption in row], 1)


def small_model(words: int | None = None, seed: int = 0, spread: float = 0.3, **more) -> ShowAndTell:
    """Random weights, large enough that nothing agrees by chance."""
    torch.manual_seed(seed)
    shape = {
        "vocab_size": words or len(small_tokenizer()), "encoder": ENCODER, "feature_size": 24, "picture_size": SIZE,
        "picture_resize": SIZE, "embedding_size": 12, "lstm_size": 10, "dropout": 0.0, "max_caption_tokens": 12,
        "training_stage": "captions",
    }  # fmt: skip
    config = ShowAndTellConfig(**shape | more)
    model = ShowAndTell(config)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if not name.startswith("encoder.") and name != "lstm.bias_hh_l0":
                parameter.add_(spread * torch.randn_like(parameter))
        for module in model.encoder.modules():  # as after some training
            if isinstance(module, torch.nn.BatchNorm2d):
                module.running_mean.normal_(0, 0.2)
                module.running_var.uniform_(0.5, 2.0)
                module.weight.uniform_(0.5, 1.5)
                module.bias.normal_(0, 0.2)
    return model.eval()


def noise(seed: int, width: int = 70, height: int = 50) -> Image.Image:
    """A picture of large coloured patches."""
    rng = np.random.default_rng(seed)
    return Image.fromarray(rng.integers(0, 256, (5, 6, 3), dtype=np.uint8)).resize((width, height))


def noise_pixels(count: int = 3) -> list[Pixels]:
    """Of `noise` 0 .. count - 1."""
    return PictureReader(SIZE).detect([noise(seed) for seed in range(count)])


def write_pictures(folder: Path, count: int = 3) -> list[Path]:
    """PNG files of `noise`, 0.png and so on."""
    folder.mkdir(parents=True, exist_ok=True)
    files = [folder / f"{seed}.png" for seed in range(count)]
    for seed, file in enumerate(files):
        noise(seed).save(file)
    return files
