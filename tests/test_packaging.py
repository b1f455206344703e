"""What an installation without the checkout has: built from a copy, without network, and looked into."""

import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> zipfile.ZipFile:
    """The wheel of this tree."""
    source = tmp_path_factory.mktemp("source")
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    for name in ("vivo", "configs"):
        shutil.copytree(ROOT / name, source / name, symlinks=True, ignore=shutil.ignore_patterns("__pycache__"))
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-index", "--no-deps", "--no-build-isolation"]
    subprocess.run([*command, "--wheel-dir", source / "dist", source], check=True, timeout=120)
    return zipfile.ZipFile(next((source / "dist").glob("vivo-*.whl")))


def test_every_module_is_in_the_wheel(wheel: zipfile.ZipFile) -> None:
    # A folder without __init__.py works in the checkout and is missing here.
    modules = {path.relative_to(ROOT).as_posix() for path in (ROOT / "vivo").rglob("*.py")}
    assert modules - set(wheel.namelist()) == set()


def test_data_files_are_in_the_wheel(wheel: zipfile.ZipFile) -> None:
    names = set(wheel.namelist())
    kinds = (".yaml", ".sbatch", ".sh")
    configs = {p.relative_to(ROOT).as_posix() for p in (ROOT / "configs").rglob("*") if p.suffix in kinds}
    assert {f"vivo/{name}" for name in configs} <= names
    data = {
        path.relative_to(ROOT).as_posix()
        for path in (ROOT / "vivo").rglob("*")
        if path.is_file() and path.suffix not in (".py", ".pyc")
    }
    assert data - names == set(), "add them to package-data in pyproject.toml"


def test_only_vivo_is_installed(wheel: zipfile.ZipFile) -> None:
    tops = {name.split("/")[0] for name in wheel.namelist()}
    assert {top for top in tops if not top.endswith(".dist-info")} == {"vivo"}


def test_configurations_are_found_without_the_checkout(wheel: zipfile.ZipFile, tmp_path: Path) -> None:
    wheel.extractall(tmp_path)
    code = (
        "from vivo.config import configs_dir, load_config; "
        "print(load_config(configs_dir() / 'ablations' / 'table6_one_mask.yaml').masking.at_most, configs_dir())"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, env={"PYTHONPATH": str(tmp_path)}
    )
    assert done.stdout.split() == ["1", str(tmp_path / "vivo" / "configs")], done.stderr


def test_no_file_grows_past_what_one_can_hold_in_the_head() -> None:
    folders = ("vivo", "pretrain", "finetune", "eval", "tests")
    lengths = {p.relative_to(ROOT): len(p.read_text().splitlines()) for f in folders for p in (ROOT / f).rglob("*.py")}
    assert len(lengths) > 150 and {path: n for path, n in lengths.items() if n > 500} == {}
