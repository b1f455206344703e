"""The habits of transformers: auto classes after `import vivo`, processor, generate, and the card of a saved model."""

import json
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from PIL import Image

from vivo.config import DecodeConfig
from vivo.data.collate import Limits
from vivo.data.text import decode_caption, load_tokenizer
from vivo.data.types import Regions
from vivo.detectors.base import load_detector
from vivo.errors import UserError
from vivo.model_card import CardFacts, facts_of_run, model_card, relicensed, write_card
from vivo.model_config import VivoConfig
from vivo.modeling import VivoForCaptioning
from vivo.prediction import caption_batch
from vivo.processing import VivoProcessor
from vivo.training.checkpoint import save_model
from vivo.weights import bert_folder

SHAPE = {
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 24,
    "feature_size": 6,
}


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model folder with a card; its weights are random."""
    folder = tmp_path_factory.mktemp("saved")
    torch.manual_seed(0)
    model = VivoForCaptioning(VivoConfig(**SHAPE, training_stage="captions", region_fingerprint="0123456789abcdef"))
    save_model(folder, model, load_tokenizer(bert_folder("minilm")))
    write_card(folder, model.config, CardFacts(seed=3))
    return folder


def regions(seed: int, count: int) -> Regions:
    random = np.random.default_rng(seed)
    boxes = np.sort(random.uniform(0, 50, (count, 2, 2)), axis=1).reshape(-1, 4).astype(np.float32)
    features = random.standard_normal((count, 6)).astype(np.float16)
    return Regions(boxes, features, ["dog"] * count, np.ones(count, np.float32), 60, 50)


@pytest.mark.parametrize("order", ["vivo first", "vivo last"])
def test_auto_classes_know_the_models_in_any_order_of_imports(order: str, saved: Path):
    names = "AutoConfig, AutoModel, AutoModelForImageTextToText, AutoModelForPreTraining, AutoProcessor, AutoTokenizer"
    theirs = f"from transformers import {names}"
    imports = {
        "vivo first": ["import vivo", theirs],
        "vivo last": [theirs, "import vivo"],
    }[order]
    code = f"""
d = {str(saved)!r}
print(type(AutoConfig.from_pretrained(d)).__name__)
for auto in (AutoModel, AutoModelForPreTraining, AutoModelForImageTextToText, AutoProcessor, AutoTokenizer):
    print(type(auto.from_pretrained(d)).__name__)
