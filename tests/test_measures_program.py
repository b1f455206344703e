"""eval/measures.py on files: a world's, Open Images', wrong ones."""

import csv
import importlib.util
import json
from pathlib import Path
from types import ModuleType

import pytest

from vivo.data.nocaps import read_classes, read_nocaps
from vivo.metrics.f1 import object_f1


def program(name: str = "measures") -> ModuleType:
    """eval/NAME.py as a module; the folder is no package."""
    path = Path(__file__).parents[1] / "eval" / f"{name}.py"
    spec = importlib.util.spec_from_file_location(f"eval_{name}", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def nocaps(tmp_path: Path) -> dict[str, str]:
    """A split of 6 pictures, class descriptions and label files by Open Images' layout; their paths."""
    animals = ["dog", "cow", "okapi"]
    said = {
        "images": [
            {"id": n, "open_images_id": f"f{n}", "file_name": f"f{n}.jpg", "domain": domain}
            for n, domain in enumerate(["in-domain", "near-domain", "out-domain"] * 2)
        ],
        "annotations": [
            {"id": 2 * n + k, "image_id": n, "caption": f"{article} {animals[n % 3]} on mat {n}."}
            for n in range(6)
            for k, article in enumerate(["A", "One"])
        ],
    }
    train = {"images": [{"id": 9, "file_name": "9.jpg"}], "annotations": [
        {"id": k, "image_id": 9, "caption": text} for k, text in enumerate(["a dog", "a dog", "a cow", "a mat"])
    ]}  # fmt: skip
    rows = {
        "labels.csv": [["ImageID", "Source", "LabelName", "Confidence"]]
        + [[f"f{n}", "verification", f"/m/{animals[n % 3]}", "1"] for n in range(6)]
        + [["f0", "verification", "/m/cow", "0"]],
        "boxes.csv": [["ImageID", "Source", "LabelName", "Confidence", "XMin", "XMax", "YMin", "YMax"]]
        + [[f"f{n}", "xclick", f"/m/{animals[n % 3]}", "1", "0", "0.5", "0", "0.5"] for n in range(3)],
        "classes.csv": [[f"/m/{name}", name.capitalize(), ""] for name in animals],
    }
    for name, content in rows.items():
        with (tmp_path / name).open("w", newline="") as file:
            csv.writer(file).writerows(content)
    for name, content in (("nocaps.json", said), ("train.json", train)):
        (tmp_path / name).write_text(json.dumps(content))
    (tmp_path / "tags.jsonl").write_text(
        '{"image_id": "1", "tags": ["dog", "okapi"]}\n{"image_id": "2", "tags": ["dog"]}\n'
    )
    return {name.name: str(name) for name in tmp_path.iterdir()}


def predictions(folder: Path, name: str, *captions: str) -> str:
    path = folder / name
    path.write_text(json.dumps([{"image_id": n, "caption": caption} for n, caption in enumerate(captions)]))
    return str(path)


def arguments(nocaps: dict[str, str]) -> list[str]:
    named = {"references": "nocaps.json", "classes": "classes.csv", "labels": "labels.csv", "boxes": "boxes.csv",
             "training-captions": "train.json", "training-tags": "tags.jsonl"}  # fmt: skip
    return [text for key, name in named.items() for text in (f"--{key}", nocaps[name])]


def test_with_files_of_open_images(nocaps, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    ours = predictions(tmp_path, "p.json", "a dog", "a dog", "a dog", "a dog", "a cow", "an okapi")
    out = tmp_path / "new" / "m.json"
    options = ["--base-from", "2", "--bins", "0", "1", "--resamples", "20", "--out", str(out)]
    assert program().main(["--predictions", ours, *arguments(nocaps), *options]) == 0
    found = json.loads(out.read_text())
    of = found["captions"]["statistics"]
    # in-domain: dog alone, named twice in training; said in 0..3, there in 0 and 3
    assert of["objects by references"]["in"]["F1"]["value"] == pytest.approx(2 * 2 / 6)
    assert of["objects by references"]["out"]["F1"]["value"] == pytest.approx(2 / 3)  # cow and okapi, 1 of 2 each
    assert of["objects by references"]["overall"]["micro F1"]["value"] == pytest.approx(2 * 4 / 12)
    # boxes: pictures 3 to 5 have none, so their mentions are mistakes there
    assert of["hallucination"]["boxes"]["CHAIRi"]["value"] == pytest.approx(5 / 6)
    assert of["hallucination"]["labels"]["CHAIRs"]["value"] == pytest.approx(2 / 6)
    # verified: of picture 1 and 2 nobody says that there is no dog
    assert of["hallucination"]["labels, verified"]["CHAIRi"]["value"] == 0.0
    assert of["novelty"]["overall"]["new"]["value"] == pytest.approx(1 / 6), "an okapi alone is new"
    assert of["recall by training tags and labels"]["> 1"]["recall"]["value"] == 1.0  # dog, tagged twice
    assert of["recall by training tags and labels"]["0"]["recall"]["value"] == 0.5  # cow
    assert found["facts"]["bins"]["training captions"] == {"0": 1, "1": 1, "> 1": 1}
    assert found["captions"]["diversity"][0]["vocabulary"] == 5
    people = found["people"]["statistics"]
    assert people["objects by references"]["overall"]["F1"]["value"] == 1.0, (
        "the first caption names what the other does"
    )
    assert people["novelty"]["overall"]["new"]["value"] == 1.0
    pictures = json.loads((tmp_path / "new" / "m.pictures.json").read_text())
    assert pictures["1"]["hallucinated"]["labels"] == ["dog"] and pictures["1"]["missed"]["boxes"] == ["cow"]
    printed = capsys.readouterr().out
    for words in (
        "Table 2",
        "Table 3",
        "CHAIRi out",
        "any source",
        "no training picture has",
        "people",
    ):
        assert words in printed
    assert "difference" not in printed


def test_seeds_and_another_system(nocaps, tmp_path: Path, capsys) -> None:
    right = [f"a {animal}" for animal in ["dog", "cow", "okapi"] * 2]
    ours = [predictions(tmp_path, "a.json", *right), predictions(tmp_path, "b.json", *["nothing"] * 6)]
    theirs = predictions(tmp_path, "c.json", *["nothing"] * 6)
    out = tmp_path / "m.json"
    options = ["--resamples", "30", "--out", str(out)]
    assert program().main(["--predictions", *ours, "--against", theirs, *arguments(nocaps), *options]) == 0
    found = json.loads(out.read_text())
    gain = found["difference"]["statistics"]["objects by labels"]["overall"]["F1"]
    assert gain == {"value": 0.5, "low": 0.5, "high": 0.5}
    nothing = found["against"]["statistics"]["hallucination"]["labels"]
    assert nothing["CHAIRi"] == {"value": None, "low": None, "high": None} and nothing["CHAIRs"]["value"] == 0.0
    assert {path.name for path in tmp_path.glob("m.*")} == {"m.json", "m.pictures0.json", "m.pictures1.json"}
    assert "difference" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (["--labels", "boxes.csv", "--boxes", "labels.csv"], "no column XMin"),
        (["--training-captions", ""], "give --training-captions"),
        (["--bins", "5", "1"], "must rise"),
        (["--labels", "train.json"], "no column"),
        (["--classes", "other.csv"], "do their ids"),
        (["--references", "train.json"], "no prediction"),
    ],
)
def test_what_is_refused(nocaps, tmp_path: Path, capsys, change: list[str], message: str) -> None:
    (tmp_path / "other.csv").write_text("/m/x,Dog,\n")
    ours = predictions(tmp_path, "p.json", *["a dog"] * 6)
    options = [str(tmp_path / text) if (tmp_path / text).is_file() else text for text in change]
    if message == "no prediction":
        options += ["--labels", "", "--boxes", ""]
    given = ["--predictions", ours, *arguments(nocaps), "--out", str(tmp_path / "m.json"), "--resamples", "0", *options]
    assert program().main(given) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ") and message in error and error.count("\n") == 1
    assert not (tmp_path / "m.json").exists()


