"""The page of one evaluation: what it is made of, what it refuses, and that nothing in it can run or call out."""

import json
import os
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from evaluation_files import CLASSES, caption_of, make_files
from PIL import Image
from test_report import Page

from eval.report import main as report
from eval.score import main as score
from vivo.config import DecodeConfig
from vivo.data.nocaps import read_classes, read_nocaps
from vivo.data.predictions import constraints_path, read_predictions, write_predictions
from vivo.data.regions import RegionStore
from vivo.data.text import load_tokenizer
from vivo.errors import UserError
from vivo.explanation import Explainer, WordEvidence
from vivo.metrics.comparison import system_intervals
from vivo.metrics.human import human_record
from vivo.metrics.nocaps import PARTITION_NOTE, SplitScorer
from vivo.modeling import VivoConfig, VivoForCaptioning
from vivo.report.caption_plots import caption_plots, length_shares, word_use
from vivo.report.charts import Column, Difference, column_chart, difference_chart
from vivo.report.evaluation import make_intervals, read_evaluation, read_traces, worst_first
from vivo.report.highlight import WORD, ClassFinder
from vivo.report.images import small_jpeg, write_thumbnails
from vivo.report.page import json_in_page, plain_text
from vivo.report.picture_data import FIRST, LABEL_INSIDE, SHOW_LABEL, picture_data, utf16
from vivo.report.records import EvaluatedPicture
from vivo.split_prediction import predict_split
from vivo.training.checkpoint import save_model
from vivo.weights import bert_folder, load_model

NOCAPS = Path(__file__).resolve().parents[2] / "shared" / "data" / "nocaps_val_captions.json"
HOSTILE = (
    "</script><script>document.title = 'taken'</script><img src=x onerror=\"document.title = 'taken'\"> &amp; <!--"
)


def data_of(page: Path) -> dict:
    """What the script of a page is told."""
    text = page.read_text(encoding="utf-8")
    (found,) = re.findall(r'<script type="application/json" id="data">(.*?)</script>', text)
    return json.loads(found)


