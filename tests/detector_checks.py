"""What the tests of the detector adapters share: pictures, comparisons, random weights that detect something."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from vivo.data.region_format import fingerprint_of, problem_with
from vivo.data.types import Regions
from vivo.detectors.base import Detector, load_detector

ROOT = Path(__file__).resolve().parents[1]


def photographs(*sizes: tuple[int, int]) -> list[Image.Image]:
    """Smooth coloured pictures of those (width, height): noise would look the same everywhere to a random network."""
    rng = np.random.default_rng(7)
    return [
        Image.fromarray(rng.integers(0, 256, (6, 5, 3), dtype=np.uint8)).resize(size, Image.Resampling.BICUBIC)
        for size in sizes
    ]


def assert_close(a: Regions, b: Regions, tolerance: float = 2e-2) -> None:
    """Equal regions up to float rounding, which fifty random layers amplify (another picture differs by 1 and more)."""
    assert a.labels == b.labels and (a.width, a.height) == (b.width, b.height)
    np.testing.assert_allclose(a.boxes, b.boxes, atol=0.2)
    np.testing.assert_allclose(a.scores, b.scores, atol=5e-3)
    np.testing.assert_allclose(a.features.astype(float), b.features.astype(float), atol=tolerance, rtol=tolerance)


def assert_is_detector(detector: Detector, pictures: list[Image.Image], tmp_path: Path) -> None:
    """What holds for all: valid regions, batched == single, saved == loaded, settings seen by the fingerprint."""
    assert isinstance(detector, Detector)
    together = detector.detect(pictures)
    for picture, regions in zip(pictures, together, strict=True):
        assert problem_with(regions, detector.feature_size) is None
        assert set(regions.labels) <= {*detector.class_names, ""}
        assert (regions.width, regions.height) == picture.size and (np.diff(regions.scores) <= 0).all()
        assert_close(regions, detector.detect([picture])[0])
    detector.save_pretrained(tmp_path / "saved")
    again = load_detector(tmp_path / "saved")
    assert fingerprint_of(again.fingerprint()) == fingerprint_of(detector.fingerprint())
    assert again.class_names == detector.class_names
    for a, b in zip(together, again.detect(pictures), strict=True):
        assert_close(a, b)
    text = json.loads((tmp_path / "saved" / "detector.json").read_text(encoding="utf-8"))
    text["settings"]["threshold"] += 0.01
    (tmp_path / "saved" / "detector.json").write_text(json.dumps(text), encoding="utf-8")
    assert fingerprint_of(load_detector(tmp_path / "saved").fingerprint()) != fingerprint_of(detector.fingerprint())
    everything = {path.suffix for path in tmp_path.rglob("*") if path.is_file()}
    assert everything <= {".json", ".safetensors", ".yaml"}  # nothing pickled


def sha256(path: Path) -> str:
    import hashlib

    return hashlib.sha256(path.read_bytes()).hexdigest()


def unit_activations(model: torch.nn.Module, run: Callable[[], object]) -> torch.nn.Module:
    """Scale each layer, in the order of use, so that its outputs have a spread of 1 in that run.

    Random weights without trained norms die out or explode over fifty layers; no detection would differ from another.
    """
    done: set[torch.nn.Module] = set()

    def scale(module: torch.nn.Module, args: tuple, output: torch.Tensor) -> torch.Tensor:
        if module in done:
            return output
        done.add(module)
        shift, spread = (0 if module.bias is None else module.bias.mean()), output.std().clamp(min=1e-6)
        module.weight.data.div_(spread)
        if module.bias is not None:
            module.bias.data.zero_()
        return (output - shift) / spread

    layers = [m for m in model.modules() if isinstance(m, torch.nn.Conv2d | torch.nn.Linear)]
    hooks = [layer.register_forward_hook(scale) for layer in layers]
    with torch.no_grad():
        run()
    for hook in hooks:
        hook.remove()
    return model
