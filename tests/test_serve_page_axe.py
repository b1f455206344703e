"""axe-core on the page, in each of its states, of a model that is calibrated: sure captions and withheld ones."""

import shutil
from collections.abc import Iterator
from importlib.resources import files
from pathlib import Path

import numpy as np
import pytest
from browser import Browser
from PIL import Image
from serve_page import CAMERA, PHONE, check_clean, open_page, wait
from serving import Server, running

from vivo.calibration import FACTS, fit
from vivo.world.glyphs import DETECTOR_CLASSES
from vivo.world.scenes import render, sample_scene

LOOKED_AT = (
    ".entry, .label, #badge, #key-title, #key-why, label[for=key-text], #key-text, #key-form .main, dialog .main"
)
"""Of whose colours axe says that it cannot tell: one thing lies on another (what a region carries, read by
screen readers alone; the dialog on the page; a label and the time on the picture). `CONTRASTS` looks at them."""
CONTRASTS = """((nodes) => {
    const colour = (text) => { const [r, g, b, a = 1] = text.match(/[0-9.]+/g).map(Number); return [r, g, b, a]; };
    const over = ([r, g, b, a], under) => [r, g, b].map((value, n) => value * a + under[n] * (1 - a));
    const light = (rgb) => rgb.map((value) => value / 255).map(
        (value) => (value <= .03928 ? value / 12.92 : ((value + .055) / 1.055) ** 2.4)
    ).reduce((sum, value, n) => sum + value * [.2126, .7152, .0722][n], 0);
    const least = (node) => Math.min(...[0, 255].map((base) => {  // whatever lies below all that we know
        const above = [];
        for (let one = node; one; one = one.parentElement) above.unshift(colour(getComputedStyle(one).backgroundColor));
        const back = above.reduce((under, one) => over(one, under), [base, base, base]);
        const pair = [light(back), light(over(colour(getComputedStyle(node).color), back))].sort((a, b) => b - a);
        return (pair[0] + .05) / (pair[1] + .05);
    }));
    return nodes.flatMap((node) => [node, ...node.querySelectorAll('*')])
        .filter((node) => [...node.childNodes].some((one) => one.nodeType === 3 && one.data.trim()) || node.value)
        .map(least);
})"""
"""The least contrasts of elements and of what stands in them, as WCAG counts them."""


@pytest.fixture(scope="module")
def browser(chromium: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    with Browser(chromium, tmp_path_factory.mktemp("browser"), *CAMERA) as browser:
        yield browser


@pytest.fixture(scope="module")
def server(tiny_captioner: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """Calibrated so that a picture with objects that the detector knows is sure, and one without is not."""
    folder = tmp_path_factory.mktemp("calibrated") / "captioner"
    shutil.copytree(tiny_captioner, folder)
    random = np.random.default_rng(1)
    named = FACTS.index("named regions")
    rows = random.normal(size=(200, len(FACTS)))
    rows[:, named] = random.integers(0, 4, 200)
    fitted = fit(rows, rows[:, named] > 1)
    fitted.weights = [weight if n == named else 0.0 for n, weight in enumerate(fitted.weights)]
    fitted.threshold = 0.5
    fitted.save(folder)
    with running(folder, tmp_path_factory.mktemp("serve"), "--beam", "3") as found:
        yield found


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("scene") / 'two & "three".png'
    render(sample_scene(np.random.default_rng(0), DETECTOR_CLASSES, n_objects=3)).save(path)
    return path


@pytest.fixture(scope="module")
def grey(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("grey") / "grey.png"
    Image.new("RGB", (224, 224), (128, 128, 128)).save(path)
    return path


@pytest.mark.parametrize("dark", [False, True])
@pytest.mark.parametrize("size", [(1280, 900, False), PHONE], ids=["desk", "phone"])
def test_axe_finds_nothing(browser: Browser, server: Server, scene: Path, grey: Path, size: tuple, dark: bool) -> None:
    """axe-core's rules, WCAG 2.1 A and AA and its best practices, in each state of the page."""
    tab = open_page(browser, server, size=size)
    features = {"prefers-color-scheme": "dark" if dark else "light", "prefers-reduced-motion": "reduce"}
    tab.send(
        "Emulation.setEmulatedMedia", features=[{"name": name, "value": value} for name, value in features.items()]
    )
    tab.send("Runtime.evaluate", expression=files("axe_core_python").joinpath("axe.min.js").read_text("utf-8"))

    looked_at: list[float] = []

    def check() -> None:
        assert tab.value("document.getAnimations().length") == 0  # who asks for less motion gets none
        assert tab.value("document.documentElement.scrollWidth <= innerWidth")  # nothing to push sideways
        passes, violations, left, contrasts = tab.value(
            "axe.run().then(({ passes, violations, incomplete }) => {"
            " const colours = incomplete.filter(({ id }) => id === 'color-contrast').flatMap(({ nodes }) => nodes)"
            "  .map(({ target }) => document.querySelector(target[0]));"
            " return [passes.length, violations.map(({ id, impact, nodes }) => [id, impact, nodes.map((n) => n.html)]),"
            f" [...incomplete.map(({{ id }}) => id), ...colours.filter((node) => !node.matches('{LOOKED_AT}'))"
            f"  .map((node) => node.outerHTML)], {CONTRASTS}(colours)]; }})"
        )
        assert passes > 15 and violations == []
        assert set(left) <= {"color-contrast", "video-caption"}  # a camera's picture has no sound to caption
        assert all(contrast >= 4.5 for contrast in contrasts), contrasts
        looked_at.extend(contrasts)

    check()
    tab.choose_file("#file", grey)
    wait(tab, "done")
    assert "No sentence reached a confidence of 50 %" in tab.text("#found")
    check()
    tab.choose_file("#file", scene)
    tab.until("document.querySelector('.word')")
    wait(tab, "done")
    assert "Very sure 100 %" in tab.text("#found")
    first_lines = (
        "[...document.querySelectorAll('.entry')].map((node) => { const text = document.createRange();"
        " text.selectNodeContents(node.firstChild);"
        " const tops = [...text.getClientRects()].map(({ top }) => top);"
        " return [new Set(tops).size, node.firstChild.data.split(' ').length]; })"
    )
    assert all(lines <= words for lines, words in tab.value(first_lines))  # no word is broken
    check()
    tab.value("document.querySelector('.word.hanging').focus()")
    check()
    tab.click("#key")
    check()
    tab.press("Escape")
    tab.click("#camera")
    wait(tab, "camera")
    tab.click("#live")
    tab.until("document.querySelector('#found .caption')")
    check()
    tab.click("#live")
    tab.value("navigator.clipboard.writeText('').catch(() => 0)")
    tab.drop("#main", Path(__file__))
    tab.until("!document.getElementById('trouble').hidden")
    check()
    assert looked_at
    check_clean(tab, browser, server)
    tab.close()