def test_a_page_of_files(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    files = make_files(tmp_path / "files", 30, traces=True)
    out = tmp_path / "out" / "report.html"
    assert report([*files.arguments, "--out", str(out), "--title", "Thirty"]) == 0
    assert capsys.readouterr().out == f"written: {out} (30 pictures)\n"
    page, data = Page(out), data_of(out)
    words = page.words()
    table = read_evaluation(files.predictions, files.references, files.classes).table
    for text in ("Thirty", "30 captions against 90 references. Decoded greedily.", f"{table['overall']['CIDEr']:.1f}",
                 f"{table['near']['BLEU-2']:.1f}", "A dash is a score that was not computed (SPICE, METEOR), not a 0",
                 "20 on 20 pictures", "11 (55%)", "30, most often not among the 3 surest (30)", "yak (10)", "fox (10)",
                 "eval/report.py wants --checkpoint for that"):  # fmt: skip
        assert text in words, text
    assert [p["id"] for p in data["pictures"]] == [str(n) for n in range(30)]
    assert [p["captions"][0]["text"] for p in data["pictures"]] == [caption_of(n) for n in range(30)]
    picture = data["pictures"][4]
    assert picture["domain"] == "near" and picture["novel"] == ["yak"] and picture["tags"] == ["yak"]
    assert picture["regions"] == [
        [10.0, 10.0, 30.0, 80.0, "yak", 0.9, SHOW_LABEL | FIRST], [60.0, 20.0, 30.0, 60.0, "", 0.4, FIRST],
        [0.0, 0.0, 100.0, 100.0, "", 0.0, FIRST | LABEL_INSIDE],
    ]  # fmt: skip
    said = picture["captions"][0]
    assert said["marks"] == [[2, 5, "hit"], [21, 24, "wrong"]] and said["text"][21:24] == "dog"
    assert said["named"] == ["yak"] and said["missed"] == [] and "words" not in said
    assert said["trace"]["constraints"] == [
        {"name": "yak", "detected": "yak", "score": 0.9, "satisfied": True, "written": "yak", "region": 0}
    ]
    assert data["pictures"][1]["captions"][0]["missed"] == ["yak"]
    # Small copies beside the page, by addresses that work from a disk.
    assert picture["image"] == "report.pictures/4.480.jpg" and (out.parent / picture["image"]).is_file()
    # The order of the page is by the scores, all digits of them.
    scores = SplitScorer(read_nocaps(files.references)).score(read_predictions(files.predictions)).per_picture()
    ordered = [scores[data["pictures"][n]["id"]] for n in data["order"]]
    keys = [(of_one["CIDEr"], of_one["ROUGE_L"]) for of_one in ordered]
    assert keys == sorted(keys) and sorted(data["order"]) == list(range(30))
    strips = [attrs["data-pictures"] for _, attrs in page.elements if "data-pictures" in attrs]
    assert [json.loads(text) for text in strips] == [data["order"][:6], data["order"][::-1][:6]]
    assert len(page.cards()) == 12  # without a script there are the worst and the best


def test_predictions_and_references_are_enough(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """No regions and no pictures: a page without boxes and pixels, with the references' own scores all the same."""
    files = make_files(tmp_path / "files", 12)
    given = ["--predictions", str(files.predictions), "--references", str(files.references)]
    out = tmp_path / "page.html"
    assert report([*given, "--out", str(out)]) == 0
    human = human_record(read_nocaps(files.references))["mean"]["near"]["CIDEr"][0]
    assert f"references {human:.1f}" in Page(out).words()
    assert "not in" not in capsys.readouterr().out and all(
        not picture["regions"] for picture in data_of(out)["pictures"]
    )
    for option, needed in (("--link", "--pictures"), ("--checkpoint", "--regions")):
        extra = [option] if option == "--link" else [option, str(tmp_path)]
        assert report([*given, *extra, "--out", str(out)]) == 2
        assert f"error: {option}: needs" in (said := capsys.readouterr().err) and f"give {needed}" in said


def test_given_scores_are_taken_and_checked(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    files = make_files(tmp_path, 12)
    scores = tmp_path / "scores.json"
    common = ["--predictions", str(files.predictions), "--references", str(files.references)]
    assert score([*common, "--classes", str(files.classes), "--out", str(scores)]) == 0
    content, pictures = json.loads(scores.read_text()), tmp_path / "scores.pictures.json"
    made = read_evaluation(files.predictions, files.references, files.classes)
    taken = read_evaluation(files.predictions, files.references, files.classes, scores)
    assert taken.table == made.table and taken.intervals == made.intervals
    assert taken.per_picture == made.per_picture and taken.per_class == made.per_class

    # What eval/score.py knows and we do not: other metrics, why one is missing, what people reach.
    content["overall"] |= {"METEOR": 21.5}
    content["about"] = {"domains": "by somebody's file", "missing": {"SPICE": "no jars </p>"}}
    content["human"] = {"mean": {"overall": {"CIDEr": [83.25, 80, 86]}}}
    scores.write_text(json.dumps(content))
    assert report([*files.arguments, "--scores", str(scores), "--out", str(tmp_path / "r.html"), "--link"]) == 0
    words = Page(tmp_path / "r.html").words()
    for text in (
        "21.5",
        "SPICE is missing: no jars </p>",
        "references 83.2",
        "Comparing with papers: by somebody's file",
    ):
        assert text in words, text
    assert "not computed (" not in words

    def refused(message: str) -> None:
        capsys.readouterr()
        assert report([*files.arguments, "--scores", str(scores), "--out", str(tmp_path / "r.html")]) == 2
        error = capsys.readouterr().err
        assert message in error and len(error.splitlines()) == 1, error

    of_pictures = json.loads(pictures.read_text())
    pictures.write_text(json.dumps({k: v for k, v in of_pictures.items() if k != "3"}))
    refused("scores.pictures.json: has no score of picture 3; score these predictions")
    pictures.write_text(json.dumps(of_pictures | {"3": {**of_pictures["3"], "caption": "a cat"}}))
    refused("scores.pictures.json: is of other captions: that of picture 3")
    pictures.write_text("[]")
    refused("scores.pictures.json: expected scores by picture id")
    scores.write_text(json.dumps({"in": {}}))
    refused('scores.json: no scores under "overall"')


def test_intervals_are_those_of_the_comparison(tmp_path: Path) -> None:
    files = make_files(tmp_path, 24)
    found = read_evaluation(files.predictions, files.references, files.classes)
    scorer = SplitScorer(read_nocaps(files.references), read_classes(files.classes))
    expected = system_intervals(scorer, [scorer.score(read_predictions(files.predictions))])
    for part, row in found.intervals.items():
        for metric, pair in row.items():
            assert pair == (expected[part][metric].low, expected[part][metric].high), (part, metric)
    assert {"CIDEr", "ROUGE_L", "F1", "BLEU-1", "BLEU-4"} <= set(found.intervals["overall"])
    # No interval where the mean over pictures is not the table's number, as METEOR's is not.
    found.table["in"]["CIDEr"] += 1.0
    assert "CIDEr" not in make_intervals(found)["in"] and "CIDEr" in make_intervals(found)["near"]


def test_traces_of_other_captions_are_refused(tmp_path: Path) -> None:
    files = make_files(tmp_path, 4, traces=True)
    path, captions = constraints_path(files.predictions), read_predictions(files.predictions)
    assert list(read_traces(path, captions)) == ["0", "1", "2", "3"]
    lines = path.read_text().splitlines()
    for line, message in (
        (lines[1].replace("a sofa", "a cat"), "line 2: tells of another caption of picture 1"),
        ("{", "line 2: not JSON"),
        ('{"image_id": "1"}', "line 2: no constraint trace"),
    ):
        path.write_text("\n".join([lines[0], line, *lines[2:]]))
        with pytest.raises(UserError, match=message):
            read_traces(path, captions)
    path.unlink()
    assert read_traces(path, captions) == {}


def test_everything_given_is_escaped(tmp_path: Path) -> None:
    """Captions, references, names of classes and files, titles: each could be somebody's script."""
    files = make_files(tmp_path, 6, captions=[f"a yak {HOSTILE}"] * 6, traces=True)
    classes = [dict(entry, name=HOSTILE) if entry["name"] == "fox" else entry for entry in CLASSES]
    files.classes.write_text(json.dumps(classes))
    references = json.loads(files.references.read_text())
    references["annotations"][0]["caption"] = HOSTILE
    files.references.write_text(json.dumps(references))
    out = tmp_path / "report.html"
    assert report([*files.arguments, "--out", str(out), "--title", HOSTILE]) == 0
    page = Page(out)
    assert [tag for tag, _ in page.elements].count("script") == 2  # the data and the page's own
    assert page.source.count("</script>") == 2
    assert not [name for _, attrs in page.elements for name in attrs if name.startswith("on")]
    assert all(attrs["src"].startswith("report.pictures/") for tag, attrs in page.elements if tag == "img")
    assert HOSTILE in page.words()
    assert {caption["text"] for p in data_of(out)["pictures"] for caption in p["captions"]} == {f"a yak {HOSTILE}"}
    assert re.findall(r"https?:", page.source) == [] and "default-src 'none'" in page.source
    for _, attrs in page.elements:
        for name in ("src", "href", "action", "data", "poster", "srcset"):
            assert (attrs.get(name) or "#").startswith(("#", "report.pictures/")), attrs


def test_json_in_a_page_ends_no_script() -> None:
    for text in ("</script>", "<!--", "<script>", "\u2028", "é😀"):
        found = json_in_page({"a": text})
        assert "<" not in found and json.loads(found) == {"a": text}
    assert plain_text("half \ud83d emoji") == "half ? emoji"
    with pytest.raises(ValueError):
        json_in_page({"a": float("nan")})


def test_places_are_those_of_javascript(tmp_path: Path) -> None:
    """An emoji is one character in Python and two in JavaScript; what stands behind it moves."""
    assert utf16("a 😀 yak", [[4, 7, "hit"]]) == [[5, 8, "hit"]]
    word = WordEvidence(4, 7, -0.5, [1.25, -0.004], [("yak", 0.5)], 2.0, 0.75)
    picture = EvaluatedPicture(
        "1", Path(), "", [(0, 0, 10, 10)] * 2, ["yak", ""], [0.5, 0.0], 10, 10, ["a yak"], {"r": "a 😀 yak"}, ["yak"],
        [], {"r": ["yak"]}, ["yak"], {"r": {"CIDEr": 12.345, "SPICE": float("nan")}}, {"r": [word]},
    )  # fmt: skip
    (caption,) = picture_data(picture, ["r"], ClassFinder(["yak"]), "")["captions"]
    assert caption["marks"] == [[5, 8, "hit"]] and caption["scores"] == {"CIDEr": 12.3}
    assert caption["words"] == [[5, 8, -0.5, [1.25, 0.0], [["yak", 0.5]], 2.0, 0.75]]


def test_where_the_pixels_are(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    files = make_files(tmp_path / "the files", 8)
    out = tmp_path / "pages" / "r.html"
    out.parent.mkdir()

    def images(*options: str) -> list[str]:
        assert report([*files.arguments, "--out", str(out), *options]) == 0
        return [picture["image"] for picture in data_of(out)["pictures"]]

    assert images("--link")[3] == "../the%20files/pictures/3.png" and not (out.parent / "r.pictures").exists()
    inside = images("--one-file")
    assert all(image.startswith("data:image/jpeg;base64,") for image in inside)
    assert not (out.parent / "r.pictures").exists()
    beside = images()
    assert {(out.parent / image).is_file() for image in beside} == {True}

    capsys.readouterr()
    (files.pictures / "3.png").unlink()
    assert images()[3] == "" and "1 pictures are not in" in capsys.readouterr().out
    (files.pictures / "4.png").write_bytes(b"no picture")
    assert report([*files.arguments, "--out", str(tmp_path / "new.html")]) == 2
    assert "4.png: the report cannot read this picture" in capsys.readouterr().err
    for path in files.pictures.iterdir():
        path.unlink()
    assert report([*files.arguments, "--out", str(out)]) == 2
    assert "--pictures: there is no 0.png in" in capsys.readouterr().err


def test_thumbnails_are_made_once_and_anew_when_the_picture_is(tmp_path: Path) -> None:
    Image.new("RGB", (900, 300), "red").save(tmp_path / "a.png")
    names = write_thumbnails({"x/1": tmp_path / "a.png"}, tmp_path / "small", 480, 80)
    path = tmp_path / "small" / names["x/1"]
    assert path.parent == tmp_path / "small" and Image.open(path).size == (480, 160)
    path.write_bytes(b"kept")
    assert write_thumbnails({"x/1": tmp_path / "a.png"}, tmp_path / "small", 480, 80) == names
    assert path.read_bytes() == b"kept"
    newer = path.stat().st_mtime_ns + 10**9
    os.utime(tmp_path / "a.png", ns=(newer, newer))
    write_thumbnails({"x/1": tmp_path / "a.png"}, tmp_path / "small", 480, 80)
    assert Image.open(path).size == (480, 160)
    assert write_thumbnails({"x/1": tmp_path / "a.png"}, tmp_path / "small", 240, 80) != names  # another size


def test_small_pictures_stand_upright(tmp_path: Path) -> None:
    """A camera's note on how it was held: boxes are of the picture as people see it."""
    picture = Image.new("RGB", (80, 40), "white")
    picture.paste("red", (0, 0, 40, 40))
    exif = Image.Exif()
    exif[0x0112] = 6  # turned by a quarter
    picture.save(tmp_path / "a.jpg", exif=exif)
    (tmp_path / "b.jpg").write_bytes(small_jpeg(tmp_path / "a.jpg", 480, 90))
    small = Image.open(tmp_path / "b.jpg")
    assert small.size == (40, 80) and np.asarray(small)[10, 20, 1] < 60 and np.asarray(small)[70, 20, 1] > 200


def test_checkpoints_of_others_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    files = make_files(tmp_path, 4)
    model = tmp_path / "model"
    model.mkdir()

    def refused(message: str, **header: object) -> None:
        path = files.predictions.with_name("predictions.header.json")
        path.write_text(json.dumps({"tags": "detector"} | header))
        out = ["--out", str(tmp_path / "r.html"), "--checkpoint", str(model)]
        assert report([*files.arguments, *out]) == 2
        error = capsys.readouterr().err
        assert message in error and len(error.splitlines()) == 1, error

    refused("no model.safetensors; give the model folder of a training")
    (model / "model.safetensors").write_bytes(b"weights")
    refused("says that other weights wrote these captions", weights_sha256="0" * 64)
    refused("are those of a control (another picture's regions)", control="another picture's regions")
    refused("were written with tags from a file; give it as --tag-file", tags="file")
    assert not (tmp_path / "r.html").exists()


def test_words_are_explained_by_the_model_that_wrote_them(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """From a checkpoint to the page: of the worst two and the best two pictures, as the explainer has it."""
    files = make_files(tmp_path / "files", 8)
    store, tokenizer = RegionStore(files.regions), load_tokenizer(bert_folder("minilm"))
    known = {"feature_size": store.feature_size, "region_fingerprint": store.fingerprint}
    torch.manual_seed(0)
    shape = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}
    model = VivoForCaptioning(VivoConfig(len(tokenizer), training_stage="captions", **shape, **known))
    save_model(tmp_path / "model", model, tokenizer)
    ids = [str(n) for n in range(8)]
    captions = predict_split(
        tmp_path / "model", files.regions, ids, "detector", DecodeConfig(max_tokens=6), files.predictions
    )
    out = tmp_path / "report.html"
    arguments = [*files.arguments, "--out", str(out), "--checkpoint", str(tmp_path / "model"), "--explain", "4"]
    assert report(arguments) == 0
    assert "explained: the 4 worst and best of 8 pictures (--explain 8 for all)" in capsys.readouterr().out
    data = data_of(out)
    explained = [n for n, picture in enumerate(data["pictures"]) if "words" in picture["captions"][0]]
    assert sorted(explained) == sorted([*data["order"][:2], *data["order"][-2:]])
    assert "of 4 pictures (the worst and the best ones)" in Page(out).words()
    explainer = Explainer(load_model(VivoForCaptioning, tmp_path / "model"), tokenizer)
    for n in explained:
        regions, text = store[str(n)], captions[str(n)]
        spans = [match.span() for match in WORD.finditer(text)]
        expected = explainer.explain(text, [t for t in regions.labels if t], regions, spans)
        shown = data["pictures"][n]["captions"][0]["words"]
        assert [word[:2] for word in shown] == [list(span) for span in spans]
        for word, of_model in zip(shown, expected, strict=True):
            assert word[2] == pytest.approx(of_model.log_probability, abs=0.006)
            assert word[3] == pytest.approx(of_model.regions, abs=0.006) and len(word[3]) == 3
            assert [tag for tag, _ in word[4]] == [tag for tag, _ in of_model.tags]


def test_domains_of_a_partition_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The page has the domains that the scores had, and says whose they are."""
    files, scores = make_files(tmp_path, 12), tmp_path / "scores.json"
    partition = tmp_path / "server.json"
    partition.write_text(json.dumps({str(n): "in-domain" if n < 9 else "out-domain" for n in range(12)}))
    common = ["--predictions", str(files.predictions), "--references", str(files.references)]
    assert score([*common, "--partition", str(partition), "--out", str(scores)]) == 0
    out = tmp_path / "r.html"
    arguments = [*files.arguments, "--out", str(out), "--scores", str(scores)]
    assert report(arguments) == 2
    assert "give the --partition that eval/score.py had" in capsys.readouterr().err
    assert report([*arguments, "--partition", str(partition)]) == 0
    assert f"in / near / out are those of {partition} (9 / 0 / 3 pictures" in Page(out).words()
    assert [p["domain"] for p in data_of(out)["pictures"]] == ["in"] * 9 + ["out"] * 3
    assert report([*files.arguments, "--out", str(out), "--partition", str(partition)]) == 0
    assert f"in / near / out are those of {partition} (9 / 0 / 3 pictures" in Page(out).words()


@pytest.mark.skipif(not NOCAPS.is_file(), reason="the real sample data is not beside this checkout")
def test_the_note_on_the_public_domains(tmp_path: Path) -> None:
    """All of nocaps' validation, its first captions as predictions."""
    content = json.loads(NOCAPS.read_text())
    first = {a["image_id"]: a["caption"] for a in reversed(content["annotations"])}
    path = tmp_path / "predictions.json"
    write_predictions(path, [{"image_id": i, "caption": text} for i, text in first.items()], {})
    assert read_evaluation(path, NOCAPS, human=False).notes == [PARTITION_NOTE]


def test_lengths_and_words_by_hand() -> None:
    captions = [["a", "dog"], ["a", "dog"], ["a", "cat", "sits"], []]
    people = [["the", "dog", "sits"], ["a", "dog"]]
    assert length_shares(captions)[:5] == [25.0, 0.0, 50.0, 25.0, 0.0]
    assert length_shares([["w"] * 40])[25] == 100.0
    more, less = word_use(captions, people)
    # a: 3 of 7 against 1 of 5; cat: 1 of 7 against none; the others are said less.
    assert [(use.word, round(use.captions), round(use.references)) for use in more] == [
        ("a", 429, 200),
        ("cat", 143, 0),
    ]
    assert [(use.word, round(use.captions), round(use.references)) for use in less] == [
        ("the", 0, 200), ("dog", 286, 400), ("sits", 143, 200),
    ]  # fmt: skip
    plots = caption_plots(captions, [[["the", "dog", "sits"], ["a", "dog"]], [["a"]], [["a", "b"]], [["c"]]])
    assert plots.distinct == 3 and plots.vocabulary == (4, 6) and plots.mean_words == (1.75, 9 / 5)
    assert "1.8 on average" in plots.lengths or "1.7 on average" in plots.lengths


def test_charts_of_columns_and_differences() -> None:
    svg = column_chart(["0", "1", "<2>"], [Column("a", [0.0, 10.0, 5.0], "ours"), Column("b", [1.0, 2.0, 3.0])], "l")
    heights = [float(text) for text in re.findall(r'<rect class="column column-ours"[^>]* height="([\d.]+)"', svg)]
    assert heights[0] == 0.0 and heights[1] == pytest.approx(2 * heights[2], abs=0.1)
    assert svg.count("<rect") == 6 and "&lt;2&gt;" in svg and "<2>" not in svg
    rows = [Difference("x", 1.0, -1.0, 3.0, "noise"), Difference("y", -2.0, -3.0, -1.0, "worse")]
    svg = difference_chart(rows, "l")
    places = {name: float(x) for name, x in re.findall(r'<circle class="span-(\w+)" cx="([\d.]+)%"', svg)}
    (zero,) = re.findall(r'class="zero" x1="([\d.]+)%"', svg)
    assert places["worse"] < float(zero) < places["noise"]
    assert "+1.0 [−1.0, 3.0]" in svg and "−2.0 [−3.0, −1.0]" in svg


def test_the_same_files_give_the_same_bytes(tmp_path: Path) -> None:
    files = make_files(tmp_path, 9)
    pages = []
    for _ in range(2):
        assert report([*files.arguments, "--out", str(tmp_path / "r.html")]) == 0
        pages.append((tmp_path / "r.html").read_bytes())
    assert pages[0] == pages[1]


def test_equal_scores_keep_the_order_of_the_file(tmp_path: Path) -> None:
    files = make_files(tmp_path, 6, captions=["x y z"] * 6)
    assert worst_first(read_evaluation(files.predictions, files.references)) == [str(n) for n in range(6)]
