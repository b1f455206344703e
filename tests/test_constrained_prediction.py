"""Constrained search over the model: cached steps, traces, the files of a prediction, what is refused."""

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from test_modeling import UncachedStep, small_context, small_model

from vivo.config import DecodeConfig, load_eval_config
from vivo.constrained_prediction import ConstrainedCaptions, constrained_batch, continuing_pieces, summary_of
from vivo.data.class_forms import ClassWords
from vivo.data.nocaps import read_pictures
from vivo.data.predictions import constraints_path, n_best_path
from vivo.data.regions import RegionStore
from vivo.data.text import TagPieces, load_tokenizer
from vivo.data.types import Regions
from vivo.decoding.constrained import constrained_beam_search
from vivo.decoding.machine import ConstraintMachine
from vivo.errors import UserError
from vivo.modeling import VivoConfig, VivoForCaptioning
from vivo.prediction import caption_batch
from vivo.split_prediction import predict_split
from vivo.training.checkpoint import save_model
from vivo.weights import bert_folder


@torch.no_grad()
@pytest.mark.parametrize("beam", [1, 3])
def test_over_the_model_with_its_cache_and_without(beam: int):
    """Beams come and go from step to step; the cache follows. Pictures with 2, 0 and 1 constraints."""
    model, context = small_model(seed=1, training_stage="captions"), small_context(1)
    continues = frozenset(range(40, 50))
    machines = [
        ConstraintMachine([[(7,), (8, 41)], [(9, 10, 11)]], continues),
        ConstraintMachine([], continues),
        ConstraintMachine([[(12, 42)]], continues),
    ]
    decode = DecodeConfig(beam=beam, max_tokens=8)
    cached = constrained_batch(model, context, machines, decode)
    slow = constrained_beam_search(UncachedStep(model, context), machines, 1, 2, beam, 8)
    for one, two in zip(cached, slow, strict=True):
        assert [h.tokens for h in one.hypotheses] == [h.tokens for h in two.hypotheses]
        assert [h.score for h in one.hypotheses] == pytest.approx([h.score for h in two.hypotheses], abs=1e-4)
        assert not one.fell_back
    plain = caption_batch(model, context, decode)[1]
    assert [h.tokens for h in cached[1].hypotheses] == [h.tokens for h in plain]
    assert len(machines[0].written(cached[0].hypotheses[0].tokens)) >= 2
    assert 12 in cached[2].hypotheses[0].tokens


def noise(pieces: int, **more) -> VivoForCaptioning:
    """A captioner that has learned nothing."""
    torch.manual_seed(0)
    shape = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}
    return VivoForCaptioning(VivoConfig(vocab_size=pieces, training_stage="captions", **shape, **more)).eval()


