"""Prediction files, and the programs of eval/ on them."""

import importlib.util
import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from vivo.data.nocaps import read_nocaps
from vivo.data.predictions import read_header, read_predictions, write_predictions
from vivo.data.regions import RegionStoreWriter
from vivo.data.types import Regions
from vivo.errors import UserError
from vivo.metrics.cider import cider_d

RECORDS = [{"image_id": "7", "caption": "a dog", "score": -1.5}, {"image_id": "8", "caption": "a cat", "score": -2.0}]


def program(name: str) -> ModuleType:
    """eval/NAME.py as a module; the folder is no package."""
    path = Path(__file__).parents[1] / "eval" / f"{name}.py"
    spec = importlib.util.spec_from_file_location(f"eval_{name}", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_round_trip(tmp_path: Path) -> None:
    path = tmp_path / "predictions.json"
    write_predictions(path, RECORDS, {"beam": 5})
    assert read_predictions(path) == {"7": "a dog", "8": "a cat"}
    assert read_header(path) == {"beam": 5}
    assert sorted(file.name for file in tmp_path.iterdir()) == ["predictions.header.json", "predictions.json"]
    assert json.loads(path.read_text()) == RECORDS  # the bare list, as EvalAI takes it


def test_ids_become_text_and_captions_one_line(tmp_path: Path) -> None:
    path = tmp_path / "p.json"
    path.write_text('[{"image_id": 42, "caption": "a\\n dog\\u2028 runs "}, {"image_id": "x1", "caption": "\\ud83d"}]')
    assert read_predictions(path) == {"42": "a dog runs", "x1": "?"}
    assert read_header(path) == {}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("[", "line 1: not JSON"),
        ("", "not JSON"),
        ("[]", "empty"),
        ('{"7": "a dog"}', "expected a list"),
        ("[3]", "entry 0"),
        ('[{"caption": "a dog"}]', 'entry 0: no "image_id"'),
        ('[{"image_id": 1}]', 'entry 0: no "caption"'),
        ('[{"image_id": 1.5, "caption": "a"}]', "entry 0: image_id"),
        ('[{"image_id": null, "caption": "a"}]', "entry 0: image_id"),
        ('[{"image_id": 1, "caption": "a"}, {"image_id": "1", "caption": "b"}]', "entry 1: picture 1 has two captions"),
        ('[{"image_id": 1, "caption": 5}]', "entry 0, picture 1: the caption must be text, found 5"),
        ('[{"image_id": 1, "caption": ["a"]}]', "must be text"),
        (json.dumps([{"image_id": 1, "caption": "dog " * 2_500_000}]), "10,000,000 bytes"),
    ],
)
def test_malformed_predictions(tmp_path: Path, content: str, message: str) -> None:
    path = tmp_path / "p.json"
    path.write_text(content)
    with pytest.raises(UserError, match=message) as error:
        read_predictions(path)
    assert str(path) in str(error.value) and "\n" not in str(error.value) and len(str(error.value)) < 400


def test_missing_file_and_damaged_header(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="cannot be read"):
        read_predictions(tmp_path / "none.json")
    (tmp_path / "p.header.json").write_text("[]")
    with pytest.raises(UserError, match="p.header.json"):
        read_header(tmp_path / "p.json")


def test_a_failed_write_leaves_nothing(tmp_path: Path) -> None:
    path = tmp_path / "p.json"
    write_predictions(path, RECORDS, {})
    with pytest.raises(TypeError):
        write_predictions(path, [{"image_id": "1", "caption": object()}], {})
    assert read_predictions(path) == {"7": "a dog", "8": "a cat"}
    assert len(list(tmp_path.iterdir())) == 2


