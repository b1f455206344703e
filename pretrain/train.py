"""Pre-training: masked tags over regions, matched as a set (VIVO); or image-sentence pairs; or both by turns.

    one process     python pretrain/train.py configs/world.yaml
    one node        accelerate launch --multi_gpu --num_processes 8 pretrain/train.py CONFIG optim.lr=1e-4
    two nodes       on each: accelerate launch --multi_gpu --num_machines 2 --num_processes 16
                    --machine_rank 0|1 --main_process_ip HOST --main_process_port 29500 pretrain/train.py CONFIG
    two CPU cores   accelerate launch --multi_gpu --num_processes 2 --num_machines 1 --mixed_precision no
                    --dynamo_backend no pretrain/train.py CONFIG
                    (not --cpu: that silently runs one process)

CONFIG is a YAML file (configs/), followed by dotted overrides. A run whose folder holds a checkpoint
goes on from it. The trained model lies in <out>/model.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from vivo.config import load_config
from vivo.errors import UserError
from vivo.program import exits_cleanly


@exits_cleanly
def main(argv: Sequence[str] | None = None) -> int:
    """Parse, load, train."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("config")
    parser.add_argument("overrides", nargs="*", metavar="key=value")
    parser.add_argument("--replay", type=Path, metavar="FOLDER", help="run an update again that was not finite")
    arguments = parser.parse_args(argv)
    config = load_config(arguments.config, arguments.overrides)
    if config.objective == "captions":
        raise UserError(f"{arguments.config}: objective is captions; run it with finetune/train.py")
    from vivo.training import runs  # seconds of imports, only for a configuration that is right

    if arguments.replay:
        return int(runs.replay_pretrain(config, arguments.replay))
    print(runs.pretrain(config))
    return 0


if __name__ == "__main__":
    sys.exit(main())
