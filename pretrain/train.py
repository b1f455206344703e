"""Pre-training: masked tags over regions, matched as a set (VIVO); or image-sentence pairs; or both by turns.

    one process     python pretrain/train.py configs/world.yaml
    one node        accelerate launch --config_file configs/accelerate/one_node_8gpu.yaml
                    pretrain/train.py CONFIG optim.lr=1e-4
    two nodes       on each: accelerate launch --config_file configs/accelerate/two_nodes.yaml
                    --machine_rank 0|1 --main_process_ip HOST pretrain/train.py CONFIG
    two CPU cores   accelerate launch --config_file configs/accelerate/cpu2.yaml pretrain/train.py CONFIG
                    (not --cpu: that silently runs one process)
    SLURM           sbatch configs/slurm/pretrain.sbatch CONFIG

CONFIG is a YAML file (configs/), followed by dotted overrides. A run whose folder holds a checkpoint
goes on from it. The trained model lies in <out>/model. Before a long run: --print-config, --estimate --gpus 64,
--dry-run --gpus 64 (docs/launching.md).
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from vivo.config import load_config
from vivo.errors import UserError
from vivo.program import exits_cleanly
from vivo.training.preview import add_preview_arguments, preview


@exits_cleanly
def main(argv: Sequence[str] | None = None) -> int:
    """Parse, load, look or train."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("config")
    parser.add_argument("overrides", nargs="*", metavar="key=value")
    parser.add_argument("--replay", type=Path, metavar="FOLDER", help="run an update again that was not finite")
    add_preview_arguments(parser)
    arguments = parser.parse_args(argv)
    config = load_config(arguments.config, arguments.overrides)
    if config.objective in ("captions", "scst"):
        program = "finetune/train_scst.py" if config.objective == "scst" else "finetune/train.py"
        raise UserError(f"{arguments.config}: objective is {config.objective}; run it with {program}")
    if preview(arguments, config, "pretrain"):
        return 0
    from vivo.training import runs  # seconds of imports, only for a configuration that is right

    if arguments.replay:
        return int(runs.replay_pretrain(config, arguments.replay))
    print(runs.pretrain(config))
    return 0


if __name__ == "__main__":
    sys.exit(main())
