"""eval/nocaps_submit.py: what the server would refuse is refused here, and what is written is what it takes."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml
from test_metrics_predictions import program
from tiny_split import make_info

from vivo.data.coco_2014 import coco_captions, strange_captions
from vivo.data.examples import write_caption_examples
from vivo.data.nocaps import PICTURES
from vivo.data.region_format import sha256_of
from vivo.data.types import CaptionExample
from vivo.errors import UserError
from vivo.submission import check_captions, read_split
from vivo.training.lineage import other_captions, stages_of

COCO = Path(__file__).resolve().parents[2] / "shared" / "data" / "coco_captions_val2017.json"


@pytest.fixture(scope="module")
def info(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Image info of both splits as nocaps has it; the ids of test follow on those of validation."""
    folder = tmp_path_factory.mktemp("info")
    first = {"val": 0, "test": PICTURES["val"]}
    return {
        name: make_info(
            folder / f"nocaps_{name}_image_info.json", [str(first[name] + n) for n in range(PICTURES[name])]
        )
        for name in PICTURES
    }


@pytest.fixture
def write(tmp_path: Path, info: dict[str, Path]) -> Callable[..., Path]:
    """Predictions of a whole split, changed by a function of the list of records."""

    def written(split: str = "val", change: Callable[[list], object] = lambda records: None) -> Path:
        ids = [image["id"] for image in json.loads(info[split].read_text())["images"]]
        records = [{"image_id": str(i), "caption": f"a dog on mat {i}.", "score": -1.0} for i in ids]
        change(records)
        path = tmp_path / "predictions.json"
        path.write_text(json.dumps(records))
        return path

    return written


@pytest.mark.parametrize(("split", "phase"), [("val", 742), ("test", 743)])
def test_the_file_is_the_bare_list_in_the_order_of_the_split(
    write, info: dict[str, Path], tmp_path: Path, capsys, split: str, phase: int
):
    predictions = write(split, lambda records: records.reverse())
    out = tmp_path / "new" / "submission 1.json"
    arguments = [str(predictions), "--info", str(info[split]), "--out", str(out)]
    assert program("nocaps_submit").main([*arguments, "--dry-run"]) == 0
    assert not out.parent.exists() and "was not written" in capsys.readouterr().out
    assert program("nocaps_submit").main(arguments) == 0
    written = json.loads(out.read_text())
    ids = [image["id"] for image in json.loads(info[split].read_text())["images"]]
    assert [record["image_id"] for record in written] == ids and len(written) == PICTURES[split]
    assert all(set(record) == {"image_id", "caption"} and type(record["image_id"]) is int for record in written)
    assert written[3] == {"image_id": ids[3], "caption": f"a dog on mat {ids[3]}."}
    said = capsys.readouterr().out
    assert f"evalai challenge 355 phase {phase} submit --file '{out}'" in said and "nothing was uploaded" in said
    assert ("few submissions" in said) == (split == "test") and "name its training with --run" in said


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda r: r.pop(7), r"1 of 4,500 pictures have no caption \(first: 7\)"),
        (lambda r: r.append({"image_id": 4500, "caption": "a"}), r"1 captions are of pictures that nocaps validation"),
        (lambda r: r[7].update(image_id=8), "entry 8: picture 8 has two captions"),
        (
            lambda r: r[7].update(image_id=f"{7:016x}"),
            r"that is an Open Images id, nocaps' own id of this picture is 7",
        ),
        (lambda r: r[7].update(image_id=7.0), "entry 7: image_id: must be a whole number or text"),
        (lambda r: r[7].update(image_id=True), "entry 7: image_id"),
        (lambda r: r[7].update(image_id="seven"), r"\(first: seven\)"),
        (lambda r: r[7].update(caption=" \n"), r"1 captions are empty \(first: picture 7\)"),
        (lambda r: r[7].update(caption=None), "entry 7, picture 7: the caption must be text"),
        (lambda r: r[7].update(caption=["a dog"]), "the caption must be text"),
        (lambda r: r[7].update(caption="a\0dog"), r"entry 7, picture 7: the caption has the character U\+0000"),
        (lambda r: r[7].update(caption="a \ud83d dog"), r"U\+D83D, which is no text"),
        (lambda r: r[7].update(caption="caf\ufffd"), r"U\+FFFD"),
        (lambda r: r[7].update(caption="dog " * 100_000), "400,000 bytes"),
        (lambda r: r.clear(), "the list is empty"),
    ],
)
def test_what_the_server_would_refuse(write, info: dict[str, Path], change, words: str):
    with pytest.raises(UserError, match=words) as error:
        check_captions(write("val", change), read_split(info["val"]))
    assert "\n" not in str(error.value) and len(str(error.value)) < 400


