"""From Open Images labels to tags: gathering in bounded memory, and each choice that the paper leaves open."""

import importlib.util
import json
import os
import random
import signal
import subprocess
import sys
from collections import Counter
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vivo.data.class_hierarchy import read_hierarchy, tags_above
from vivo.data.examples import read_tag_examples
from vivo.data.open_images import LabelRows, read_class_descriptions, read_picture_ids, tag_examples
from vivo.data.picture_groups import PictureGroups
from vivo.data.regions import RegionStoreWriter
from vivo.data.tag_rules import TagChooser, TagRules, detector_tags, tag_name
from vivo.data.text import TagPieces, load_tokenizer
from vivo.data.types import Regions, TagExample
from vivo.errors import UserError
from vivo.weights import bert_folder

ROOT = Path(__file__).resolve().parents[1]
SHARED = Path(__file__).resolve().parents[2] / "shared" / "data"

DESCRIPTIONS = "/m/animal,Animal,\n/m/dog,Dog,\n/m/cat,Cat,\n/m/tree,Tree,\n/m/puppy,Puppy,\n"
LABELS = """ImageID,Source,LabelName,Confidence
a,verification,/m/animal,1
a,verification,/m/dog,1
a,verification,/m/cat,0
b,crowdsource-verification,/m/tree,1
b,verification,/m/cat,1
a,verification,/m/tree,1
c,verification,/m/dog,0
"""
BOXES = """ImageID,LabelName,XMin,XMax,YMin,YMax,IsGroupOf
c,/m/puppy,0.1,0.2,0.3,0.4,0
a,/m/puppy,0.1,0.2,0.3,0.4,0
b,/m/cat,0.1,0.2,0.3,0.4,1
"""
HIERARCHY = {
    "LabelName": "/m/root",
    "Subcategory": [
        {
            "LabelName": "/m/animal",
            "Subcategory": [
                {"LabelName": "/m/dog", "Subcategory": [{"LabelName": "/m/puppy"}]},
                {"LabelName": "/m/cat"},
            ],
        },
        {"LabelName": "/m/tree"},
    ],
}


@pytest.fixture
def files(tmp_path: Path) -> SimpleNamespace:
    """The files above in a folder: .labels .boxes .classes .hierarchy .folder"""
    found = SimpleNamespace(folder=tmp_path)
    for name, file, text in (
        ("labels", "labels.csv", LABELS),
        ("boxes", "boxes.csv", BOXES),
        ("classes", "classes.csv", DESCRIPTIONS),
        ("hierarchy", "hierarchy.json", json.dumps(HIERARCHY)),
    ):
        (tmp_path / file).write_text(text)
        setattr(found, name, tmp_path / file)
    return found


def tags_of(*sources: object, **options: object) -> dict[str, list[str]]:
    return {example.image_id: example.tags for example in tag_examples(*sources, **options)}


