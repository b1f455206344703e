"""Progress where stderr is a file: a line now and then, with share, count and time left."""

import re

import pytest

from vivo import progress


def test_lines_in_a_log(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress, "_SECONDS_BETWEEN_LINES", 0.0)
    with progress.progress_of("convert", 200) as update:
        update(50, 3)
        update(200, 12)
    lines = capsys.readouterr().err.split("\n")[:2]
    assert re.fullmatch(r"convert: 25\.0%, 3 pictures, [\d.]+/s, 0 min left", lines[0])
    assert re.fullmatch(r"convert: 100\.0%, 12 pictures, [\d.]+/s, 0 min left", lines[1])


def test_what_was_there_before_took_no_time(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(progress, "_SECONDS_BETWEEN_LINES", 0.0)
    clock = iter([0.0, 60.0])
    monkeypatch.setattr(progress, "perf_counter", lambda: next(clock))
    with progress.progress_of("alt texts", 200, before=100) as update:
        update(120, 20)
    assert capsys.readouterr().err == "alt texts: 60.0%, 20 pictures, 0.3/s, 4 min left\n"


def test_nothing_when_not_shown(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress, "_SECONDS_BETWEEN_LINES", 0.0)
    with progress.progress_of("convert", 200, shown=False) as update:
        update(50, 3)
    assert capsys.readouterr().err == ""


def test_sizes_for_people() -> None:
    assert progress.size_text(999) == "999 bytes" and progress.size_text(1.25e9) == "1.2 GB"
