"""Tags that the pre-trained model writes itself."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from vivo.config import DecodeConfig, load_config
from vivo.data.collate import ContextCollator, Limits
from vivo.data.nocaps import read_nocaps
from vivo.data.tag_source import TagSource, read_tag_file
from vivo.data.text import TagPieces, load_tokenizer
from vivo.data.types import Regions
from vivo.errors import UserError
from vivo.modeling import VivoConfig, VivoForTagPretraining
from vivo.self_tagging import MOST_SLOTS, VOCABULARY, SelfTagger, best_threshold
from vivo.split_prediction import predict_split
from vivo.training.runs import finetune, pretrain
from vivo.weights import bert_folder

ROOT = Path(__file__).resolve().parents[1]
NAMES = ["dog", "hot dog", "cat", "teddy bear", "ice cream cone"]


def some_regions(count: int, seed: int) -> Regions:
    generator = np.random.default_rng(seed)
    boxes = np.tile(np.array([[0, 0, 50, 40]], np.float32), (count, 1))
    features = generator.normal(size=(count, 6)).astype(np.float16)
    return Regions(boxes, features, [""] * count, np.ones(count, np.float32), 100, 80)


@pytest.fixture(scope="module")
def tokenizer():
    return load_tokenizer(bert_folder("minilm"))


@pytest.fixture(scope="module")
def model(tokenizer) -> VivoForTagPretraining:
    torch.manual_seed(0)
    config = VivoConfig(
        vocab_size=len(tokenizer), hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=32,
        feature_size=6, max_tag_tokens=9, training_stage="tags",
    )  # fmt: skip
    made = VivoForTagPretraining(config)
    with torch.no_grad():  # the usual small start makes all probabilities alike
        for parameter in made.parameters():
            parameter.normal_(std=0.3)
    return made.eval()


@torch.no_grad()
def test_scores_are_those_of_all_masked_slots(model, tokenizer):
    """By hand: a batch of one, [MASK] slots with a gap between them, softmax over the pieces of tags."""
    pictures = [some_regions(3, 0), some_regions(1, 1)]
    scores = SelfTagger(model, tokenizer, NAMES).scores(pictures)
    pieces = TagPieces(tokenizer)
    used = sorted({p for name in NAMES for p in pieces(name)})
    offset = model.config.tag_position_offset
    collator = ContextCollator(tokenizer, Limits.of(model.config))
    for row, regions in enumerate(pictures):
        for column, name in enumerate(NAMES):
            size = len(pieces(name))
            slots = min(MOST_SLOTS, 9 // size)
            batch = collator([("", [], regions)])
            batch["tag_ids"] = torch.full((1, slots * size), tokenizer.mask_token_id)
            batch["tag_positions"] = torch.tensor([[offset + s * (size + 1) + i for s in range(slots)
                                                    for i in range(size)]])  # fmt: skip
            batch["tag_mask"] = torch.ones(1, slots * size, dtype=torch.bool)
            p = model.logits(model.encode_context(batch).hidden[0, : slots * size])[:, used].softmax(-1)
            absent = 1.0
            for s in range(slots):
                written = 1.0
                for i, piece in enumerate(pieces(name)):
                    written *= float(p[s * size + i, used.index(piece)])
                absent *= 1 - written
            assert scores[row, column] == pytest.approx(1 - absent, abs=1e-5)


def test_tags_clear_the_threshold_of_their_length(model, tokenizer):
    tagger = SelfTagger(model, tokenizer, NAMES)
    regions = [some_regions(2, seed) for seed in range(5)]
    scores = tagger.scores(regions)
    tagger.thresholds = {n: float(np.median(scores[:, tagger.lengths == n])) for n in tagger.sizes}
    assert tagger.lengths.tolist() == [1, 2, 1, 2, 3]
    for row, found in zip(scores, tagger.tags(regions), strict=True):
        bars = [tagger.thresholds[n] for n in tagger.lengths.tolist()]
        expected = {n for n, s, bar in zip(NAMES, row, bars, strict=True) if s >= bar}
        assert {name for name, _ in found} == expected
        ratios = [score / bars[NAMES.index(name)] for name, score in found]
        assert ratios == sorted(ratios, reverse=True)


@given(st.lists(st.tuples(st.sampled_from([0.0, 0.1, 0.25, 0.5, 0.9, 1.0]), st.booleans()), max_size=12))
def test_best_threshold_equals_trying_all(pairs: list[tuple[float, bool]]):
    scores, truth = np.array([s for s, _ in pairs]), np.array([t for _, t in pairs], dtype=bool)

    def f1(bar: float) -> float:
        said = scores >= bar
        return 2 * (said & truth).sum() / max(1, said.sum() + truth.sum())

    found = best_threshold(scores, truth)
    if not truth.any():
        assert found > 1
    else:
        assert found in scores and f1(found) == max(f1(bar) for bar in scores)


def test_what_is_no_tagger_is_refused(model, tokenizer, tmp_path: Path):
    with pytest.raises(UserError, match="no tag name to choose from"):
        SelfTagger(model, tokenizer, [])
    with pytest.raises(UserError, match=f"{VOCABULARY}: no readable tag vocabulary"):
        SelfTagger.from_pretrained(tmp_path)
    captioner = VivoForTagPretraining(VivoConfig(**{**model.config.to_dict(), "training_stage": "captions"}))
    with pytest.raises(UserError, match='is of stage "captions"'):
        SelfTagger(captioner, tokenizer, NAMES)


def test_save_and_load(model, tokenizer, tmp_path: Path):
    tagger = SelfTagger(model, tokenizer, NAMES, {1: 0.1, 2: 0.2, 3: 0.3})
    tagger.save_pretrained(tmp_path)
    again = SelfTagger.from_pretrained(tmp_path)
    assert (again.names, again.thresholds) == (NAMES, {1: 0.1, 2: 0.2, 3: 0.3})
    pictures = [some_regions(3, 0)]
    assert np.array_equal(again.scores(pictures), tagger.scores(pictures))


def test_a_tag_file_must_name_every_picture(tmp_path: Path):
    path = tmp_path / "tags.jsonl"
    path.write_text('{"image_id": "a", "tags": ["Dog", "dog", "cat"]}\n{"image_id": "b", "tags": []}\n')
    source = read_tag_file(path)
    assert source("a", ["cow"], None) == ["dog", "cat"] and source("b", ["cow"], None) == []
    with pytest.raises(UserError, match=r"1 pictures have no line in the tag file \(first: c\)"):
        source.check(["a", "c"])
    assert TagSource("none")("a", ["cow"], some_regions(1, 0)) == []


@pytest.mark.slow
def test_from_pre_training_to_captions_on_tags_of_its_own(tiny_world: Path, tmp_path: Path):
    """The model folder of pre-training tags fine-tuning and evaluation pictures; the captioner carries it along."""
    few = ("optim.duration=3 steps", "optim.warmup=1 steps", "optim.batch_size=8", "optim.precision=fp32")
    common = ("data.validation_references=", "data.validation_regions=", "tracking.validate_every=")
    start = pretrain(load_config(ROOT / "configs" / "world.yaml", [
        f"out={tmp_path / 'pre'}", f"data.regions={tiny_world / 'regions' / 'open_images'}",
        f"data.examples={tiny_world / 'examples' / 'tags.jsonl'}",
        f"model.vocabulary={tiny_world / 'examples' / 'vocabulary.txt'}", *few,
    ]))  # fmt: skip
    vocabulary = json.loads((start / VOCABULARY).read_text())
    assert "hot dog" in vocabulary["names"] and set(vocabulary["thresholds"]) == {"1", "2", "3"}
    captioner = finetune(load_config(ROOT / "configs" / "finetune" / "world.yaml", [
        f"out={tmp_path / 'fine'}", f"init={start}", f"data.regions={tiny_world / 'regions' / 'coco'}",
        f"data.examples={tiny_world / 'examples' / 'captions.jsonl'}", "data.tags=self", *few, *common,
    ]))  # fmt: skip
    assert (captioner / "tagger" / VOCABULARY).read_text() == (start / VOCABULARY).read_text()
    references = read_nocaps(tiny_world / "world" / "nocaps" / "nocaps_val_captions.json")
    ids = [e.image_id for e in references][:6]
    store = tiny_world / "regions" / "nocaps"
    own = predict_split(captioner, store, ids, "self", DecodeConfig(), tmp_path / "p" / "predictions.json")
    assert list(own) == ids
    header = json.loads((tmp_path / "p" / "predictions.header.json").read_text())
    assert header["tags"] == "self"
