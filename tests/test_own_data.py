"""Own data: every source gives the same records, every fault is named with its place, and the check counts right."""

import importlib.util
import json
from collections.abc import Callable
from pathlib import Path

import datasets
import numpy as np
import pytest
from PIL import Image

from vivo.cli import main as vivo
from vivo.data.check import check_data
from vivo.data.check_view import attention_lines, example_lines, remarks
from vivo.data.coco import read_captions
from vivo.data.collate import CaptionCollator, Limits, TagCollator
from vivo.data.examples import read_caption_examples, read_tag_examples
from vivo.data.own import Columns, LabelledBox, OwnPicture, read_own
from vivo.data.text import load_tokenizer
from vivo.detectors.pictures import open_picture
from vivo.errors import UserError
from vivo.weights import bert_folder

ROOT = Path(__file__).resolve().parents[1]
SHARED = ROOT.parent / "shared" / "data"
needs_shared = pytest.mark.skipif(not SHARED.is_dir(), reason="the real sample data is not beside this checkout")
LIMITS = Limits(max_regions=50, max_tag_tokens=6, max_caption_tokens=8, tag_position_offset=8)
CAPTIONS = {"1": ["a red  square", "something red"], "2": ["a green square"], "x": []}
TAGS = {"1": ["square", "red"], "2": [], "x": ["thing"]}


