"""Extraction from JPEG files into a store against the bare backbone's forward passes on pixels that are in memory.

    python tests/benchmarks/extraction.py [--detector grid] [--pictures FOLDER] [--threads 1]

Both run in this process, in turns, on the same pictures in the same batches; the goal is a ratio of 0.85. Wall time
is what counts on a quiet machine; where others use its cores, the ratio of CPU seconds says what the rest of the work
(decoding, resizing, pooling, writing, hashing) costs beside the backbone.
"""

import argparse
import statistics
import tempfile
from collections.abc import Callable
from itertools import islice
from pathlib import Path
from time import perf_counter, process_time

from vivo.program import set_cpu_defaults

set_cpu_defaults()  # as the programs do: PyTorch reads them when it is loaded

# ruff: noqa: E402
# isort: split
import numpy as np
import torch
from PIL import Image

from vivo.detectors.base import Detector, load_detector
from vivo.detectors.extract import extract_regions, find_pictures
from vivo.detectors.pictures import open_picture


def bare_backbone(detector: Detector, paths: list[Path]) -> Callable[[], None]:
    """Forward passes of the detector's backbone, and of nothing else, over all pictures as uint8 pixels."""
    if detector.name == "grid":
        from vivo.detectors.grid import squares

        sizes = dict.fromkeys(size for size, _ in detector.scales)
        pixels = [squares([open_picture(path) for path in paths], size) for size in sizes]
        forward = detector._map
    else:
        from vivo.detectors.embedded import squares

        pixels = [squares([open_picture(path) for path in paths])]
        forward = detector.backbone

    def run() -> None:
        with torch.inference_mode():
            for scale in pixels:
                for start in range(0, len(scale), detector.batch_size):
                    forward(scale[start : start + detector.batch_size])

    return run


def timed(work: Callable[[], object]) -> tuple[float, float]:
    """Wall and CPU seconds."""
    wall, cpu = perf_counter(), process_time()
    work()
    return perf_counter() - wall, process_time() - cpu


def noise_pictures(folder: Path, count: int) -> list[Path]:
    """JPEG files of 224 x 224 pixels that are about as hard to decode as photographs."""
    rng = np.random.default_rng(0)
    for number in range(count):
        coarse = Image.fromarray(rng.integers(0, 256, (28, 28, 3), dtype=np.uint8))
        coarse.resize((224, 224), Image.Resampling.BICUBIC).save(folder / f"{number:06d}.jpg", quality=90)
    return find_pictures(folder)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--detector", default="grid")
    parser.add_argument("--pictures", type=Path, help="folder; default: noise of 224 x 224 pixels")
    parser.add_argument("--count", type=int, default=256, help="pictures a round")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads(), help="of PyTorch, for both")
    parser.add_argument("--workers", type=int, default=2, help="decoding threads")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    detector = load_detector(arguments.detector)
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        if arguments.pictures:
            paths = list(islice(find_pictures(arguments.pictures), arguments.count))
        else:
            (root / "pictures").mkdir()
            paths = noise_pictures(root / "pictures", arguments.count)
        forward = bare_backbone(detector, paths)
        forward()  # warm: memory, kernels, page cache
        walls, cpus, rates = [], [], []
        for turn in range(arguments.rounds):

            def extract(store: Path = root / f"store{turn}") -> None:
                extract_regions(paths, store, detector, workers=arguments.workers, progress=False)

            alone, whole = timed(forward), timed(extract)
            walls.append(alone[0] / whole[0])
            cpus.append(alone[1] / whole[1])
            rates.append((len(paths) / alone[0], len(paths) / whole[0]))
            print(
                f"round {turn + 1}: backbone {rates[-1][0]:.1f} pictures/s, extraction {rates[-1][1]:.1f}:"
                f" ratio {walls[-1]:.3f} (CPU seconds {cpus[-1]:.3f})",
                flush=True,
            )
    print(
        f"{arguments.detector}, {arguments.threads} threads, {len(paths)} pictures a round: median ratio"
        f" {statistics.median(walls):.3f}, best {max(walls):.3f} (goal 0.85); CPU seconds"
        f" {statistics.median(cpus):.3f}"
    )


if __name__ == "__main__":
    main()
