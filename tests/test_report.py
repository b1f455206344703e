"""The demo's page: what it says, in which order, what it refuses, and that nothing in it can run or call out."""

import json
import math
import os
import random
import re
import subprocess
from html.parser import HTMLParser
from pathlib import Path

import pytest
from PIL import Image, ImageDraw

from vivo.errors import UserError
from vivo.report import demo_page
from vivo.report.charts import log_ticks, nice_ticks, thin_out
from vivo.report.demo_page import Curve, GalleryPicture, RowResult, write_report
from vivo.report.gallery import boxes_of, choose, make_card, outcome
from vivo.report.highlight import ClassFinder, mark_caption

VOID = {"meta", "img", "input", "br", "link", "hr"}
HOSTILE = "<script>alert('x')</script> & \"a\" </style><img src=x onerror=alert(1)>"


class Page(HTMLParser):
    """Elements, attributes and text of a page; fails where tags are not closed in their order."""

    def __init__(self, path: Path) -> None:
        super().__init__(convert_charrefs=True)
        self.open: list[str] = []
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.text: list[tuple[str, str]] = []
        self.source = path.read_text(encoding="utf-8")
        self.feed(self.source)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text.append((self.open[-1] if self.open else "", data))

    def words(self) -> str:
        """All visible text, with single spaces."""
        return " ".join("".join(data for tag, data in self.text if tag not in ("style", "script")).split())

    def cards(self) -> list[dict[str, str | None]]:
        """The attributes of the gallery's cards, in their order."""
        return [attrs for tag, attrs in self.elements if tag == "article"]


def draw(path: Path, color: str = "seagreen") -> Path:
    """A small picture with a disc on it."""
    picture = Image.new("RGB", (200, 100), "ivory")
    ImageDraw.Draw(picture).ellipse((20, 10, 100, 90), fill=color)
    picture.save(path)
    return path


def make_picture(folder: Path, name: str, domain: str, novel: list[str], **said: str) -> GalleryPicture:
    """A picture whose rows name what their captions contain."""
    named = {row: [word for word in novel if word in caption] for row, caption in said.items()}
    return GalleryPicture(
        name,
        draw(folder / f"{name}.png"),
        domain,
        boxes=[(20, 10, 100, 90), (120, 20, 180, 80)],
        labels=["dog", ""],
        scores=[0.9, 0.4],
        width=200,
        height=100,
        references=[f"a dog beside a {novel[0]}" if novel else "a dog on grass"],
        captions=dict(said),
        novel_objects=novel,
        unknown_objects=["fox"] if "fox" in novel else [],
        named=named,
    )


@pytest.fixture
def pictures(tmp_path: Path) -> list[GalleryPicture]:
    """One picture of every outcome, the ones to be shown first standing last."""
    return [
        make_picture(tmp_path, "plain", "in-domain", [], none="a dog", vivo="a dog"),
        make_picture(tmp_path, "neither", "near-domain", ["yak"], none="a dog", vivo="a cat"),
        make_picture(tmp_path, "both", "near-domain", ["yak"], none="a yak", vivo="a yak"),
        make_picture(tmp_path, "reverse", "out-domain", ["yak"], none="a yak", vivo="a dog"),
        make_picture(tmp_path, "win", "out-domain", ["yak"], none="a dog", vivo="a dog and a yak"),
        make_picture(
            tmp_path, "win-unknown", "out-domain", ["fox"], none="a dog", vivo="a dog and a fox", copy="a dog"
        ),
    ]


def make_rows() -> list[RowResult]:
    """Three rows; the unfrozen baseline is the better one in F1."""

    def row(name: str, f1: float, cider: float, unknown: float) -> RowResult:
        out = {"CIDEr": cider - 20.26, "F1": f1, "F1_unknown": unknown}
        parts = {"in": {"CIDEr": 90.04, "F1": 0.7004}, "near": {"CIDEr": 70.0}, "out": out}
        return RowResult(name, f"about {name}", [0, 1, 2], {**parts, "overall": {"CIDEr": cider}}, {}, 321.4)

    rows = [row("none", 0.0501, 70.0, 0.0), row("none_unfrozen", 0.1002, 65.0, 0.001), row("vivo", 0.4008, 81.0, 0.2)]
    rows[2].intervals = {"out": {"F1": (0.3711, 0.4299), "CIDEr": None}}
    return rows


