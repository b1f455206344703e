"""Caption fine-tuning on image-sentence pairs, from a pre-trained model or from text weights.

    one process     python finetune/train.py configs/finetune/world.yaml
    one node        accelerate launch --config_file configs/accelerate/one_node_8gpu.yaml
                    finetune/train.py CONFIG optim.lr=1e-4
    two nodes       on each: accelerate launch --config_file configs/accelerate/two_nodes.yaml
                    --machine_rank 0|1 --main_process_ip HOST finetune/train.py CONFIG
    two CPU cores   accelerate launch --config_file configs/accelerate/cpu2.yaml finetune/train.py CONFIG
                    (not --cpu: that silently runs one process)
    SLURM           sbatch configs/slurm/finetune.sbatch CONFIG

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
    if config.objective != "captions":
        program = "finetune/train_scst.py" if config.objective == "scst" else "pretrain/train.py"
        raise UserError(f"{arguments.config}: objective is {config.objective}; run it with {program}")
    if preview(arguments, config, "finetune"):
        return 0
    from vivo.training import runs  # seconds of imports, only for a configuration that is right

    if arguments.replay:
        return int(runs.replay_finetune(config, arguments.replay))
    print(runs.finetune(config))
    return 0


if __name__ == "__main__":
    sys.exit(main())
