"""Fixtures for all tests, and what no test may do: ask a model hub or W&B for anything."""

import os
import shutil
from pathlib import Path

import pytest

# Before any test module imports the libraries that read these.
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("HF_DATASETS_OFFLINE", "1")
os.environ.setdefault("WANDB_MODE", "offline")
os.environ.setdefault("WANDB_SILENT", "true")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")


@pytest.fixture(scope="session")
def java() -> str:
    """Path of the Java runtime. Tests that ask for it are skipped without one, or fail in CI.

    .ci/run sets VIVO_REQUIRE_JAVA=1, so that a skip there cannot pass for a success.
    """
    path = shutil.which("java")
    if path is None:
        message = "no Java runtime (Debian: apt-get install default-jre-headless)"
        if os.environ.get("VIVO_REQUIRE_JAVA", "") not in ("", "0"):
            pytest.fail(f"{message}, and VIVO_REQUIRE_JAVA is set")
        pytest.skip(message)
    return path


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark the tests that ask for `java`, so that `-m "not java"` leaves them out."""
    for item in items:
        if "java" in getattr(item, "fixturenames", ()):
            item.add_marker(pytest.mark.java)


@pytest.fixture(scope="session")
def tiny_world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """World, examples and region stores of the demo's tiny size, made once: DIR/{world,examples,regions}."""
    from vivo.demo import stages
    from vivo.demo.plan import SIZES

    out = tmp_path_factory.mktemp("tiny")
    stages.make_world(out, SIZES["tiny"])
    stages.make_examples(out)
    stages.make_regions(out)
    return out