def test_files_that_are_not_text_and_splits_that_are_mixed_up(write, info: dict[str, Path], tmp_path: Path):
    split = read_split(info["val"])
    with pytest.raises(UserError, match="10,600 captions are those of test: give its image info"):
        check_captions(write("test"), split)
    latin = write()
    latin.write_bytes(latin.read_bytes().replace(b"a dog on mat 7.", b"caf\xe9"))
    with pytest.raises(UserError, match="not UTF-8 text"):
        check_captions(latin, split)
    (tmp_path / "predictions.header.json").write_text('{"control": "another picture\'s regions and tags"}')
    with pytest.raises(UserError, match="are the captions of a control"):
        check_captions(write(), split)
    few = make_info(tmp_path / "few.json", ["0", "1"])
    with pytest.raises(UserError, match="lists 2 pictures; nocaps validation has 4,500 and test 10,600"):
        read_split(few)
    other = make_info(tmp_path / "other.json", [str(n) for n in range(1, 4501)])
    with pytest.raises(UserError, match="none of nocaps validation's 0 to 4499"):
        read_split(other)
    wrong = tmp_path / "nocaps_test_image_info.json"
    wrong.write_text(info["val"].read_text())
    with pytest.raises(UserError, match="expected 10,600 nocaps test pictures, found 4,500"):
        read_split(wrong)


def test_what_is_doubtful_is_said(write, info: dict[str, Path]):
    def doubtful(records: list) -> None:
        for record in records[:2300]:
            record["caption"] = "a man  in a\nroom"
        records[4000]["caption"] = "word " * 51
        records[4001]["caption"] = "a café"

    records, doubts = check_captions(write("val", doubtful), read_split(info["val"]))
    assert records[0]["caption"] == "a man in a room" and len(doubts) == 3
    assert "one caption stands for 2,300 of 4,500 pictures: 'a man in a room'" in doubts[0]
    assert "1 captions have more than 50 words" in doubts[1] and "'a café'" in doubts[2]
    assert check_captions(write(), read_split(info["val"]))[1] == []


# ---- what the model has learned from --------------------------------------------------------


def make_run(folder: Path, objective: str, init: str, captions: Path | None = None) -> Path:
    """What a training leaves that tells of it, with a model of its own."""
    model = folder / "model"
    model.mkdir(parents=True)
    (model / "config.json").write_text('{"model_type": "vivo"}')
    (model / "model.safetensors").write_bytes(folder.name.encode())
    field = "pairs" if objective in ("pairs", "both") else "examples"
    settings = {"objective": objective, "init": init, "data": {field: str(captions or "tags.jsonl")}}
    facts = {"init": {"path": init}}
    if captions:
        facts[field] = {"path": str(captions), "bytes": captions.stat().st_size, "sha256": sha256_of(captions)}
    (folder / "config.yaml").write_text(yaml.safe_dump(settings))
    (folder / "inputs.json").write_text(json.dumps(facts))
    return folder


