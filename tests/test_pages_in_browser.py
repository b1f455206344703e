"""The pages of an evaluation and of a comparison in a real browser, used as people use them: pointer, keys, a phone."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from browser import Browser, Tab
from evaluation_files import CLASSES, OBJECTS, caption_of, make_files, references_of
from test_evaluation_page import HOSTILE, data_of

from eval.compare import main as compare
from eval.report import main as report
from vivo.data.nocaps import WorldClass
from vivo.data.types import CaptionExample
from vivo.explanation import WordEvidence
from vivo.report.evaluation import Evaluation, make_intervals, read_evaluation
from vivo.report.evaluation_page import ROW, write_evaluation
from vivo.report.highlight import WORD
from vivo.report.pictures import ShownRow, images_beside, make_pictures
from vivo.report.records import EvaluatedPicture

CARDS = "#cards .card"


@pytest.fixture(scope="module")
def browser(chromium: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    with Browser(chromium, tmp_path_factory.mktemp("browser")) as browser:
        yield browser


def evidence_of(caption: str, regions: int, tags: list[str]) -> list[WordEvidence]:
    """The third word hangs on the first region and the first tag, all others on nothing."""
    return [
        WordEvidence(
            *match.span(), -0.5, [2.0 if w == 1 and n == 0 else 0.0 for n in range(regions)],
            [(tag, 0.25 if w == 1 else 0.0) for tag in tags], 3.0, 0.5,
        )
        for w, match in enumerate(WORD.finditer(caption))
    ]  # fmt: skip


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """60 pictures with traces and evidence: three pages of cards."""
    from vivo.data.regions import RegionStore
    from vivo.data.tag_source import TagSource

    files = make_files(tmp_path_factory.mktemp("page"), 60, traces=True)
    evaluation = read_evaluation(files.predictions, files.references, files.classes)
    paths = {str(n): files.pictures / f"{n}.png" for n in range(60)}
    row = ShownRow(evaluation.captions, evaluation.per_picture, evaluation.named, evaluation.traces)
    pictures = make_pictures(
        evaluation.examples, {ROW: row}, paths, evaluation.classes, evaluation.truth, RegionStore(files.regions),
        TagSource("detector"),
    )  # fmt: skip
    for picture in pictures:
        picture.evidence[ROW] = evidence_of(picture.captions[ROW], 3, picture.tags or [])
    path = files.folder / "report.html"
    write_evaluation(path, evaluation, pictures, images_beside(paths, path), "Sixty", {})
    return path


@pytest.fixture
def tab(browser: Browser, page: Path) -> Iterator[Tab]:
    """The page, just opened."""
    browser.errors.clear()
    tab = browser.open(page.as_uri())
    yield tab
    assert browser.errors == []  # no picture missing, nothing forbidden, no exception
    tab.close()


def ids(tab: Tab) -> list[int]:
    """Pictures of the cards on the page."""
    return tab.value(f"[...document.querySelectorAll('{CARDS}')].map((card) => +card.dataset.id)")


def count(tab: Tab) -> str:
    return tab.text("#count").split(", mean")[0]


def choose(tab: Tab, name: str, value: str) -> None:
    """Take a choice of a list. A headless browser draws no list to click into, so its event is sent."""
    tab.value(
        f"(() => {{ const list = document.querySelector('select[data-filter={name}]');"
        f" list.focus(); list.value = {json.dumps(value)}; list.dispatchEvent(new Event('change')); }})()"
    )


def focused(tab: Tab) -> int:
    """The picture whose card has the focus."""
    return tab.value("+document.activeElement.closest('.card').dataset.id")


def test_filters_orders_and_pages(tab: Tab, page: Path) -> None:
    order = data_of(page)["order"]
    assert ids(tab) == order[:24] and count(tab) == "60 of 60 pictures" and tab.text(".pager .place") == "page 1 of 3"
    tab.click(".pager button:last-child")
    assert ids(tab) == order[24:48] and "#page=2" in tab.value("location.hash")
    tab.click("button[data-filter=domain][data-value=out]")
    assert count(tab) == "20 of 60 pictures" and all(n % 3 == 2 for n in ids(tab)) and len(ids(tab)) == 20
    assert tab.value("document.querySelector('.pager').hidden")
    tab.click("button[data-filter=domain][data-value='']")
    choose(tab, "object", "yak")
    assert sorted(ids(tab)) == [n for n in range(60) if n % 3 == 1]
    choose(tab, "outcome", "missed")
    assert sorted(ids(tab)) == [n for n in range(60) if n % 3 == 1 and n % 2 == 1]
    choose(tab, "object", "")
    choose(tab, "outcome", "wrong")
    choose(tab, "order", "file")
    # "sofa" is in no reference, nor is "dog" but with pictures of dogs.
    assert count(tab) == f"{sum(n % 2 == 1 or (n % 5 == 4 and n % 3 > 0) for n in range(60))} of 60 pictures"
    choose(tab, "outcome", "")
    choose(tab, "constraints", "fell")
    expected = [n for n in range(60) if n % 3 < 2 and OBJECTS[n % 3] not in caption_of(n)]
    assert count(tab) == f"{len(expected)} of 60 pictures" and ids(tab) == expected[:24]
    choose(tab, "constraints", "")
    choose(tab, "order", "reverse")
    assert ids(tab) == order[::-1][:24]
    # The address is the view: opened anew, it is there again.
    choose(tab, "object", "fox")
    address = tab.value("location.href")
    before = ids(tab)
    tab.go("about:blank")
    tab.go(address)
    assert ids(tab) == before and count(tab) == "20 of 60 pictures"
    assert tab.value("document.getElementById('filter-object').value") == "fox"


def test_search(tab: Tab) -> None:
    tab.click("#search")
    tab.write("YAK road")
    assert sorted(ids(tab)) == [n for n in range(60) if n % 3 == 1 and n % 4 == 3]  # in captions or references
    assert "search=YAK+road" in tab.value("location.hash")
    tab.value("document.getElementById('search').select()")
    tab.write("stands snow")  # only people say "stands"
    assert count(tab) == "15 of 60 pictures" and {n % 4 for n in ids(tab)} == {1}
    tab.value("document.getElementById('search').select()")
    tab.write("no such word")
    assert ids(tab) == [] and tab.text("#nothing").startswith("No picture fits these filters.")
    tab.click("#reset")
    assert count(tab) == "60 of 60 pictures" and tab.value("document.activeElement.id") == "search"
    assert tab.value("location.hash") == ""


def test_pointing_at_regions_and_words(tab: Tab, page: Path) -> None:
    """On a card, and at large. exp(-.5) is 61 %, without the region exp(-2.5) 8.2 %, without the tag exp(-.75) 47 %."""
    choose(tab, "order", "file")
    card = "#cards .card[data-id='4']"
    assert caption_of(4).startswith("a yak")
    tab.point(f"{card} .region:not(.whole)")  # drawn after the whole picture, so the one on the left is the first
    assert tab.text(f"{card} .tip") == "yak 0.90 “yak” 61 % → 8.2 % without"
    assert tab.texts(f"{card} .word.lit") == ["yak"]
    tab.point(f"{card} .word")  # "a", which hangs on nothing
    assert tab.value(f'document.querySelector("{card} .tip").hidden') and tab.texts(f"{card} .region.lit") == []
    tab.point(f"{card} mark .word")
    assert tab.text(f"{card} .tip") == "“yak” 61 % 8.2 % without this region"
    assert tab.texts(f"{card} .region.lit") == ["yak"]
    tab.point("h1")
    assert tab.texts(f"{card} .lit") == []

    tab.click(f"{card} .frame")
    assert tab.text("#view-title") == "Picture 4" and tab.value("document.getElementById('view').open")
    assert tab.texts("#view-inputs .entry") == ["1 yak 0.90 “yak”", "2 unnamed region 0.40", "3 whole picture"]
    tab.point("#view mark .word")
    assert tab.text("#telling") == (
        "“yak” has a probability of 61 %. Without yak (region 1) 8.2 % tag yak 47 % all regions 3.0 % all tags 37 %"
    )
    assert tab.texts("#view .tag.lit") == ["yak"] and tab.texts("#view .entry.lit") == ["1 yak 0.90 “yak”"]
    tab.point("#view .entry")
    assert tab.text("#telling") == "yak 0.90 “yak” 61 % → 8.2 % without"
    assert tab.texts("#view .word.lit") == ["yak"]
    assert tab.texts("#view .references li") == references_of(4)
    assert tab.texts("#view .trace li") == ["yak 0.90: written as “yak”", "cloud 0.30: not among the 3 surest"]
    tab.point("#view .trace li")
    assert tab.texts("#view .region.lit") == ["yak"]


def test_keys_alone(tab: Tab, page: Path) -> None:
    """From the search through the cards into one picture and back, without a pointer."""
    order = data_of(page)["order"]
    tab.value("document.getElementById('filter-order').focus()")
    tab.press("Tab")  # the previous page is not to be had, so the next one
    assert tab.value("document.activeElement.innerText") == "next"
    tab.press("Tab")
    assert focused(tab) == order[0]
    columns = tab.value(
        "(() => { const tops = [...document.querySelectorAll('#cards .card')].map((card) => card.offsetTop);"
        " return tops.filter((top) => top === tops[0]).length; })()"
    )
    assert columns == 4
    tab.press("ArrowRight", "ArrowDown")
    assert focused(tab) == order[columns + 1]
    outline = tab.value("getComputedStyle(document.activeElement).outlineStyle")
    assert outline == "solid" and tab.value("document.activeElement.matches(':focus-visible')")
    assert "CIDEr" in tab.value("document.activeElement.getAttribute('aria-label')")
    tab.press("ArrowLeft", "ArrowUp", "End")
    assert focused(tab) == order[23]
    tab.press("ArrowRight")  # over the end of the page
    assert focused(tab) == order[24] and tab.text(".pager .place") == "page 2 of 3"
    tab.press("ArrowLeft")
    assert focused(tab) == order[23] and tab.text(".pager .place") == "page 1 of 3"
    tab.press("PageDown", "PageDown", "Home")
    assert focused(tab) == order[48]

    tab.press("ArrowRight", "Enter")
    assert tab.text("#view-title") == f"Picture {order[49]}" and tab.text("#view-place") == "50 of 60"
    tab.press("ArrowRight", "ArrowRight", "ArrowLeft")
    assert tab.text("#view-title") == f"Picture {order[50]}"
    for _ in range(9):  # past the buttons to the words
        tab.press("Tab")
        if tab.value("document.activeElement.matches('.word')"):
            break
    first = tab.value("document.activeElement.innerText")
    tab.press("ArrowRight")  # among the words, not among the pictures
    assert tab.text("#view-title") == f"Picture {order[50]}"
    assert [first, tab.value("document.activeElement.innerText")] == caption_of(order[50]).split()[:2]
    assert tab.text("#telling").startswith(f"“{tab.value('document.activeElement.innerText')}” has a probability")
    tab.press("Escape")
    tab.until(f"document.activeElement.closest('.card')?.dataset.id === '{order[50]}'")  # a dialog ends a little later
    assert not tab.value("view.open") and focused(tab) == order[50]
    # Tab goes past all cards at once.
    tab.press("Tab")
    assert tab.value("document.activeElement.closest('.card')") is None
    # A link to one picture opens it.
    tab.go(f"{page.as_uri()}#picture=7&order=file")
    assert tab.text("#view-title") == "Picture 7" and tab.text("#view-place") == "8 of 60"


def test_worst_and_best_stand_above_and_open(tab: Tab, page: Path) -> None:
    order = data_of(page)["order"]
    strips = tab.value(
        "[...document.querySelectorAll('.strip')].map((strip) => [...strip.children].map((card) => +card.dataset.id))"
    )
    assert strips == [order[:6], order[::-1][:6]]
    tab.click(".strip .card .frame")
    assert tab.text("#view-title") == f"Picture {order[0]}"
    tab.click("#view-close")
    tab.until("!document.querySelector('dialog[open]')")
    tab.click("details summary")
    tab.until("document.querySelector('[data-object=fox]').getBoundingClientRect().height > 0")
    tab.click("[data-object=fox]")
    assert count(tab) == "20 of 60 pictures" and focused(tab) == ids(tab)[0]


def test_a_phone(browser: Browser, page: Path) -> None:
    """390 pixels wide: nothing sticks out, what is to be tapped is large enough, a picture fills the screen."""
    tab = browser.open(page.as_uri(), width=390, height=844, touch=True)
    assert tab.value("document.documentElement.scrollWidth") == 390
    assert tab.value("document.querySelector('.chart').getBoundingClientRect().width") <= 358
    cards = tab.value(
        "[...document.querySelectorAll('#cards .card')].map((card) => card.getBoundingClientRect().width)"
    )
    assert set(cards) == {358}
    heights = tab.value(
        "[...document.querySelectorAll('#filters select, .pager button')].map((node) => node.offsetHeight)"
    )
    assert min(heights) >= 40
    tab.tap("#cards .card .frame")
    assert tab.value("(({width, height}) => [width, height])(view.getBoundingClientRect())") == [390, 844]
    assert tab.value("document.getElementById('view').scrollWidth") == 390
    tab.tap("#view-says .word:nth-child(1)")
    assert "has a probability of 61 %" in tab.text("#telling")
    tab.close()


def test_the_picture_files_may_be_missing(browser: Browser, page: Path, tmp_path: Path) -> None:
    """A page that was mailed without its folder has everything but the pixels, and says so."""
    alone = tmp_path / "alone.html"
    alone.write_bytes(page.read_bytes())
    tab = browser.open(alone.as_uri())
    tab.point(CARDS)  # pictures are asked for when they come into view
    tab.until("document.querySelector('#cards .no-picture')")
    assert tab.text("#cards .no-picture") == "the picture's file is not beside this page"
    assert len(ids(tab)) == 24 and tab.texts("#cards .word")[:1] == ["a"]
    tab.close()
    browser.errors.clear()  # of the files that are not there


def test_somebody_elses_script_is_text(browser: Browser, tmp_path: Path) -> None:
    """A caption that would run as HTML, in the data, on cards and at large."""
    files = make_files(tmp_path, 4, captions=[f"a yak {HOSTILE}"] * 4)
    classes = [dict(entry, name=HOSTILE) if entry["name"] == "fox" else entry for entry in CLASSES]
    files.classes.write_text(json.dumps(classes))
    assert report([*files.arguments, "--out", str(tmp_path / "r.html"), "--title", "Mine"]) == 0
    browser.errors.clear()
    tab = browser.open((tmp_path / "r.html").as_uri())
    assert tab.value("document.title") == "Mine" and len(ids(tab)) == 4
    assert " ".join(f"a yak {HOSTILE}".split()) in tab.text("#cards .says")
    tab.click("#cards .frame")
    assert HOSTILE.split()[0] in tab.text("#view-says") and tab.value("document.title") == "Mine"
    assert tab.value("document.querySelectorAll('img[src=x]').length") == 0 and browser.errors == []
    tab.close()


def test_a_comparison(browser: Browser, tmp_path: Path) -> None:
    """A says what people say in three of four pictures, B the right thing in every second one."""
    files = make_files(tmp_path / "b", 48)
    good_captions = ["a sofa" if n % 4 == 0 else references_of(n)[0] for n in range(48)]
    good = make_files(tmp_path / "a", 48, captions=good_captions)
    out = tmp_path / "compare.html"
    assert compare([
        str(good.predictions), str(files.predictions), "--references", str(files.references), "--classes",
        str(files.classes), "--html", str(out), "--pictures", str(files.pictures),
    ]) == 0  # fmt: skip
    browser.errors.clear()
    tab = browser.open(out.as_uri())
    assert tab.text("h1") == "a against b" and count(tab) == "48 of 48 pictures"
    assert tab.text(".sentences li").startswith("A is better CIDEr overall: A ")

    def leads_shown() -> list[float]:
        told = tab.value(f"[...document.querySelectorAll('{CARDS} .id')].map((node) => node.textContent)")
        signs = {"A": 1.0, "B": -1.0, "e": 0.0}  # "A ahead by 12.3", "equal"
        return [signs[text[0]] * float(text.split()[-1] if " " in text else 0) for text in told]

    leads = leads_shown()
    assert leads == sorted(leads, reverse=True) and leads[0] > 0
    assert tab.texts("#cards .card:first-child .who")[0].startswith("A · CIDEr ")
    choose(tab, "order", "reverse")
    assert leads_shown()[0] < leads[-1]
    choose(tab, "outcome", "second")
    assert leads_shown() and max(leads_shown()) < 0
    choose(tab, "outcome", "")
    tab.click("button[data-filter=domain][data-value=near]")
    assert {n % 3 for n in ids(tab)} == {1} and count(tab) == "16 of 48 pictures"
    tab.click("#cards .frame")
    n = int(tab.text("#view-title").split()[1])
    assert tab.texts("#view .references li") == references_of(n)
    said = tab.texts("#view-says p")
    assert said[0].startswith(good_captions[n]) and said[1].startswith(caption_of(n))
    assert browser.errors == []
    tab.close()


def many_pictures(count: int) -> tuple[Evaluation, list[EvaluatedPicture]]:
    """An evaluation as large as nocaps' validation, without scoring it: the scores are made up."""
    import numpy as np

    classes = [WorldClass(**{**entry, "forms": list(entry["forms"])}) for entry in CLASSES]
    domains = ("in-domain", "near-domain", "out-domain")
    examples = [
        CaptionExample(str(n), "", [f"{text} number {n}" for text in references_of(n) * 3], domains[n % 3])
        for n in range(count)
    ]
    captions = {e.image_id: caption_of(n) for n, e in enumerate(examples)}
    scores = {e.image_id: {"CIDEr": float(n * 7919 % 3001) / 10, "ROUGE_L": 50.0} for n, e in enumerate(examples)}
    truth = np.array([[c.name == OBJECTS[n % 3] for c in classes] for n in range(count)])
    named = np.array([[c.name in captions[str(n)] for c in classes] for n in range(count)])
    table = {"overall": {"CIDEr": 150.0, "ROUGE_L": 50.0, "pictures": count}}
    tokens = [captions[e.image_id].rstrip(".").split() for e in examples]
    people = [[text.split() for text in e.captions] for e in examples]
    evaluation = Evaluation(examples, captions, table, scores, tokens, people, classes, named, truth, {}, {}, {})
    evaluation.intervals = make_intervals(evaluation)
    pictures = make_pictures(examples, {ROW: ShownRow(captions, scores, named)}, {}, classes, truth)
    for n, picture in enumerate(pictures):
        picture.width, picture.height = 640, 480
        picture.boxes = [(10 * k, 5 * k, 10 * k + 60, 5 * k + 80) for k in range(30)]
        picture.labels = [OBJECTS[(n + k) % 3] if k % 4 else "" for k in range(30)]
        picture.scores = [1 - k / 40 for k in range(30)]
        if n < 500:
            picture.evidence[ROW] = evidence_of(picture.captions[ROW], 30, ["dog"])
    return evaluation, pictures