def write(path: Path, pictures: list[GalleryPicture], **changes: object) -> Page:
    """A page of `pictures` with default surroundings."""
    curves = [
        Curve("vivo", list(range(50)), [9 * math.exp(-step / 9) + 1 for step in range(50)], "pre-training"),
        Curve("none", [0, 10, 20], [5.0, math.nan, 2.0], "fine-tuning"),
        Curve("vivo", [0, 10, 20], [4.0, 3.0, 2.0], "fine-tuning"),
    ]
    given = {
        "title": "The page",
        "rows": make_rows(),
        "curves": curves,
        "claims": [("twice the F1", True, "x 4.0"), ("matching helps", False, "+0.01 [-0.02, 0.04]")],
        "provenance": {"commit": "abc1234", "seeds": "0, 1, 2"},
        "attribution": "Drawn by somebody, CC BY-SA 4.0 (https://creativecommons.org/licenses/by-sa/4.0/)",
    }
    write_report(path, pictures=pictures, **{**given, **changes})
    return Page(path)


def test_page_holds_the_numbers(tmp_path: Path, pictures: list[GalleryPicture]) -> None:
    page = write(tmp_path / "report.html", pictures)
    words = page.words()
    for text in ("The page", "90.0", "0.700", "60.7", "0.401", "0.371 – 0.430", "0.200", "81.0", "321", "about vivo",
                 "twice the F1 x 4.0", "not shown: matching helps +0.01", "abc1234", "CC BY-SA 4.0", "fine-tuning",
                 "6 test pictures with 2 novel classes, 1 of which even the detector cannot name"):  # fmt: skip
        assert text in words, text
    # Each figure is set against the better baseline: F1 against unfrozen, CIDEr against frozen.
    assert "none_unfrozen: 0.100 → vivo: 0.401 × 4.0" in words
    assert "none: 70.0 → vivo: 81.0 +11.0" in words
    ids = [attrs["id"] for _, attrs in page.elements if "id" in attrs]
    assert len(ids) == len(set(ids))
    assert not re.search(r"\bnan\b", re.sub(r"base64,[^\"]*", "", page.source))


def test_missing_numbers_are_dashes(tmp_path: Path) -> None:
    rows = [RowResult("none", "", [0], {}), RowResult("vivo", "", [0], {"out": {"F1": math.nan}}, {}, None)]
    page = write(tmp_path / "report.html", [], rows=rows, curves=[], claims=[])
    assert page.words().count("–") >= 16
    assert "No such picture" in page.words()


def test_everything_given_is_escaped(tmp_path: Path, pictures: list[GalleryPicture]) -> None:
    for picture in pictures:
        picture.captions = {row: HOSTILE + caption for row, caption in picture.captions.items()}
        picture.references.append(HOSTILE)
        picture.image_id = HOSTILE
        picture.labels[0] = HOSTILE
        picture.novel_objects.append(HOSTILE)
    rows = make_rows()
    rows[0].description = HOSTILE
    page = write(
        tmp_path / "report.html",
        pictures,
        title=HOSTILE,
        rows=rows,
        claims=[(HOSTILE, True, HOSTILE)],
        provenance={HOSTILE: HOSTILE},
        curves=[Curve(HOSTILE, [0, 1], [2.0, 1.0], HOSTILE)],
    )
    assert [tag for tag, _ in page.elements].count("script") == 1
    assert [tag for tag, _ in page.elements].count("style") == 1
    assert all(attrs["src"].startswith("data:image/jpeg;base64,") for tag, attrs in page.elements if tag == "img")
    assert not [name for _, attrs in page.elements for name in attrs if name.startswith("on")]
    assert page.source.count("<script>") == 1
    assert f"{HOSTILE}a dog" in page.words()


