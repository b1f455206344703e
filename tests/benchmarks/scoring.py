"""Scores of a whole nocaps split: eval/score.py against pycocoevalcap's own path with Java, in the same run.

    python tests/benchmarks/scoring.py nocaps_val_4500_captions.json        three rounds, by turns
    options: --rounds N (3), --meteor (both compute METEOR too), --keep FOLDER

The predictions are mixtures of two reference captions of a picture. Ours is the command as users call it, which also
scores by domain and writes the scores of every picture. Theirs is PTBTokenizer for references and predictions, Bleu(4),
Rouge, Cider. Each runs in a process of its own, from the start of Python to its end. Of memory, the peak of the Python
process counts and, for theirs, that of Java, which runs while Python waits. Scores are compared on the scale of papers
(times 100): BLEU and all metrics' means, ROUGE-L and CIDEr of every picture. Exit status 1 where one differs by more
than 1e-9.
"""

import argparse
import importlib.util
import json
import os
import random
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from vivo.world.classes import CLASSES
from vivo.world.formats import Picture, write_nocaps
from vivo.world.grammar import captions
from vivo.world.scenes import sample_scene

ROOT = Path(__file__).resolve().parents[2]
TOLERANCE = 1e-9
# Peak memory in MB: of the process itself and of the largest of its children.
MEMORY = """
import resource, sys
own, children = (resource.getrusage(who).ru_maxrss / 1024 for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
print("MEMORY", own, children)
"""
OURS = f"""
import runpy, sys
sys.argv = sys.argv[1:]
try:
    runpy.run_path(sys.argv[0], run_name="__main__")
except SystemExit as end:
    assert not end.code, end
{MEMORY}
"""
THEIRS = f"""
import json, sys
from pycocoevalcap.tokenizer.ptbtokenizer import PTBTokenizer
from pycocoevalcap.bleu.bleu import Bleu
from pycocoevalcap.rouge.rouge import Rouge
from pycocoevalcap.cider.cider import Cider
references, predictions, out, meteor = sys.argv[1:]
gts, res = {{}}, {{}}
for entry in json.load(open(references))["annotations"]:
    gts.setdefault(entry["image_id"], []).append(entry)
for entry in json.load(open(predictions)):
    res[entry["image_id"]] = [entry]
res = {{image_id: res[image_id] for image_id in gts}}
gts, res = PTBTokenizer().tokenize(gts), PTBTokenizer().tokenize(res)
found = {{"BLEU": Bleu(4).compute_score(gts, res, verbose=0)[0]}}
scorers = {{"ROUGE_L": Rouge, "CIDEr": Cider}}
if meteor == "1":
    from pycocoevalcap.meteor.meteor import Meteor
    scorers["METEOR"] = Meteor
for name, scorer in scorers.items():
    mean, single = scorer().compute_score(gts, res)
    found[name] = [float(mean), dict(zip(gts, map(float, single)))]
json.dump(found, open(out, "w"))
{MEMORY}
"""


