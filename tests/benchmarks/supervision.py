"""Dense [MASK] queries against 15 % masking, and several captions a picture against one: CIDEr against wall time.

    python tests/benchmarks/supervision.py runs/demo [--init runs/demo/rows/vivo/seed0/pretrain/model]
    python tests/benchmarks/supervision.py BENCHMARK --config configs/finetune/flickr_novel.yaml
        --evaluate REFERENCES STORE [--set data.regions=STORE data.examples=FILE ...]

Each way of supervising is fine-tuned for several numbers of updates, each with its own schedule down to a rate of 0,
and captions the evaluation pictures greedily. Seconds are those of the updates alone (their log), in this process.
What differs between the ways:

    masked 1     the paper: 15 % of the tokens of one caption a picture
    dense 1      every token of one caption a picture
    dense 5      every token of five captions a picture, which share one pass over its tags and regions

The inference is the same. Prints a line a run, appends it to --out as JSON, and skips what stands there already.
"""

import argparse
import json
import tempfile
from pathlib import Path

from vivo.program import set_cpu_defaults

set_cpu_defaults()  # as the programs do: PyTorch reads them when it is loaded

# ruff: noqa: E402
# isort: split
from vivo.config import load_config, validate
from vivo.training import runs
from vivo.training.tracking import read_records

WAYS = {
    "masked 1": ("masking.caption=masked", "data.captions_per_picture=1"),
    "masked 5": ("masking.caption=masked", "data.captions_per_picture=5"),
    "dense 1": ("masking.caption=dense", "data.captions_per_picture=1"),
    "dense 2": ("masking.caption=dense", "data.captions_per_picture=2"),
    "dense 5": ("masking.caption=dense", "data.captions_per_picture=5"),
}


def run(config_file: str, overrides: list[str], updates: int, seed: int) -> dict[str, float]:
    """Fine-tune and validate once, at the end."""
    with tempfile.TemporaryDirectory() as folder:
        more = [f"out={folder}/run", f"optim.duration={updates} steps", f"seed={seed}", "tracking.save_every=",
                "tracking.log_every=10 steps", f"tracking.validate_every={updates} steps"]  # fmt: skip
        config = load_config(config_file, [*overrides, *more])
        validate(config)
        runs.finetune(config)
        records = read_records(Path(folder) / "run" / "metrics.jsonl")
    logged = [r for r in records if "pictures_per_second" in r]
    before, seconds = 0.0, 0.0
    for record in logged:
        seconds += (record["pictures"] - before) / record["pictures_per_second"]
        before = record["pictures"]
    (last,) = (r for r in records if "validation_CIDEr" in r)
    return {
        "seconds": seconds,
        "pictures": before,
        "CIDEr": last["validation_CIDEr"],
        "words": last["validation_words"],
        "distinct": last["validation_distinct"],
    }


def main() -> None:
    """Run what is not there yet."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("demo", help="folder of a demo (its data are used), or any name with --config and --set")
    parser.add_argument("--config", default="configs/finetune/world.yaml")
    parser.add_argument("--init", help="default: the demo's pre-trained model of seed 0")
    parser.add_argument("--evaluate", nargs=2, metavar=("REFERENCES", "STORE"), help="default: the demo's nocaps")
    parser.add_argument("--set", nargs="*", default=[], metavar="KEY=VALUE")
    parser.add_argument("--updates", type=int, nargs="*", default=[50, 150, 450])
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--ways", nargs="*", choices=list(WAYS), default=["masked 1", "dense 1", "dense 5"])
    parser.add_argument("--out", type=Path, default=Path("runs/supervision.jsonl"))
    arguments = parser.parse_args()
    demo = Path(arguments.demo)
    init = arguments.init or demo / "rows" / "vivo" / "seed0" / "pretrain" / "model"
    references, store = arguments.evaluate or (
        demo / "world" / "nocaps" / "nocaps_val_captions.json",
        demo / "regions" / "nocaps",
    )
    overrides = [f"init={init}", f"data.validation_references={references}", f"data.validation_regions={store}"]
    overrides += arguments.set
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    done = {(r["way"], r["updates"], r["seed"]) for r in read_records(arguments.out)}
    for seed in range(arguments.seeds):
        for updates in arguments.updates:
            for way in arguments.ways:
                if (way, updates, seed) in done:
                    continue
                found = run(arguments.config, [*overrides, *WAYS[way]], updates, seed)
                record = {"step": updates, "way": way, "updates": updates, "seed": seed} | found
                with arguments.out.open("a", encoding="utf-8") as file:
                    file.write(json.dumps(record) + "\n")
                print(
                    f"{way:<9} {updates:>5} updates  seed {seed}  {found['seconds']:7.1f} s  "
                    f"CIDEr {found['CIDEr']:6.1f}  {found['words']:.1f} words",
                    flush=True,
                )


if __name__ == "__main__":
    main()