def test_page_calls_no_host(tmp_path: Path, pictures: list[GalleryPicture]) -> None:
    page = write(tmp_path / "report.html", pictures)
    for _, attrs in page.elements:
        for name in ("src", "href", "action", "data", "poster", "srcset", "xlink:href"):
            assert (attrs.get(name) or "#").startswith(("#", "data:image/")), attrs
    assert re.findall(r"https?://[^\s<\")]*", page.source) == ["https://creativecommons.org/licenses/by-sa/4.0/"]
    assert not re.search(r"@import|url\(", page.source)
    assert "default-src 'none'" in page.source


def test_gallery_order_and_marks(tmp_path: Path, pictures: list[GalleryPicture]) -> None:
    page = write(tmp_path / "report.html", pictures)
    order = [picture["data-outcome"] for picture in page.cards()]
    assert order[:3] == ["ours", "ours", "baseline"]
    assert sorted(order[3:]) == ["both", "neither", "plain"]
    alts = [attrs["alt"] for tag, attrs in page.elements if tag == "img"]
    # The example beside the headline, then the gallery: an object that the detector cannot name comes first.
    assert [alt.split(",")[0] for alt in alts[1:4]] == ["Picture win-unknown", "Picture win", "Picture reverse"]
    hits = "".join(re.findall(r'<mark class="hit" title[^>]*>([^<]*)', page.source))
    assert hits.count("fox") == 2 and hits.count("yak") == 4
    assert "All 2 such pictures." in page.words() and "One such picture." in page.words()


def test_outcomes_and_quotas(tmp_path: Path) -> None:
    wins = [make_picture(tmp_path, f"w{i}", "out-domain", ["yak"], none="", vivo="yak") for i in range(30)]
    losses = [make_picture(tmp_path, f"l{i}", "out-domain", ["yak"], none="yak", vivo="") for i in range(30)]
    rest = [make_picture(tmp_path, f"r{i}", "in-domain", [], none="", vivo="") for i in range(30)]
    assert [outcome(p, "vivo", "none") for p in (wins[0], losses[0], rest[0])] == ["ours", "baseline", "plain"]

    def sizes(*groups: list[GalleryPicture]) -> list[int]:
        return [len(shown) for _, shown, _ in choose([p for group in groups for p in group], 20, "vivo", "none")]

    assert sizes(wins, losses, rest) == [10, 4, 6]
    assert sizes(wins) == [20, 0, 0]
    assert sizes(wins[:3], losses[:1], rest) == [3, 1, 16]
    assert sizes(wins, losses) == [16, 4, 0]
    assert sizes() == [0, 0, 0]
    # Even distances, not the first ones.
    shown = choose(wins, 3, "vivo", "none")[0][1]
    assert [picture.image_id for picture in shown] == ["w5", "w15", "w25"]


def test_rest_is_even_over_domains(tmp_path: Path) -> None:
    many = [make_picture(tmp_path, f"i{i}", "in-domain", [], none="", vivo="") for i in range(20)]
    few = [make_picture(tmp_path, f"n{i}", "near-domain", [], none="", vivo="") for i in range(2)]
    shown = choose(many + few, 6, "vivo", "none")[2][1]
    assert [picture.image_id[0] for picture in shown] == ["i", "n", "i", "n", "i", "i"]