def test_as_many_pictures_as_nocaps_has(browser: Browser, tmp_path: Path) -> None:
    """4,500 pictures of 30 regions and 9 references: a page of megabytes whose document stays small and answers.

    What is asserted are sizes and not times, which hang on the machine; docs/reports.md has times.
    """
    evaluation, pictures = many_pictures(4500)
    path = tmp_path / "many.html"
    write_evaluation(path, evaluation, pictures, {}, "Many", {})
    assert path.stat().st_size < 40_000_000
    browser.errors.clear()
    tab = browser.open(path.as_uri())
    assert count(tab) == "4,500 of 4,500 pictures" and tab.text(".pager .place") == "page 1 of 188"
    elements = "document.querySelectorAll('*').length"
    first = tab.value(elements)
    assert len(ids(tab)) == 24 and first < 4000
    order = data_of(path)["order"]
    for _ in range(3):
        tab.click(".pager button:last-child")
    assert ids(tab) == order[72:96] and tab.value(elements) < 1.2 * first
    tab.click("button[data-filter=domain][data-value=out]")
    choose(tab, "object", "fox")
    assert count(tab) == "1,500 of 4,500 pictures"
    tab.click("#search")
    tab.write("number 4499")
    assert ids(tab) == [4499] and count(tab) == "1 of 4,500 pictures"
    tab.value("document.getElementById('search').select()")
    tab.write("fox sand")
    assert count(tab) == f"{sum(n % 3 == 2 and n % 4 == 2 for n in range(4500))} of 4,500 pictures"
    assert tab.value(elements) < 1.2 * first and browser.errors == []
    tab.close()
