"""Open Images, COCO, nocaps and prepared examples: what the readers make of tiny files, and how they complain."""

import collections
import json
import os
import pickle
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet
import pytest

from vivo.data import class_hierarchy, coco, nocaps, open_images
from vivo.data.examples import (
    read_caption_examples,
    read_tag_examples,
    write_caption_examples,
    write_tag_examples,
)
from vivo.data.types import CaptionExample, TagExample
from vivo.errors import UserError

ROOT = Path(__file__).resolve().parents[1]
SHARED = Path(__file__).resolve().parents[2] / "shared" / "data"
needs_shared = pytest.mark.skipif(not SHARED.is_dir(), reason="the real sample data is not beside this checkout")

DESCRIPTIONS = '/m/01,Dog,\n/m/02,Traffic  Light,Traffic Light\n/m/03,"Box, wooden",\n/m/04,Animal,\n'
LABELS = """ImageID,Source,LabelName,Confidence
aa01,verification,/m/01,1
aa01,verification,/m/02,0
aa01,crowdsource-verification,/m/04,1
aa01,verification,/m/01,1
0002,verification,/m/02,1
0002,verification,/m/03,1
ff03,verification,/m/01,0
"""
BOXES = """ImageID,Source,LabelName,Confidence,XMin,XMax,YMin,YMax,IsOccluded,IsGroupOf
aa01,xclick,/m/01,1,0.1,0.9,0.25,0.5,0,0
0002,xclick,/m/02,1,0,1,0,1,0,1
"""
HIERARCHY = {
    "LabelName": "/m/root",
    "Subcategory": [
        {"LabelName": "/m/04", "Subcategory": [{"LabelName": "/m/01"}], "Part": [{"LabelName": "/m/tail"}]},
        {"LabelName": "/m/pet", "Subcategory": [{"LabelName": "/m/01"}, {"LabelName": "/m/04"}]},
    ],
}
CAPTIONS = {
    "images": [{"id": 42, "file_name": "000000000042.jpg"}, {"id": 7, "file_name": "7.jpg"}],
    "annotations": [
        {"id": 0, "image_id": 7, "caption": " A dog\r\non\u2028grass.  "},
        {"id": 1, "image_id": 42, "caption": "Two cats"},
        {"id": 2, "image_id": 7, "caption": "Ein Hund"},
    ],
}


@pytest.fixture
def put(tmp_path: Path) -> Callable[[str, object], Path]:
    """Write text or JSON to a file of the temporary folder."""

    def write(name: str, content: object) -> Path:
        text = content if isinstance(content, str) else json.dumps(content)
        (tmp_path / name).write_text(text, encoding="utf-8")
        return tmp_path / name

    return write


# --- Open Images -----------------------------------------------------------------------------------------


def test_class_descriptions_with_and_without_header(put: Callable) -> None:
    expected = {"/m/01": "Dog", "/m/02": "Traffic  Light", "/m/03": "Box, wooden", "/m/04": "Animal"}
    assert open_images.read_class_descriptions(put("a.csv", DESCRIPTIONS)) == expected
    assert open_images.read_class_descriptions(put("b.csv", "LabelName,DisplayName\r\n/m/01,Dog\r\n")) == {
        "/m/01": "Dog"
    }
    assert open_images.read_class_descriptions(put("c.csv", "\ufeff/m/01,Dog\n\n")) == {"/m/01": "Dog"}


def test_tags_are_verified_present_classes_once_each(put: Callable) -> None:
    labels, descriptions = put("labels.csv", LABELS), put("classes.csv", DESCRIPTIONS)
    assert list(open_images.tag_examples(labels, descriptions)) == [
        TagExample("aa01", ["dog", "animal"]),
        TagExample("0002", ["traffic light", "box, wooden"]),
    ]
    assert list(open_images.tag_examples(labels, descriptions, keep_empty=True))[2] == TagExample("ff03", [])
    boxable = open_images.boxable_classes(put("boxes.csv", BOXES))
    assert (
        boxable == {"/m/01", "/m/02"} == open_images.boxable_classes(put("b.csv", "/m/01,Dog,\n/m/02,Traffic Light,\n"))
    )
    assert list(open_images.tag_examples(labels, descriptions, boxable)) == [
        TagExample("aa01", ["dog"]),
        TagExample("0002", ["traffic light"]),
    ]


def test_boxes_come_out_as_x1_y1_x2_y2(put: Callable) -> None:
    assert list(open_images.read_boxes(open_images.box_table(put("boxes.csv", BOXES)))) == [
        open_images.Box("aa01", "/m/01", x1=0.1, y1=0.25, x2=0.9, y2=0.5, is_group=False),
        open_images.Box("0002", "/m/02", x1=0.0, y1=0.0, x2=1.0, y2=1.0, is_group=True),
    ]


