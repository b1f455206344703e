"""Labels and boxes of evaluation pictures, and class lists of Open Images."""

import json
from pathlib import Path

import numpy as np
import pytest

from vivo.data.class_lists import read_class_list, with_roles
from vivo.data.picture_labels import names_of_pictures, read_picture_boxes, read_picture_labels
from vivo.errors import UserError

VOCAB = Path(__file__).resolve().parents[2] / "shared" / "data" / "vocab"
LABELS = """ImageID,Source,LabelName,Confidence
aa,verification,/m/dog,1
zz,verification,/m/cow,1
bb,verification,/m/cat,0
aa,verification,/m/animal,1
aa,crowdsource-verification,/m/dog,1
"""
BOXES = """ImageID,Source,LabelName,Confidence,XMin,XMax,YMin,YMax,IsOccluded,IsTruncated,IsGroupOf,IsDepiction,IsInside
aa,xclick,/m/dog,1,0.1,0.4,0.2,0.8,0,0,0,0,0
zz,xclick,/m/cow,1,0,1,0,1,0,0,0,0,0
aa,xclick,/m/cat,1,0,0.5,0,1,0,0,1,0,0
"""
PICTURES = {"aa": "1", "bb": "2", "cc": "3"}


def write(path: Path, text: str) -> Path:
    path.write_text(text)
    return path


def references(path: Path, *images: dict) -> Path:
    path.write_text(json.dumps({"images": list(images), "annotations": []}))
    return path


def test_labels(tmp_path: Path) -> None:
    labels = read_picture_labels(write(tmp_path / "l.csv", LABELS), PICTURES)
    assert labels.present == {"1": ["/m/dog", "/m/animal"]} and labels.absent == {"2": ["/m/cat"]}
    assert labels.known == {"/m/dog", "/m/cow", "/m/cat", "/m/animal"}, "cow is known, though of another picture"


def test_boxes(tmp_path: Path) -> None:
    found = read_picture_boxes(write(tmp_path / "b.csv", BOXES), PICTURES)
    assert list(found.boxes) == ["1"] and found.known == {"/m/dog", "/m/cow", "/m/cat"}
    assert [tuple(box) for box in found.boxes["1"]] == [
        ("1", "/m/dog", 0.1, 0.2, 0.4, 0.8, False),
        ("1", "/m/cat", 0.0, 0.0, 0.5, 1.0, True),
    ]


def test_a_file_of_other_pictures_is_refused(tmp_path: Path) -> None:
    for text, reader in ((LABELS, read_picture_labels), (BOXES, read_picture_boxes)):
        with pytest.raises(UserError, match=r"x.csv: has no (labels|boxes) of the 1 pictures"):
            reader(write(tmp_path / "x.csv", text), {"7": "7"})


def test_names_of_pictures(tmp_path: Path) -> None:
    path = references(
        tmp_path / "r.json", {"id": 0, "open_images_id": "aa"}, {"id": 1, "file_name": "bb.jpg"}, {"id": 2}
    )
    assert names_of_pictures(path) == {"aa": "0", "1": "1", "bb": "1", "2": "2"}
    path = references(tmp_path / "r.json", {"id": 0, "file_name": "1.jpg"}, {"id": 1})
    with pytest.raises(UserError, match="pictures 0 and 1 are both called '1'"):
        names_of_pictures(path)


DESCRIPTIONS = "/m/d,Dog,\n/m/a,Animal,\n/m/c,Carnivore,\n/m/f,Human face,\n"
CARNIVORE = {"LabelName": "/m/c", "Subcategory": [{"LabelName": "/m/d"}]}
HIERARCHY = {"LabelName": "/m/root", "Subcategory": [{"LabelName": "/m/a", "Subcategory": [CARNIVORE]}]}


def test_class_descriptions(tmp_path: Path) -> None:
    path = write(tmp_path / "classes.csv", DESCRIPTIONS)
    hierarchy = write(tmp_path / "tree.json", json.dumps(HIERARCHY))
    classes = {entry.name: entry for entry in read_class_list(path, hierarchy)}
    assert list(classes) == ["dog", "animal", "carnivore", "human face"]
    assert classes["dog"].parents == ["carnivore", "animal"] and classes["animal"].parents == []
    assert "dogs" in classes["dog"].forms and "face" in classes["human face"].forms
    assert {entry.role for entry in classes.values()} == {"novel"} and classes["dog"].mid == "/m/d"
    assert read_class_list(path)[0].parents == []
    roles = [entry.role for entry in with_roles(list(classes.values()), np.array([5, 4, 0, 9]), 5)]
    assert roles == ["base", "novel", "novel", "base"]


def test_class_lists_that_do_not_fit(tmp_path: Path) -> None:
    path = write(tmp_path / "classes.csv", DESCRIPTIONS)
    other = write(tmp_path / "tree.json", json.dumps({"LabelName": "/m/other"}))
    with pytest.raises(UserError, match="none of the classes"):
        read_class_list(path, other)
    with pytest.raises(UserError, match="says itself what is more general"):
        read_class_list(tmp_path / "classes.json", other)
    with pytest.raises(UserError, match="two classes are called 'dog'"):
        read_class_list(write(tmp_path / "twice.csv", DESCRIPTIONS + "/m/e,DOG,\n"))


@pytest.mark.skipif(not VOCAB.is_dir(), reason="the official class lists are not beside this checkout")
def test_all_of_open_images_boxable_classes() -> None:
    classes = read_class_list(VOCAB / "class-descriptions-boxable.csv", VOCAB / "bbox_labels_600_hierarchy.json")
    by_name = {entry.name: entry for entry in classes}
    assert len(classes) == 601 and by_name["dog"].parents[:2] == ["carnivore", "mammal"]
    assert "mice" in by_name["mouse"].forms and all(entry.forms for entry in classes)
