"""Fixtures for all tests, and what no test may do: ask a model hub or W&B for anything."""

import os
import shutil
import tempfile
from pathlib import Path

import pytest
from tiny_world import make_tiny_world

from vivo.program import set_cpu_defaults

# Before any test module imports the libraries that read these.
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("HF_DATASETS_OFFLINE", "1")
os.environ.setdefault("WANDB_MODE", "offline")
os.environ.setdefault("WANDB_SILENT", "true")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
# What is computed once and kept (vivo/files.py: cache_folder) is kept for these tests alone.
_cache = tempfile.TemporaryDirectory(prefix="vivo-test-cache-", ignore_cleanup_errors=True)
os.environ["VIVO_CACHE"] = _cache.name
set_cpu_defaults()


def system_program(names: tuple[str, ...], what: str, package: str, variable: str) -> str:
    """Path of the first program found. Without one: skip, or fail where `variable` is set (as .ci/run does)."""
    path = next(filter(None, map(shutil.which, names)), None)
    if path is None:
        message = f"no {what} (Debian: apt-get install {package})"
        if os.environ.get(variable, "") not in ("", "0"):
            pytest.fail(f"{message}, and {variable} is set")
        pytest.skip(message)
    return path


@pytest.fixture(scope="session")
def java() -> str:
    """Path of the Java runtime; .ci/run sets VIVO_REQUIRE_JAVA=1, so that a skip there cannot pass for a success."""
    return system_program(("java",), "Java runtime", "default-jre-headless", "VIVO_REQUIRE_JAVA")


@pytest.fixture(scope="session")
def chromium() -> str:
    """Path of a Chromium; .ci/run sets VIVO_REQUIRE_CHROMIUM=1."""
    names = ("chromium", "chromium-browser", "google-chrome")
    return system_program(names, "Chromium", "chromium", "VIVO_REQUIRE_CHROMIUM")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark the tests that ask for `java`, so that `-m "not java"` leaves them out."""
    for item in items:
        if "java" in getattr(item, "fixturenames", ()):
            item.add_marker(pytest.mark.java)


@pytest.fixture(scope="session")
def tiny_world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """World, examples and region stores of the demo's tiny size, made once: DIR/{world,examples,regions}."""
    return make_tiny_world(tmp_path_factory.mktemp("tiny"))


@pytest.fixture(scope="session")
def tiny_captioner(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A captioner folder with a random model, made once."""
    from serving import make_captioner

    return make_captioner(tmp_path_factory.mktemp("captioner") / "tiny")