def test_hierarchy_gives_parents_but_parts_are_no_kinds(put: Callable) -> None:
    parents = class_hierarchy.read_hierarchy(put("hierarchy.json", HIERARCHY))
    assert parents == {
        "/m/root": [], "/m/04": ["/m/root", "/m/pet"], "/m/pet": ["/m/root"], "/m/01": ["/m/04", "/m/pet"],
        "/m/tail": [],
    }  # fmt: skip
    assert class_hierarchy.ancestors("/m/01", parents) == {"/m/04", "/m/pet", "/m/root"}
    assert class_hierarchy.ancestors("a", {"a": ["b"], "b": ["a"]}) == {"b"}


BAD_LABELS = {
    "unknown class id '/m/99'; .*classes.csv does not describe it": LABELS + "ff04,verification,/m/99,1\n",
    r"labels.csv, row 9: 3 columns, the header has 4; was the file truncated\?": LABELS + "ff04,verification,/m/0\n",
    "row 9: Confidence '0.7' is neither 1 .* or say from which confidence machine-generated ones count": LABELS
    + "ff04,machine,/m/01,0.7\n",
    r"row 9: Confidence '1.2' is no number from 0 to 1; are the columns in order": LABELS
    + "a,verification,/m/01,1.2\n",
    "row 9: Confidence '/m/01' is no number": LABELS + "ff04,verification,1,/m/01\n",
    "row 9: the ImageID is empty": LABELS + ",verification,/m/01,1\n",
    "row 1: no column ImageID, Confidence; the header must name": "image,Source,LabelName\nx,y,z\n",
    "labels.csv, row 1: no column": "",
    "labels.csv: no rows below the header": "ImageID,Source,LabelName,Confidence\n",
    "row 2: not CSV": 'ImageID,Source,LabelName,Confidence\naa,"verification,/m/01,1\n',
}


@pytest.mark.parametrize("message", BAD_LABELS)
def test_bad_labels_are_named_by_file_and_row(put: Callable, message: str) -> None:
    with pytest.raises(UserError, match=message):
        list(open_images.tag_examples(put("labels.csv", BAD_LABELS[message]), put("classes.csv", DESCRIPTIONS)))


def test_other_bad_open_images_files(put: Callable, tmp_path: Path) -> None:
    read, tags = open_images.read_class_descriptions, open_images.tag_examples
    with pytest.raises(UserError, match=r"c.csv, row 2: text after the name 'Box'; .* must be quoted"):
        read(put("c.csv", "/m/01,Dog\n/m/03,Box, wooden\n"))
    with pytest.raises(UserError, match=r"row 1: expected `class id,name`"):
        read(put("c.csv", "/m/01,\n"))
    with pytest.raises(UserError, match=r"row 2: /m/01 is 'Dog' above and 'Cat' here"):
        read(put("c.csv", "/m/01,Dog\n/m/01,Cat\n"))
    with pytest.raises(UserError, match=r"names no class"):
        read(put("c.csv", "LabelName,DisplayName\n"))
    with pytest.raises(UserError, match=r"absent.csv: cannot be read \(No such file or directory\)"):
        read(tmp_path / "absent.csv")
    (tmp_path / "c.csv").write_bytes(b"PK\x03\x04\xff\xfe")
    with pytest.raises(UserError, match=r"c.csv: not UTF-8 text .*; is it unpacked\?"):
        read(tmp_path / "c.csv")
    with pytest.raises(UserError, match=r"describes none of the 1 chosen classes"):
        list(tags(put("labels.csv", LABELS), put("classes.csv", DESCRIPTIONS), {"/m/77"}))
    swapped = "ImageID,LabelName,XMin,XMax,YMin,YMax\na,/m/01,0.1,0.2,0.9,0.3\n"
    with pytest.raises(UserError, match=r"row 2: XMin 0.1 XMax 0.2 YMin 0.9 YMax 0.3 .* XMin,XMax,YMin,YMax and norm"):
        list(open_images.read_boxes(open_images.box_table(put("boxes.csv", swapped))))
    with pytest.raises(UserError, match=r"row 2: a side of the box is not a number"):
        list(open_images.read_boxes(open_images.box_table(put("boxes.csv", swapped.replace("0.9", "x")))))
    with pytest.raises(UserError, match=r"a node under /m/a has no LabelName"):
        class_hierarchy.read_hierarchy(put("h.json", {"LabelName": "/m/a", "Subcategory": [{"Label": "/m/b"}]}))
    with pytest.raises(UserError, match=r"h.json: Subcategory of /m/a is not a list"):
        class_hierarchy.read_hierarchy(put("h.json", {"LabelName": "/m/a", "Subcategory": None}))
    with pytest.raises(UserError, match=r"h.json: not JSON"):
        class_hierarchy.read_hierarchy(put("h.json", "{"))


