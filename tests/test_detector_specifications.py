"""Detector specifications, what all adapters share, and weight files read without running anything."""

import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from detector_checks import (
    ROOT,
    sha256,
)
from PIL import Image
from safetensors.torch import save_file

from vivo.detectors.adapting import (
    DetectionSettings,
    choose,
    parse_specification,
    read_class_names,
    regions_from,
    same_size_batches,
    settings_of,
)
from vivo.detectors.base import load_detector
from vivo.detectors.weight_files import fill, read_weights
from vivo.errors import UserError


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("grid", ("grid", "", {})),
        ("grid:resnet18", ("grid", "resnet18", {})),
        ("grid:scales=448x7", ("grid", "", {"scales": "448x7"})),
        ("grid,scales=448x7", ("grid", "", {"scales": "448x7"})),
        ("grid,device=cuda:1", ("grid", "", {"device": "cuda:1"})),
        ("detectron2:a/lr=1/b.yaml,weights=w.pth", ("detectron2", "a/lr=1/b.yaml", {"weights": "w.pth"})),
        (
            "transformers:org/name,threshold=0.2,dtype=x=y",
            ("transformers", "org/name", {"threshold": "0.2", "dtype": "x=y"}),
        ),
    ],
)
def test_specifications(text: str, expected: tuple):
    assert parse_specification(text) == expected


def test_options_are_typed_and_strict():
    settings = settings_of(DetectionSettings, {"threshold": "0.25", "max_regions": "7", "whole_picture": "yes"}, "x")
    assert settings == DetectionSettings(threshold=0.25, max_regions=7, whole_picture=True)
    for options, words in [
        ({"treshold": "1"}, "is threshold meant"),
        ({"max_regions": "many"}, "whole number"),
        ({"max_regions": "0"}, "at least 1"),
        ({"whole_picture": "perhaps"}, "yes or no"),
        ({"dtype": "int8"}, "bfloat16"),
    ]:
        with pytest.raises(UserError, match=words):
            settings_of(DetectionSettings, options, "x")
    for text in ("grid:resnet18,scales", "grid:resnet18,a=1,a=2", "grid:resnet18,=2"):
        with pytest.raises(UserError, match="option=value"):
            parse_specification(text)


@pytest.mark.parametrize(
    ("specification", "words"),
    [
        ("nobody", "grid, whole, transformers, torchvision, detectron2"),
        ("transformers", "name a model folder"),
        ("transformers:no/such/folder", "cannot be loaded"),
        ("transformers:x,one_label_per_qery=no", "one_label_per_query"),
        ("torchvision:fasterrcnn_resnet50_fpn", "weights="),
        ("torchvision:yolo,weights=x.safetensors", "fasterrcnn_resnet50_fpn"),
        ("torchvision:fasterrcnn_resnet50_fpn,weights=none.safetensors", "do not exist"),
        ("grid:device=nowhere", "device=nowhere"),
    ],
)
def test_bad_specifications_are_one_line(specification: str, words: str):
    with pytest.raises(UserError, match=words) as caught:
        load_detector(specification)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("kind", "package"), [("grid", "timm"), ("transformers", "transformers"), ("detectron2", "detectron2")]
)
def test_missing_package_is_named(kind: str, package: str, monkeypatch: pytest.MonkeyPatch):
    import sys

    module = "vivo.detectors." + (kind if kind == "grid" else f"{kind}_adapter")
    monkeypatch.delitem(sys.modules, module, raising=False)
    monkeypatch.setitem(sys.modules, package, None)  # what an import finds for a package that is not there
    with pytest.raises(UserError, match=f"needs the package {package}.*docs/detectors.md"):
        load_detector(f"{kind}:x")


def test_pictures_of_one_size_share_a_batch():
    pictures = [Image.new("RGB", size) for size in [(4, 3), (3, 4), (4, 3), (4, 3), (3, 4)]]
    assert list(same_size_batches(pictures, 2)) == [[0, 2], [3], [1, 4]]