"""
    done = subprocess.run(
        [sys.executable, "-c", "\n".join(imports) + code], capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    expected = ["VivoConfig", "VivoModel", "VivoForPretraining", "VivoForCaptioning", "VivoProcessor"]
    assert done.stdout.split()[:5] == expected


def test_importing_vivo_alone_loads_no_library():
    code = "import sys, vivo, vivo.cli; print([m for m in ('torch', 'transformers', 'numpy') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.stdout.strip() == "[]", done.stderr


def test_processor_generate_and_decode_are_what_prediction_does(saved: Path, tmp_path: Path):
    from transformers import AutoModelForImageTextToText, AutoProcessor

    processor, model = AutoProcessor.from_pretrained(saved), AutoModelForImageTextToText.from_pretrained(saved)
    batch = processor(regions=[regions(0, 3), regions(1, 5)])
    assert batch["region_mask"].sum(dim=1).tolist() == [3, 5]
    assert batch["tag_ids"].tolist() == [[processor.tokenizer.convert_tokens_to_ids("dog")]] * 2
    for beams in (1, 3):
        ids = model.generate(**batch, num_beams=beams, max_new_tokens=6)
        found = caption_batch(model, batch, DecodeConfig(beam=beams, max_tokens=6))
        expected = [decode_caption(processor.tokenizer, h[0].tokens) for h in found]
        assert processor.batch_decode(ids) == expected and any(expected)
        assert ids.shape[1] == max(len(h[0].tokens) for h in found) + 1
    with pytest.raises(UserError, match="give regions="):
        processor("photo.jpg")
    with pytest.raises(UserError, match="no config.json"):
        VivoProcessor.from_pretrained(tmp_path)


def test_generate_refuses_what_it_does_not_have_and_knows_other_names(saved: Path):
    model = VivoForCaptioning.from_pretrained(saved)
    batch = VivoProcessor.from_pretrained(saved)(regions=[regions(0, 3)])
    with pytest.raises(UserError, match="^generate: has no do_sample, max_length; its options are num_beams, max_new"):
        model.generate(**batch, do_sample=True, max_length=3)
    with pytest.raises(UserError, match="decode.beam: must be 1 or more, not 0"):
        model.generate(**batch, num_beams=0)
    options = {"num_beams": 4, "min_new_tokens": 3, "length_penalty": 0.0, "no_repeat_ngram_size": 1}
    ids = model.generate(**batch, **options, max_new_tokens=6, num_beam_groups=2, diversity_penalty=0.5)
    ours = DecodeConfig(beam=4, max_tokens=6, min_tokens=3, length_penalty=0.0, no_repeat=1, groups=2, diversity=0.5)
    assert ids[0, :-1].tolist() == caption_batch(model, batch, ours)[0][0].tokens
    assert ids[0].tolist() != model.generate(**batch, max_new_tokens=6)[0].tolist()


@pytest.mark.parametrize("beside_a_model", [False, True])
def test_a_saved_processor_is_the_same_one(beside_a_model: bool, saved: Path, tmp_path: Path):
    from transformers import AutoModelForImageTextToText, AutoProcessor

    detector = load_detector("grid")
    limits = Limits(max_regions=7, max_tag_tokens=3, max_caption_tokens=9, tag_position_offset=11, tags_as_text=True)
    processor = VivoProcessor(load_tokenizer(saved), asdict(limits), detector)
    if beside_a_model:
        model = AutoModelForImageTextToText.from_pretrained(saved)
        for name, value in asdict(limits).items():
            setattr(model.config, name, value)
        model.save_pretrained(tmp_path)
    processor.save_pretrained(tmp_path)
    again = AutoProcessor.from_pretrained(tmp_path)
    picture = Image.effect_noise((60, 40), 90).convert("RGB")
    batch, expected = again([picture], return_tensors="pt"), processor([picture])
    assert batch["region_mask"].sum() > 1 and batch.keys() == expected.keys()
    for name, value in expected.items():
        assert torch.equal(batch[name], value) if isinstance(value, torch.Tensor) else batch[name] == value
    told = [regions(0, 9)]
    assert again(regions=told)["region_mask"].shape[1] == 7
    with pytest.raises(UserError, match="return_tensors is 'np'"):
        again(regions=told, return_tensors="np")
    if not beside_a_model:
        (tmp_path / "processor_config.json").write_text('{"limits": {"max_regions": 3}}')
        with pytest.raises(UserError, match="no limits of a processor"):
            VivoProcessor.from_pretrained(tmp_path)


def front_matter(card: str) -> dict[str, object]:
    """The metadata that a hub reads."""
    assert card.startswith("---\n")
    return yaml.safe_load(card.split("---\n")[1])


def test_card_of_a_run_tells_what_the_run_left(tmp_path: Path):
    settings = {
        "objective": "captions",
        "init": "/home/someone/runs/vivo/model",
        "seed": 7,
        "data": {"examples": "/home/someone/captions.jsonl", "workers": 2},
    }
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(settings))
    (tmp_path / "environment.json").write_text(json.dumps({"commit": "abc1234+"}))
    inputs = {
        "regions": {"path": "/home/someone/regions", "fingerprint": "feedbeef"},
        "examples": {"path": "/home/someone/captions.jsonl", "sha256": "12ab"},
    }
    (tmp_path / "inputs.json").write_text(json.dumps(inputs))
    records = [{"step": 5, "loss": 2.0}, {"step": 5, "validation_CIDEr": 12.0}, {"step": 10, "validation_CIDEr": 55.5}]
    records[-1]["validation_alarms"] = ""
    (tmp_path / "metrics.jsonl").write_text("".join(f"{json.dumps(record)}\n" for record in records))
    card = model_card(
        VivoConfig(**SHAPE, training_stage="captions", region_fingerprint="feedbeef"), facts_of_run(tmp_path)
    )
    assert front_matter(card) == {
        "license": "other",
        "language": "en",
        "library_name": "vivo",
        "pipeline_tag": "image-to-text",
        "tags": ["vivo", "image-captioning"],
    }
    for told in (
        "| seed | 7 |",
        "`abc1234+`",
        "feedbeef",
        "12ab",
        "| CIDEr | 55.5 |",
        "after 10 updates",
        "workers: 2",
    ):
        assert told in card, told
    assert "someone" not in card and "captions.jsonl" in card and "12 |" not in card
    free = relicensed(card, "cc-by-sa-4.0", "de")
    assert front_matter(free)["license"] == "cc-by-sa-4.0" and front_matter(free)["language"] == "de"
    assert "## License" in card and "## License" not in free
    assert free.split("## Scores")[1].split("\n\n")[:2] == card.split("## Scores")[1].split("\n\n")[:2]
    assert "## Configuration" in free


@pytest.mark.parametrize("stage", ["", "tags", "pairs", "both"])
def test_card_of_a_model_that_cannot_caption_says_so(stage: str):
    card = model_card(VivoConfig(**SHAPE, training_stage=stage), CardFacts())
    assert "has not learned to caption yet" in card and "Captioner" not in card
    assert "image-captioning" not in front_matter(card)["tags"]
    assert "has not learned" not in model_card(VivoConfig(**SHAPE, training_stage="captions"), CardFacts())


def test_generate_of_a_model_that_has_not_learned_says_so(saved: Path, tmp_path: Path):
    VivoForCaptioning(VivoConfig(**SHAPE, training_stage="tags")).save_pretrained(tmp_path)
    model = VivoForCaptioning.from_pretrained(tmp_path)
    with pytest.raises(UserError, match=f"{tmp_path}: this model has not learned to caption yet"):
        model.generate(**VivoProcessor.from_pretrained(saved)(regions=[regions(0, 2)]))