# --- COCO and nocaps -------------------------------------------------------------------------------------


def test_captions_go_to_their_pictures_on_one_line(put: Callable) -> None:
    assert coco.read_captions(put("captions.json", CAPTIONS)) == [
        CaptionExample("42", "000000000042.jpg", ["Two cats"]),
        CaptionExample("7", "7.jpg", ["A dog on grass.", "Ein Hund"]),
    ]
    info = put("info.json", {"images": CAPTIONS["images"]})
    assert [example.captions for example in coco.read_captions(info, require_captions=False)] == [[], []]


def altered(**values: object) -> dict:
    return {**CAPTIONS, **values}


BAD_CAPTIONS = {
    r"annotations\[0\]: caption of picture 9, which \"images\" does not list": altered(
        annotations=[{"image_id": 9, "caption": "x"}]
    ),
    r"c.json: \"annotations\" is empty: there are no captions": altered(annotations=[]),
    r"picture 42 has no caption": altered(annotations=CAPTIONS["annotations"][:1]),
    r"annotations\[0\]: the caption of picture 7 is blank": altered(annotations=[{"image_id": 7, "caption": " \n"}]),
    r"annotations\[0\]: caption must be text, found None; is this a captions file\?": altered(
        annotations=[{"image_id": 7, "bbox": [0, 0, 1, 1]}]
    ),
    r"annotations\[1\]: caption 5 is listed twice": altered(
        annotations=[{"id": 5, "image_id": 7, "caption": "a"}, {"id": 5, "image_id": 42, "caption": "b"}]
    ),
    r"c.json: Karpathy's layout, .* choose one \(--split train\)": {"images": [{"cocoid": 1, "sentences": []}]},
    r"images\[1\]: picture 42 is listed twice": altered(images=[{"id": 42}, {"id": "0042"}]),
    r"images\[0\].id: must be a whole number or text, found True": altered(images=[{"id": True}]),
    r"images\[0\]: file_name must be text, found 3": altered(images=[{"id": 1, "file_name": 3}]),
    r"\"images\" is empty": altered(images=[]),
    r"no list \"annotations\" \(keys found: images\)": {"images": [{"id": 1}]},
    r"images\[0\]: an object is wanted, found 3": altered(images=[3]),
    r"c.json: a list, expected": [{"image_id": 1, "caption": "a prediction"}],
    r"c.json, line 1: not JSON .* at column 1.; the file is empty, truncated": "",
    r"c.json, line 2: not JSON .* at column 9": '{"images": [\n{"id": 4',
}


@pytest.mark.parametrize("message", BAD_CAPTIONS)
def test_bad_captions_are_named_by_file_and_entry(put: Callable, message: str) -> None:
    with pytest.raises(UserError, match=message):
        coco.read_captions(put("c.json", BAD_CAPTIONS[message]))


def test_nocaps_domains_and_names(put: Callable) -> None:
    images = [
        {"id": 0, "domain": "in-domain", "file_name": "0013ea2087020901.jpg"},
        {"id": 1, "domain": "out-domain", "open_images_id": "0123456789012345"},
    ]
    content = {"images": images, "annotations": [{"image_id": i, "caption": f"c{i}"} for i in (0, 1, 0)]}
    assert nocaps.read_nocaps(put("n.json", content)) == [
        CaptionExample("0", "0013ea2087020901.jpg", ["c0", "c0"], "in-domain"),
        CaptionExample("1", "0123456789012345.jpg", ["c1"], "out-domain"),
    ]
    images[1]["domain"] = "out-of-domain"
    with pytest.raises(UserError, match=r"n.json, images\[1\]: domain must be one of .*, found 'out-of-domain'"):
        nocaps.read_nocaps(put("n.json", content))
    del images[1]["domain"]
    with pytest.raises(UserError, match=r"images\[1\]: domain must be one of .*, found none"):
        nocaps.read_nocaps(put("n.json", content))
    del images[0]["domain"]
    assert [example.domain for example in nocaps.read_nocaps(put("n.json", content))] == ["", ""]


