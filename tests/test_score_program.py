"""eval/score.py with METEOR, SPICE, partitions and stored frequencies; what stands beside the numbers."""

import json
import os
import zipfile
from pathlib import Path

import pytest
from test_metrics_human import captions_file, split
from test_metrics_predictions import program

from vivo.metrics.document_frequencies import count_document_frequencies
from vivo.metrics.meteor import Meteor
from vivo.metrics.spice import CORENLP
from vivo.metrics.tokenizer import ptb_tokenize_all

CAPTIONS = {"0": "a dog runs fast", "1": "a cat", "2": "a red bus stops", "3": "two kites in a sky"}


@pytest.fixture
def scored(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    """Runs eval/score.py on four pictures: (scores.json, scores by picture, stdout, stderr)."""
    references = captions_file(tmp_path / "captions.json")
    (tmp_path / "p.json").write_text(json.dumps([{"image_id": int(i), "caption": c} for i, c in CAPTIONS.items()]))

    def run(*options: str, status: int = 0) -> tuple[dict, dict, str, str]:
        out = tmp_path / "out" / "s.json"
        common = ["--predictions", str(tmp_path / "p.json"), "--references", str(references), "--out", str(out)]
        assert program("score").main([*common, *options]) == status
        shown = capsys.readouterr()
        if status:
            return {}, {}, shown.out, shown.err
        pictures = json.loads((out.parent / "s.pictures.json").read_text())
        return json.loads(out.read_text()), pictures, shown.out, shown.err

    return run


def test_plain_scores_say_what_they_are(scored) -> None:
    scores, pictures, printed, errors = scored()
    assert set(scores) == {"in", "out", "overall", "about", "human"} and errors == ""
    about = scores["about"]
    assert about["without"] == ["SPICE", "METEOR"] and "missing" not in about and "domains" not in about
    assert about["references_per_picture"] == [2, 3] and about["metrics"]["CIDEr"].startswith("CIDEr-D")
    assert about["document_frequencies"] == "references of these 4 pictures"
    assert "Without SPICE and METEOR (--spice, --meteor)." in printed
    assert set(pictures["0"]) == {"caption", "CIDEr", "ROUGE_L"}


def test_the_references_own_scores_stand_beside(scored) -> None:
    scores, _, printed, _ = scored()
    value, low, high = scores["human"]["mean"]["overall"]["CIDEr"]
    assert low < value < high and f"overall CIDEr {value:.1f} [{low:.1f}, {high:.1f}]" in printed
    assert printed.count("  references ") == 6  # under CIDEr, ROUGE-L, BLEU-1..4
    scores, _, printed, _ = scored("--no-human")
    assert "human" not in scores and "  references " not in printed


def test_references_that_cannot_be_left_out(scored, tmp_path: Path) -> None:
    content = json.loads((tmp_path / "captions.json").read_text())
    content["annotations"] = [a for a in content["annotations"] if a["id"] != 11]
    (tmp_path / "captions.json").write_text(json.dumps(content))
    scores, _, printed, _ = scored()
    assert "human" not in scores and "picture 1 has 1 reference(s)" in scores["about"]["human"]
    assert "no scores of the reference captions themselves: picture 1" in printed


@pytest.mark.parametrize("separator", ["\n", "\r", "\r\n", "\u2028", "\x0b", "\x0c", "\x1e", "\x85"])
def test_line_breaks_in_references_move_nothing(scored, tmp_path: Path, separator: str) -> None:
    """pycocoevalcap's tokenizer would give every later caption to another picture."""
    _, plain, _, _ = scored("--no-human")
    content = json.loads((tmp_path / "captions.json").read_text())
    for annotation in content["annotations"]:
        annotation["caption"] = separator + annotation["caption"].replace(" ", separator) + separator
    (tmp_path / "captions.json").write_text(json.dumps(content))
    assert scored("--no-human")[1] == plain


def test_meteor_through_the_command(scored, java: str) -> None:
    scores, pictures, printed, _ = scored("--meteor")
    texts = [[" ".join(t) for t in ptb_tokenize_all(e.captions)] for e in split()]
    expected = Meteor().score(list(CAPTIONS.values()), texts, {"out": [2, 3], "overall": range(4)})
    assert scores["overall"]["METEOR"] == pytest.approx(100 * expected.groups["overall"])
    assert scores["out"]["METEOR"] == pytest.approx(100 * expected.groups["out"])
    assert [row["METEOR"] for row in pictures.values()] == pytest.approx(100 * expected.per_picture)
    assert "Without SPICE (--spice)." in printed


def test_a_missing_java_is_said_before_and_after(scored, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    scores, pictures, printed, errors = scored("--meteor", "--spice", str(tmp_path))
    assert "METEOR will be missing: java is not on PATH" in errors and "SPICE will be missing: " in errors
    assert set(scores["about"]["missing"]) == {"SPICE", "METEOR"} and scores["about"]["without"] == []
    assert "METEOR" not in scores["overall"] and "METEOR" not in pictures["0"] and scores["overall"]["CIDEr"] > 0
    assert "METEOR is missing: java is not on PATH; apt-get" in printed
    rows = [line.split() for line in printed.splitlines()]
    assert ["│", "METEOR", *["│", "missing"] * 3, "│"] in rows


def test_spice_by_a_java_that_is_a_script(scored, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A stand-in for Java: what is tested is how the program is called, and that its answers find their pictures."""
    for name in CORENLP:
        with zipfile.ZipFile(tmp_path / name, "w") as jar:
            jar.writestr("a", "b")
    (tmp_path / "java").write_text(
        "#!/bin/sh\n"
        "if [ $1 = -version ]; then echo 'openjdk version \"17.0.1\"' >&2; exit; fi\n"
        'exec python3 - "$@" <<EOF\n'
        "import json, sys\n"
        "a = sys.argv\n"
        "place = a.index('edu.anu.spice.SpiceScorer')\n"
        "pictures = json.load(open(a[place + 1]))\n"
        "out = [{'image_id': p['image_id'], 'scores': {'All': {'f': len(p['test'].split()) / 10}}} for p in pictures]\n"
        "json.dump(out[::-1], open(a[a.index('-out') + 1], 'w'))\n"
        "EOF\n"
    )
    (tmp_path / "java").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    monkeypatch.setenv("VIVO_SPICE", str(tmp_path))
    scores, pictures, printed, errors = scored("--spice")
    assert [row["SPICE"] for row in pictures.values()] == pytest.approx([40, 20, 40, 50])
    assert scores["in"]["SPICE"] == pytest.approx(30) and scores["overall"]["SPICE"] == pytest.approx(37.5)
    assert errors == "" and "37.5" in printed


def test_a_partition_moves_the_pictures(scored, tmp_path: Path) -> None:
    plain, pictures, _, _ = scored()
    (tmp_path / "server.json").write_text(json.dumps({"0": "near", "1": "in", "2": "in", "3": "out"}))
    scores, moved, printed, _ = scored("--partition", str(tmp_path / "server.json"))
    assert moved == pictures and scores["overall"] == plain["overall"]
    assert scores["in"]["CIDEr"] == pytest.approx((pictures["1"]["CIDEr"] + pictures["2"]["CIDEr"]) / 2)
    assert [scores[part]["pictures"] for part in ("in", "near", "out")] == [2, 1, 1]
    assert "(2 / 1 / 1 pictures: not the server's" in scores["about"]["domains"] and "server.json (2 / 1 / 1" in printed
    assert set(scores["human"]["mean"]) == {"in", "near", "out", "overall"}
    (tmp_path / "server.json").write_text(json.dumps({"0": "near"}))
    _, _, printed, errors = scored("--partition", str(tmp_path / "server.json"), status=2)
    assert errors.startswith("error: ") and "no domain for 3 of 4 pictures" in errors and printed == ""


def test_one_picture_alone(scored, tmp_path: Path) -> None:
    """Refused in one line; with stored frequencies it is scored, and said not to compare."""
    table = count_document_frequencies([e.captions for e in split()])
    table.save(tmp_path / "df.json")
    whole, pictures, _, _ = scored()
    content = json.loads((tmp_path / "captions.json").read_text())
    content = {key: [entry for entry in content[key] if 2 in entry.values()] for key in content}
    content["annotations"] = [a for a in content["annotations"] if a["image_id"] == 2]
    (tmp_path / "captions.json").write_text(json.dumps(content))
    (tmp_path / "p.json").write_text('[{"image_id": 2, "caption": "a red bus stops"}]')
    _, _, printed, errors = scored(status=2)
    assert errors.startswith("error: CIDEr of 1 picture(s) is 0 by definition") and errors.count("\n") == 1
    scores, alone, printed, _ = scored("--document-frequencies", str(tmp_path / "df.json"))
    assert alone["2"]["CIDEr"] == pytest.approx(pictures["2"]["CIDEr"], abs=1e-9)
    assert "df.json (4 pictures): CIDEr does not compare with papers" in printed and "human" not in scores
    _, _, _, errors = scored("--document-frequencies", str(tmp_path / "df.json"), "--run", "R", status=2)
    assert errors.startswith("error: --run R: CIDEr by --document-frequencies compares with no other run's")
    _, _, _, errors = scored("--document-frequencies", str(tmp_path / "p.json"), status=2)
    assert errors.startswith("error: ") and "not a table of document frequencies" in errors


def test_a_limit_that_is_none(scored) -> None:
    for value in ("0", "-1", "nan"):
        assert scored("--meteor", "--java-limit", value, status=2)[3].startswith("error: --java-limit")
