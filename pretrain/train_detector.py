"""Train the embedded detector on generated scenes, measure it on held-out ones, and write its weights.

    python pretrain/train_detector.py --out vivo/detectors/weights

How long the default sizes took stands in the notes of the written JSON. What it learns from:

 * scenes of the style "train" alone, of the classes that the detector may know and of distractors, each distractor a
   class of its own without a name; test scenes use ranges of turn, tint, blur and overlap that nothing in the
   project trains on;
 * never an object of a class with `detector=False`: neither named nor unnamed, so that those stay
   unknown objects in the sense of the paper (image-level labels only, no boxes).

Three passes, since the backbone is frozen: proposals are trained on the maps of the first scenes; regions are
sampled from the proposals of all scenes and pooled once (9 kB each); the heads are trained on those
vectors. What is written is rounded to float16 before it is measured: the figures are those of the file.
"""

import argparse
import sys
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from vivo.data.types import Regions
from vivo.detectors import evaluation
from vivo.detectors.embedded import EmbeddedConfig, EmbeddedDetector
from vivo.detectors.evaluation import Truth
from vivo.detectors.lite0 import MAP_CHANNELS, Lite0Maps
from vivo.detectors.network import INPUT_SIZE, EmbeddedNetwork
from vivo.errors import UserError
from vivo.files import writable_folder
from vivo.program import exits_cleanly
from vivo.world.backgrounds import BACKGROUNDS
from vivo.world.glyphs import CLASSES, DETECTOR_CLASSES, DISTRACTORS, TINTS, attribution
from vivo.world.scenes import Scene, compose_scene, render, sample_scene

CHUNK = 16  # scenes painted and seen by the backbone at a time
BATCH = 512  # regions a step of the heads (proposals: 16 scenes)
PROPOSAL_SCENES = 4000  # proposals are an easy task: these many scenes do
LEARNING_RATE = 1e-3
WEIGHT_DECAY = 0.02
WARMUP = 100  # steps
LOSS_WEIGHTS = {"loss_rpn_box_reg": 3.0}  # all others 1
UNKNOWN_LABELLED = 0.12  # share of unknown objects that the label threshold lets be called something
KNOWN_SHARE = 0.5  # of things in a training scene that are named classes, the rest are distractors

# The first number of a scene's generator key: streams that never meet, whatever the seed.
TRAIN, CALIBRATE, TEST, PROBE_TRAIN, PROBE_TEST = range(5)

KNOWN = [(c.name, c.codepoint) for c in DETECTOR_CLASSES]
UNKNOWN = [(c.name, c.codepoint) for c in CLASSES if not c.detector]
LABEL_OF = {code: i + 1 for i, code in enumerate([c.codepoint for c in DETECTOR_CLASSES] + DISTRACTORS)}
COLOURS = ["none", *TINTS]


def scene_generator(seed: int, stream: int, index: int) -> np.random.Generator:
    """The generator of one scene: a function of (seed, stream, index) alone."""
    return np.random.Generator(np.random.Philox(key=[seed * 8 + stream, index]))


def training_scene(seed: int, index: int) -> Scene:
    """Scene `index` of the training stream: 1-4 things, known or distractor, in the style "train" alone."""
    rng = scene_generator(seed, TRAIN, index)
    count = 1 + int(rng.choice(4, p=(0.15, 0.30, 0.30, 0.25)))  # a little fuller than the world's scenes
    things = []
    for _ in range(count):
        known = rng.random() < KNOWN_SHARE
        things.append(KNOWN[rng.integers(len(KNOWN))] if known else ("", DISTRACTORS[rng.integers(len(DISTRACTORS))]))
    return compose_scene(rng, things, style="train")


def test_scenes(seed: int, stream: int, count: int, pool: Sequence, style: str = "test") -> list[Scene]:
    """Scenes of a pool as the world draws them."""
    return [sample_scene(scene_generator(seed, stream, i), pool, style=style) for i in range(count)]


class Progress:
    """One line on a terminal, rewritten; a line every ten seconds elsewhere."""

    def __init__(self, what: str, total: int) -> None:
        self.what, self.total, self.start, self.last = what, total, time.monotonic(), 0.0

    def say(self, done: int, text: str = "") -> None:
        """Show `done` of the total with the time left."""
        now = time.monotonic()
        terminal = sys.stderr.isatty()
        if done < self.total and now - self.last < (0.5 if terminal else 10):
            return
        self.last = now
        left = (now - self.start) / max(done, 1) * (self.total - done)
        line = f"{self.what} {done}/{self.total}, {left:.0f} s left {text}"
        print(
            ("\r" if terminal else "") + line, end="\n" if done == self.total or not terminal else "", file=sys.stderr
        )


