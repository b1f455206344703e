"""finetune/import_checkpoint.py: from a foreign folder and a store to captions, and what it refuses."""

import json
import math
from pathlib import Path

import numpy as np
import oscar_reference as reference
import pytest
import torch
from oscar_reference import Case

from finetune.import_checkpoint import main
from finetune.train import main as train
from vivo.config import DecodeConfig, load_config
from vivo.data.collate import box_positions
from vivo.data.region_format import sha256_of
from vivo.data.regions import RegionStore, RegionStoreWriter
from vivo.data.types import Regions
from vivo.errors import UserError
from vivo.modeling import VivoForCaptioning
from vivo.split_prediction import predict_split
from vivo.training.runs import starting_model
from vivo.training.tasks import caption_pictures
from vivo.weights import load_model

CASE = Case(8, tied=False, region_norm=True, tags=True, max_gen_length=12)
PIECES = 120
WORLD = Path(__file__).parents[1] / "configs" / "finetune" / "world.yaml"


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """A checkpoint as the original leaves it: vocab.txt, a pickle of tensors, a pickle of arguments."""
    folder = tmp_path / "checkpoint-1-2"
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(reference.configuration(CASE, PIECES)))
    torch.save(reference.random_weights(CASE, PIECES), folder / "pytorch_model.bin")
    words = ["[PAD]", "[CLS]", "[SEP]", "[MASK]", "[UNK]", *(f"w{n}" for n in range(5, PIECES))]
    (folder / "vocab.txt").write_text("\n".join(words) + "\n")
    (folder / "added_tokens.json").write_text("{}")
    (folder / "training_args.bin").write_bytes(b"whatever this is, it is not read")
    return folder


@pytest.fixture
def store(tmp_path: Path) -> Path:
    """Three pictures; the names of their regions repeat themselves."""
    random, path = np.random.default_rng(0), tmp_path / "store"
    with RegionStoreWriter(path, {"name": "vinvl"}, feature_size=8) as writer:
        for number, labels in enumerate((["w10", "w11 w12", "w10"], [""], ["w9"] * 5 + ["w20 w21"] * 2)):
            corners = np.sort(random.uniform(0, 60, (len(labels), 2, 2)), axis=1).reshape(-1, 4).astype(np.float32)
            features = random.standard_normal((len(labels), 8)).astype(np.float16)
            scores = np.linspace(1, 0.5, len(labels), dtype=np.float32)
            writer.write(f"p{number}", Regions(corners, features, labels, scores, 80, 60))
    return path


def told(regions: Regions) -> tuple[torch.Tensor, list[int]]:
    """What Oscar would read of the same picture: numbers of the regions, pieces of the tags."""
    numbers = [regions.features.astype(np.float32), box_positions(regions.boxes, regions.width, regions.height)]
    return torch.from_numpy(np.concatenate(numbers, axis=1)), [int(w[1:]) for w in " ".join(regions.labels).split()]


