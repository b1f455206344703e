"""Writes a world to disk: pictures and annotation files as real data sets have them.

    write_world(Path("runs/demo/world"), WorldConfig(seed=0))

    world.json                    seed, sizes, generator version, class roles
    ATTRIBUTION.txt               OpenMoji, CC BY-SA 4.0
    classes.json                  name, plural, forms, mid, role, detector, parents
    open_images/images/*.jpg      pictures of all classes, with
        train-annotations-human-imagelabels.csv  train-annotations-bbox.csv
        class-descriptions.csv    bbox_labels_hierarchy.json
    coco/images/*.jpg             pictures of base classes: captions_train.json, captions_val.json
    nocaps/images/*.jpg           evaluation pictures in the test style: nocaps_val_captions.json
                                  and nocaps_val_image_info.json, the same without captions
        validation-annotations-human-imagelabels.csv  validation-annotations-bbox.csv
                                  what they show: for measuring captions, never for making them

The folder appears when it is whole. Each picture's chance hangs on (seed, split, index), so that the
number of processes, or which of them painted what, leaves no trace in the bytes.
"""

import json
import multiprocessing
import os
import signal
import tempfile
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from vivo.errors import UserError
from vivo.files import atomic_folder, writable_folder
from vivo.world.classes import BASE_CLASSES, CLASSES, NOVEL_CLASSES
from vivo.world.formats import (
    FOLDERS,
    Picture,
    boxes_of,
    coco_id,
    file_name,
    write_classes,
    write_coco,
    write_evaluation_labels,
    write_nocaps,
    write_open_images,
)
from vivo.world.glyphs import attribution
from vivo.world.grammar import captions, held_out
from vivo.world.plan import SPLITS, Task, WorldConfig, plan
from vivo.world.scenes import Scene, compose_scene, render
from vivo.world.tags import absent_tags, tags

__all__ = [
    "GENERATOR_VERSION",
    "WorldConfig",
    "label_evaluation_pictures",
    "scenes_of",
    "world_is_written",
    "write_world",
]

GENERATOR_VERSION = 1  # raise it when the same seed gives other bytes
JPEG_QUALITY = 90
_CHUNK = 40  # pictures that a process paints before it reports
_ATTEMPTS = 200  # to find a scene that shows no held-out combination
_LABELS = ("validation-annotations-human-imagelabels.csv", "validation-annotations-bbox.csv")


def write_world(out: str | Path, config: WorldConfig | None = None, progress: bool = True) -> None:
    """Write a world into the folder `out`; does nothing if exactly this world is there already (a world made before
    its evaluation pictures had labels gets them).

    Args:
        out: the folder to make. It appears whole or not at all.
        config: sizes and options.
        progress: show a line with the time left.

    Raises:
        UserError: impossible options, a folder that cannot be written, or one that holds something else.
    """
    config = config or WorldConfig()
    config.validate()
    out = Path(out)
    if world_is_written(out, config):
        if not all((out / "nocaps" / name).is_file() for name in _LABELS):
            label_evaluation_pictures(out)
        return
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise UserError(f"{out} exists and is not this world; remove it or choose another folder")
    tasks = plan(config)
    with atomic_folder(out) as folder:
        for name in set(FOLDERS.values()):
            (folder / name / "images").mkdir(parents=True)
        pictures: dict[str, list[Picture]] = {split: [] for split in SPLITS}
        for picture in _with_progress(_painted(folder, config, tasks), len(tasks), progress):
            pictures[picture.split].append(picture)
        for entries in pictures.values():
            entries.sort(key=lambda picture: picture.index)  # chunks arrive in any order
        write_open_images(folder / "open_images", pictures["open_images"])
        write_coco(folder / "coco" / "captions_train.json", "coco_train", pictures["coco_train"])
        write_coco(folder / "coco" / "captions_val.json", "coco_val", pictures["coco_val"])
        write_nocaps(folder / "nocaps", pictures["nocaps"])
        write_evaluation_labels(folder / "nocaps", pictures["nocaps"])
        write_classes(folder / "classes.json")
        (folder / "ATTRIBUTION.txt").write_text(_attribution_text(), encoding="utf-8")
        (folder / "world.json").write_text(json.dumps(_world_facts(config), indent=1) + "\n", encoding="utf-8")


def label_evaluation_pictures(world: str | Path, out: str | Path | None = None) -> None:
    """Write labels and boxes of a world's evaluation pictures, by composing their scenes again (nothing is painted).

    Args:
        world: the folder that `write_world` left.
        out: where to write; default: where `write_world` writes them.

    Raises:
        UserError: no world there, one of another version of the generator, or a folder that cannot be written.
    """
    config = config_of(world)
    pictures = [_labelled(config, task) for task in plan(config) if task.split == "nocaps"]
    target = writable_folder(Path(world) / "nocaps" if out is None else out)
    with tempfile.TemporaryDirectory(prefix=".labels-", dir=target) as folder:
        write_evaluation_labels(Path(folder), pictures)
        for name in _LABELS:
            os.replace(Path(folder) / name, target / name)


def config_of(world: str | Path) -> WorldConfig:
    """The configuration of the world in a folder.

    Raises:
        UserError: no world there, or one of another version of the generator.
    """
    facts = _read_facts(world)
    if facts.get("generator_version") != GENERATOR_VERSION:
        raise UserError(f"{world}: no world of this version of the generator; make it anew")
    values = {key: facts[key] for key in WorldConfig().identity()}
    return WorldConfig(**values | {"held_out_pairs": tuple(map(tuple, values["held_out_pairs"]))})