def paint_chunk(seed: int, start: int, stop: int) -> tuple[int, np.ndarray, list[Scene]]:
    """Training scenes start..stop as uint8 [n, S, S, 3]; runs in the painting process."""
    scenes = [training_scene(seed, i) for i in range(start, stop)]
    return start, np.stack([np.asarray(render(scene)) for scene in scenes]), scenes


def painted(seed: int, count: int) -> Iterator[tuple[int, Tensor, list[dict[str, Tensor]]]]:
    """(first index, pixels [n, 3, S, S], targets) of all training scenes; painted by a second process meanwhile."""
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        starts = list(range(0, count, CHUNK))
        waiting: deque = deque()
        while starts or waiting:
            while starts and len(waiting) < 8:  # a short queue: pictures are bigger than the regions kept of them
                start = starts.pop(0)
                waiting.append(pool.submit(paint_chunk, seed, start, min(start + CHUNK, count)))
            start, pixels, scenes = waiting.popleft().result()
            yield start, torch.from_numpy(pixels).permute(0, 3, 1, 2), [targets_of(scene) for scene in scenes]


def gather(network: EmbeddedNetwork, backbone: Lite0Maps, seed: int, scenes: int, steps: int) -> dict[str, Tensor]:
    """Train the proposal part on the first scenes, then sample regions to train the heads on from all of them.

    Returns what `GlyphRoIHeads.sample` gives, over all scenes, "pooled" in float16.
    """
    first = min(scenes, PROPOSAL_SCENES)
    kept: list[tuple[dict[int, Tensor], list[dict[str, Tensor]]]] = []  # chunks of 16 scenes
    regions: dict[str, list[Tensor]] = {}

    def sample(maps: dict[int, Tensor], targets: list[dict[str, Tensor]]) -> None:
        with torch.no_grad():
            maps = network.standardise(maps)
            proposals, _ = network.propose(maps)
            sampled = network.heads.sample(maps, proposals, targets)
        for name, tensor in sampled.items():
            regions.setdefault(name, []).append(tensor.half() if name == "pooled" else tensor)

    progress = Progress("scenes", scenes)
    for start, pictures, targets in painted(seed, scenes):
        with torch.no_grad():
            maps = backbone(pictures)
        if start < first:
            kept.append(({stride: tensor.half() for stride, tensor in maps.items()}, targets))
        else:
            sample(maps, targets)
        progress.say(start + len(targets))
        if kept and start + CHUNK >= first:  # enough of them: proposals from here on
            network.standardise.measure({s: torch.cat([m[s] for m, _ in kept[:64]]) for s in MAP_CHANNELS})
            train_proposals(network, kept, steps, seed)
            for maps, targets in kept:
                sample(maps, targets)
            kept = []
    return {name: torch.cat(tensors) for name, tensors in regions.items()}


def targets_of(scene: Scene) -> dict[str, Tensor]:
    """Boxes, labels (1 + index of the class, distractors behind named ones) and colours for the losses."""
    assert scene.width == scene.height == INPUT_SIZE
    return {
        "boxes": torch.tensor([item.box for item in scene.objects], dtype=torch.float32),
        "labels": torch.tensor([LABEL_OF[item.codepoint] for item in scene.objects]),
        "colours": torch.tensor([COLOURS.index(item.colour or "none") for item in scene.objects]),
    }


def truth_of(scene: Scene) -> Truth:
    """The scene's boxes and names for the measures."""
    return Truth(np.asarray([o.box for o in scene.objects], dtype=np.float32), [o.name for o in scene.objects])


def learning_rate(step: int, steps: int) -> float:
    """Linear warm-up, then a cosine to zero."""
    if step < WARMUP:
        return LEARNING_RATE * (step + 1) / WARMUP
    return LEARNING_RATE * 0.5 * (1 + np.cos(np.pi * (step - WARMUP) / max(1, steps - WARMUP)))


def train_proposals(network: EmbeddedNetwork, chunks: list, steps: int, seed: int) -> None:
    """Train neck and proposal network in place on chunks of (maps, targets)."""
    network.rpn.train()
    order = np.random.default_rng(seed)

    def losses() -> dict[str, Tensor]:
        maps, targets = chunks[order.integers(len(chunks))]
        return network.propose(network.standardise(maps), targets)[1]

    optimise([*network.neck.parameters(), *network.rpn.parameters()], losses, steps, "proposal steps")
    network.rpn.eval()


def train_heads(network: EmbeddedNetwork, regions: dict[str, Tensor], steps: int, seed: int) -> None:
    """Train the region heads in place on sampled regions."""
    network.heads.train()
    order = np.random.default_rng(seed)
    count, queue = len(regions["labels"]), []

    def losses() -> dict[str, Tensor]:
        nonlocal queue
        if len(queue) < BATCH:
            queue = order.permutation(count).tolist()
        picked, queue = torch.tensor(queue[:BATCH]), queue[BATCH:]
        batch = {name: tensor[picked] for name, tensor in regions.items()}
        return network.heads.losses(**batch | {"pooled": batch["pooled"].float()})

    optimise(list(network.heads.parameters()), losses, steps, "head steps")
    network.heads.eval()
    network.heads.measure_features(regions["pooled"][regions["labels"] > 0][:20000])


