"""Everything that the project does on a CPU, each beside a rival's in the same run: `make bench`.

    python tests/benchmarks/cpu.py [--out runs/bench/results.json] [--repeats 3] [--only NAME ...]
    python tests/benchmarks/cpu.py --tiny        small shapes: does everything run?

Makes its own data; ours and rival's by turns, `--repeats` times, the ratio is the median's. Sections:

    pretraining     32 pictures, BERT-base, regions uniform 10-50, tag tokens uniform 1-15: fp32, bf16, peak memory,
                    the matching's share
    tolerance       losses of 200 updates, bf16 against fp32 (a small model)
    fine            50 regions, 20 tags, five captions of 20 tokens a picture
    matching        masked tags of 1,024 pictures against SciPy
    scst            the reward's share of a self-critical update, 16 x 5 samples
    beam, cbs       8 and 4 pictures, beam 5
    extraction      JPEG files into a store, against a loop over pictures
    store           random pictures against Oscar's TSV
    collation       batches a second against dictionaries, example by example
    loader          what reads and collates for one H100, from what a core does here
    scoring         4,500 pictures x 10 references against pycocoevalcap with Java

No other work may run meanwhile. On two cores it takes some 20 minutes.
The limit of a row: FLOPs over the rate of products, or bytes over that of copies, measured before each section.
Results: tests/benchmarks/results.py; the sections: cpu_training.py, cpu_inference.py, cpu_data.py.
"""

import argparse
import os
import sys
from importlib.metadata import version
from pathlib import Path

sys.path[:0] = [str(Path(__file__).resolve().parents[n]) for n in (2, 1)]

# ruff: noqa: E402
# isort: split
from vivo.program import set_cpu_defaults

set_cpu_defaults()  # as the programs do: PyTorch reads them when it is loaded

# isort: split
from cpu_bench import Bench, limits
from cpu_data import collation, loader, scoring, store
from cpu_inference import beam, cbs, extraction
from cpu_training import fine, matching, pretraining, scst, tolerance
from results import Results

from vivo.training.runtime import environment

SECTIONS = (
    pretraining, tolerance, fine, matching, scst, beam, cbs, extraction, store, collation, loader, scoring
)  # fmt: skip


def main() -> None:
    """Run the sections, write the rows, print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("runs/bench/results.json"))
    parser.add_argument(
        "--only", nargs="*", default=[], choices=[section.__name__ for section in SECTIONS], help="sections"
    )
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--tiny", action="store_true")
    arguments = parser.parse_args()
    results = Results(arguments.out)
    about = environment()
    results.notes |= {
        "machine": f"{about['device']} ({len(os.sched_getaffinity(0))} used)",
        "commit": about["commit"],
        "versions": {"torch": about["torch"], "transformers": about["transformers"], "scipy": version("scipy")},
        "repeats": f"medians of {arguments.repeats} turns",
    }
    bench = Bench(results, arguments.repeats, arguments.tiny)
    for section in SECTIONS:
        if not arguments.only or section.__name__ in arguments.only:
            limits(bench)
            results.run(section.__name__, lambda _, s=section: s(bench), 3600)
    print("\n" + results.table())
    results.write()


if __name__ == "__main__":
    main()