def test_older_captions_never_stand_beside_a_newer_header(tmp_path: Path) -> None:
    """Writing fails between the two: what is left is no predictions at all."""
    path = tmp_path / "predictions.json"
    write_predictions(path, RECORDS, {"beam": 5}, [{"image_id": "7"}, {"image_id": "8"}])
    assert len((tmp_path / "predictions.constraints.jsonl").read_text().splitlines()) == 2
    (tmp_path / "predictions.header.json").unlink()
    (tmp_path / "predictions.header.json").mkdir()  # cannot be replaced by a file
    with pytest.raises(UserError, match="cannot write .*predictions.header.json"):
        write_predictions(path, RECORDS[:1], {"beam": 1})
    assert [file.name for file in tmp_path.iterdir()] == ["predictions.header.json"]


@pytest.fixture
def files(tmp_path: Path) -> Callable[..., list[str]]:
    """A split of 12 pictures with classes, and a writer of predictions for it."""
    animals = ["bear", "mouse", "dog"]
    domains = ["in-domain", "near-domain", "out-domain"]
    nocaps = {
        "images": [{"id": n, "file_name": f"{n}.jpg", "domain": domains[n % 3]} for n in range(12)],
        "annotations": [
            {"id": 2 * n + k, "image_id": n, "caption": f"{article} {animals[n % 3]} on mat {n}."}
            for n in range(12)
            for k, article in enumerate(["A", "One"])
        ],
    }
    keys = {"parents": [], "mid": "/m/0"}
    classes = [
        {"name": a, "plural": f"{a}s", "forms": [a], "role": r, "detector": r == "base", **keys}
        for a, r in [("bear", "base"), ("mouse", "novel"), ("dog", "novel")]
    ]
    (tmp_path / "nocaps.json").write_text(json.dumps(nocaps))
    (tmp_path / "classes.json").write_text(json.dumps(classes))

    def write(name: str, caption: Callable[[int, str], str]) -> list[str]:
        records = [{"image_id": n, "caption": caption(n, animals[n % 3])} for n in range(12)]
        (tmp_path / name).write_text(json.dumps(records))
        return ["--references", str(tmp_path / "nocaps.json"), "--classes", str(tmp_path / "classes.json")]

    return write


