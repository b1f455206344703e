"""Captions for the pictures of a RegionStore: predictions.json and its header with the decode settings.

    python eval/predict.py configs/eval/world.yaml checkpoint=runs/demo/vivo out=runs/eval decode.beam=5

On several GPUs of one machine, and on two machines (MACHINE_RANK is 0 and 1):

    accelerate launch --multi_gpu --num_processes 8 eval/predict.py CONFIG
    accelerate launch --multi_gpu --num_machines 2 --num_processes 16 --machine_rank MACHINE_RANK \\
        --main_process_ip HOST --main_process_port 29500 eval/predict.py CONFIG

On a CPU, also `--multi_gpu`: with `--cpu` accelerate silently starts one process. A run that was interrupted or killed,
in one process or all, goes on when the same command is given again, on any number of processes; the captions are those
of one process. All nodes need the checkpoint, the regions and the references; `out` may lie on a disk of each, the
result is on the first. See docs/predictions.md.

A captioner that sees pixels (Show and Tell) also captions the files in `pictures`; with `ensemble`, several models do.
"""

import argparse
import sys
from collections.abc import Sequence
from datetime import timedelta
from pathlib import Path

from vivo.config import EvalConfig, load_eval_config
from vivo.processes import Processes, join_processes
from vivo.program import exits_cleanly


@exits_cleanly
def main(argv: Sequence[str] | None = None) -> None:
    """Parse, load, predict, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("config")
    parser.add_argument("overrides", nargs="*", metavar="key=value")
    parser.add_argument("--dry-run", action="store_true", help="caption the first pictures, write nothing, then end")
    arguments = parser.parse_args(argv)
    config = load_eval_config(arguments.config, arguments.overrides)
    processes = join_processes("eval/predict.py", timedelta(seconds=config.timeout))
    if arguments.dry_run:
        dry_run(config, processes)
    else:
        predict(config, processes)


def predict(config: EvalConfig, processes: Processes) -> None:
    """Caption the split and say where the captions are."""
    from vivo.data.predictions import constraints_path, read_header
    from vivo.split_prediction import predict_split

    out = Path(config.out) / "predictions.json"
    image_ids, seen = pictures_of(config, processes)
    predict_split(
        Path(config.checkpoint),
        seen,
        image_ids,
        config.tags,
        config.decode,
        out,
        tag_file=config.tag_file,
        precision=config.precision,
        n_best=config.n_best,
        processes=processes,
        progress=True,
        ensemble=others_of(config),
    )
    if not processes.is_main:
        return
    print(out)
    if made := read_header(out).get("constraints"):
        print(
            f"{made['satisfied']:,} of {made['constraints']:,} constraints satisfied; {made['fell_back']:,} captions"
            f" with fewer than asked for ({constraints_path(out).name})"
        )


def dry_run(config: EvalConfig, processes: Processes) -> None:
    """Open all that captioning reads, in all processes, and caption the first pictures in the main one."""
    from vivo.split_prediction import open_everywhere, try_split

    image_ids, seen = pictures_of(config, processes)
    given = (image_ids, config.tags, config.decode, None, config.tag_file, config.precision, config.n_best)
    opened = open_everywhere(processes, Path(config.checkpoint), seen, *given, others_of(config))
    for line in processes.on_main(lambda: try_split(processes, opened)) or []:
        print(line)


def pictures_of(config: EvalConfig, processes: Processes) -> tuple[list[str], Path | dict[str, Path]]:
    """Ids of the pictures to caption, whose captions are never read, and what the captioner sees of them."""
    from vivo.data.nocaps import read_pictures
    from vivo.show_and_tell.pictures import files_of

    def read() -> tuple[list[str], Path | dict[str, Path]]:
        examples = read_pictures(config.references)
        seen = files_of(examples, config.pictures) if config.pictures else Path(config.regions)
        return [example.image_id for example in examples], seen

    return processes.everywhere(read)


def others_of(config: EvalConfig) -> list[Path]:
    """The further checkpoints of `config.ensemble`."""
    return [Path(part.strip()) for part in config.ensemble.split(",") if part.strip()]


if __name__ == "__main__":
    sys.exit(main())