def test_boxes_in_percent(tmp_path: Path) -> None:
    picture = make_picture(tmp_path, "p", "in-domain", [])
    picture.boxes = [(20, 10, 100, 90), (20, 10, 110, 90), (120, 2, 180, 80)]
    picture.labels, picture.scores = ["dog", "cat", ""], [0.9, 0.8, 0.4]
    first, second, third = boxes_of(picture)
    assert (first.x, first.y, first.width, first.height) == (10.0, 10.0, 40.0, 80.0)
    # A label on top of another one is not written; one without room above stands inside its box.
    assert (first.show_label, second.show_label, third.show_label) == (True, False, True)
    assert (first.label_inside, third.label_inside) == (False, True)
    assert (first.style, second.style, third.style) == ("box-0", "box-1", "box-unnamed")
    picture.labels = ["", "", ""]  # a grid: its cells have no names, and the models are told a tagger's
    assert [box.show_label for box in boxes_of(picture)] == [False, False, False]
    picture.tags = ["dog"]
    card = make_card(0, picture, [], "vivo", "none", ClassFinder(["dog"], {}))
    assert card.tags == ["dog"] and card.unnamed == 0
    with pytest.raises(ValueError, match="2 boxes, 1 labels"):
        GalleryPicture("p", tmp_path, "", [(0, 0, 1, 1)] * 2, ["a"], [1.0], 10, 10, [], {})


def test_marked_caption() -> None:
    finder = ClassFinder(["engine", "dog"], {"fire engine": ["fire engine", "fire engines"], "person": ["people"]})
    assert [name for _, _, name in finder.find("Fire Engines, an engine; 2 dogs")] == ["fire engine", "engine", "dog"]
    caption = "two fire engines near people and a dog."
    marked = mark_caption(caption, ["fire engine", "yak"], ["fire engine"], {"dog", "fire engine"}, finder)
    assert [(part.text, part.kind) for part in marked.segments] == [
        ("two ", ""), ("fire engines", "hit"), (" near ", ""), ("people", "wrong"), (" and a dog.", ""),
    ]  # fmt: skip
    assert marked.missed == ["yak"] and marked.named_elsewhere == []
    # The metric's word stands where the forms given here do not find the class.
    marked = mark_caption("some oxen", ["ox"], ["ox"], {"ox"}, finder)
    assert ([part.kind for part in marked.segments], marked.named_elsewhere) == ([""], ["ox"])
    assert mark_caption("", [], [], set(), finder).segments[0].text == ""


def test_ticks_and_thinning() -> None:
    assert nice_ticks(0, 0.52, 4) == [0, 0.2, 0.4]
    assert nice_ticks(2.0, 2.4, 4) == [2.0, 2.1, 2.2, 2.3, 2.4]
    assert log_ticks(0.9, 12) == [1, 2, 5, 10]
    assert log_ticks(0.001, 100) == pytest.approx([0.001, 0.01, 0.1, 1, 10, 100])
    assert thin_out([0, 1, 2, 3, 4], [1, 3, math.nan, 5, 7], most=2) == ([0.5, 3.5], [2.0, 6.0])


