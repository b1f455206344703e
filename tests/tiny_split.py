"""A split to caption that is made in a second: regions of random numbers, and a captioner that has learned nothing."""

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from vivo.data.regions import RegionStore, RegionStoreWriter
from vivo.data.text import load_tokenizer
from vivo.data.types import Regions
from vivo.modeling import VivoConfig, VivoForCaptioning, VivoForTagPretraining
from vivo.self_tagging import SelfTagger
from vivo.training.checkpoint import save_model
from vivo.weights import bert_folder

NAMES = ("dog", "cat", "zebra", "traffic light", "mouse", "")
SIZE = 8


def make_store(path: Path, image_ids: Sequence[str], names: Sequence[str] = NAMES, detector: str = "random") -> Path:
    """One to four regions a picture, named by chance."""
    rng = np.random.default_rng(0)
    with RegionStoreWriter(path, {"name": detector}, SIZE) as writer:
        for image_id in image_ids:
            count = int(rng.integers(1, 5))
            corners = np.sort(rng.uniform(0, 90, (count, 2, 2)), axis=1).reshape(-1, 4).astype(np.float32)
            labels = [names[k] for k in rng.integers(0, len(names), count)]
            scores = np.sort(rng.uniform(0.1, 1, count).astype(np.float32))[::-1]
            features = rng.standard_normal((count, SIZE)).astype(np.float16)
            writer.write(image_id, Regions(corners, features, labels, scores, 100, 100))
    return path


def make_captioner(folder: Path, store: Path, **more: object) -> Path:
    """A model folder for the features of `store`, with a tagger/ that tags = self needs."""
    torch.manual_seed(0)
    tokenizer, regions = load_tokenizer(bert_folder("minilm")), RegionStore(store)
    shape = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}
    known = {"feature_size": SIZE, "region_fingerprint": regions.fingerprint, "vocab_size": len(tokenizer)}

    def made(kind: type, stage: str):
        model = kind(VivoConfig(training_stage=stage, **shape, **known, **more)).eval()
        with torch.no_grad():  # the usual small start makes all words and all pictures alike
            for parameter in model.parameters():
                if parameter.dim() > 1:
                    parameter.normal_(std=0.3)
        return model

    folder.mkdir(parents=True)
    save_model(folder, made(VivoForCaptioning, "captions"), tokenizer)
    tagger = SelfTagger(made(VivoForTagPretraining, "tags"), tokenizer, ["dog", "hot dog", "cat", "kite"])
    tagger.thresholds = dict.fromkeys(tagger.sizes, 0.001)
    (folder / "tagger").mkdir()
    tagger.save_pretrained(folder / "tagger")
    return folder


def make_info(path: Path, image_ids: Sequence[str]) -> Path:
    """A list of pictures as nocaps' image info has it, without captions."""
    images = [{"id": int(i), "open_images_id": f"{int(i):016x}", "file_name": f"{int(i):016x}.jpg"} for i in image_ids]
    path.write_text(json.dumps({"licenses": [], "info": {}, "images": images}))
    return path
