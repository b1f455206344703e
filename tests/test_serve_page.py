"""The page of the caption service in a real browser, before the real server: pointer, keys, clipboard, a camera.

The browser's camera is Chromium's own fake one, which films a rolling disc.
"""

import base64
import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from browser import Browser, Tab
from serve_page import CAMERA, answer_of, capital, check_clean, heaviest, lit, open_page, wait
from serving import KEY, Server, running

from vivo.world.glyphs import DETECTOR_CLASSES
from vivo.world.scenes import render, sample_scene


@pytest.fixture(scope="module")
def browser(chromium: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    with Browser(chromium, tmp_path_factory.mktemp("browser"), *CAMERA) as browser:
        yield browser


@pytest.fixture(scope="module")
def server(tiny_captioner: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with running(tiny_captioner, tmp_path_factory.mktemp("serve"), "--beam", "3") as found:
        yield found


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three objects that the detector knows; a name that HTML must not read."""
    path = tmp_path_factory.mktemp("scene") / 'two & "three".png'
    render(sample_scene(np.random.default_rng(0), DETECTOR_CLASSES, n_objects=3)).save(path)
    return path


@pytest.fixture
def tab(browser: Browser, server: Server) -> Iterator[Tab]:
    """The page at a desk. At the end: nothing was forbidden, nothing failed, no other host was asked."""
    tab = open_page(browser, server)
    yield tab
    check_clean(tab, browser, server)
    tab.close()


def test_drop_read_and_point(tab: Tab, server: Server, scene: Path) -> None:
    expected = answer_of(server, scene)
    assert tab.text("h1") == "What is in this picture?"
    tab.drop("#intake", scene)
    wait(tab, "done")
    assert tab.text("#caption") == capital(expected["caption"]["text"]) == tab.text(".caption")
    assert tab.texts(".word")[1:] == [word["text"] for word in expected["words"]][1:]
    assert tab.texts(".alternatives .text") == [capital(one["text"]) for one in expected["alternatives"]]
    assert (
        len(tab.texts(".entry")) == len(expected["regions"]) == tab.value("document.querySelectorAll('.region').length")
    )
    share = expected["caption"]["confidence"]
    assert tab.texts(".sure b, .sure .number") == [
        "Not calibrated",
        f"{100 * share:.0f} %" if share >= 0.005 else "< 1 %",
    ]
    # The boxes lie where the answer has them.
    boxes = tab.value(
        "(() => { const whole = document.getElementById('shot').getBoundingClientRect();"
        " return [...document.querySelectorAll('.region')].map((node) => { const r = node.getBoundingClientRect();"
        " return [(r.left - whole.left) / whole.width, (r.top - whole.top) / whole.height,"
        " (r.right - whole.left) / whole.width, (r.bottom - whole.top) / whole.height]; }); })()"
    )
    np.testing.assert_allclose(sorted(boxes), sorted(one["box"] for one in expected["regions"]), atol=2e-3)
    # A word lights up its regions, by weight, and a region its words.
    w, n = heaviest(expected)
    hanging = [share >= 0.05 for share in expected["words"][w]["regions"]]
    tab.point(f".word:nth-of-type({w + 1})")
    assert lit(tab, ".entry") == hanging and lit(tab, ".word") == [k == w for k in range(len(expected["words"]))]
    strength = tab.value(f"document.querySelectorAll('.entry')[{n}].style.getPropertyValue('--strength')")
    assert float(strength) == pytest.approx(expected["words"][w]["regions"][n], abs=0.006)
    assert sum(lit(tab, ".region")) == sum(hanging)
    assert tab.text(".telling").startswith(f"“{expected['words'][w]['text']}” hangs on ")
    tab.point(f".entry:nth-of-type({n + 1})")
    assert lit(tab, ".word") == [word["regions"][n] >= 0.05 for word in expected["words"]]
    tab.point("h3")
    assert not any(lit(tab, ".word") + lit(tab, ".entry") + lit(tab, ".region"))


def test_by_keyboard_alone(tab: Tab, server: Server, scene: Path) -> None:
    def focused() -> str:
        return tab.value("document.activeElement.id || document.activeElement.className")

    seen = []
    for _ in range(3):
        tab.press("Tab")
        seen.append(focused())
    assert seen == ["skip", "key", "choose"]
    outline = tab.value(
        "getComputedStyle(document.activeElement).outlineStyle + document.activeElement.matches(':focus-visible')"
    )
    assert outline == "solidtrue"
    tab.send("Page.setInterceptFileChooserDialog", enabled=True)
    tab.press("Enter")
    chosen = tab.browser.wait("Page.fileChooserOpened", tab.session)
    tab.send("DOM.setFileInputFiles", backendNodeId=chosen["backendNodeId"], files=[str(scene)])
    wait(tab, "done")
    assert focused() == "choose"  # where the person was
    expected = answer_of(server, scene)
    seen = []
    for _ in range(20):
        tab.press("Tab")
        seen.append(focused())
        if "entry" in seen[-1]:
            break
    order = [name.split()[0] for name in seen]
    assert order == [
        "camera",
        "paste",
        "show",
        "word",
        "copy-alt",
        "copy-html",
        "copy-json",
        "entry",
    ]  # one stop a group
    w, n = heaviest(expected)
    tab.press("Home", *["ArrowRight"] * n)
    assert lit(tab, ".entry")[n] and lit(tab, ".word") == [word["regions"][n] >= 0.05 for word in expected["words"]]
    tab.value("document.querySelector('.word').focus()")
    tab.press(*["ArrowRight"] * w)
    assert lit(tab, ".word")[w] and lit(tab, ".entry")[n]
    name = tab.value("document.activeElement.getAttribute('aria-label')")
    assert name.startswith(f"{tab.texts('.word')[w]}: hangs on ") and "%" in name
    tab.press("End")
    assert lit(tab, ".word")[-1]
    tab.press("Escape")
    assert not any(lit(tab, ".word"))


def test_it_is_said_once(tab: Tab, scene: Path) -> None:
    tab.choose_file("#file", scene)
    wait(tab, "done")
    caption = tab.text("#caption")
    said = [" ".join(text.split()) for text in tab.value("said") if text]
    ended = caption if caption.endswith(".") else f"{caption}."
    assert said == ["Looking at the picture", f"{ended} Not calibrated, {tab.text('.sure .number')}."]
    assert tab.value("document.querySelectorAll('[aria-live], [role=alert]').length") == 2
    assert tab.value("document.title") == f"{caption} – vivo"


def test_paste(tab: Tab, browser: Browser, server: Server, scene: Path) -> None:
    expected = capital(answer_of(server, scene)["caption"]["text"])
    data = base64.b64encode(scene.read_bytes()).decode()
    browser.send(
        "Browser.grantPermissions", permissions=["clipboardReadWrite", "clipboardSanitizedWrite"], origin=server.url
    )
    tab.send("Page.bringToFront")
    tab.value(
        f"(async () => {{ const bytes = Uint8Array.from(atob('{data}'), (sign) => sign.charCodeAt(0));"
        " const blob = new Blob([bytes], {type: 'image/png'});"
        " await navigator.clipboard.write([new ClipboardItem({'image/png': blob})]); })()"
    )
    control = {"type": "keyDown", "modifiers": 2, "key": "v", "code": "KeyV", "windowsVirtualKeyCode": 86}
    tab.send("Input.dispatchKeyEvent", **control, commands=["paste"])
    wait(tab, "done")
    assert tab.text("#caption") == expected
    tab.value("document.getElementById('found').replaceChildren()")
    tab.click("#paste")
    tab.until("document.getElementById('caption')")
    assert tab.text("#caption") == expected
    tab.value("navigator.clipboard.writeText('no picture')")
    tab.send("Input.dispatchKeyEvent", **control, commands=["paste"])
    tab.until("!document.getElementById('trouble').hidden")
    assert tab.text("#trouble-text") == "There is no picture in the clipboard. Copy a picture first."
    tab.value("navigator.clipboard.writeText('https://example.org/a.png')")
    tab.click("#paste")
    tab.until("document.getElementById('trouble-text').innerText.startsWith('This is an address')")


def test_copies(tab: Tab, browser: Browser, server: Server, scene: Path) -> None:
    browser.send(
        "Browser.grantPermissions", permissions=["clipboardReadWrite", "clipboardSanitizedWrite"], origin=server.url
    )
    tab.send("Page.bringToFront")
    tab.choose_file("#file", scene)
    wait(tab, "done")
    caption = tab.text("#caption")

    def copied(kind: str) -> str:
        tab.click(f"#copy-{kind}")
        tab.until(f"document.getElementById('copy-{kind}').innerText === 'Copied'")
        return tab.value("navigator.clipboard.readText()")

    assert copied("alt") == caption
    source = "two%20%26%20%22three%22.png"
    assert copied("html") == f'<img src="{source}" alt="{caption}" width="224" height="224">'
    expected = answer_of(server, scene)
    assert {**json.loads(copied("json")), "requestId": ""} == {**expected, "requestId": ""}
    hostile = {"caption": {"text": "a \"<b>\" & 'c'"}, "picture": {"width": 1, "height": 2}}
    made = tab.value(
        f"import('/page/copies.js').then((m) => {{ const html = m.imageElement({json.dumps(hostile)}, 'https://h.example/?a=1&b=\"');"
        " const node = new DOMParser().parseFromString(html, 'text/html').body;"
        " return [node.children.length, node.firstChild.alt, node.firstChild.getAttribute('src')]; })"
    )
    assert made == [1, "A \"<b>\" & 'c'", 'https://h.example/?a=1&b="']


def test_files_that_are_no_picture(tab: Tab, browser: Browser, tmp_path: Path, scene: Path) -> None:
    broken, notes, empty = tmp_path / "broken.jpg", tmp_path / "notes.txt", tmp_path / "empty.png"
    broken.write_bytes(b"\xff\xd8\xff\xe0 not more")
    notes.write_text("no picture")
    empty.write_bytes(b"")
    told = {
        broken: "This file cannot be read as a picture. It may be damaged",
        notes: "notes.txt is not a picture. Taken are BMP, GIF, JPEG, PNG and WebP.",
        empty: "This file is empty.",
    }
    for path, text in told.items():
        tab.drop("#main", path)
        tab.until(f"document.getElementById('trouble-text').innerText.startsWith({json.dumps(text)})")
        assert tab.value("document.body.dataset.state") == "empty" and not tab.texts("#found > *")
    browser.errors.clear()  # the browser notes the service's 400
    tab.press("Escape")
    assert tab.value("document.getElementById('trouble').hidden")
    tab.drop("#main", scene)  # and it goes on
    wait(tab, "done")
    assert tab.value("document.getElementById('trouble').hidden") and tab.text("#caption")


def test_a_busy_service_is_waited_for(tab: Tab, browser: Browser, scene: Path) -> None:
    """The one answer that is made up: 429 as the service gives it; the second try is the service's own."""
    tab.send("Fetch.enable", patterns=[{"urlPattern": "*/api/describe*"}])
    tab.choose_file("#file", scene)
    first = browser.wait("Fetch.requestPaused", tab.session)
    headers = [{"name": "Retry-After", "value": "1"}, {"name": "Content-Type", "value": "application/json"}]
    body = base64.b64encode(b'{"error": {"code": "429", "message": "busy"}}').decode()
    tab.send("Fetch.fulfillRequest", requestId=first["requestId"], responseCode=429, responseHeaders=headers, body=body)
    tab.until("document.getElementById('trouble-text').innerText === 'The service is busy. Trying again in 1 s.'")
    second = browser.wait("Fetch.requestPaused", tab.session)
    tab.send("Fetch.continueRequest", requestId=second["requestId"])
    wait(tab, "done")
    assert tab.value("document.getElementById('trouble').hidden")
    browser.errors.clear()  # the 429
    tab.send("Fetch.disable")


def test_the_key_is_asked_for(browser: Browser, server: Server, scene: Path) -> None:
    tab = open_page(browser, server, key="")
    assert not tab.value("document.getElementById('key').hidden")
    tab.choose_file("#file", scene)
    tab.until("document.getElementById('key-dialog').open")
    assert (
        tab.text("#key-title") == "This service asks for a key."
        and tab.value("document.activeElement.id") == "key-text"
    )
    tab.write("wrong")
    tab.press("Enter")
    tab.until("document.getElementById('key-title').innerText === 'This key is not accepted.'")
    tab.press("Escape")
    tab.until("!document.getElementById('key-dialog').open")
    tab.click("#key")
    tab.write(KEY)
    tab.press("Enter")
    wait(tab, "done")
    assert tab.text("#caption") and tab.value("sessionStorage.getItem('vivo-key')") == KEY
    assert tab.value("localStorage.length") == 0 and tab.value("document.cookie") == ""
    tab.value("sessionStorage.clear()")
    tab.click("#camera")
    wait(tab, "camera")
    tab.click("#live")
    tab.until("document.getElementById('key-dialog').open")
    tab.write(KEY)
    tab.press("Enter")
    wait(tab, "live")  # and not the picture from before
    tab.until("document.querySelector('#found .caption')")
    browser.errors.clear()  # the 401
    check_clean(tab, browser, server)
    tab.close()


def test_the_camera_and_live_description(tab: Tab, server: Server) -> None:
    tab.click("#camera")
    wait(tab, "camera")
    assert (
        tab.value("document.activeElement.id") == "shoot"
        and tab.value("document.getElementById('video').videoWidth") > 0
    )
    before = len(server.lines())
    tab.press("Tab", " ")
    assert tab.value("document.activeElement.getAttribute('aria-pressed')") == "true"
    tab.until("performance.getEntriesByType('resource').filter((one) => one.name.includes('words=false')).length >= 5")
    caption = tab.text("#found .caption")
    said = [text for text in tab.value("said") if text]
    assert said[0] == "Live description is on" and caption in said
    assert all(first != second for first, second in zip(said, said[1:], strict=False))  # only what changed
    assert not tab.value("document.querySelector('.word')")
    tab.press(" ")
    wait(tab, "camera")
    tab.settle()
    assert len(server.lines()) - before >= 5 and tab.value("said").count("Live description is off") == 1
    tab.click("#shoot")  # a photograph, with all that a picture has
    wait(tab, "done")
    assert tab.text("#caption") and tab.value("document.querySelectorAll('.word').length") > 0
    assert tab.value("document.getElementById('video').srcObject === null")  # it films no longer
    tab.click("#camera")
    wait(tab, "camera")
    tab.click("#live")
    tab.until("document.querySelector('#found .caption')")
    tab.value(
        "Object.defineProperty(document, 'hidden', {value: true});"
        " document.dispatchEvent(new Event('visibilitychange'))"
    )
    assert tab.value("document.getElementById('video').srcObject === null")
    assert tab.value("document.body.dataset.state") == "empty" and tab.text("#trouble-text").startswith(
        "The camera was closed."
    )


def test_captions_that_flicker(tab: Tab) -> None:
    taken = tab.value(
        "import('/page/camera.js').then(({ Steady }) => { const steady = new Steady();"
        " return [...'aababbbacdefgh'].map((text) => steady.take(text)); })"
    )
    assert "".join("-X"[one] for one in taken) == "X----X------X-"


def test_pictures_are_made_smaller_only_where_they_must(tab: Tab) -> None:
    found = tab.value("""(async () => {
        const { prepared } = await import('/page/pictures.js');
        const canvas = Object.assign(document.createElement('canvas'), { width: 600, height: 300 });
        const context = canvas.getContext('2d'), noise = context.createImageData(600, 300);
        for (let n = 0; n < noise.data.length; n++) noise.data[n] = n % 4 === 3 ? 255 : (n * 7919) % 251;
        context.putImageData(noise, 0, 0);
        const png = await new Promise((done) => canvas.toBlob(done, 'image/png'));
        const file = new File([png], 'noise.png', { type: 'image/png' }), formats = ['Jpeg', 'Png'];
        const shape = (blob) => createImageBitmap(blob).then(({ width, height }) => width / height);
        const same = await prepared(file, { maxBytes: file.size, formats });
        const small = await prepared(file, { maxBytes: 20000, formats });
        const other = await prepared(new File([png], 'noise', { type: 'image/avif' }), { maxBytes: 1e9, formats });
        const text = new File(['x'.repeat(30000)], 'x.png', { type: 'image/png' });
        const refused = await prepared(text, { maxBytes: 20000, formats }).catch((error) => error.title);
        return [same === file, small.type, small.size <= 20000, await shape(small), other.type, refused];
    })()""")
    same, kind, fits, shape, other, refused = found
    assert same and kind == other == "image/jpeg" and fits and shape == pytest.approx(2, abs=0.05)
    assert refused == "This file is too large."


def test_confidence_in_words(tab: Tab) -> None:
    words = tab.value(
        "import('/page/view.js').then(({ sureness }) => [0.97, 0.8, 0.6, 0.4, 0.999].map((p) => sureness(p, true))"
        ".map(({ words, number }) => `${words} ${number}`))"
    )
    assert [" ".join(text.split()) for text in words] == [
        "Very sure 97 %",
        "Quite sure 80 %",
        "More likely than not 60 %",
        "A guess 40 %",
        "Very sure > 99 %",
    ]


def test_no_description_and_an_address(browser: Browser, tiny_captioner: Path, tmp_path: Path, scene: Path) -> None:
    with running(tiny_captioner, tmp_path, "--threshold", "1.0", "--allow-urls", "--beam", "1", keys=False) as server:
        tab = open_page(browser, server, key="")
        tab.choose_file("#file", scene)
        wait(tab, "done")
        assert tab.text("#found .caption") == "No description detected." == tab.value("said").pop()
        assert tab.texts(".copies button") == ["JSON"] and tab.texts(".entry") and not tab.texts(".word")
        tab.click("#url")
        tab.write("http://127.0.0.1/private.png")
        tab.press("Enter")
        tab.until("!document.getElementById('trouble').hidden")
        assert tab.text("#trouble-text").startswith("The picture at this address could not be had.")
        browser.errors.clear()  # the 400
        check_clean(tab, browser, server)
        tab.close()


def test_its_policy_forbids(browser: Browser, server: Server) -> None:
    """What the other tests assert not to have happened is noticed when it does."""
    tab = open_page(browser, server)
    refused = tab.value("fetch('https://example.org/').then(() => 'sent', () => 'refused')")
    tab.value("document.body.setAttribute('style', 'color: red'); new Image().src = 'https://example.org/a.png'")
    tab.until("violations.length >= 3")
    assert refused == "refused" and {"connect-src", "img-src", "style-src-attr"} == set(tab.value("violations"))
    assert browser.errors
    browser.errors.clear()
    tab.close()


def test_many_regions_with_names_that_are_no_html(tab: Tab) -> None:
    """As a detector with hundreds of classes gives them: twelve are listed, all can be; names stay text."""
    name = "<img src=x onerror=alert(1)>"
    regions = [{"box": [n / 50, 0, n / 50 + 0.1, 1], "tag": name, "score": 0.5} for n in range(40)]
    word = {"text": "<b>", "start": 2, "end": 5, "probability": 0.5, "regions": [n / 40 for n in range(40)]}
    description = {
        "requestId": "1",
        "model": {"calibrated": True},
        "picture": {"width": 1, "height": 1, "format": "Png"},
        "threshold": 0.3,
        "caption": {"text": "a <b>.", "confidence": 0.9},
        "alternatives": [],
        "tags": [{"name": name, "confidence": 1}],
        "regions": regions,
        "words": [word],
    }
    tab.value(
        f"import('/page/view.js').then(({{ View }}) => {{ new View({json.dumps(description)}, 'a');"
        " document.getElementById('work').hidden = false; })"
    )
    assert tab.text("#caption") == "A <b>." and tab.texts(".entry")[0].startswith(f"{name} 1 50 %")
    assert len(tab.texts(".entry")) == 12 and tab.value("document.querySelectorAll('#work img').length") == 1
    tab.click("#result .chips + button")
    assert len(tab.texts(".entry")) == 40
    tab.press("End")
    assert lit(tab, ".entry") == [False] * 39 + [True] and lit(tab, ".word") == [True]
    tab.point(".word")
    assert sum(lit(tab, ".region")) == 38  # from 2/40 on