def test_size_limit_shrinks_pictures_then_drops_them(tmp_path: Path) -> None:
    noise = random.Random(0)
    pictures = []
    for index in range(8):
        picture = make_picture(tmp_path, f"n{index}", "out-domain", ["yak"], none="a dog", vivo="a yak")
        # Noise is the worst that a JPEG can meet.
        Image.frombytes("RGB", (640, 480), noise.randbytes(640 * 480 * 3)).save(picture.picture_path)
        picture.width, picture.height = 640, 480
        pictures.append(picture)
    whole = write(tmp_path / "whole.html", pictures)
    size = (tmp_path / "whole.html").stat().st_size
    assert 200_000 < size < demo_page.SIZE_LIMIT
    smaller = write(tmp_path / "smaller.html", pictures, size_limit=size // 2)
    assert (tmp_path / "smaller.html").stat().st_size < size // 2
    assert len(smaller.cards()) == len(whole.cards()) == 8
    fewer = write(tmp_path / "fewer.html", pictures, size_limit=100_000)
    assert (tmp_path / "fewer.html").stat().st_size < 100_000
    assert 0 < len(fewer.cards()) < 8
    assert f"{len(fewer.cards())} of 8 such pictures" in fewer.words()
    with pytest.raises(UserError, match="larger than 1000 bytes"):
        write(tmp_path / "none.html", pictures, size_limit=1000)


def test_same_input_same_bytes(tmp_path: Path, pictures: list[GalleryPicture]) -> None:
    first, second = write(tmp_path / "a.html", pictures), write(tmp_path / "b.html", pictures)
    assert first.source == second.source
    assert len(write(tmp_path / "c.html", pictures, max_pictures=2).cards()) == 2


def test_write_is_whole_or_not_at_all(
    tmp_path: Path, pictures: list[GalleryPicture], monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "out" / "report.html"
    old = write(path, pictures).source

    def refuse(*_: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", refuse)
        with pytest.raises(UserError, match=r"cannot write the report \(No space left on device\)"):
            write(path, pictures, title="New")
    pictures[0].picture_path.write_bytes(pictures[0].picture_path.read_bytes()[:60])
    with pytest.raises(UserError, match=r"plain\.png: the report cannot read this picture"):
        write(path, pictures, title="New")
    assert path.read_text(encoding="utf-8") == old
    assert os.listdir(path.parent) == ["report.html"]
    with pytest.raises(UserError, match="cannot write the report"):
        write(path / "report.html", [])


def run_page(browser: str, address: str, folder: Path) -> Page:
    """The page at `address` after its script has run in a headless browser."""
    # No process of the browser may call home, and none may share a profile with another test.
    options = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync",
               "--disable-background-networking", "--disable-component-update", "--virtual-time-budget=2000",
               f"--user-data-dir={folder / 'profile'}", "--dump-dom"]  # fmt: skip
    result = subprocess.run([browser, *options, address], capture_output=True, text=True, timeout=120, check=True)
    after = folder / "after.html"
    after.write_text(result.stdout, encoding="utf-8")
    return Page(after)


def visible(page: Page) -> list[str | None]:
    """Outcomes of the cards that the filters leave."""
    return [attrs["data-outcome"] for attrs in page.cards() if "hidden" not in attrs]


def test_filters_from_the_address(chromium: str, tmp_path: Path, pictures: list[GalleryPicture]) -> None:
    """The content security policy is in force here, so this also shows that it lets the page's own script run."""
    path = tmp_path / "report.html"
    write(path, pictures)
    page = run_page(chromium, f"{path.as_uri()}#domain=out&class=yak", tmp_path)
    assert visible(page) == ["ours", "baseline"]
    assert "2 of 6 shown" in page.words()
    assert [attrs for tag, attrs in page.elements if attrs.get("id") == "filters" and "hidden" not in attrs]


def test_filters_by_click(chromium: str, tmp_path: Path, pictures: list[GalleryPicture]) -> None:
    path = tmp_path / "report.html"
    source = write(path, pictures).source
    steps = """
      const shown = () => [...document.querySelectorAll(".card:not([hidden])")].map((card) => card.dataset.outcome);
      const press = (key, value) => document.querySelector(`[data-filter=${key}][data-value="${value}"]`).click();
      const type = (text) => { const box = document.getElementById("search"); box.value = text;
                               box.dispatchEvent(new Event("input")); };
      const log = [shown()];
      press("outcome", "baseline"); log.push(shown());
      press("outcome", ""); press("domain", "near"); log.push(shown());
      press("domain", ""); type("FOX"); log.push(shown());
      log.push(document.querySelector(".group[data-group=rest]").hidden, location.hash);
      type("nothing like it"); log.push(shown(), document.getElementById("nothing").hidden);
      document.getElementById("reset").click(); log.push(shown().length, location.hash);
      document.getElementById("boxes").click(); log.push(document.body.className);
      document.title = JSON.stringify(log);
    """
    # The test's own script needs the policy out of the way; the test above runs with it.
    source = re.sub(r"<meta http-equiv[^>]*>", "", source).replace("</body>", f"<script>{steps}</script></body>")
    path.write_text(source, encoding="utf-8")
    page = run_page(chromium, path.as_uri(), tmp_path)
    log = json.loads(next(data for tag, data in page.text if tag == "title"))
    assert log[:4] == [["ours", "ours", "baseline", *log[0][3:]], ["baseline"], log[2], ["ours"]]
    assert sorted(log[2]) == ["both", "neither"]
    assert log[4:] == [True, "#class=FOX", [], False, 6, "", "no-boxes"]