def test_choice_by_hand():
    boxes = torch.tensor([[0.0, 0, 2, 2], [0, 0, 0, 2], [1, 1, 2, 2], [0, 1, 2, 2], [0, 0, 1, 1]])
    scores = torch.tensor([0.5, 0.9, 0.1, 0.7, 0.5])  # 1 has no area, 2 is not above the threshold
    assert choose(boxes, scores, DetectionSettings(threshold=0.1)).tolist() == [3, 0, 4]
    assert choose(boxes, scores, DetectionSettings(threshold=0.1, max_regions=1)).tolist() == [3]
    assert choose(boxes[:0], scores[:0], DetectionSettings()).tolist() == []
    found = regions_from(Image.new("RGB", (9, 8)), boxes[:1], torch.ones(2, 3), ["dog"], scores[:1], 0.6)
    assert found.labels == ["", ""] and found.boxes.tolist() == [[0, 0, 2, 2], [0, 0, 9, 8]]
    assert found.scores.tolist() == [0.5, 0] and found.features.dtype == np.float16


def test_class_names_file(tmp_path: Path):
    (tmp_path / "names.txt").write_text("yolk\nstop sign,stopsign\n", encoding="utf-8")
    assert read_class_names(tmp_path / "names.txt") == ["yolk", "stop sign"]
    (tmp_path / "names.txt").write_text("yolk\n\ngoal\n", encoding="utf-8")
    with pytest.raises(UserError, match="row 2"):
        read_class_names(tmp_path / "names.txt")
    with pytest.raises(UserError, match="cannot be read"):
        read_class_names(tmp_path / "none.txt")


def test_visual_genome_names_of_the_shared_folder():
    path = ROOT.parent / "shared" / "data" / "vocab" / "objects_vocab.txt"
    if not path.is_file():
        pytest.skip("the shared data folder is not here")
    names = read_class_names(path)
    assert len(names) == 1600 and names[0] == "yolk" and "stop sign" in names


class Dangerous:
    """A pickle of it would make a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple:
        return (Path.touch, (self.path,))


def test_weights_of_every_kind_are_the_same(tmp_path: Path):
    arrays = {"a.weight": np.arange(6, dtype=np.float32).reshape(2, 3), "a.bias": np.array([1, 2], np.float16)}
    tensors = {name: torch.from_numpy(value) for name, value in arrays.items()}
    save_file(tensors, tmp_path / "w.safetensors")
    torch.save({"state_dict": tensors}, tmp_path / "w.pth")
    for protocol in (2, 4):
        file = tmp_path / f"w{protocol}.pkl"
        file.write_bytes(pickle.dumps({"model": arrays, "__author__": "somebody", "epoch": 3}, protocol=protocol))
    for name in ("w.safetensors", "w.pth", "w2.pkl", "w4.pkl"):
        found = read_weights(tmp_path / name, sha256(tmp_path / name)[:12])
        assert found.keys() == tensors.keys() and all(torch.equal(found[k], tensors[k]) for k in tensors)


def test_pickles_are_refused_without_hash_and_never_run(tmp_path: Path):
    victim = tmp_path / "victim"
    for name in ("bad.pkl", "bad.pth"):
        file = tmp_path / name
        content = {"model": {"w": np.zeros(2, np.float32)}, "more": Dangerous(victim)}
        file.write_bytes(pickle.dumps(content)) if name == "bad.pkl" else torch.save(content, file)
        with pytest.raises(UserError, match="sha256="):
            read_weights(file)
        with pytest.raises(UserError, match="expected 00000000"):
            read_weights(file, "00000000")
        with pytest.raises(UserError, match="cannot be read"):
            read_weights(file, sha256(file))
    assert not victim.exists()
    with pytest.raises(UserError, match="do not exist"):
        read_weights(tmp_path / "none.safetensors")
    (tmp_path / "cut.safetensors").write_bytes(b"cut")
    with pytest.raises(UserError, match="cannot be read"):
        read_weights(tmp_path / "cut.safetensors")
    (tmp_path / "list.pkl").write_bytes(pickle.dumps([1, 2]))
    with pytest.raises(UserError, match="hold a list"):
        read_weights(tmp_path / "list.pkl", sha256(tmp_path / "list.pkl"))


def test_filling_checks_names_and_shapes():
    layer = torch.nn.Linear(2, 3)
    good = {"weight": torch.ones(3, 2), "bias": torch.zeros(3)}
    assert fill(layer, {**good, "more": torch.ones(1)}, "x", strict=False) == ["more"]
    assert layer.weight.sum() == 6
    for tensors, words in [
        ({**good, "more": torch.ones(1)}, "hold more"),
        ({"weight": good["weight"]}, "lack bias"),
        ({**good, "bias": torch.zeros(4)}, "shape"),
    ]:
        with pytest.raises(UserError, match=words):
            fill(layer, tensors, "x")