def test_on_the_tiny_world(tiny_world: Path, tmp_path: Path, capsys) -> None:
    """Captions that are references: nothing is made up, and F1 by references is that of the score program."""
    world = tiny_world / "world"
    references = world / "nocaps" / "nocaps_val_captions.json"
    examples, classes = read_nocaps(references), read_classes(world / "classes.json")
    captions = {example.image_id: example.captions[3] for example in examples}
    ours = tmp_path / "p.json"
    ours.write_text(json.dumps([{"image_id": i, "caption": text} for i, text in captions.items()]))
    validation = world / "nocaps" / "validation-annotations"
    given = ["--predictions", str(ours), "--references", str(references), "--classes", str(world / "classes.json"),
             "--labels", f"{validation}-human-imagelabels.csv", "--boxes", f"{validation}-bbox.csv",
             "--training-captions", str(tiny_world / "examples" / "captions.jsonl"),
             "--training-tags", str(tiny_world / "examples" / "tags.jsonl"), "--resamples", "0",
             "--out", str(tmp_path / "m.json")]  # fmt: skip
    assert program().main(given) == 0
    found = json.loads((tmp_path / "m.json").read_text())["captions"]["statistics"]
    for truth in ("references", "labels", "boxes"):
        assert found["hallucination"][truth]["CHAIRs"]["value"] == 0.0
    wanted = object_f1(captions, {example.image_id: example.captions for example in examples}, classes)
    for group in ("in", "out", "out_unknown", "overall"):
        for truth in ("references", "labels", "boxes"):
            assert found[f"objects by {truth}"][group]["F1"]["value"] == pytest.approx(wanted[group]), (group, truth)
    bins = found["recall by training captions and boxes"]
    assert set(bins) > {"0"} and 0 < bins["0"]["recall"]["value"] <= 1
    assert 0 < found["novelty"]["out"]["new"]["value"] <= 1
    capsys.readouterr()