@pytest.fixture(scope="module")
def coco(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two captions of two pictures, out of the wheel."""
    path = tmp_path_factory.mktemp("coco") / "coco.jsonl"
    found = coco_captions(["9", "139", "4711471147"])
    assert sorted(found) == ["139", "9"] and all(len(captions) == 5 for captions in found.values())
    examples = [CaptionExample(i, "", sorted(captions)[:2]) for i, captions in sorted(found.items())]
    write_caption_examples(examples, path)
    return path


def test_a_chain_of_trainings_on_coco_raises_no_warning(coco: Path, tmp_path: Path):
    bert = tmp_path / "bert"
    bert.mkdir()
    (bert / "config.json").write_text('{"model_type": "bert"}')
    first = make_run(tmp_path / "pre", "tags", str(bert))
    second = make_run(tmp_path / "xe", "captions", str(first / "model"), coco)
    third = make_run(tmp_path / "scst", "scst", str(second / "model"), coco)
    stages = stages_of(third)
    assert [(stage.folder.name, stage.objective) for stage in stages] == [
        ("scst", "scst"), ("xe", "captions"), ("pre", "tags"),
    ]  # fmt: skip
    assert stages_of(third / "model") == stages and other_captions(stages) == []


def test_captions_of_others_are_said(coco: Path, tmp_path: Path):
    own = tmp_path / "own.jsonl"
    lines = coco.read_text() + '{"image_id": "9", "captions": ["a dog of mine"]}\n'.replace('"9"', '"n1"')
    own.write_text(lines)
    first = make_run(tmp_path / "pre", "both", "minilm", own)
    second = make_run(tmp_path / "xe", "captions", str(first / "model"), coco)
    (said,) = other_captions(stages_of(second))
    assert said.startswith(f"{first}: learned from the captions of own.jsonl: 1 of them are none of COCO's")
    assert "(picture n1: 'a dog of mine')" in said
    own.write_text(lines + "\n")  # another file by now
    (said,) = other_captions(stages_of(second))
    assert "which are not at hand: whether they are COCO's is not known" in said


def test_what_nobody_can_tell_is_said(coco: Path, tmp_path: Path):
    imported = tmp_path / "imported"
    imported.mkdir()
    (imported / "config.json").write_text('{"model_type": "vivo"}')
    (imported / "README.md").write_text("# vivo model\n\nImported from a captioning checkpoint of Oscar or VinVL.\n")
    run = make_run(tmp_path / "xe", "captions", str(imported), coco)
    (said,) = other_captions(stages_of(run))
    assert said == f"{imported}: it was imported, and nothing says which captions it has learned from"
    gone = make_run(tmp_path / "two", "captions", "nowhere/model", coco)
    (said,) = other_captions(stages_of(gone))
    assert said.startswith(f"{gone}: began with nowhere/model, which is not at hand")
    with pytest.raises(UserError, match="neither the folder of a training"):
        stages_of(tmp_path / "none")


def test_a_copied_model_tells_by_its_card(coco: Path, tmp_path: Path):
    model = tmp_path / "copy"
    model.mkdir()
    (model / "config.json").write_text('{"model_type": "vivo"}')
    card = (
        "## Made from\n\n| | |\n|---|---|\n| examples | path `coco.jsonl`, bytes `1`, sha256 `{}` |\n\n"
        "## Configuration\n\n```yaml\nobjective: captions\ninit: minilm\ndata:\n  examples: coco.jsonl\n```\n"
    )
    (model / "README.md").write_text(card.format("ab" * 32))
    (stage,) = stages_of(model)
    assert (stage.objective, stage.captions["sha256"]) == ("captions", "ab" * 32)
    (said,) = other_captions([stage])
    assert f"the captions of coco.jsonl (SHA-256 {'ab' * 8}), which are not at hand" in said


def test_the_program_warns_and_refuses_captions_of_other_weights(
    write, info: dict[str, Path], coco: Path, tmp_path: Path, capsys
):
    own = tmp_path / "own.jsonl"
    own.write_text('{"image_id": "9", "captions": ["a dog of mine"]}\n')
    run = make_run(tmp_path / "xe", "captions", "minilm", own)
    header = tmp_path / "predictions.header.json"
    header.write_text(json.dumps({"weights_sha256": sha256_of(run / "model" / "model.safetensors")}))
    common = [str(write()), "--info", str(info["val"]), "--out", str(tmp_path / "out.json"), "--run", str(run)]
    assert program("nocaps_submit").main(common) == 0
    warnings = [line for line in capsys.readouterr().out.splitlines() if line.startswith("WARNING: ")]
    assert len(warnings) == 2 and "allows COCO's captions as the only" in warnings[0] and "own.jsonl" in warnings[1]
    header.unlink()
    assert program("nocaps_submit").main(common) == 0
    assert "nothing says that these captions are of" in capsys.readouterr().out
    header.write_text(json.dumps({"weights_sha256": "0" * 64}))
    (tmp_path / "out.json").unlink()
    assert program("nocaps_submit").main(common) == 2
    assert "was written by other weights" in capsys.readouterr().err and not (tmp_path / "out.json").exists()


@pytest.mark.slow
@pytest.mark.skipif(not COCO.is_file(), reason="the real sample data is not beside this checkout")
def test_all_captions_of_val2017_are_coco_s_of_2014():
    """25,014 captions of 5,000 pictures; one word changed is one stranger."""
    content = json.loads(COCO.read_text())
    captions: dict[str, list[str]] = {str(image["id"]): [] for image in content["images"]}
    for annotation in content["annotations"]:
        captions[str(annotation["image_id"])].append(annotation["caption"])
    examples = [CaptionExample(i, "", texts) for i, texts in captions.items()]
    known = coco_captions(captions)
    assert sum(len(e.captions) for e in examples) == 25_014 and strange_captions(examples, known) == []
    examples[9].captions[0] += " indeed"
    assert strange_captions(examples, known) == [(examples[9].image_id, examples[9].captions[0])]
