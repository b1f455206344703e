"""The demo's tiny size, made once for tests and for the programs of tests/benchmarks."""

from pathlib import Path


def make_tiny_world(folder: Path) -> Path:
    """FOLDER/{world,examples,regions}; a folder that has them stays as it is. Returns it."""
    from vivo.demo import prepare  # here: tests/conftest.py first sets what PyTorch reads when it is loaded
    from vivo.demo.sizes import SIZES

    if not (folder / "examples").is_dir():
        prepare.make_world(folder, SIZES["tiny"])
        prepare.make_examples(folder)
        prepare.make_regions(folder)
    return folder