def optimise(parameters: list[Tensor], losses: Callable[[], dict[str, Tensor]], steps: int, what: str) -> None:
    """AdamW on the weighted sum of `losses()`; the loop of this file."""
    groups = [
        {"params": [p for p in parameters if p.dim() > 1], "weight_decay": WEIGHT_DECAY},
        {"params": [p for p in parameters if p.dim() <= 1], "weight_decay": 0.0},
    ]
    optimiser = torch.optim.AdamW(groups, lr=LEARNING_RATE)
    progress, smooth = Progress(what, steps), {}
    for step in range(steps):
        for group in optimiser.param_groups:
            group["lr"] = learning_rate(step, steps)
        values = losses()
        total = sum(LOSS_WEIGHTS.get(name, 1.0) * value for name, value in values.items())
        if not torch.isfinite(total):
            raise UserError(f"the loss is not finite at step {step} of {what}: lower LEARNING_RATE")
        optimiser.zero_grad()
        total.backward()
        torch.nn.utils.clip_grad_norm_(parameters, 5.0)
        optimiser.step()
        for name, value in values.items():
            smooth[name] = 0.98 * smooth.get(name, value.item()) + 0.02 * value.item()
        progress.say(step + 1, " ".join(f"{name} {value:.3f}" for name, value in smooth.items()))


# -------------------------------------------------------------------- measuring


def calibrate(detector: EmbeddedDetector, seed: int, scenes: int, most: float) -> float:
    """The lowest label threshold at which at most `most` of unknown objects get a (wrong) label.

    On scenes of their own, test style: 1 - p is no honest probability of error on classes never seen.
    """
    drawn = test_scenes(seed, CALIBRATE, scenes, UNKNOWN)
    pictures, boxes = [render(s) for s in drawn], [truth_of(s).boxes for s in drawn]
    detector.config.label_probability = 0.0
    said = detector.describe(pictures, boxes)
    scores = sorted(
        (float(s) for r in said for s, label in zip(r.scores, r.labels, strict=True) if label), reverse=True
    )
    objects = sum(len(r.labels) for r in said)
    allowed = int(most * objects)
    return round(min(0.99, max(0.1, scores[allowed] if allowed < len(scores) else 0.0)) + 0.005, 2)


def measure(detector: EmbeddedDetector, seed: int, scenes: int) -> dict[str, float]:
    """Detection on held-out test-style scenes of all classes, and the time that it takes."""
    drawn = test_scenes(seed, TEST, scenes, CLASSES)
    pictures, truths = [render(s) for s in drawn], [truth_of(s) for s in drawn]
    detector.detect(pictures[:8])
    found, seconds = [], []
    for first in range(0, len(pictures), detector.batch_size):
        batch = pictures[first : first + detector.batch_size]
        start = time.perf_counter()
        found += detector.detect(batch)
        seconds.append((time.perf_counter() - start) / len(batch))
    known, unknown = {name for name, _ in KNOWN}, {name for name, _ in UNKNOWN}
    spurious = [
        _detections(r) - sum(m >= 0 for m in evaluation.matches(r, t)) for r, t in zip(found, truths, strict=True)
    ]
    on_known, on_unknown = (evaluation.labelled(found, truths, names) for names in (known, unknown))
    return {
        "recall": evaluation.recall(found, truths),
        "recall_known": evaluation.recall(found, truths, known),
        "recall_unknown": evaluation.recall(found, truths, unknown),
        "spurious_regions_per_picture": float(np.mean(spurious)),
        "map_known": evaluation.mean_average_precision(found, truths, sorted(known)),
        "known_right_label": on_known["right"],
        "known_wrong_label": on_known["wrong"],
        "unknown_wrong_label": on_unknown["wrong"],
        "milliseconds_per_picture_median": 1000 * float(np.median(seconds)),
        "milliseconds_per_picture_best": 1000 * min(seconds),  # what other programs on the machine did not disturb
    }


def _detections(regions: Regions) -> int:
    """Regions without the whole picture."""
    return int((regions.scores > 0).sum())


