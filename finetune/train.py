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

import sys
from collections.abc import Sequence

from vivo.program import exits_cleanly
from vivo.training.command import training_command


@exits_cleanly
def main(argv: Sequence[str] | None = None) -> int:
    """Parse, load, look or train."""
    return training_command("finetune/train.py", __doc__, argv)


if __name__ == "__main__":
    sys.exit(main())
