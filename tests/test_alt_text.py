"""Alternative texts of a folder: three kinds of file, resumed where they were interrupted, empty where unsure."""

import csv
import io
import json
import os
import re
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import unquote, unquote_to_bytes

import numpy as np
import pytest
from PIL import Image

from vivo.alt_text import AltText, as_text, sentence, write_alt_texts
from vivo.calibration import FACTS, fit
from vivo.captioner import CaptionedFile, Captioner
from vivo.cli import main
from vivo.errors import UserError
from vivo.files import printable


@pytest.fixture(scope="module")
def captioner(tiny_captioner: Path) -> Captioner:
    return Captioner.from_pretrained(tiny_captioner, "cpu")


@pytest.fixture
def site(tmp_path: Path) -> Path:
    """Pictures as a site has them: in folders, with awkward names, one of them broken."""
    folder, random = tmp_path / "site", np.random.default_rng(0)
    (folder / "blog & more").mkdir(parents=True)
    for name in ("a.png", 'blog & more/"b".jpg', "blog & more/c #1.png"):
        pixels = random.integers(0, 256, (8, 8, 3), dtype=np.uint8)
        Image.fromarray(pixels).resize((96, 80), Image.Resampling.NEAREST).save(folder / name)
    (folder / "d.png").write_text("no picture")
    return folder


def command(site: Path, captioner_folder: Path, out: Path) -> list[str]:
    return ["caption", str(site), "--checkpoint", str(captioner_folder), "--alt-text", str(out)]


