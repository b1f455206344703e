"""Whole files or none: what is found after an error, a kill, or a second run."""

import json
import os
from pathlib import Path

import pytest

from vivo.errors import UserError
from vivo.files import atomic_folder, atomic_write_json, atomic_write_text, cache_folder, refuse_loss, writable_folder


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_writable_folder_makes_parents_and_leaves_nothing(tmp_path: Path) -> None:
    folder = writable_folder(tmp_path / "a" / "b")
    assert folder.is_dir() and names(folder) == []
    assert writable_folder(str(folder)) == folder


def test_unwritable_folder_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"^cannot write into .*file/out: Not a directory; choose another place$"):
        writable_folder(tmp_path / "file" / "out")


def test_where_what_can_be_computed_anew_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VIVO_CACHE", str(tmp_path / "own"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "common"))
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    assert cache_folder("java") == tmp_path / "own" / "java" and names(tmp_path / "own" / "java") == []
    monkeypatch.setenv("VIVO_CACHE", "")
    assert cache_folder("java") == tmp_path / "common" / "vivo" / "java"
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert cache_folder("java") == tmp_path / "home" / ".cache" / "vivo" / "java"
    (tmp_path / "file").touch()
    monkeypatch.setenv("VIVO_CACHE", str(tmp_path / "file"))
    with pytest.raises(UserError, match=r"^cannot write into .*file/java: Not a directory; export VIVO_CACHE=FOLDER"):
        cache_folder("java")


def test_read_only_folder_is_one_line(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    root = os.geteuid() == 0
    if root:  # root may write anywhere: for this one call the process is nobody
        os.seteuid(65534)
    try:
        with pytest.raises(UserError, match=r"^cannot write into .*: Permission denied; choose another place$"):
            writable_folder(tmp_path)
    finally:
        if root:
            os.seteuid(0)


def test_text_and_json(tmp_path: Path) -> None:
    atomic_write_text(tmp_path / "a.txt", "é\n")
    assert (tmp_path / "a.txt").read_bytes() == b"\xc3\xa9\n"
    atomic_write_json(tmp_path / "a.json", {"x": [1, "é"]})
    assert json.loads((tmp_path / "a.json").read_text(encoding="utf-8")) == {"x": [1, "é"]}
    assert names(tmp_path) == ["a.json", "a.txt"]


def test_failed_writing_keeps_the_old_file(tmp_path: Path) -> None:
    atomic_write_json(tmp_path / "a.json", 1)
    with pytest.raises(ValueError, match="not JSON compliant"):
        atomic_write_json(tmp_path / "a.json", float("nan"))
    with pytest.raises(UnicodeEncodeError):  # half-way through the writing itself
        atomic_write_text(tmp_path / "a.json", "ok\ud800")
    assert (tmp_path / "a.json").read_text() == "1\n" and names(tmp_path) == ["a.json"]
    with pytest.raises(UserError, match=r"^cannot write .*b\.json: No such file or directory"):
        atomic_write_json(tmp_path / "none" / "b.json", 1)


def test_folder_appears_whole_and_replaces(tmp_path: Path) -> None:
    target = tmp_path / "parent" / "model"
    for content in ("one", "two"):
        with atomic_folder(target) as folder:
            (folder / content).write_text(content)
            assert not (target / content).exists()
        assert names(target) == [content] and names(target.parent) == ["model"]


def test_failed_folder_keeps_the_old_one(tmp_path: Path) -> None:
    target = tmp_path / "model"
    with atomic_folder(target) as folder:
        (folder / "old").write_text("")
    with pytest.raises(RuntimeError), atomic_folder(target) as folder:
        (folder / "new").write_text("")
        raise RuntimeError
    assert names(target) == ["old"] and names(tmp_path) == ["model"]


def test_leftovers_of_a_killed_writer_are_cleared(tmp_path: Path) -> None:
    (tmp_path / ".model.tmp").mkdir()
    (tmp_path / ".model.tmp" / "half").write_text("")
    (tmp_path / ".model.old").mkdir()  # killed after the old folder was moved away, before the new one came
    (tmp_path / ".model.old" / "old").write_text("")
    with pytest.raises(RuntimeError), atomic_folder(tmp_path / "model") as folder:
        assert names(folder) == [] and names(tmp_path / "model") == ["old"]
        raise RuntimeError
    assert names(tmp_path) == ["model"]


def test_unwritable_place_of_a_folder_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="^cannot write into"), atomic_folder(tmp_path / "file" / "model"):
        pass


def test_a_folder_that_would_lose_what_is_the_users_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    target = tmp_path / "out"
    refuse_loss(target, ["a.json"])  # not there yet
    target.mkdir()
    (target / "a.json").write_text("")
    refuse_loss(target, ["a.json", "b.json"])
    with pytest.raises(UserError, match="would be replaced, but .*a.json is read from there"):
        refuse_loss(target, ["a.json"], [target / "a.json"])
    (target / "photo.jpg").write_text("")
    (target / "regions").mkdir()
    with pytest.raises(UserError, match="holds photo.jpg and 1 more, which this program did not write"):
        refuse_loss(target, ["a.json"])
    with pytest.raises(UserError, match="is a file; name a folder"):
        refuse_loss(target / "a.json", ["a.json"])
    monkeypatch.chdir(target)
    with pytest.raises(UserError, match="the folder that you are in"):
        refuse_loss(".", ["a.json"])