@pytest.fixture(scope="module")
def captioner(tiny_world: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Its checkpoint, for the tiny world's features."""
    tokenizer = load_tokenizer(bert_folder("minilm"))
    store = RegionStore(tiny_world / "regions" / "nocaps")
    folder = tmp_path_factory.mktemp("captioner")
    known = {"feature_size": store.feature_size, "region_fingerprint": store.fingerprint}
    save_model(folder, noise(len(tokenizer), **known), tokenizer)
    return folder


def test_predictions_with_their_trace(tiny_world: Path, captioner: Path, tmp_path: Path):
    """A model that knows nothing names what the detector saw all the same; the trace tells which word is whose."""
    store = RegionStore(tiny_world / "regions" / "nocaps")
    ids = [e.image_id for e in read_pictures(tiny_world / "world" / "nocaps" / "nocaps_val_captions.json")][:6]
    decode = DecodeConfig(
        beam=2, max_tokens=12, constraints="detector",
        constraint_classes=str(tiny_world / "world" / "classes.json"), batch_size=4,
    )  # fmt: skip
    out = tmp_path / "predictions.json"
    captions = predict_split(captioner, store.path, ids, "detector", decode, out)
    header = json.loads((tmp_path / "predictions.header.json").read_text())
    traces = {t["image_id"]: t for t in map(json.loads, constraints_path(out).read_text().splitlines())}
    assert list(traces) == ids and sum(len(t["constraints"]) for t in traces.values()) > 3
    tokenizer = load_tokenizer(captioner)
    for image_id, trace in traces.items():
        assert trace["caption"] == captions[image_id] and not trace["fell_back"]
        assert trace["needed"] == min(2, len(trace["constraints"])) <= trace["satisfied"]
        named = [c for c in trace["constraints"] if c["satisfied"]]
        assert len(named) == trace["satisfied"]
        seen = {label.lower() for label in store[image_id].labels}
        for constraint in named:
            assert constraint["detected"] in seen and constraint["written"] in f" {captions[image_id]} "
            first, stop = constraint["tokens"]
            assert stop - first == len(TagPieces(tokenizer)(constraint["written"]))
    assert header["decode"] == dataclasses.asdict(decode)
    counted = header["constraints"]
    assert counted["constraints"] == sum(len(t["constraints"]) for t in traces.values())
    assert counted["satisfied"] == sum(t["satisfied"] for t in traces.values()) and counted["fell_back"] == 0
    assert sum(counted["pictures_by_constraints"].values()) == 6
    plain = DecodeConfig(beam=2, max_tokens=3)
    captions = predict_split(captioner, store.path, ids, "detector", plain, out, n_best=2)
    assert not constraints_path(out).exists()  # the trace of other captions
    rows = [json.loads(line) for line in n_best_path(out).read_text().splitlines()]
    records = {record["image_id"]: record for record in json.loads(out.read_text())}
    assert [row["image_id"] for row in rows] == ids
    for row in rows:
        best, second = row["captions"]
        assert best["caption"] == captions[row["image_id"]] and best["score"] == records[row["image_id"]]["score"]
        assert best["score"] >= second["score"]
        for one in (best, second):
            assert len(one["pieces"]) == len(one["token_log_probabilities"])
            assert sum(one["token_log_probabilities"]) == pytest.approx(one["log_probability"])
    predict_split(captioner, store.path, ids[:1], "detector", plain, out)
    assert not n_best_path(out).exists()


def test_a_caption_that_is_too_short_for_its_words_says_so():
    """One token is not enough for two constraints."""
    words = ClassWords({"dog": ["dog"], "cat": ["cat"]})
    regions = Regions(
        np.array([[0, 0, 9, 9], [20, 0, 29, 9]], np.float32), np.zeros((2, 1), np.float16), ["dog", "cat"],
        np.array([0.9, 0.8], np.float32), 100, 100,
    )  # fmt: skip
    decode = DecodeConfig(beam=2, max_tokens=1, constraints="detector")
    tokenizer = load_tokenizer(bert_folder("minilm"))
    search = ConstrainedCaptions(tokenizer, lambda _: regions, words, decode)
    search(noise(len(tokenizer), feature_size=10), small_context(pictures=1), ["a"])
    trace = search.traces["a"]
    assert trace["fell_back"] and (trace["needed"], trace["satisfied"]) == (2, 1)
    assert sorted(c["written"] for c in trace["constraints"]) in (["", "cat"], ["", "dog"])
    assert summary_of(search.traces.values()) == {
        "pictures_by_constraints": {"2": 1}, "constraints": 2, "satisfied": 1, "fell_back": 1,
    }  # fmt: skip


def test_continuing_pieces_are_those_with_two_hashes():
    tokenizer = load_tokenizer(bert_folder("minilm"))
    continues = continuing_pieces(tokenizer)
    ids = tokenizer("snowboarding", add_special_tokens=False)["input_ids"]
    assert len(continues) == 5828 and tokenizer.sep_token_id not in continues
    assert [i in continues for i in ids] == [p.startswith("##") for p in tokenizer.convert_ids_to_tokens(ids)]


def test_bad_inputs_are_refused_in_one_line(tiny_world: Path, captioner: Path, tmp_path: Path):
    store = RegionStore(tiny_world / "regions" / "nocaps")
    tokenizer = load_tokenizer(captioner)
    ids = list(store.image_ids)[:3]
    other = str(tiny_world / "regions" / "coco")
    with pytest.raises(UserError, match=r"coco: lacks 3 of the 3 pictures to caption \(first: "):
        decode = DecodeConfig(constraints="detector", constraint_regions=other)
        ConstrainedCaptions.open(tokenizer, store, ["none-1", "none-2", "none-3"], decode)
    with pytest.raises(
        UserError, match="names nothing that could be a constraint in .* give decode.constraint_regions"
    ):
        ConstrainedCaptions.open(tokenizer, store, ids, DecodeConfig(constraints="detector", constraint_score=1.0))
    with pytest.raises(UserError, match="cannot be read"):
        decode = DecodeConfig(constraints="detector", constraint_classes=str(tmp_path / "no.csv"))
        ConstrainedCaptions.open(tokenizer, store, ids, decode)


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (["decode.constraint_classes=c.json"], "decode.constraint_classes: is for decode.constraints: detector"),
        (["decode.constraint_regions=r"], "decode.constraint_regions: is for decode.constraints: detector"),
        (["decode.constraints=detector", "decode.constraint_hierarchy=h"], "give decode.constraint_classes, their na"),
        (["decode.constraints=detector", "decode.beam=4", "decode.groups=2"], "are two searches; choose one"),
        (["decode.constraints=detect"], "'detect' is none of none, detector; the nearest is detector"),
        (["decode.constraints_at_most=0"], "must be from 1 to 40, not 0"),
        (["decode.constraints=detector", "decode.beam=5", "decode.constraints_at_most=11"], "up to 10,240 hypotheses"),
        (["decode.min_tokens=21"], "decode.min_tokens: 21 is more than decode.max_tokens: 20"),
        (["decode.diversity=0.5"], "is for decode.groups of 2 or more"),
        (["decode.length_penalty=9999"], "must be from 0 to 10"),
    ],
)
def test_configurations_that_contradict_themselves(overrides: list[str], words: str):
    path = Path(__file__).parents[1] / "configs" / "eval" / "world.yaml"
    with pytest.raises(UserError, match=words):
        load_eval_config(path, overrides)


def test_a_model_without_probabilities_is_told_in_one_line():
    model, context = small_model(), small_context()
    with torch.no_grad():
        model.head.bias.fill_(torch.nan)
    with pytest.raises(UserError, match="no caption was found: the model gives no token a probability"):
        caption_batch(model, context, DecodeConfig(beam=3, max_tokens=8))
    tokenizer = load_tokenizer(bert_folder("minilm"))
    nothing = Regions(
        np.zeros((1, 4), np.float32), np.zeros((1, 1), np.float16), [""], np.ones(1, np.float32), 9, 9
    )  # fmt: skip
    search = ConstrainedCaptions(tokenizer, lambda _: nothing, ClassWords(), DecodeConfig(beam=3, max_tokens=8))
    with pytest.raises(UserError, match="no caption was found"):
        search(model, context, ["a", "b", "c"])