def test_a_class_list_is_made_of_open_images_files_and_scored_by(nocaps, tmp_path: Path, capsys) -> None:
    """Dog is named twice in training, cow once: base from 2 on leaves the dog. Scores are those by hand."""
    out, detector = tmp_path / "made" / "classes.json", tmp_path / "detector.txt"
    detector.write_text("Dog\n\n okapi \nzebra\n")
    given = [nocaps["classes.csv"], "--training-captions", nocaps["train.json"], "--base-from", "2", "--out", str(out)]
    assert program("class_list").main([*given, "--detector", str(detector)]) == 0
    assert "(3 classes, 1 base, 2 novel)" in capsys.readouterr().out
    made = {named.name: named for named in read_classes(out)}
    assert {name: (named.role, named.detector) for name, named in made.items()} == {
        "dog": ("base", True), "cow": ("novel", False), "okapi": ("novel", True),
    }  # fmt: skip
    assert "dogs" in made["dog"].forms and made["dog"].mid == "/m/dog"
    ours = predictions(tmp_path, "p.json", "a dog", "a dog", "a dog", "dogs", "a cow", "an okapi")
    scores = tmp_path / "s.json"
    files = ["--predictions", ours, "--references", nocaps["nocaps.json"], "--out", str(scores)]
    assert program("score").main([*files, "--classes", str(out)]) == 0
    found = json.loads(scores.read_text())
    assert found["in"]["F1"] == pytest.approx(2 * 2 / 6) and found["out"]["F1"] == pytest.approx(2 / 3)
    assert found["out"]["F1_unknown"] == pytest.approx(2 / 3)
    detector.write_text("zebra\n")
    assert program("class_list").main([*given, "--detector", str(detector)]) == 2
    assert "names none of the 3 classes" in capsys.readouterr().err
    assert program("class_list").main([str(out), *given[1:]]) == 2
    assert "is what this program makes" in capsys.readouterr().err