def probe(detector: EmbeddedDetector, seed: int, train_scenes: int, scenes: int) -> dict[str, float]:
    """What the features of true boxes know: linear probes fitted on train-style scenes, tested on test-style ones."""
    parts, places = [], []
    names = [c.name for c in CLASSES]
    for stream, count, style in ((PROBE_TRAIN, train_scenes, "train"), (PROBE_TEST, scenes, "test")):
        drawn = test_scenes(seed, stream, count, CLASSES, style)
        boxes = [np.concatenate([truth_of(s).boxes, [[0, 0, INPUT_SIZE, INPUT_SIZE]]]) for s in drawn]
        said = detector.describe([render(s) for s in drawn], boxes)
        x = torch.from_numpy(np.concatenate([r.features[:-1] for r in said])).float()
        objects = [o for s in drawn for o in s.objects]
        y = torch.tensor([names.index(o.name) for o in objects])
        parts.append((x, y, torch.tensor([COLOURS.index(o.colour or "none") for o in objects])))
        whole = torch.from_numpy(np.stack([r.features[-1] for r in said])).float()
        places.append((whole, torch.tensor([list(BACKGROUNDS).index(s.background) for s in drawn])))
    (x, y, colour), (x_test, y_test, colour_test) = parts
    strange = torch.tensor([not c.detector for c in CLASSES])
    size = detector.config.embedding
    result: dict[str, float] = {}
    for part, cut in (("", slice(None)), ("embedding_", slice(size)), ("pooled_", slice(size, None))):
        right = evaluation.linear_probe((x[:, cut], y), (x_test[:, cut], y_test))
        result[f"probe_{part}known"] = right[~strange[y_test]].float().mean().item()
        result[f"probe_{part}unknown"] = right[strange[y_test]].float().mean().item()
        right = evaluation.nearest_mean((x[:, cut], y), (x_test[:, cut], y_test))
        result[f"nearest_mean_{part}unknown"] = right[strange[y_test]].float().mean().item()
    result["probe_colour"] = evaluation.linear_probe((x, colour), (x_test, colour_test)).float().mean().item()
    result["probe_place"] = evaluation.linear_probe(*places).float().mean().item()
    return result


def trained(options: argparse.Namespace) -> EmbeddedDetector:
    """All of the training; weights rounded to float16, thresholds set, notes begun."""
    start = time.monotonic()
    config = EmbeddedConfig([name for name, _ in KNOWN], len(DISTRACTORS), COLOURS)
    network, backbone = config.network().eval(), Lite0Maps.from_package()
    regions = gather(network, backbone, options.seed, options.scenes, options.proposal_steps)
    train_heads(network, regions, options.steps, options.seed)
    network.load_state_dict({name: tensor.half().float() for name, tensor in network.state_dict().items()})
    notes = {
        "made_by": "pretrain/train_detector.py",
        "attribution": f"Trained on pictures made of OpenMoji glyphs. {attribution()}",
        "training": {
            "seed": options.seed,
            "scenes": options.scenes,
            "regions": len(regions["labels"]),
            "steps": options.steps,
            "proposal_steps": options.proposal_steps,
            "minutes": round((time.monotonic() - start) / 60, 1),
            "threads": options.threads,
        },
    }
    detector = EmbeddedDetector(config, network, backbone, notes)
    config.label_probability = calibrate(detector, options.seed, options.test_scenes, UNKNOWN_LABELLED)
    return detector


@exits_cleanly
def main(argv: Sequence[str] | None = None) -> None:
    """Parse arguments, train, measure, write."""
    parser = argparse.ArgumentParser(description="Train the embedded detector on generated scenes and measure it.")
    parser.add_argument("--out", type=Path, required=True, help="folder for embedded.safetensors and embedded.json")
    parser.add_argument("--scenes", type=int, default=12000, help="training scenes")
    parser.add_argument("--steps", type=int, default=4000, help="steps of the region heads")
    parser.add_argument("--proposal-steps", type=int, default=700, help="steps of the proposal network")
    parser.add_argument("--test-scenes", type=int, default=500, help="held-out scenes for each measure")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=2, help="of torch; 1 is faster where others use the machine")
    parser.add_argument("--measure-only", action="store_true", help="measure what is in --out again, train nothing")
    options = parser.parse_args(argv)
    if min(options.scenes, options.steps, options.proposal_steps, options.test_scenes) < 1:
        raise UserError("--scenes, --steps, --proposal-steps and --test-scenes must be at least 1")
    writable_folder(options.out)
    torch.set_num_threads(options.threads)
    torch.manual_seed(options.seed)
    if options.measure_only:
        detector = EmbeddedDetector.from_package(options.out)
    else:
        detector = trained(options)
    measured = measure(detector, options.seed, options.test_scenes)
    measured |= probe(detector, options.seed, 4 * options.test_scenes, options.test_scenes)
    detector.notes["measured"] = {name: round(value, 4) for name, value in measured.items()}
    detector.notes["measured_on"] = (
        f"{options.test_scenes} held-out scenes in test style, seed {options.seed}, CPU, {options.threads} thread(s)"
    )
    detector.save_trained_part(options.out)
    for name, value in detector.notes["measured"].items():
        print(f"{name:32s} {value}")


if __name__ == "__main__":
    sys.exit(main())
