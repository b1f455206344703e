"""Extraction from JPEG files into a store against the backbone alone on tensors that are ready in memory.

    python tests/benchmarks/extraction.py [--detector grid:scales=224x7] [--pictures FOLDER] [--threads 1]

The rival is `forward_features` of the detector's network and nothing else: inputs decoded, resized and normalised
beforehand, in the network's dtype and memory format, the same pictures in batches of the same size, the same
threads. Both run in this process by turns, and a turn of extraction is compared with the mean of the
backbone's turns before and after it. A turn of extraction is a whole run, with what every run does once (eight pictures
are detected to tell the size; the last shard is written when nothing else is left to do): of 128 pictures a turn
those eight would be a sixteenth. The goal is a ratio of 0.85. Wall time is what counts on a quiet machine; where
others use its cores, the ratio of CPU seconds says what the rest of the work (decoding, resizing, normalising, pooling,
writing, hashing) costs beside the backbone. With --parts: CPU time of each part of that work, one after the other.
"""

import argparse
import copy
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
import torch.nn.functional as F
from PIL import Image

from vivo.data.regions import RegionStoreWriter
from vivo.detectors import embedded, grid, lite0
from vivo.detectors.base import Detector, load_detector
from vivo.detectors.extract import extract_regions, find_pictures
from vivo.detectors.pictures import open_picture


def bare_backbone(detector: Detector, paths: list[Path]) -> Callable[[], None]:
    """Forward passes of the detector's network, and of nothing else, over all pictures as tensors that are ready."""
    batches = [paths[start : start + detector.batch_size] for start in range(0, len(paths), detector.batch_size)]
    pictures = [[open_picture(path) for path in batch] for batch in batches]
    with torch.inference_mode():
        if detector.name == "grid":
            sizes = dict.fromkeys(size for size, _ in detector.scales)
            ready = [detector._inputs(grid.squares(batch, size)) for size in sizes for batch in pictures]
            forward = detector._network.forward_features
        else:
            ready = [lite0.scale_pixels(embedded.squares(batch)) for batch in pictures]
            ready = [inputs.contiguous(memory_format=torch.channels_last) for inputs in ready]
            forward = detector.backbone.network

    def run() -> None:
        with torch.inference_mode():
            for inputs in ready:
                forward(inputs)

    return run


def print_parts(detector: Detector, paths: list[Path]) -> None:
    """CPU milliseconds a picture of each part of the grid's work in this thread, the best of five."""
    size, cells = detector.scales[0]
    starts = range(0, len(paths), detector.batch_size)
    pictures = [open_picture(path) for path in paths]
    parts: dict[str, tuple[Callable[[object], object], list]] = {"decode": (open_picture, paths)}
    with torch.inference_mode(), tempfile.TemporaryDirectory() as folder:
        batches = [pictures[start : start + detector.batch_size] for start in starts]
        parts["resize"] = (lambda batch: grid.squares(batch, size), batches)
        pixels = [grid.squares(batch, size) for batch in batches]
        parts["normalise"] = (detector._inputs, pixels)
        inputs = [detector._inputs(batch) for batch in pixels]
        parts["network"] = (detector._network.forward_features, inputs)
        maps = [detector._map(batch) for batch in pixels]
        parts["pool, half"] = (lambda m: F.adaptive_avg_pool2d(m, cells).flatten(2).transpose(1, 2).half(), maps)
        found = list(zip(map(str, paths), detector.detect(pictures), strict=True))

        def write(turn: int) -> None:
            with RegionStoreWriter(Path(folder) / str(turn), detector.fingerprint(), detector.feature_size) as writer:
                for image_id, regions in found:
                    writer.write(image_id, regions)

        parts["check, write"] = (lambda _: write(len(list(Path(folder).iterdir()))), [0])
        for name, (work, values) in parts.items():
            seconds = min(timed(lambda work=work, values=values: [work(v) for v in values])[1] for _ in range(5))
            print(f"    {name:<14}{seconds / len(paths) * 1e3:8.2f} ms", flush=True)


def timed(work: Callable[[], object]) -> tuple[float, float]:
    """Wall and CPU seconds."""
    wall, cpu = perf_counter(), process_time()
    work()
    return perf_counter() - wall, process_time() - cpu


def noise_pictures(folder: Path, count: int, width: int = 224, height: int = 224) -> list[Path]:
    """JPEG files that are about as hard to decode as photographs."""
    rng = np.random.default_rng(0)
    for number in range(count):
        coarse = Image.fromarray(rng.integers(0, 256, (height // 8, width // 8, 3), dtype=np.uint8))
        coarse.resize((width, height), Image.Resampling.BICUBIC).save(folder / f"{number:06d}.jpg", quality=90)
    return find_pictures(folder)


def one_by_one(paths: list[Path], store: Path, detector: grid.GridDetector) -> None:
    """What one writes first: a loop that opens a picture, detects, and writes, with timm's network as it comes."""
    plain = copy.copy(detector)
    plain._network = copy.deepcopy(detector._plain).to(detector._device, detector._dtype)
    plain._inputs = lambda pixels: detector._inputs(pixels).contiguous()
    with RegionStoreWriter(store, detector.fingerprint(), detector.feature_size) as writer:
        for path in paths:
            writer.write(path.stem, plain.detect([open_picture(path)])[0])


def random_grid(network: str, scales: str, dtype: str = "float32", device: str = "cpu") -> grid.GridDetector:
    """Grid features of a timm network with random weights."""
    import timm

    torch.manual_seed(0)
    body = timm.create_model(network, pretrained=False, num_classes=0)
    mean, std = [123.7, 116.3, 103.5], [58.4, 57.1, 57.4]
    return grid.GridDetector(grid.GridSettings(network, scales, dtype, device), body, mean, std)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--detector", default="grid")
    parser.add_argument("--pictures", type=Path, help="folder; default: noise of 224 x 224 pixels")
    parser.add_argument("--count", type=int, default=512, help="pictures a turn")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads(), help="of PyTorch, for both")
    parser.add_argument("--workers", type=int, default=2, help="decoding threads")
    parser.add_argument("--parts", action="store_true", help="of a grid: what each part costs")
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
        if arguments.parts:
            print_parts(detector, paths)
        forward = bare_backbone(detector, paths)
        forward()  # warm: memory, kernels, page cache
        walls, cpus = [], []
        before = timed(forward)
        for turn in range(arguments.rounds):

            def extract(store: Path = root / f"store{turn}") -> None:
                extract_regions(paths, store, detector, workers=arguments.workers, progress=False)

            whole, after = timed(extract), timed(forward)
            wall, cpu = ((a + b) / 2 for a, b in zip(before, after, strict=True))
            before = after
            walls.append(wall / whole[0])
            cpus.append(cpu / whole[1])
            print(
                f"round {turn + 1}: backbone {len(paths) / wall:.1f} pictures/s, extraction"
                f" {len(paths) / whole[0]:.1f}: ratio {walls[-1]:.3f} (CPU seconds {cpus[-1]:.3f})",
                flush=True,
            )
    print(
        f"{arguments.detector}, {arguments.threads} threads, {len(paths)} pictures a turn: ratio {spread(walls)} (goal"
        f" 0.85); of CPU seconds {spread(cpus)}"
    )


def spread(values: list[float]) -> str:
    """Median and range."""
    return f"{statistics.median(values):.3f} ({min(values):.3f} to {max(values):.3f})"


if __name__ == "__main__":
    main()