def main() -> int:
    """Measure by turns, compare, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("references", type=Path, help="nocaps validation captions")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--meteor", action="store_true")
    parser.add_argument("--keep", type=Path, help="write both sides' scores here")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="vivo-scoring-") as name:
        folder = Path(name)
        pictures = write_predictions(arguments.references, folder / "p.json")
        works = sides(arguments.references, folder, arguments.meteor)
        measured: dict[str, list[tuple[float, float, float, float]]] = {side: [] for side in works}
        for turn in range(arguments.rounds):
            for side in works if turn % 2 == 0 else reversed(works):
                measured[side].append(works[side]())
        largest = largest_difference(folder)
        if arguments.keep:
            arguments.keep.mkdir(parents=True, exist_ok=True)
            for made in folder.glob("*.json"):
                shutil.copy(made, arguments.keep)
    print(f"{pictures:,} pictures, {arguments.rounds} rounds")
    for side, rounds in measured.items():
        wall, busy, own, children = (list(column) for column in zip(*rounds, strict=True))
        java = f" + {max(children):.0f} MB of Java" if max(children) > 20 else ""
        print(
            f"{side:7} {statistics.median(wall):6.1f} s (best {min(wall):.1f}), processor "
            f"{statistics.median(busy):5.1f} s (best {min(busy):.1f}), {max(own):5.0f} MB{java}"
        )
    for what, column in (("time", 0), ("processor time", 1)):
        ratios = [t[column] / o[column] for o, t in zip(measured["ours"], measured["theirs"], strict=True)]
        print(f"{what}: theirs / ours {statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})")
    print(f"largest difference: {largest:.1e}")
    return int(largest > TOLERANCE)


def sides(references: Path, folder: Path, meteor: bool = False) -> dict[str, Callable[[], tuple[float, ...]]]:
    """Scoring FOLDER/p.json by "ours" and "theirs"; a call is a process, and tells what `run` does."""
    copy_their_package(folder / "package", meteor)
    ours = [
        OURS, ROOT / "eval" / "score.py", "--predictions", folder / "p.json", "--references", references,
        "--out", folder / "ours.json", "--no-human", *(["--meteor"] if meteor else []),
    ]  # fmt: skip
    theirs = [THEIRS, references, folder / "p.json", folder / "theirs.json", str(int(meteor))]
    return {"ours": lambda: run(ours, ROOT, folder), "theirs": lambda: run(theirs, folder / "package", folder)}


def made_references(folder: Path, pictures: int) -> Path:
    """A nocaps file of ten captions a picture, of scenes of the embedded world; nothing is painted."""
    made = []
    for number in range(pictures):
        rng = np.random.default_rng(number)
        text = captions(sample_scene(rng, CLASSES, n_objects=int(rng.integers(2, 5))), rng, 10)
        domain = ("in-domain", "near-domain", "out-domain", "out-domain")[number % 4]
        made.append(Picture("nocaps", number, f"{number:016x}", f"{number}.jpg", (224, 224), domain, captions=text))
    write_nocaps(folder, made)
    return folder / "nocaps_val_captions.json"


def write_predictions(references: Path, path: Path) -> int:
    """Half of one reference and half of another; returns the number of pictures."""
    known: dict[int, list[str]] = {}
    for entry in json.loads(references.read_text())["annotations"]:
        known.setdefault(entry["image_id"], []).append(entry["caption"])
    rng = random.Random(0)
    records = []
    for image_id, texts in known.items():
        one, two = (text.split() for text in rng.sample(texts, 2))
        mixed = one[: rng.randrange(len(one) + 1)] + two[len(two) // 2 :]
        records.append({"image_id": image_id, "caption": " ".join(mixed)})
    path.write_text(json.dumps(records))
    return len(records)


def copy_their_package(folder: Path, meteor: bool) -> None:
    """pycocoevalcap without SPICE: it writes beside itself, and not into the installation."""
    package = importlib.util.find_spec("pycocoevalcap")
    source = Path(next(iter(package.submodule_search_locations)))
    for part in ("tokenizer", "bleu", "rouge", "cider", *(["meteor"] if meteor else [])):
        shutil.copytree(source / part, folder / "pycocoevalcap" / part)


def run(command: list, path: Path, folder: Path) -> tuple[float, float, float, float]:
    """(wall seconds, processor seconds with children, MB of Python, MB of the largest child)."""
    environment = os.environ | {"PYTHONPATH": str(path), "VIVO_CACHE": str(folder / "cache")}
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    began = time.perf_counter()
    done = subprocess.run(
        [sys.executable, "-c", *map(str, command)], env=environment, cwd=folder, capture_output=True, text=True
    )
    wall = time.perf_counter() - began
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    if done.returncode:
        raise SystemExit(done.stderr[-3000:])
    own, children = map(float, done.stdout.splitlines()[-1].split()[1:])
    return wall, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime, own, children


def largest_difference(folder: Path) -> float:
    """Over the corpus scores and every picture's, times 100."""
    overall = json.loads((folder / "ours.json").read_text())["overall"]
    ours = json.loads((folder / "ours.pictures.json").read_text())
    theirs = json.loads((folder / "theirs.json").read_text())
    found = [abs(overall[f"BLEU-{n}"] - 100 * score) for n, score in enumerate(theirs.pop("BLEU"), 1)]
    for metric, (mean, single) in theirs.items():
        assert single.keys() == ours.keys()
        found.append(abs(overall[metric] - 100 * mean))
        found += [abs(ours[image_id][metric] - 100 * score) for image_id, score in single.items()]
    return max(found)


if __name__ == "__main__":
    sys.exit(main())