def load_script(path: str):
    spec = importlib.util.spec_from_file_location(Path(path).stem, ROOT / path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def tokenizer():
    return load_tokenizer(bert_folder("minilm"))


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Three pictures: photos/000000000001.png, photos/2.png, photos/x.png."""
    folder = tmp_path / "photos"
    folder.mkdir()
    for name, colour in (("000000000001", "red"), ("2", "green"), ("x", "blue")):
        Image.new("RGB", (20, 10), colour).save(folder / f"{name}.png")
    return folder


def rows_of(photos: Path) -> list[dict]:
    names = {"1": "000000000001.png", "2": "2.png", "x": "x.png"}
    return [{"image": names[i], "captions": CAPTIONS[i], "tags": TAGS[i]} for i in names]


@pytest.fixture
def lines(tmp_path: Path) -> Callable[..., Path]:
    """Write rows (objects, or lines as they are) to own.jsonl."""

    def write(*rows: object) -> Path:
        text = "".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows)
        (tmp_path / "own.jsonl").write_text(text, encoding="utf-8")
        return tmp_path / "own.jsonl"

    return write


def json_lines(photos: Path) -> tuple[Path, Columns]:
    path = photos / "own.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows_of(photos)))
    return path, Columns()


def coco(photos: Path) -> tuple[Path, Columns]:
    images = [
        {"id": k, "file_name": row["image"], "tags": row["tags"]}
        for k, row in zip((1, 2, "x"), rows_of(photos), strict=True)
    ]
    texts = [(i, text) for i, texts in CAPTIONS.items() for text in texts]
    annotations = [{"id": n, "image_id": i, "caption": text} for n, (i, text) in enumerate(texts)]
    path = photos / "captions.json"
    path.write_text(json.dumps({"images": images, "annotations": annotations}))
    return path, Columns()


def image_folder(photos: Path) -> tuple[Path, Columns]:
    rows = [{"file_name": row["image"], "text": row["captions"], "tags": row["tags"]} for row in rows_of(photos)]
    (photos / "metadata.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return photos, Columns(captions="text")


def table(photos: Path) -> datasets.Dataset:
    rows = [{**row, "image": str(photos / row["image"])} for row in rows_of(photos)]
    return datasets.Dataset.from_list(rows).cast_column("image", datasets.Image())


def parquet(photos: Path) -> tuple[Path, Columns]:
    """With the pictures inside, as data sets on the hub have them."""
    rows = [
        {**row, "image": {"path": row["image"], "bytes": (photos / row["image"]).read_bytes()}}
        for row in rows_of(photos)
    ]
    data = datasets.Dataset.from_list(rows).cast_column("image", datasets.Image())
    data.to_parquet(photos / "own.parquet")
    return photos / "own.parquet", Columns()


def saved(photos: Path) -> tuple[Path, Columns]:
    datasets.DatasetDict({"test": table(photos)}).save_to_disk(photos / "saved")
    return photos / "saved", Columns()


def one_caption_a_row(photos: Path) -> tuple[Path, Columns]:
    rows = [
        {"picture": row["image"], "caption": caption, "tags": row["tags"]}
        for row in rows_of(photos)
        for caption in row["captions"] or [None]
    ]
    datasets.Dataset.from_list(rows).to_parquet(photos / "rows.parquet")
    return photos / "rows.parquet", Columns(image="picture", captions="caption")


SOURCES = [json_lines, coco, image_folder, parquet, saved, one_caption_a_row]


@pytest.mark.parametrize("make", SOURCES)
def test_every_source_gives_the_same_records(photos: Path, make: Callable, tmp_path: Path):
    source, columns = make(photos)
    data = read_own(source, columns=columns).or_raise()
    assert [picture.image_id for picture in data.pictures] == ["1", "2", "x"]
    assert [picture.captions for picture in data.pictures] == [
        ["a red square", "something red"],
        ["a green square"],
        [],
    ]
    assert [picture.tags for picture in data.pictures] == list(TAGS.values())
    # and the program makes of each what the training programs and the extraction read
    out = tmp_path / "out"
    options = [
        f"--{name}-column={value}" for name, value in vars(columns).items() if name != "image_id" and value != name
    ]
    assert load_script("finetune/prepare_own.py").main([str(source), str(out), *options]) == 0
    captions = list(read_caption_examples(out / "captions.jsonl"))
    assert [(e.image_id, e.captions, e.tags) for e in captions] == [(i, read_captions_of(i), TAGS[i]) for i in "12"]
    assert [e.captions for e in read_captions(out / "captions.json")] == [e.captions for e in captions]
    assert [(e.image_id, e.tags) for e in read_tag_examples(out / "tags.jsonl")] == [("1", TAGS["1"]), ("x", ["thing"])]
    folder = out / "images" if (out / "images").is_dir() else data.folder
    paths, ids = load_script("pretrain/extract_regions.py").read_list(out / "pictures.tsv", folder)
    assert ids == ["1", "2", "x"]
    assert [open_picture(path).getpixel((0, 0)) for path in paths] == [(255, 0, 0), (0, 128, 0), (0, 0, 255)]


def read_captions_of(image_id: str) -> list[str]:
    return [" ".join(caption.split()) for caption in CAPTIONS[image_id]]


def test_pictures_inside_a_table_are_kept_bit_for_bit(photos: Path, tmp_path: Path):
    source, _ = parquet(photos)
    wanted = [(photos / row["image"]).read_bytes() for row in rows_of(photos)]
    assert [picture.data() for picture in read_own(source).pictures] == wanted
    assert load_script("finetune/prepare_own.py").main([str(source), str(tmp_path / "out")]) == 0
    assert [(tmp_path / "out" / "images" / f"{i}.png").read_bytes() for i in CAPTIONS] == wanted


def test_labels_of_boxes_are_tags_unless_tags_are_given(lines):
    boxes = [{"label": "dog", "box": [1, 2, 3.5, 4]}, {"label": "cat", "box": [0, 0, 1, 1]}]
    boxes.append({"label": "dog", "box": [5, 5, 6, 6]})
    path = lines({"image": "a.png", "boxes": boxes}, {"image": "b.png", "boxes": boxes, "tags": []})
    first, second = read_own(path).or_raise().pictures
    assert first.boxes[0] == LabelledBox("dog", (1.0, 2.0, 3.5, 4.0))
    assert (first.tags, second.tags) == (["dog", "cat"], [])
    assert first.path == path.parent / "a.png"


def test_what_vivo_wrote_itself_can_be_checked_too(lines):
    path = lines({"image_id": "7", "tags": ["dog"]}, {"image_id": "8", "file_name": "8.jpg", "domain": "", "tags": []})
    first, second = read_own(path, pictures=path.parent).or_raise().pictures
    assert (first.image_id, first.path, second.path) == ("7", None, path.parent / "8.jpg")


@pytest.mark.parametrize(
    ("row", "text"),
    [
        ('{"image": "b.png"', "row 2: not JSON"),
        ("[1]", "row 2: a list, not an object"),
        ({"captions": ["a"]}, 'row 2: no "image"'),
        ({"image": 3}, 'row 2: "image" must be the path of a picture, found 3'),
        ({"image": "b.png", "caption": ["a"]}, 'row 2: unknown key "caption"; is "captions" meant?'),
        ({"image": "b.png", "captions": [1]}, 'row 2: "captions" must be a list of texts, found [1]'),
        ({"image": "b.png", "captions": ["a", " \n"]}, "row 2: caption 2 is blank"),
        ({"image": "b.png", "tags": [""]}, "row 2: a tag is blank"),
        ({"image": "a.png"}, "row 2: picture a stands in"),
        ({"image": "other/a.png"}, 'give both an "image_id"'),
        (
            {"image": "b.png", "boxes": [[0, 0, 1, 1]]},
            'row 2, box 1: must be {"label": "dog", "box": [x1, y1, x2, y2]}',
        ),
        ({"image": "b.png", "boxes": [{"label": "dog", "box": [5, 5, 2, 9]}]}, "is it x y width height?"),
        ({"image": "b.png", "boxes": [{"label": "dog", "box": [0, 0, 1, float("nan")]}]}, "four numbers"),
    ],
)
def test_a_wrong_row_is_named_and_the_others_are_kept(lines, row: object, text: str):
    path = lines({"image": "a.png"}, row, {"image": "c.png"})
    data = read_own(path)
    assert [picture.image_id for picture in data.pictures] == ["a", "c"]
    assert len(data.problems) == 1 and data.problems[0].startswith(f"{path}, row 2") and text in data.problems[0]
    with pytest.raises(UserError, match="row 2"):
        data.or_raise()


def test_sources_that_cannot_be_read_at_all(tmp_path: Path, photos: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    path, _ = parquet(photos)
    for source, columns, split, text in (
        (tmp_path / "none.jsonl", Columns(), "train", "no such file"),
        (tmp_path / "none.parquet", Columns(), "train", "no such file or folder, and no hub id"),
        ("owner/name", Columns(), "train", "HF_HUB_OFFLINE forbids"),
        (path, Columns(captions="text"), "train", 'no column "text" (found image, captions, tags); name it with'),
        (path, Columns(image="picture"), "train", "--image-column"),
        (saved(photos)[0], Columns(), "dev", "no split 'dev'; --split is one of test"),
    ):
        with pytest.raises(UserError) as caught:
            read_own(source, columns=columns, split=split)
        assert text in str(caught.value) and "\n" not in str(caught.value)
    (tmp_path / "broken.parquet").write_bytes(path.read_bytes()[:200])
    with pytest.raises(UserError, match=r"broken.parquet.*cannot read"):
        read_own(tmp_path / "broken.parquet")


def test_boxes_of_coco_instances(photos: Path):
    source, _ = coco(photos)
    instances = photos / "instances.json"
    content = {"categories": [{"id": 4, "name": "dog"}], "annotations": []}
    content["annotations"] = [{"image_id": 2, "category_id": 4, "bbox": [1, 2, 3, 4]} for _ in range(2)]
    content["annotations"].append({"image_id": 99, "category_id": 4, "bbox": [1, 2, 3, 4]})
    instances.write_text(json.dumps(content))
    first, second, _ = read_own(source, instances=instances).or_raise().pictures
    assert second.boxes == [LabelledBox("dog", (1.0, 2.0, 4.0, 6.0))] * 2 and second.tags == ["dog"]
    assert first.boxes == [] and first.tags == TAGS["1"]
    for change, text in (
        ({"image_id": 99}, "boxes of none of the 3 pictures"),
        ({"category_id": 5}, r"annotations\[0\]: no category_id"),
        ({"category_id": [4]}, r"annotations\[0\]: no category_id"),
        ({"bbox": [1, 2, 3]}, r"annotations\[0\]: bbox must be x y width height"),
    ):
        wrong = content["annotations"][0] | change
        instances.write_text(json.dumps(content | {"annotations": [wrong]}))
        with pytest.raises(UserError, match=text):
            read_own(source, instances=instances)


def test_a_failed_preparation_leaves_what_was_there(lines, tmp_path: Path, capsys: pytest.CaptureFixture):
    program = load_script("finetune/prepare_own.py").main
    row = lines({"image": "a.png", "tags": ["dog"]})
    assert program([str(row), str(tmp_path / "out")]) == 2 and not (tmp_path / "out").exists()
    assert f"own.jsonl, row 1: there is no picture {tmp_path}/a.png; 1 of 1 pictures" in capsys.readouterr().err
    assert program([str(row), str(tmp_path / "out"), "--pictures-elsewhere"]) == 0
    before = (tmp_path / "out" / "tags.jsonl").read_bytes()
    bad = lines({"image": "a.png", "tags": ["cat"]}, {"image": "b.png", "tag": "x"}, {"image": 1})
    assert program([str(bad), str(tmp_path / "out")]) == 2
    assert "2 problems in all: vivo data check" in capsys.readouterr().err
    assert (tmp_path / "out" / "tags.jsonl").read_bytes() == before
    assert sorted(p.name for p in tmp_path.iterdir()) == ["out", "own.jsonl"]


def test_a_folder_of_ones_own_is_never_replaced(lines, photos: Path, capsys: pytest.CaptureFixture):
    program = load_script("finetune/prepare_own.py").main
    source = lines({"image": f"{photos.name}/2.png", "captions": ["a green picture"]})
    there = sorted(photos.iterdir())
    for out in (photos, photos.parent, source):
        assert program([str(source), str(out)]) == 2
        assert capsys.readouterr().err.startswith(f"error: {out}: ")
    assert sorted(photos.iterdir()) == there and source.is_file()


def test_counts_lengths_unknown_pieces_and_repetitions(lines, tokenizer):
    path = lines(
        {"image": "a.png", "captions": ["a dog", "A dog", "a dog on the green grass of a park"], "tags": ["dog"] * 7},
        {"image": "b.png", "captions": ["a 🦕 and a 🦕"], "tags": ["hot dog", "Dog"]},
        {"image": "c.png"},
    )
    report = check_data(read_own(path), tokenizer, LIMITS)
    assert report.counts == {
        "pictures": 3,
        "with captions": 2,
        "with tags": 2,
        "captions": 4,
        "tags": 9,
        "different tags": 2,
        "boxes": 0,
    }
    lengths = {row.name: row for row in report.lengths}
    assert lengths["captions a picture"].values.tolist() == [3, 1]
    assert lengths["words a caption"].values.tolist() == [2, 2, 9, 5]
    assert lengths["word pieces a caption"].values.tolist() == [2, 2, 9, 5]
    assert lengths["word pieces a caption"].limit == 6 and lengths["word pieces a caption"].over == 1
    assert lengths["tag pieces a picture"].values.tolist() == [7, 3] and lengths["tag pieces a picture"].over == 1
    assert report.unknown == {"🦕": 2}
    assert report.repeated == {"a dog": 2} and report.repeated_within == 1
    assert len(remarks(report)) == 4 and not report.problems


def test_missing_broken_and_equal_pictures(lines, photos: Path, tokenizer):
    Image.open(photos / "2.png").save(photos / "twin.bmp")
    (photos / "half.png").write_bytes((photos / "2.png").read_bytes()[:40])
    box = {"label": "dog", "box": [0, 0, 20, 30]}
    path = lines(*({"image": f"photos/{n}"} for n in ("2.png", "twin.bmp", "half.png", "none.png")), {"image_id": "z"})
    with path.open("a") as file:
        file.write(json.dumps({"image": "photos/x.png", "boxes": [box]}) + "\n")
    report = check_data(read_own(path), tokenizer, LIMITS, open_picture)
    assert report.twins == [["2", "twin"]]
    rows = [line.split(":")[0].rpartition(" ")[2] for line in report.problems]
    assert rows == ["3", "4", "5", "6"]
    for line, text in zip(
        report.problems, ("not a picture", "does not exist", "names no file", "20 x 10"), strict=True
    ):
        assert text in line


def test_examples_are_what_the_collators_make(tokenizer):
    """[MASK]s filled with the hidden pieces, in order, give the caption and the tags back."""
    picture = OwnPicture("1", "", None, "", ["a teddy bear sits"], ["teddy bear", "chair", "window"])
    tags = TagCollator(tokenizer, LIMITS, 0, 0.5, 0.5, 0)
    captions = CaptionCollator(tokenizer, LIMITS, 0, "masked", 0.5, 1, 0.0)
    lines = [line.split() for line in example_lines(picture, tokenizer, tags, captions)]
    shown, hidden = lines[0][2:], lines[1][1:-2]
    assert 0 < shown.count("[MASK]") == len(hidden)
    filled = [hidden.pop(0) if piece == "[MASK]" else piece for piece in shown]
    assert sorted(filled) == ["bear", "chair", "teddy", "window"]
    shown, hidden = lines[2][2:], lines[3][1:]
    assert [hidden.pop(0) if piece == "[MASK]" else piece for piece in shown] == "[CLS] a teddy bear sits [SEP]".split()
    mask = [line.split() for line in attention_lines(picture, tokenizer, captions)]
    cells = np.array([[cell == "o" for cell in row[1:]] for row in mask[1:]])
    text, size = 6, len(cells)
    expected = np.ones((size, size), dtype=bool)
    expected[:, :text] = False
    expected[:text, :text] = np.tril(np.ones((text, text), dtype=bool))
    np.testing.assert_array_equal(cells, expected)


def test_the_command_fails_where_something_is_broken(
    lines, photos: Path, capsys: pytest.CaptureFixture, tmp_path: Path
):
    good = lines({"image": "photos/2.png", "captions": ["a green picture"], "tags": ["picture"]})
    assert vivo(["data", "check", str(good)]) == 0
    page = capsys.readouterr().out
    assert "no problem found" in page and "[CLS]" in page and "attends" in page
    bad = lines({"image": "photos/2.png", "captions": ["a green picture"]}, {"image": "photos/none.png"})
    assert vivo(["data", "check", str(bad), "--problems", str(tmp_path / "problems.txt")]) == 1
    assert "row 2" in capsys.readouterr().out
    assert len((tmp_path / "problems.txt").read_text().splitlines()) == 1
    assert vivo(["data", "check", str(bad), "--no-pictures"]) == 0
    assert "not opened" in capsys.readouterr().out


@needs_shared
def test_real_coco_pictures_with_boxes(tokenizer):
    folder = SHARED / "coco_mini_159"
    data = read_own(folder / "captions.json", folder / "images", instances=folder / "instances.json")
    limits = Limits(50, 30, 40, 40)
    report = check_data(data, tokenizer, limits, open_picture)
    assert report.problems == [] and report.twins == []
    assert [report.counts[key] for key in ("pictures", "captions", "boxes", "different tags")] == [159, 795, 1363, 80]
    assert next(row for row in report.lengths if row.name == "word pieces a caption").over == 1