def prepare():
    spec = importlib.util.spec_from_file_location("prepare_open_images", ROOT / "pretrain" / "prepare_open_images.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.main


# --- gathering -------------------------------------------------------------------------------------------


@settings(max_examples=30, deadline=None)
@given(
    notes=st.lists(
        st.tuples(
            st.one_of(st.sampled_from(["a", "b", "größe\t1", ""]), st.integers(0, 300).map(str)),
            st.lists(st.integers(-5, 5), max_size=4),
        ),
        max_size=60,
    )
)
def test_groups_equal_a_dictionary(tmp_path_factory: pytest.TempPathFactory, notes: list) -> None:
    """Against grouping in memory: order of first appearance, numbers once each in order, counts of pictures."""
    expected: dict[str, dict[int, None]] = {}
    for image_id, numbers in notes:
        expected.setdefault(image_id, {}).update(dict.fromkeys(numbers))
    folder = tmp_path_factory.mktemp("groups") / "x"
    with PictureGroups(folder) as groups:
        for image_id, numbers in notes:
            groups.add(image_id, numbers)
        counts = groups.gather()
        assert list(groups) == [(image_id, list(numbers)) for image_id, numbers in expected.items()]
    assert groups.pictures == len(expected) and not folder.exists()
    assert counts == Counter(number for numbers in expected.values() for number in numbers)


def test_groups_clear_what_a_killed_run_left_and_refuse_a_bad_place(tmp_path: Path) -> None:
    left = tmp_path / "groups"
    left.mkdir()
    (left / "000.txt").write_text("0\t1\told\n")
    with PictureGroups(left) as groups:
        groups.add("new", [2])
        groups.gather()
        assert list(groups) == [("new", [2])]
    (tmp_path / "file").write_text("")
    with (
        pytest.raises(UserError, match="cannot keep the labels there while sorting"),
        PictureGroups(tmp_path / "file" / "groups"),
    ):
        pass
    with pytest.raises(UserError, match="line break"), PictureGroups(left) as groups:
        groups.add("a\nb", [])


def test_rows_of_a_picture_may_stand_anywhere_and_in_several_files(files: SimpleNamespace) -> None:
    """Shuffled over three files, every picture has the tags of the sorted file."""
    rng = random.Random(1)
    classes = ["/m/animal", "/m/dog", "/m/cat", "/m/tree", "/m/puppy"]
    rows = [(f"{i:04x}", mid, rng.random() < 0.6) for i in range(400) for mid in rng.sample(classes, 3)]

    def write(name: str, some: list) -> Path:
        lines = [f"{image_id},x,{mid},{int(present)}\n" for image_id, mid, present in some]
        (files.folder / name).write_text("ImageID,Source,LabelName,Confidence\n" + "".join(lines))
        return files.folder / name

    whole = tags_of(write("whole.csv", rows), files.classes, keep_empty=True)
    names = {mid: name.lower() for mid, name in read_class_descriptions(files.classes).items()}
    for image_id in ("0000", "00ff"):
        assert whole[image_id] == [names[mid] for i, mid, present in rows if i == image_id and present]
    rng.shuffle(rows)
    parts = [write(f"part{k}.csv", rows[k::3]) for k in range(3)]
    scattered = tags_of(parts, files.classes, keep_empty=True)
    assert {image_id: set(tags) for image_id, tags in scattered.items()} == {k: set(v) for k, v in whole.items()}
    assert list(scattered) == list(dict.fromkeys(image_id for k in range(3) for image_id, _, _ in rows[k::3]))


def test_a_killed_run_leaves_no_result_and_no_trace_in_the_next(files: SimpleNamespace) -> None:
    out = files.folder / "tags.jsonl"
    program = (
        "import os, signal, sys; from pathlib import Path\n"
        "from vivo.data.examples import write_tag_examples; from vivo.data.open_images import tag_examples\n"
        f"folder = Path({str(files.folder)!r})\n"
        "def examples():\n"
        "    work = folder / '.tags.jsonl.labels'\n"
        "    yield next(tag_examples(folder / 'labels.csv', folder / 'classes.csv', folder=work))\n"
        "    os.kill(os.getpid(), signal.SIGKILL)\n"
        "write_tag_examples(examples(), folder / 'tags.jsonl')\n"
    )
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    assert subprocess.run([sys.executable, "-c", program], env=environment).returncode == -signal.SIGKILL
    assert not out.exists()
    assert prepare()([str(files.labels), str(files.classes), str(out), "--max-tag-tokens", "0"]) == 0
    assert [example.image_id for example in read_tag_examples(out)] == ["a", "b"]
    assert not (files.folder / ".tags.jsonl.labels").exists()


# --- which rows count ------------------------------------------------------------------------------------


def test_boxes_are_labels_too(files: SimpleNamespace) -> None:
    assert tags_of([files.labels, files.boxes], files.classes) == {
        "a": ["animal", "dog", "tree", "puppy"],
        "b": ["tree", "cat"],
        "c": ["puppy"],
    }


def test_sources_and_pictures(files: SimpleNamespace) -> None:
    rows = LabelRows(sources=["crowdsource-verification"])
    assert tags_of(files.labels, files.classes, rows=rows) == {"b": ["tree"]}
    rows = LabelRows(pictures=read_picture_ids(files.boxes))
    assert rows.pictures == {"a", "b", "c"}
    assert tags_of(files.labels, files.classes, rows=LabelRows(pictures={"b"})) == {"b": ["tree", "cat"]}
    (files.folder / "ids.txt").write_text("x\na\n")
    assert read_picture_ids(files.folder / "ids.txt") == {"x", "a"}
    with pytest.raises(UserError, match=r"no label has the Source machine; the file has crowdsource-verif.*, verif"):
        tags_of(files.labels, files.classes, rows=LabelRows(sources=["machine"]))
    (files.folder / "challenge.csv").write_text("ImageID,LabelName,Confidence\na,/m/dog,1\n")
    assert tags_of(files.folder / "challenge.csv", files.classes) == {"a": ["dog"]}
    with pytest.raises(UserError, match="challenge.csv, row 1: no column Source"):
        tags_of(files.folder / "challenge.csv", files.classes, rows=LabelRows(sources=["verification"]))


def test_machine_labels_count_from_a_confidence_on(files: SimpleNamespace) -> None:
    files.labels.write_text(LABELS + "c,machine,/m/tree,0.8\nc,machine,/m/cat,0.7\nc,machine,/m/dog,0.9\n")
    report: Counter[str] = Counter()
    assert tags_of(files.labels, files.classes, rows=LabelRows(least=0.8), report=report)["c"] == ["tree", "dog"]
    assert report["labels said to be both present and absent"] == 1  # people had said that c shows no dog
    with pytest.raises(UserError, match="labels.csv, row 9: Confidence '0.8' is neither 1"):
        tags_of(files.labels, files.classes)


# --- what becomes of them --------------------------------------------------------------------------------


def test_finer_tags_replace_more_general_ones(files: SimpleNamespace) -> None:
    names = {mid: tag_name(name) for mid, name in read_class_descriptions(files.classes).items()}
    above = tags_above(names, read_hierarchy(files.hierarchy))
    assert above == {"dog": {"animal"}, "cat": {"animal"}, "puppy": {"dog", "animal"}}
    rules = TagRules(above=above)
    assert tags_of([files.labels, files.boxes], files.classes, rules=rules) == {
        "a": ["tree", "puppy"], "b": ["tree", "cat"], "c": ["puppy"],
    }  # fmt: skip


@pytest.mark.skipif(not SHARED.is_dir(), reason="the real sample data is not beside this checkout")
def test_the_official_hierarchy_by_tags() -> None:
    descriptions = read_class_descriptions(SHARED / "vocab" / "class-descriptions-boxable.csv")
    names = {mid: tag_name(name) for mid, name in descriptions.items()}
    above = tags_above(names, read_hierarchy(SHARED / "vocab" / "bbox_labels_600_hierarchy.json"))
    assert above["tortoise"] == {"turtle", "reptile", "animal"} and "animal" not in above
    chooser = TagChooser(TagRules(above=above), {})
    assert chooser.choose("x", ["animal", "person", "woman", "tortoise"]) == ["woman", "tortoise"]
    assert chooser.report["tags with a finer tag beside them"] == 2


def test_rare_tags_go_by_the_number_of_pictures(files: SimpleNamespace) -> None:
    """tree is on a and b, all else on one picture; repeated rows of a picture count once."""
    files.labels.write_text(LABELS + "b,verification,/m/cat,1\n")
    rules = TagRules(min_count=2)
    assert tags_of(files.labels, files.classes, rules=rules) == {"a": ["tree"], "b": ["tree"]}


def regions(*named: tuple[str, float]) -> Regions:
    count = len(named)
    return Regions(
        np.tile(np.float32([0, 0, 1, 1]), (count, 1)),
        np.zeros((count, 2), np.float16),
        [name for name, _ in named],
        np.float32([score for _, score in named]),
        10,
        10,
    )


def test_detections_come_after_labels_but_not_against_them(files: SimpleNamespace) -> None:
    found = regions(("Dog", 0.3), ("", 0.9), ("tree", 0.5), ("Dog", 0.75), ("fire  truck", 0.1))
    assert detector_tags(found) == ["dog", "tree", "fire truck"] and detector_tags(found, 0.4) == ["dog", "tree"]
    detections = {"a": ["cat", "puppy", "tree", "owl"], "b": []}
    rules = TagRules(detector=detections.get)
    report: Counter[str] = Counter()
    assert tags_of(files.labels, files.classes, rules=rules, keep_empty=True, report=report) == {
        "a": ["animal", "dog", "tree", "puppy", "owl"],  # people had said that there is no cat
        "b": ["tree", "cat"],
    }
    assert report["detections that people had denied"] == 1 and report["pictures without regions"] == 1
    rules = TagRules(detector=detections.get, allowed={"tree", "owl"})
    assert tags_of(files.labels, files.classes, rules=rules) == {"a": ["tree", "owl"], "b": ["tree"]}
    with pytest.raises(UserError, match="none of the 3 pictures of .*labels.csv has regions in the store"):
        tags_of(files.labels, files.classes, rules=TagRules(detector=lambda image_id: None))


def test_tags_that_fit() -> None:
    """Budget 5. Listed: aa (3), then bb (4) does not fit, then c (1), d (1). Rare first: d, then bb, and full."""
    lengths, counts = {"aa": 3, "bb": 4, "c": 1, "d": 1, "void": 0}, {"aa": 9, "bb": 2, "c": 5, "d": 1}
    tags = ["aa", "bb", "void", "c", "d"]
    listed = TagChooser(TagRules(tokens=lengths.__getitem__, max_tokens=5), counts)
    assert listed.choose("x", tags) == ["aa", "c", "d"] and listed.report["tags that did not fit"] == 2
    rare = TagChooser(TagRules(tokens=lengths.__getitem__, max_tokens=5, first="rare"), counts)
    assert rare.choose("x", tags) == ["bb", "d"], "the order of the tags stays that of the list"
    with pytest.raises(ValueError, match="needs tokens"):
        TagChooser(TagRules(max_tokens=5), {})


@pytest.mark.skipif(not SHARED.is_dir(), reason="the real sample data is not beside this checkout")
def test_the_cut_is_that_of_collation() -> None:
    """Real class names, real word pieces: the same tags stay that `TagPieces.cut` would keep in training."""
    pieces = TagPieces(load_tokenizer(bert_folder("minilm")))
    names = read_class_descriptions(SHARED / "vocab" / "class-descriptions-boxable.csv").values()
    tags, rng = [tag_name(name) for name in names], random.Random(0)
    chooser = TagChooser(TagRules(tokens=lambda tag: len(pieces(tag)), max_tokens=15), {})
    for _ in range(200):
        some = rng.sample(tags, 20)
        assert [pieces(tag) for tag in chooser.choose("x", some)] == pieces.cut(some, 15)


# --- the program -----------------------------------------------------------------------------------------


def test_the_vocabulary_of_boxes_and_an_unknown_class(
    files: SimpleNamespace, capsys: pytest.CaptureFixture[str]
) -> None:
    """The paper's 500-class row; then a bad row in the same place leaves nothing behind."""
    out, vocabulary = files.folder / "tags.jsonl", files.folder / "vocabulary.json"
    command = [str(files.labels), str(files.classes), str(out)]
    assert prepare()([*command, "--classes", str(files.boxes), "--vocabulary", str(vocabulary)]) == 0
    assert list(read_tag_examples(out)) == [TagExample("b", ["cat"])]
    assert json.loads(vocabulary.read_text()) == ["cat"]
    printed = capsys.readouterr().out
    assert "1 pictures with 1 tags (1.0 a picture, 1 different ones) from 7 labels of 3 pictures" in printed
    assert "left out: 2 pictures without tags" in printed
    out.unlink()
    assert prepare()([*command, "--vocabulary", str(files.folder)]) == 2 and not out.exists()
    assert "is a folder; name a file to write" in capsys.readouterr().err
    files.labels.write_text(LABELS + "d,verification,/m/99,1\n")
    assert prepare()(command) == 2
    assert "labels.csv, row 9: unknown class id '/m/99'" in capsys.readouterr().err
    assert sorted(os.listdir(files.folder)) == [
        "boxes.csv",
        "classes.csv",
        "hierarchy.json",
        "labels.csv",
        vocabulary.name,
    ]


def test_all_options_at_once(files: SimpleNamespace, capsys: pytest.CaptureFixture[str]) -> None:
    with RegionStoreWriter(files.folder / "store", {"name": "test"}, 2) as writer:
        writer.write("a", regions(("Cat", 0.9), ("puppy", 0.8), ("kite", 0.7), ("tree", 0.1)))
        writer.write("c", regions(("Dog", 0.9), ("tree", 0.4)))
    out = files.folder / "sub" / "tags.parquet"
    command = [files.labels, files.boxes, files.classes, out, "--regions", files.folder / "store"]
    command += ["--detector-score", 0.5, "--hierarchy", files.hierarchy, "--pictures", files.boxes]
    assert prepare()([str(part) for part in command]) == 0
    assert list(read_tag_examples(out)) == [TagExample("a", ["tree", "puppy", "kite"]), TagExample("c", ["puppy"])]
    printed = capsys.readouterr().out
    assert "2 pictures with 4 tags" in printed and "left out: 1 pictures without regions" in printed
    assert "left out: 2 detections that people had denied" in printed  # a cat on a, a dog on c
    (files.folder / "one.csv").write_text("/m/tree,Tree\n")
    assert prepare()([*map(str, command), "--classes", str(files.folder / "one.csv")]) == 0
    assert list(read_tag_examples(out)) == [TagExample("a", ["tree"])]
    command[0] = files.folder / "absent.csv"
    assert prepare()([str(part) for part in command]) == 2
    assert "absent.csv: cannot be read" in capsys.readouterr().err
    assert sorted(os.listdir(out.parent)) == ["tags.parquet"]


@pytest.mark.slow
def test_memory_does_not_grow_with_the_rows(tmp_path: Path) -> None:
    """Peak memory at ten times the pictures, 5,000 against 50,000 of 20 rows, is at most 40 MB higher."""
    program = "import resource, runpy, sys; sys.argv = sys.argv[1:]\n" + (
        "try: runpy.run_path(sys.argv[0], run_name='__main__')\n"
        "finally: print('peak', resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024)"
    )
    (tmp_path / "classes.csv").write_text("".join(f"/m/{i},name {i}\n" for i in range(500)))
    peaks = []
    for pictures in (5_000, 50_000):
        with (tmp_path / "labels.csv").open("w") as file:
            file.write("ImageID,Source,LabelName,Confidence\n")
            for i in range(pictures):
                file.write("".join(f"{i:016x},verification,/m/{(i * 7 + k * k) % 500},{k % 2}\n" for k in range(20)))
        script = ROOT / "pretrain" / "prepare_open_images.py"
        command = [sys.executable, "-c", program, script, "labels.csv", "classes.csv", "out.parquet"]
        run = subprocess.run(
            [*command, "--max-tag-tokens", "0"], cwd=tmp_path, env=os.environ | {"PYTHONPATH": str(ROOT)},
            capture_output=True, text=True, check=True,
        )  # fmt: skip
        assert f"{pictures} pictures" in run.stdout
        peaks.append(int(run.stdout.split("peak")[1]))
    assert peaks[1] - peaks[0] < 40