def test_world_classes(put: Callable) -> None:
    owl = {
        "name": "owl", "plural": "owls", "forms": ["owl", "owls"], "mid": "/m/1", "role": "novel", "detector": False,
        "parents": ["bird"],
    }  # fmt: skip
    assert nocaps.read_classes(put("classes.json", [owl])) == [
        nocaps.WorldClass("owl", "owls", ["owl", "owls"], "/m/1", "novel", False, ["bird"])
    ]
    for bad, message in [
        ([owl, owl], "class 1: 'owl' is listed twice"),
        ([{**owl, "role": "new"}], "class 0: \"role\" must be base or novel, found 'new'"),
        ([{**owl, "detector": 1}], 'class 0: "detector" must be true or false, found 1'),
        ([{**owl, "forms": [1]}], 'class 0: "forms" must be a list of texts'),
        ([{"name": "owl"}], "class 0: must have the keys name, plural, .*, found name"),
        ([], "expected a list of classes that is not empty"),
    ]:
        with pytest.raises(UserError, match=message):
            nocaps.read_classes(put("classes.json", bad))


@needs_shared
def test_real_files() -> None:
    """The counts that shared/vivo_facts.md and the data's README name."""
    captions = coco.read_captions(SHARED / "coco_captions_val2017.json")
    assert len(captions) == 5000 and sum(len(example.captions) for example in captions) == 25014
    assert captions[0].image_id == "397133" and captions[0].file_name == "000000397133.jpg"
    validation = nocaps.read_nocaps(SHARED / "nocaps_val_captions.json")
    assert collections.Counter(example.domain for example in validation) == {
        "in-domain": 417, "near-domain": 2670, "out-domain": 1413,
    }  # fmt: skip
    assert {len(example.captions) for example in validation} == {10}
    names = open_images.read_class_descriptions(SHARED / "vocab" / "class-descriptions-boxable.csv")
    parents = class_hierarchy.read_hierarchy(SHARED / "vocab" / "bbox_labels_600_hierarchy.json")
    assert len(names) == 601 and parents.keys() - names.keys() == {"/m/0bl9f"}
    tortoise = next(mid for mid, name in names.items() if name == "Tortoise")
    assert {names.get(mid) for mid in class_hierarchy.ancestors(tortoise, parents)} == {
        "Turtle",
        "Reptile",
        "Animal",
        None,
    }


# --- prepared examples -----------------------------------------------------------------------------------

TAGGED = [TagExample("a", ["dog", "größe"]), TagExample("0002", []), TagExample("c", ["\u2028", 'quo"te'])]
CAPTIONED = [
    CaptionExample("1", "1.jpg", ["a dog", "Ein Hund läuft"], "in-domain", ["dog"]),
    CaptionExample("2", "", ["x"]),
]


