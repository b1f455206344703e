"""What tests of the service's page do in the browser and read off it."""

import json
from pathlib import Path

import numpy as np
from browser import Browser, Tab
from serving import KEY, Server

CAMERA = ("--use-fake-device-for-media-stream", "--use-fake-ui-for-media-stream")
PHONE = (320, 640, True)  # a narrow one


def open_page(
    browser: Browser, server: Server, key: str = KEY, size: tuple[int, int, bool] = (1280, 900, False)
) -> Tab:
    """The page, ready, by somebody who gave the key before. What it forbids itself is collected in `violations`."""
    browser.errors.clear()
    tab = browser.open(f"{server.url}/", *size)
    tab.until("document.body.dataset.ready === ''")
    tab.value(f"sessionStorage.setItem('vivo-key', {json.dumps(key)})")
    tab.value(
        "window.violations = []; document.addEventListener('securitypolicyviolation',"
        " (event) => violations.push(event.violatedDirective)); window.said = [];"
        " new MutationObserver(() => said.push(document.getElementById('announcer').textContent))"
        " .observe(document.getElementById('announcer'), {childList: true}); 0"
    )
    return tab


def check_clean(tab: Tab, browser: Browser, server: Server) -> None:
    assert browser.errors == [] and tab.value("violations") == []
    asked = tab.value("performance.getEntriesByType('resource').map((entry) => entry.name)")
    assert asked and all(name.startswith((server.url, f"blob:{server.url}")) for name in asked)


def wait(tab: Tab, state: str) -> None:
    tab.until(f"document.body.dataset.state === '{state}'")


def answer_of(server: Server, path: Path) -> dict:
    """What the service says of a picture to anybody."""
    return server.describe(path.read_bytes(), "/api/describe")[1]


def capital(text: str) -> str:
    return text[0].upper() + text[1:]


def heaviest(answer: dict) -> tuple[int, int]:
    """The word and the region that hang together most."""
    shares = np.array([word["regions"] for word in answer["words"]])
    w, n = np.unravel_index(shares.argmax(), shares.shape)
    assert shares[w, n] > 0.3
    return int(w), int(n)


def lit(tab: Tab, selector: str) -> list[bool]:
    return tab.value(f"[...document.querySelectorAll('{selector}')].map((node) => node.classList.contains('lit'))")
