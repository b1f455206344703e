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

import sys
from collections.abc import Sequence

from vivo.program import exits_cleanly
from vivo.training.command import training_command


@exits_cleanly
def main(argv: Sequence[str] | None = None) -> int:
    """Parse, load, look or train."""
    return training_command("pretrain/train.py", __doc__, argv)


if __name__ == "__main__":
    sys.exit(main())
