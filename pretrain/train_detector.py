"""Train the embedded detector on generated scenes, measure it on held-out ones, and write its weights.

    python pretrain/train_detector.py --out vivo/detectors/weights

Default sizes took about 25 minutes on two cores with AVX512-BF16 (see the notes in the written JSON). What it learns from:

 * scenes of both styles ("train" and "test": turn, tint, blur and overlap) of the classes that the detector may
   know and of distractors, each distractor a class of its own without a name;
 * never an object of a class with `detector=False`: neither named nor unnamed, so that those stay
   unknown objects in the sense of the paper (image-level labels only, no boxes).

The backbone is frozen: its maps are computed once per scene and kept in float16 (140 kB a scene), then the heads
are trained on shuffled scenes. What is written is rounded to float16 before it is measured, so
that the figures are those of the file.
"""

import argparse
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from vivo.data.types import Regions
from vivo.detectors import evaluation
from vivo.detectors.embedded import EmbeddedConfig, EmbeddedDetector, squares
from vivo.detectors.evaluation import Truth
from vivo.detectors.lite0 import MAP_CHANNELS, Lite0Maps
from vivo.detectors.network import INPUT_SIZE, EmbeddedNetwork
from vivo.errors import UserError, exits_cleanly
from vivo.world.backgrounds import BACKGROUNDS
from vivo.world.glyphs import CLASSES, DETECTOR_CLASSES, DISTRACTORS, TINTS, attribution
from vivo.world.scenes import Scene, compose_scene, render, sample_scene

BATCH = 32  # scenes a step
LEARNING_RATE = 1e-3
WEIGHT_DECAY = 0.02
WARMUP = 100  # steps
LOSS_WEIGHTS = {"loss_objectness": 1.0, "loss_rpn_box_reg": 1.0, "objectness": 1.0, "box": 1.0, "class": 1.0, "colour": 0.3}
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
    """Scene `index` of the training stream: 1-4 things, known or distractor, either style."""
    rng = scene_generator(seed, TRAIN, index)
    count = 1 + int(rng.choice(4, p=(0.15, 0.30, 0.30, 0.25)))  # a little fuller than the world's scenes
    things = []
    for _ in range(count):
        known = rng.random() < KNOWN_SHARE
        things.append(KNOWN[rng.integers(len(KNOWN))] if known else ("", DISTRACTORS[rng.integers(len(DISTRACTORS))]))
    return compose_scene(rng, things, style="train" if rng.random() < 0.5 else "test")


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
        print(("\r" if terminal else "") + line, end="\n" if done == self.total or not terminal else "", file=sys.stderr)


class Gathered:
    """Backbone maps (float16, by stride [n, C, h, w]) and targets of n training scenes."""

    def __init__(self, backbone: Lite0Maps, seed: int, count: int) -> None:
        self.maps = {
            s: torch.empty(count, c, INPUT_SIZE // s, INPUT_SIZE // s, dtype=torch.float16) for s, c in MAP_CHANNELS.items()
        }
        self.targets: list[dict[str, Tensor]] = []
        progress = Progress("scenes", count)
        for start in range(0, count, 16):
            scenes = [training_scene(seed, i) for i in range(start, min(start + 16, count))]
            with torch.inference_mode():
                maps = backbone(squares([render(s) for s in scenes]))
            for stride, tensor in maps.items():
                self.maps[stride][start : start + len(scenes)] = tensor
            self.targets += [targets_of(s) for s in scenes]
            progress.say(start + len(scenes))

    def batch(self, indices: Sequence[int]) -> tuple[dict[int, Tensor], list[dict[str, Tensor]]]:
        """Maps and targets of these scenes."""
        picked = torch.as_tensor(indices)
        return {s: m[picked] for s, m in self.maps.items()}, [self.targets[i] for i in indices]


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


def train(network: EmbeddedNetwork, data: Gathered, steps: int, seed: int) -> None:
    """Train the network in place; the loop of this file."""
    network.neck.set_statistics({s: m[:2000] for s, m in data.maps.items()})
    network.train()
    matrices = [p for p in network.parameters() if p.dim() > 1]
    vectors = [p for p in network.parameters() if p.dim() <= 1]
    optimiser = torch.optim.AdamW(
        [{"params": matrices, "weight_decay": WEIGHT_DECAY}, {"params": vectors, "weight_decay": 0.0}], lr=LEARNING_RATE
    )
    order = np.random.default_rng(seed)
    queue: list[int] = []
    progress, smooth = Progress("steps", steps), {}
    for step in range(steps):
        if len(queue) < BATCH:
            queue = order.permutation(len(data.targets)).tolist()
        picked, queue = queue[:BATCH], queue[BATCH:]
        for group in optimiser.param_groups:
            group["lr"] = learning_rate(step, steps)
        losses = network.losses(*data.batch(picked))
        total = sum(LOSS_WEIGHTS[name] * value for name, value in losses.items())
        if not torch.isfinite(total):
            raise UserError(f"loss is not finite at step {step} ({losses}): lower LEARNING_RATE")
        optimiser.zero_grad()
        total.backward()
        torch.nn.utils.clip_grad_norm_(network.parameters(), 5.0)
        optimiser.step()
        for name, value in losses.items():
            smooth[name] = 0.98 * smooth.get(name, value.item()) + 0.02 * value.item()
        progress.say(step + 1, " ".join(f"{name} {value:.3f}" for name, value in smooth.items()))