def test_score_program(files, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    common = files("p.json", lambda n, animal: f"a bear on mat {n}" if n % 3 == 1 else f"a {animal} on mat {n}")
    out = tmp_path / "new" / "s.json"
    assert program("score").main(["--predictions", str(tmp_path / "p.json"), "--out", str(out), *common]) == 0
    scores = json.loads(out.read_text())
    # bear: said in 8 pictures, right in 4 of 4 -> 2*4/12; dog 1, mouse 0
    assert scores["in"]["F1"] == pytest.approx(2 / 3) and scores["out"]["F1"] == pytest.approx(1 / 2)
    assert scores["overall"]["F1"] == pytest.approx((2 / 3 + 1) / 3)
    assert scores["in"]["CIDEr"] > scores["near"]["CIDEr"] > 0 and scores["overall"]["pictures"] == 12
    pictures = json.loads((tmp_path / "new" / "s.pictures.json").read_text())
    assert pictures["1"]["named"] == ["bear"] and pictures["1"]["caption"] == "a bear on mat 1"
    mean = sum(row["CIDEr"] for row in pictures.values()) / 12
    assert scores["overall"]["CIDEr"] == pytest.approx(mean)
    printed = capsys.readouterr().out
    assert "CIDEr" in printed and "F1_unknown" in printed and "0.667" in printed


def test_score_program_on_bad_input(files, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    common = files("p.json", lambda n, animal: animal)
    (tmp_path / "p.json").write_text('[{"image_id": 3, "caption": "a dog"}]')
    out = tmp_path / "s.json"
    assert program("score").main(["--predictions", str(tmp_path / "p.json"), "--out", str(out), *common]) == 2
    assert capsys.readouterr().err.startswith("error: 11 of 12 pictures have no prediction")
    assert not out.exists()


MALFORMED = {
    "wrong JSON": (b'[{"image_id": 0, "caption": "a dog"}', "line 1: not JSON"),
    "nothing": (b"", "not JSON"),
    "an empty list": (b"[]", "the list is empty"),
    "an object": (b'{"0": "a dog"}', "expected a list"),
    "nested without end": (b"[" * 100_000, "not JSON of any kind"),
    "no id": (b'[{"caption": "a dog"}]', 'entry 0: no "image_id"'),
    "no caption": (b'[{"image_id": 0}]', 'entry 0: no "caption"'),
    "an id of kind null": (b'[{"image_id": null, "caption": "a"}]', "image_id: must be a whole number or text"),
    "an id of kind true": (b'[{"image_id": true, "caption": "a"}]', "image_id: must be a whole number or text"),
    "an id with a point": (b'[{"image_id": 0.0, "caption": "a"}]', "image_id: must be a whole number or text"),
    "an id in two lines": (b'[{"image_id": "a\\nb", "caption": "a"}]', "must be a whole number or text, found 'a"),
    "half a character as id": (b'[{"image_id": "\\ud83d", "caption": "a"}]', "whole number or text, found '.ud83d'"),
    "an id of 5,000 digits": (b'[{"image_id": ' + b"9" * 5000 + b', "caption": "a"}]', "not JSON .Exceeds the limit"),
    "a picture twice": (
        b'[{"image_id": 0, "caption": "a"}, {"image_id": "0", "caption": "b"}]', "entry 1: picture 0 has two captions",
    ),
    "a caption that is NaN": (b'[{"image_id": 0, "caption": NaN}]', "NaN is no JSON value"),
    "a score that is NaN": (b'[{"image_id": 0, "caption": "a", "score": NaN}]', "NaN is no JSON value"),
    "a score without end": (b'[{"image_id": 0, "caption": "a", "score": -Infinity}]', "-Infinity is no JSON value"),
    "a caption that is a number": (b'[{"image_id": 0, "caption": 5}]', "picture 0: the caption must be text, found 5"),
    "a caption that is null": (b'[{"image_id": 0, "caption": null}]', "must be text, found None"),
    "captions in a list": (b'[{"image_id": 0, "caption": ["a dog"]}]', "must be text, found ..a dog"),
    "a caption of 10 MB": (
        b'[{"image_id": 0, "caption": "' + b"dog " * 2_500_000 + b'"}]', "a caption of 10,000,000 bytes",
    ),
    "UTF-16": ('[{"image_id": 0, "caption": "a"}]'.encode("utf-16"), "UTF-16 text, expected UTF-8"),
    "Latin-1": ('[{"image_id": 0, "caption": "caf\u00e9"}]'.encode("latin-1"), "not UTF-8 text"),
    "a zip archive": (b"PK\x03\x04\xff\xfe", "not UTF-8 text"),
    "pictures missing": (b'[{"image_id": 3, "caption": "a dog"}]', "11 of 12 pictures have no prediction"),
    "names for ids": (  # text is a name: "img_0" is not picture 0
        json.dumps([{"image_id": f"img_{n}", "caption": "a dog"} for n in range(12)]).encode(),
        "12 of 12 pictures have no prediction",
    ),
    "a picture too many": (
        json.dumps([{"image_id": n, "caption": "a dog"} for n in range(13)]).encode(),
        "1 predictions are of pictures that the references do not have .first: 12",
    ),
}  # fmt: skip


@pytest.mark.parametrize("what", MALFORMED)
def test_each_malformed_file_is_one_clear_line(files, tmp_path: Path, capsys, what: str) -> None:
    """Through the command: status 2, one line that says where and what, and nothing is written."""
    content, message = MALFORMED[what]
    common = files("p.json", lambda n, animal: animal)
    (tmp_path / "p.json").write_bytes(content)
    out = tmp_path / "s.json"
    assert program("score").main(["--predictions", str(tmp_path / "p.json"), "--out", str(out), *common]) == 2
    shown = capsys.readouterr()
    assert shown.err.startswith("error: ") and shown.err.count("\n") == 1 and len(shown.err) < 500
    assert re.search(message, shown.err), shown.err
    assert not out.exists() and shown.out == ""


def test_the_command_itself_shows_one_line(files, tmp_path: Path) -> None:
    """A process of its own, with an output that cannot show every character."""
    common = files("p.json", lambda n, animal: animal)
    (tmp_path / "p.json").write_text('[{"image_id": "\\ud83d", "caption": "a"}]')
    command = [sys.executable, str(Path(__file__).parents[1] / "eval" / "score.py"), "--out", str(tmp_path / "s.json")]
    done = subprocess.run(
        [*command, "--predictions", str(tmp_path / "p.json"), *common],
        capture_output=True,
        text=True,
        env=os.environ | {"PYTHONPATH": str(Path(__file__).parents[1]), "LC_ALL": "C", "PYTHONUTF8": "0"},
    )
    assert done.returncode == 2 and done.stderr.count("\n") == 1 and "Traceback" not in done.stderr


@pytest.mark.parametrize(
    "variant", ["plain", "text for ids", "padded ids", "a byte order mark", "line breaks", "other keys", "shuffled"]
)
def test_what_is_accepted_scores_the_same(files, tmp_path: Path, capsys, variant: str) -> None:
    """42, "42" and "000000000042" are one picture; a byte order mark and line breaks are nothing."""
    common = files("p.json", lambda n, animal: f"a {animal} on mat {n}")
    records = json.loads((tmp_path / "p.json").read_text())
    separators = ["\n", "\r", "\r\n", "\u2028", "\u2029", "\x0b", "\x0c", "\x1c", "\x85", "\t", "\u00a0", "\u3000"]
    for n, record in enumerate(records):
        if variant == "text for ids":
            record["image_id"] = str(n)
        elif variant == "padded ids":
            record["image_id"] = f"{n:012d}"
        elif variant == "line breaks":
            record["caption"] = separators[n] + record["caption"].replace(" ", separators[n])
        elif variant == "other keys":
            record |= {"id": n, "score": -1.5, "boxes": [1, 2]}
    if variant == "shuffled":
        records.reverse()
    content = json.dumps(records).encode()
    (tmp_path / "p.json").write_bytes(b"\xef\xbb\xbf" + content if variant == "a byte order mark" else content)
    out = tmp_path / "s.json"
    assert program("score").main(["--predictions", str(tmp_path / "p.json"), "--out", str(out), *common]) == 0
    pictures = json.loads((tmp_path / "s.pictures.json").read_text())
    plain = cider_d(
        {str(n): f"a {['bear', 'mouse', 'dog'][n % 3]} on mat {n}" for n in range(12)},
        {e.image_id: e.captions for e in read_nocaps(tmp_path / "nocaps.json")},
    )
    assert {image_id: row["CIDEr"] for image_id, row in pictures.items()} == {i: 100 * s for i, s in plain.items()}


def test_compare_program(files, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    common = files("a.json", lambda n, animal: f"a {animal} on mat {n}")
    files("b.json", lambda n, animal: "a bear on a mat")
    pair = [str(tmp_path / "a.json"), str(tmp_path / "b.json")]
    out = tmp_path / "c.json"
    assert program("compare").main([*pair, *common, "--resamples", "100", "--out", str(out)]) == 0
    assert "A is better" in capsys.readouterr().out
    result = json.loads(out.read_text())
    assert result["out"]["F1"] == {"value": 1.0, "low": 1.0, "high": 1.0}
    assert program("compare").main([pair[0], pair[0], *common, "--resamples", "50"]) == 0
    printed = capsys.readouterr().out
    assert "within noise" in printed and "better" not in printed
    assert result["notes"][0].startswith("One training each")
    assert set(result["overall"]) > {
        "CIDEr",
        "ROUGE_L",
        "BLEU-1",
        "BLEU-4",
    }
    (tmp_path / "partition.csv").write_text("image_id,domain\n" + "".join(f"{n},in\n" for n in range(12)))
    moved = [*pair, *common, "--resamples", "50", "--partition", str(tmp_path / "partition.csv"), "--out", str(out)]
    assert program("compare").main(moved) == 0
    result = json.loads(out.read_text())
    assert "CIDEr" not in result.get("near", {}) and "partition.csv (12 / 0 / 0 pictures" in result["notes"][1]
    assert result["notes"][1] in capsys.readouterr().out
    assert program("compare").main([*pair, *common, "--resamples", "0"]) == 2
    seeds = [*pair, *common, "--resamples", "50", "--more-a", pair[1], "--out", str(out)]
    assert program("compare").main(seeds) == 2
    assert "--more-a and --more-b: how seeds differ must be known of both sides" in capsys.readouterr().err
    page = tmp_path / "c.html"
    assert program("compare").main([*seeds, "--more-b", pair[0], "--html", str(page)]) == 0
    printed = capsys.readouterr().out
    assert "within noise" in printed and "better" not in printed and "Means of 2 seeds of A and 2 of B" in printed
    result = json.loads(out.read_text())
    assert result["out"]["F1"]["value"] == 0.0 and result["out"]["F1"]["low"] < -0.9
    assert "Means of 2 seeds of A and 2 of B" in page.read_text()


def write_small_store(path: Path, labels: dict[str, list[str]]) -> None:
    """A RegionStore with these labels, one region each."""
    with RegionStoreWriter(path, {"name": "made for tests"}, 2) as writer:
        for image_id, names in labels.items():
            boxes = np.array([[0, 0, 4, 4]] * len(names), np.float32)
            features, scores = np.zeros((len(names), 2), np.float16), np.ones(len(names), np.float32)
            writer.write(image_id, Regions(boxes, features, names, scores, 4, 4))


def test_tag_sources_are_compared_by_hand(tmp_path: Path, capsys) -> None:
    """Two pictures; truth: dog + cat, cat. The detector says dog, the file says "dogs" + cow and cat."""
    store = tmp_path / "store"
    write_small_store(store, {"1": ["dog", "dog"], "2": [""]})
    classes = [
        {"name": name, "plural": f"{name}s", "forms": [name, f"{name}s"], "mid": "", "role": role, "detector": True,
         "parents": []}
        for name, role in (("dog", "novel"), ("cat", "base"), ("cow", "base"))
    ]  # fmt: skip
    (tmp_path / "classes.json").write_text(json.dumps(classes))
    images = [{"id": n, "file_name": f"{n}.jpg", "domain": "in-domain"} for n in (1, 2)]
    captions = [{"id": n, "image_id": n, "caption": text} for n, text in ((1, "a dog and a cat"), (2, "two cats"))]
    (tmp_path / "references.json").write_text(json.dumps({"images": images, "annotations": captions}))
    lines = [{"image_id": "1", "tags": ["dogs", "cow"]}, {"image_id": "2", "tags": ["cat"]}]
    (tmp_path / "tags.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    common = ["--regions", str(store), "--references", str(tmp_path / "references.json"),
              "--classes", str(tmp_path / "classes.json")]  # fmt: skip
    file = f"file={tmp_path / 'tags.jsonl'}"
    program("tags").main([*common, "--source", "detector", "--source", file, "--out", str(tmp_path / "out.json")])
    found = json.loads((tmp_path / "out.json").read_text())
    assert found["detector"] == {
        "tags a picture": 0.5, "precision": 1.0, "recall": pytest.approx(1 / 3), "F1 base": 0.0, "F1 novel": 1.0,
        "F1 unknown": None,
    }  # fmt: skip
    # base: cat has 1 of 2 and none wrong (2/3); cow occurs nowhere and is not counted
    assert found[file] == {
        "tags a picture": 1.5, "precision": pytest.approx(2 / 3), "recall": pytest.approx(2 / 3),
        "F1 base": pytest.approx(2 / 3), "F1 novel": 1.0, "F1 unknown": None,
    }  # fmt: skip
    capsys.readouterr()
    for source, words in (("magic", "must be detector"), ("file", "needs a path"), ("detector=x", "takes no path")):
        assert program("tags").main([*common, "--source", source]) == 2
        assert words in capsys.readouterr().err