@pytest.mark.parametrize("name", ["e.jsonl", "e.parquet", "sub/odd [1] *::.jsonl", "odd [x] ?.parquet"])
def test_examples_round_trip(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    assert write_tag_examples(iter(TAGGED), path) == 3
    read = read_tag_examples(path, cache_dir=tmp_path)
    assert list(read) == TAGGED == read[:] and read[-1] == TAGGED[2] and len(read) == 3
    with pytest.raises(IndexError):
        read[3]
    assert list(pickle.loads(pickle.dumps(read))) == TAGGED
    assert write_caption_examples(CAPTIONED, path) == 2
    assert list(read) == TAGGED  # what was opened stays as it was
    assert list(read_caption_examples(path, cache_dir=tmp_path)) == CAPTIONED
    del read
    left = sorted(str(file.relative_to(tmp_path)) for file in tmp_path.rglob("*") if file.is_file())
    assert left == [name], "temporary files must be gone"


def test_optional_keys_may_be_missing(put: Callable, tmp_path: Path) -> None:
    lines = '{"image_id": "1", "captions": []}\n\n{"tags": ["x"], "image_id": "2", "captions": ["b"], "domain": null}\n'
    expected = [CaptionExample("1", "", []), CaptionExample("2", "", ["b"], "", ["x"])]
    assert list(read_caption_examples(put("e.jsonl", "\ufeff" + lines))) == expected
    pa.parquet.write_table(pa.table({"image_id": ["1"], "captions": [["a"]]}), tmp_path / "e.parquet")
    assert list(read_caption_examples(tmp_path / "e.parquet")) == [CaptionExample("1", "", ["a"])]


GOOD = '{"image_id": "1", "tags": ["a"]}\n'
BAD_LINES = {
    "e.jsonl: the file is empty": "\n",
    'row 2: "tags" is missing': GOOD + '{"image_id": "2"}\n',
    'row 2: "image_id" is missing': GOOD + '{"image_id": null, "tags": []}\n',
    'row 2: "image_id" must be text, found 2': GOOD + '{"image_id": 2, "tags": []}\n',
    'row 2: "image_id" is empty': GOOD + '{"image_id": "", "tags": []}\n',
    r'row 3: "tags" must be a list of texts, found \["a", 1\]': GOOD * 2 + '{"image_id": "2", "tags": ["a", 1]}\n',
    'row 2: "tags" must be a list of texts, found "dog"': GOOD + '{"image_id": "2", "tags": "dog"}\n',
    'row 2: unknown key "tag"; is "tags" meant': GOOD + '{"image_id": "2", "tag": []}\n',
    "row 2: not JSON .* was the file truncated": GOOD + '{"image_id": "2", "ta',
    "row 1: a list, not an object": "[1]\n",
}


@pytest.mark.parametrize("message", BAD_LINES)
def test_bad_lines_are_named_by_file_and_row(put: Callable, message: str) -> None:
    with pytest.raises(UserError, match=message):
        read_tag_examples(put("e.jsonl", BAD_LINES[message]))


def test_bad_parquet_is_named_by_file_and_row(tmp_path: Path) -> None:
    path = tmp_path / "e.parquet"
    for columns, message in [
        ({"image_id": [1], "tags": [["a"]]}, 'column "image_id" must be text, found int64'),
        ({"image_id": ["1"], "tags": ["a"]}, 'column "tags" must be a list of texts, found string'),
        ({"image_id": ["1"]}, r'"tags" is missing \(found image_id'),
        ({"image_id": ["1"], "tags": [["a"]], "domian": ["x"]}, 'unknown key "domian"'),
        ({"image_id": ["1", None], "tags": [["a"], []]}, 'e.parquet, row 2: "image_id" is missing'),
        ({"image_id": ["1", ""], "tags": [["a"], []]}, 'row 2: "image_id" is empty'),
        ({"image_id": ["1", "2"], "tags": [["a"], ["b", None]]}, 'row 2: "tags" must be a list of texts, found null'),
    ]:
        pa.parquet.write_table(pa.table(columns), path)
        with pytest.raises(UserError, match=message):
            read_tag_examples(path)
    pa.parquet.write_table(
        pa.table({"image_id": pa.array([], pa.string()), "tags": pa.array([], pa.list_(pa.string()))}), path
    )
    with pytest.raises(UserError, match="the file is empty"):
        read_tag_examples(path)
    path.write_bytes(path.read_bytes()[:-7])
    with pytest.raises(UserError, match="not a Parquet file or truncated"):
        read_tag_examples(path)
    with pytest.raises(UserError, match="no such file; make it with"):
        read_tag_examples(tmp_path / "absent.parquet")
    with pytest.raises(UserError, match="kept in .jsonl or .parquet files, not .txt"):
        read_tag_examples(tmp_path / "e.txt")


def test_writing_leaves_the_old_file_or_a_whole_new_one(tmp_path: Path) -> None:
    for name in ("e.jsonl", "e.parquet"):
        write_tag_examples(TAGGED, tmp_path / name)
        before = (tmp_path / name).read_bytes()
        with pytest.raises(UserError, match="there are no examples to write"):
            write_tag_examples([], tmp_path / name)
        with pytest.raises(ZeroDivisionError):
            write_tag_examples((TagExample(str(1 / i), []) for i in (2, 1, 0)), tmp_path / name)
        assert (tmp_path / name).read_bytes() == before
        with pytest.raises(UserError, match="cannot be written"):
            write_tag_examples(TAGGED, tmp_path / "e.jsonl" / name)
    assert sorted(os.listdir(tmp_path)) == ["e.jsonl", "e.parquet"]


def test_reading_writes_nothing_outside_the_temporary_folder(put: Callable, tmp_path: Path) -> None:
    """In a home that cannot be written, with no network, and without leaving the temporary copy behind."""
    path = put("e.jsonl", GOOD)
    program = f"from vivo.data.examples import read_tag_examples as r; print(list(r({str(path)!r})))"
    (tmp_path / "tmp").mkdir()
    environment = {key: value for key, value in os.environ.items() if not key.startswith(("HF_", "XDG_"))}
    environment |= {"HOME": "/proc/no-home", "TMPDIR": str(tmp_path / "tmp"), "PYTHONPATH": str(ROOT)}
    run = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=True)
    assert run.stdout == "[TagExample(image_id='1', tags=['a'])]\n" and run.stderr == ""
    assert list((tmp_path / "tmp").iterdir()) == [] and sorted(os.listdir(tmp_path)) == ["e.jsonl", "tmp"]