@pytest.mark.parametrize("beam", [1, 5])
def test_captions_of_a_store_are_those_of_the_plain_statement(
    beam: int, source: Path, store: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    digest = sha256_of(source / "pytorch_model.bin")
    lengths = ["--max-tag-tokens", str(CASE.tag_tokens), "--max-regions", str(CASE.regions)]
    out = tmp_path / "ours"
    assert main([str(source), str(out), "--regions", str(store), "--sha256", digest[:12], *lengths]) == 0
    printed = capsys.readouterr().out
    assert digest in printed and "detector vinvl" in printed and "nothing in a checkpoint can prove" in printed
    ids = list(RegionStore(store).image_ids)
    decode = DecodeConfig(beam=beam, max_tokens=CASE.max_gen_length - 1, conventions="oscar")
    found = predict_split(out, store, ids, "detector", decode, tmp_path / "predictions.json")
    state = reference.random_weights(CASE, PIECES)
    for image_id in ids:
        picture = told(RegionStore(store)[image_id])
        words, _ = reference.greedy(CASE, state, *picture) if beam == 1 else reference.beam(CASE, state, *picture, beam)
        assert found[image_id].split() == [f"w{w}" for w in words if w > 4]  # [UNK] and the like are not shown
    assert len(set(found.values())) > 1
    card = (out / "README.md").read_text()
    assert digest in card and RegionStore(store).fingerprint in card and str(tmp_path) not in card


def test_without_a_store_it_is_imported_and_reads_none(
    source: Path, store: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    assert main([str(source), str(tmp_path / "ours")]) == 0
    assert "so it reads no store" in capsys.readouterr().out
    with pytest.raises(UserError, match="nothing says which detector's features the model knows.*--regions"):
        predict_split(tmp_path / "ours", store, ["p0"], "none", DecodeConfig(), tmp_path / "predictions.json")


def test_a_pretrained_checkpoint_has_not_learned_to_caption(
    source: Path, store: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    state = reference.random_weights(CASE, PIECES)
    torch.save(state | {"cls.seq_relationship.weight": torch.zeros(2, 24)}, source / "pytorch_model.bin")
    assert main([str(source), str(tmp_path / "ours"), "--regions", str(store)]) == 0
    assert "has not learned to caption yet" in capsys.readouterr().out
    with pytest.raises(UserError, match="has not learned to caption yet"):
        predict_split(tmp_path / "ours", store, ["p0"], "none", DecodeConfig(), tmp_path / "predictions.json")
    assert "has not learned to caption yet" in (tmp_path / "ours" / "README.md").read_text()
    with pytest.raises(UserError, match="has not learned to caption yet"):
        load_model(VivoForCaptioning, tmp_path / "ours").generate()


def refused(source: Path, out: Path, capsys: pytest.CaptureFixture[str], *options: str) -> str:
    """The one line of an import that fails; nothing is written."""
    assert main([str(source), str(out), *options]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ") and error.count("\n") == 1 and not out.exists()
    return error


def test_what_is_refused_is_one_line(source: Path, store: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    out, state, config = tmp_path / "ours", reference.random_weights(CASE, PIECES), source / "config.json"
    right = json.loads(config.read_text())
    assert "SHA-256 is not" in refused(source, out, capsys, "--sha256", "0" * 64)
    assert "SHA-256 is not" in refused(source, out, capsys, "--sha256", sha256_of(source / "pytorch_model.bin")[:7])
    assert "no such folder" in refused(tmp_path / "nowhere", out, capsys)
    for change, words in (
        ({"img_feature_dim": None}, "no checkpoint of Oscar or VinVL"),
        ({"img_feature_type": "dis_code"}, "its regions are codes"),
        ({"tie_weights": True}, "differs from the word embeddings"),
        ({"use_img_layernorm": 0}, "holds LayerNorm.weight"),
        ({"hidden_act": "relu"}, "only BERTs with gelu"),
        ({"max_position_embeddings": 60}, "has 60 positions, 70 are asked for"),
        ({"num_hidden_layers": "two"}, "num_hidden_layers is 'two'; it must be a whole number"),
        ({"num_attention_heads": 0}, "num_attention_heads is 0; it must be"),
        ({"num_attention_heads": 7}, "hidden_size 24 cannot be shared by 7"),
        ({"hidden_dropout_prob": "x"}, "hidden_dropout_prob is 'x'; it must be a number from 0 to 1"),
        ({"img_layer_norm_eps": "x"}, "img_layer_norm_eps is 'x'; it must be"),
        ({"num_hidden_layers": 3}, "lacks encoder.layer.2."),
        ({"num_hidden_layers": 1}, "holds encoder.layer.1."),
    ):
        config.write_text(json.dumps(right | change))
        assert words in refused(source, out, capsys), change
    config.write_text(json.dumps({name: value for name, value in right.items() if name != "num_hidden_layers"}))
    assert "says no num_hidden_layers" in refused(source, out, capsys)
    config.write_text(json.dumps(right))
    for name, value, words in (
        ("cls.predictions.decoder.weight", None, "the checkpoint is not whole"),
        ("bert.img_embedding.bias", None, "lacks img_embedding.bias"),
        (
            "bert.img_embedding.weight",
            torch.zeros(24, 15),
            "img_embedding.weight is [24, 15], the model needs [24, 14]",
        ),
        ("bert.img_embedding.bias", torch.full((24,), math.nan), "img_embedding.bias has numbers that are not finite"),
        ("bert.encoder.layer.0.attention.self.query.weight", torch.tensor(1.0), "is [] and [24, 24] and [24, 24], the"),
        ("bert.code_embeddings.weight", torch.zeros(3, 3), "holds code_embeddings.weight"),
    ):
        changed = {key: v for key, v in (state | {name: value}).items() if v is not None}
        torch.save(changed, source / "pytorch_model.bin")
        assert words in refused(source, out, capsys), name
    torch.save({**state, "arguments": Path("x")}, source / "pytorch_model.bin")
    assert "no file of tensors alone" in refused(source, out, capsys)
    torch.save(state, source / "pytorch_model.bin")
    assert "word pieces in the model" in refused(source, out, capsys, "--tokenizer", "minilm")
    with RegionStoreWriter(tmp_path / "other", {"name": "grid"}, feature_size=4) as writer:
        one = np.ones(1, np.float32)
        writer.write("p", Regions(np.ones((1, 4), np.float32), np.ones((1, 4), np.float16), ["w9"], one, 9, 9))
    assert "size 8" in refused(source, out, capsys, "--regions", str(tmp_path / "other"))
    out.mkdir()
    (out / "mine.txt").write_text("")
    assert main([str(source), str(out)]) == 2 and "mine.txt" in capsys.readouterr().err


def test_a_training_takes_it_only_when_it_is_imported(source: Path, store: Path, tmp_path: Path):
    """As a plain BERT it would lose its region projection and its tags without a word."""
    plain = ["model.vocabulary=", "model.standardise_regions=false"]
    config = load_config(WORLD, [f"init={source}", *plain])
    with pytest.raises(UserError, match="init .*checkpoint-1-2: a checkpoint of Oscar.*import_checkpoint.py"):
        starting_model(config, VivoForCaptioning, RegionStore(store), "captions")
    assert main([str(source), str(tmp_path / "ours"), "--regions", str(store)]) == 0
    config = load_config(WORLD, [f"init={tmp_path / 'ours'}", *plain])
    _, model = starting_model(config, VivoForCaptioning, RegionStore(store), "captions")
    assert model.config.tags_as_text


def test_it_can_be_trained_further_with_the_tags_that_it_knows(source: Path, store: Path, tmp_path: Path):
    captions = {"p0": "w30 w31 w32", "p1": "w33 w31", "p2": "w34 w35 w36 w37"}
    examples, references = tmp_path / "captions.jsonl", tmp_path / "references.json"
    rows = [{"image_id": i, "file_name": "", "captions": [c], "domain": "", "tags": []} for i, c in captions.items()]
    examples.write_text("".join(json.dumps(row) + "\n" for row in rows))
    images = [{"id": i, "file_name": ""} for i in captions]
    annotations = [{"image_id": i, "caption": c} for i, c in captions.items()]
    references.write_text(json.dumps({"images": images, "annotations": annotations}))
    lengths = ["--max-tag-tokens", str(CASE.tag_tokens), "--max-regions", str(CASE.regions)]
    assert main([str(source), str(tmp_path / "ours"), "--regions", str(store), *lengths]) == 0
    trained = tmp_path / "trained"
    overrides = [
        f"init={tmp_path / 'ours'}", f"out={trained}", f"data.regions={store}", f"data.examples={examples}",
        f"data.validation_regions={store}", f"data.validation_references={references}", "data.tags=detector",
        "data.tag_dropout=0", "data.captions_per_picture=1", "model.freeze_embeddings=false", "optim.batch_size=3",
        "optim.duration=120steps", "optim.lr=1e-2", "tracking.validate_every=120steps",
    ]  # fmt: skip
    config = load_config(WORLD, overrides)
    tags = caption_pictures(config, str(examples), str(store), "detector")[0, 0][2]
    assert tags == ["w10", "w11 w12", "w10"]  # each of them once, were it a model of our own
    train([str(WORLD), *overrides])
    found = predict_split(
        trained / "model", store, list(captions), "detector", DecodeConfig(), tmp_path / "predictions.json"
    )
    assert found == captions