def test_three_kinds_say_the_same(
    site: Path, captioner: Captioner, tiny_captioner: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for kind in ("csv", "json", "html"):
        assert main(command(site, tiny_captioner, tmp_path / f"out.{kind}")) == 1  # one is broken
    printed = capsys.readouterr()
    assert printed.out.count("3 alternative texts") == 3 and printed.err.count("left out: ") == 3
    rows = json.loads((tmp_path / "out.json").read_text())
    assert [row["file"] for row in rows] == ["a.png", 'blog & more/"b".jpg', "blog & more/c #1.png", "d.png"]
    for row in rows[:3]:
        text = captioner(site / row["file"])[0].text
        assert (row["caption"], row["alt"]) == (text, sentence(text)) and row["confidence"] is None
    assert rows[3]["alt"] == "" and "not a picture" in rows[3]["problem"]
    with (tmp_path / "out.csv").open(newline="", encoding="utf-8") as file:
        assert [(row["file"], row["alt"]) for row in csv.DictReader(file)] == [(r["file"], r["alt"]) for r in rows]
    page = (tmp_path / "out.html").read_text()
    assert len(re.findall(r'<img src="[^"<>]+" alt="[^"<>]*"', page)) == 4
    assert 'blog%20%26%20more/%22b%22.jpg"' in page and 'blog%20%26%20more/c%20%231.png"' in page
    assert [(tmp_path / unquote(source)).resolve() for source in re.findall('src="([^"]+)"', page)] == [
        (site / row["file"]).resolve() for row in rows
    ]  # wherever the page lies
    assert list(tmp_path.glob(".*")) == []


class HaltError(Exception):
    pass


class Halting:
    """The captioner, which is interrupted after so many pictures, and counts those that it was asked for."""

    def __init__(self, captioner: Captioner, most: int) -> None:
        self.captioner, self.most, self.asked = captioner, most, []

    def caption_files(self, paths, **options) -> Iterator[CaptionedFile]:
        for number, path in enumerate(paths):
            if number == self.most:
                raise HaltError
            self.asked.append(path.name)
            yield from self.captioner.caption_files([path], **options)


def test_an_interrupted_run_goes_on(site: Path, captioner: Captioner, tiny_captioner: Path, tmp_path: Path) -> None:
    files = [(path, path.relative_to(site).as_posix()) for path in sorted(site.rglob("*.*g")) if path.is_file()]
    whole = write_alt_texts(captioner, tiny_captioner, files, tmp_path / "whole.json")
    out = tmp_path / "out.json"
    with pytest.raises(HaltError):
        write_alt_texts(Halting(captioner, 2), tiny_captioner, files, out)
    assert not out.exists() and (tmp_path / ".out.json.part.jsonl").is_file()
    with (tmp_path / ".out.json.part.jsonl").open("a") as journal:
        journal.write('{"file": "blo')  # killed while it wrote
    with pytest.raises(UserError, match="begun with another checkpoint or search"):
        write_alt_texts(captioner, tiny_captioner, files, out, beam=2)
    shutil.copy(site / "blog & more" / "c #1.png", site / "a.png")  # changed in between: captioned again
    rest = Halting(captioner, 9)
    found = write_alt_texts(rest, tiny_captioner, files, out)
    assert len(rest.asked) == len(files) - 1 and rest.asked[0] == "a.png"
    assert [row.file for row in found] == [row.file for row in whole] and found[1:] == whole[1:]
    assert json.loads(out.read_text())[1]["alt"] == whole[1].alt
    with pytest.raises(UserError, match="is there already"):
        write_alt_texts(captioner, tiny_captioner, files, out)


@pytest.mark.skipif(sys.platform != "linux", reason="other systems have no names that are no UTF-8")
def test_names_that_are_no_utf_8_or_have_other_ends_of_lines(
    site: Path, tiny_captioner: Path, captioner: Captioner, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    names = [b"b\xfccher.png", "c\u2028d\x85e\x1c.png".encode(), b"br\xfcoken.png"]
    for name in names[:2]:
        shutil.copy(site / "a.png", os.fsdecode(os.fsencode(site) + b"/" + name))
    shutil.copy(site / "d.png", os.fsdecode(os.fsencode(site) + b"/" + names[2]))
    for kind in ("csv", "json", "html"):
        assert main(command(site, tiny_captioner, tmp_path / f"out.{kind}")) == 1
    rows = {row["file"]: row for row in json.loads((tmp_path / "out.json").read_text())}
    assert len(rows) == 7 and rows["a.png"]["alt"]
    assert rows["b\\xfccher.png"]["alt"] == rows["c\u2028d\x85e\x1c.png"]["alt"] == rows["a.png"]["alt"]
    assert "br\\xfcoken.png" in rows["br\\xfcoken.png"]["problem"]
    with (tmp_path / "out.csv").open(newline="", encoding="utf-8") as file:
        assert {row["file"]: row["alt"] for row in csv.DictReader(file)} == {n: row["alt"] for n, row in rows.items()}
    sources = re.findall('src="([^"]+)"', (tmp_path / "out.html").read_text())
    assert {os.fsencode(tmp_path) + b"/" + unquote_to_bytes(one) for one in sources} == {
        os.fsencode(path) for path in site.rglob("*.*g") if path.is_file()
    }
    assert main(command(site, tiny_captioner, tmp_path / "x")[:-2] + ["--json"]) == 1
    assert {one["picture"] for one in json.loads(capsys.readouterr().out.split("alternative texts\n")[-1])} == {
        f"{site}/{name}" for name, row in rows.items() if not row["problem"]
    }

    files = [(path, path.relative_to(site).as_posix()) for path in sorted(site.rglob("*.*g")) if path.is_file()]
    out = tmp_path / "resumed.json"
    with pytest.raises(HaltError):
        write_alt_texts(Halting(captioner, 6), tiny_captioner, files, out)
    rest = Halting(captioner, 9)
    write_alt_texts(rest, tiny_captioner, files, out)
    assert len(rest.asked) == 1 and json.loads(out.read_text()) == [rows[printable(name)] for _, name in files]


def test_what_is_not_sure_is_empty(site: Path, tiny_captioner: Path, tmp_path: Path) -> None:
    folder = tmp_path / "calibrated"
    shutil.copytree(tiny_captioner, folder)
    random = np.random.default_rng(1)
    rows = random.normal(size=(60, len(FACTS)))
    fitted = fit(rows, random.random(60) < 0.5)
    fitted.weights, fitted.bias, fitted.threshold = [0.0] * len(fitted.weights), 0.0, 0.6
    fitted.save(folder)
    assert main(command(site, folder, tmp_path / "out.json")) == 1
    rows = json.loads((tmp_path / "out.json").read_text())
    assert [row["alt"] for row in rows] == [""] * 4
    assert all(row["confidence"] == 0.5 and row["caption"] for row in rows[:3])


@pytest.mark.parametrize(
    ("options", "said"),
    [(["--alt-text", "out.txt"], "write a .csv, .json or .html"), (["--alt-text", "o.json", "--json"], "choose one")],
)
def test_options(
    site: Path, tiny_captioner: Path, options: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["caption", str(site), "--checkpoint", str(tiny_captioner), *options]) == 2
    assert said in capsys.readouterr().err


def test_a_bar_shows_how_far_it_is(
    site: Path,
    tiny_captioner: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")  # as before a person
    monkeypatch.setenv("COLUMNS", "200")
    assert main(command(site, tiny_captioner, tmp_path / "out.csv")) == 1
    said = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", capsys.readouterr().err)
    assert re.search(r"alt texts \S+ +100% 4 pictures, [0-9.]+/s", said)


def test_sentences() -> None:
    assert [sentence(text) for text in ("a dog", "a dog.", "", " é!")] == ["A dog.", "A dog.", "", "É!"]


def test_markup_in_a_caption_stays_text() -> None:
    row = AltText("a.png", '<script>"x"</script>', 0.5, "", "")
    page = as_text([row], ".html")
    assert "<script>" not in page and "&lt;script&gt;&quot;x&quot;" in page and "(50%)" in page


def test_no_cell_is_a_formula() -> None:
    names = ["=cmd|' calc'!A0.png", "+1.png", "-1.png", "@x.png", "a=1.png"]
    rows = [AltText(name, "=1+1" if name == "a=1.png" else "A dog.", 0.5, "a dog") for name in names]
    found = list(csv.DictReader(io.StringIO(as_text(rows, ".csv"))))
    assert [row["file"] for row in found] == [f"./{name}" for name in names[:4]] + names[4:]
    assert [row["alt"] for row in found] == ["A dog."] * 4 + ["'=1+1"]