def scenes_of(world: str | Path, split: str) -> dict[str, Scene]:
    """What each picture of a split shows, by the id that its annotations have; composed again, nothing is painted.

    Args:
        world: the folder that `write_world` left. split: "coco_train", "coco_val" or "nocaps".

    Raises:
        UserError: see `config_of`.
    """
    config = config_of(world)
    number = (lambda index: index) if split == "nocaps" else partial(coco_id, split)
    tasks = [task for task in plan(config) if task.split == split]
    return {str(number(task.index)): _scene(config, task)[0] for task in tasks}


def world_is_written(out: str | Path, config: WorldConfig) -> bool:
    """Whether `out` holds the world of this configuration, made by this version of the generator."""
    return _read_facts(out) == _world_facts(config)


def _read_facts(world: str | Path) -> dict[str, Any]:
    """The content of world.json; {} where there is none."""
    try:
        facts = json.loads((Path(world) / "world.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return facts if isinstance(facts, dict) else {}


def _world_facts(config: WorldConfig) -> dict[str, Any]:
    """The content of world.json."""
    return {
        "name": "OpenMoji nocaps",
        "generator_version": GENERATOR_VERSION,
        **config.identity(),
        "classes": len(CLASSES),
        "roles": {
            "base": [entry.name for entry in BASE_CLASSES],
            "novel": [entry.name for entry in NOVEL_CLASSES if entry.detector],
            "novel, unknown to the detector": [entry.name for entry in NOVEL_CLASSES if not entry.detector],
        },
    }


def _attribution_text() -> str:
    return (
        f"{attribution()}\n\n"
        "The pictures of this folder are made of these emojis (turned, dyed, placed on painted backgrounds) and are\n"
        "shared under the same license: CC BY-SA 4.0, https://creativecommons.org/licenses/by-sa/4.0/\n"
    )


def _painted(folder: Path, config: WorldConfig, tasks: list[Task]) -> Iterator[Picture]:
    """Paint all tasks, in this process or several; order of arrival is not defined."""
    chunks = [tasks[start : start + _CHUNK] for start in range(0, len(tasks), _CHUNK)]
    workers = min(config.workers, len(chunks))
    if workers == 1:
        for chunk in chunks:
            yield from _paint_chunk(folder, config, chunk)
        return
    # spawn: a fork of a process in which torch has started threads may hang.
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(workers, context, initializer=_leave_interrupts_to_the_parent) as pool:
        futures = [pool.submit(_paint_chunk, folder, config, chunk) for chunk in chunks]
        try:
            for future in as_completed(futures):
                yield from future.result()
        finally:
            pool.shutdown(wait=True, cancel_futures=True)


def _leave_interrupts_to_the_parent() -> None:
    """Ctrl-C reaches every process of the group; only the first one should speak of it."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def _paint_chunk(folder: Path, config: WorldConfig, chunk: list[Task]) -> list[Picture]:
    return [_paint(folder, config, task) for task in chunk]


def _paint(folder: Path, config: WorldConfig, task: Task) -> Picture:
    """Draw one scene, save its picture, and say what there is to say about it."""
    scene, rng = _scene(config, task)
    hex_id = task.hex_id(config.seed)
    name = file_name(task.split, task.index, hex_id)
    path = folder / FOLDERS[task.split] / "images" / name
    try:
        render(scene).save(path, quality=JPEG_QUALITY, subsampling=0)
    except OSError as error:
        raise UserError(f"cannot write {path}: {error.strerror or error}; is the disk full?") from error
    facts: dict[str, Any] = {}
    if task.split == "open_images":
        facts["tags"] = tags(scene, rng)
        facts["absent"] = absent_tags(facts["tags"], rng, int(rng.integers(1, 5)))
        facts["boxes"] = boxes_of(scene)
    else:
        count = config.references if task.split == "nocaps" else config.captions_per_picture
        facts["captions"] = captions(scene, rng, count)
    if task.split == "nocaps":
        facts |= _labels_of(config, task, scene)
    return Picture(task.split, task.index, hex_id, name, (scene.width, scene.height), task.domain, **facts)


def _labelled(config: WorldConfig, task: Task) -> Picture:
    """An evaluation picture that is there already, with what its label files say."""
    scene, hex_id = _scene(config, task)[0], task.hex_id(config.seed)
    name = file_name(task.split, task.index, hex_id)
    size = (scene.width, scene.height)
    return Picture(task.split, task.index, hex_id, name, size, task.domain, **_labels_of(config, task, scene))


def _labels_of(config: WorldConfig, task: Task, scene: Scene) -> dict[str, Any]:
    """Labels and boxes of an evaluation picture; their chance is apart from that of scene and captions."""
    rng = task.generator(config.seed, "labels")
    present = tags(scene, rng)
    absent = absent_tags(present, rng, int(rng.integers(1, 5)))
    return {"tags": present, "absent": absent, "boxes": boxes_of(scene, of_all=True)}


def _scene(config: WorldConfig, task: Task) -> tuple[Scene, np.random.Generator]:
    """The scene of a task and the generator that drew it; captioned training scenes avoid what is held out."""
    style = "test" if task.split == "nocaps" else "train"
    for attempt in range(_ATTEMPTS):
        rng = task.generator(config.seed, attempt)
        scene = compose_scene(rng, task.things, style, config.picture_size)
        if not task.split.startswith("coco") or not held_out(scene, config.held_out_pairs):
            return scene, rng
    names = ", ".join(thing.name for thing in task.things)
    raise UserError(f"held-out combinations leave no scene for {names}; hold out fewer")


def _with_progress(pictures: Iterator[Picture], total: int, show: bool) -> Iterator[Picture]:
    """Pass pictures on and show how far they are."""
    if not show:
        yield from pictures
        return
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    columns = (TextColumn("world"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TimeRemainingColumn())
    with Progress(*columns) as bar:
        task = bar.add_task("world", total=total)
        for picture in pictures:
            yield picture
            bar.advance(task)
