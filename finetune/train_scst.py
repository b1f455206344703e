"""Self-critical training of a fine-tuned captioner: CIDEr-D of its own samples is the reward (docs/scst.md).

    one process     python finetune/train_scst.py configs/finetune/world_scst.yaml
    several         as finetune/train.py

CONFIG is a YAML file with objective scst and `init`, the model folder of finetune/train.py, followed by dotted
overrides. A run whose folder holds a checkpoint goes on from it. The trained model lies in <out>/model, with
`tracking.best` the best one in <out>/best. Before a long run: --print-config, --estimate --gpus 8.
"""

import sys
from collections.abc import Sequence

from vivo.program import exits_cleanly
from vivo.training.command import training_command


@exits_cleanly
def main(argv: Sequence[str] | None = None) -> int:
    """Parse, load, look or train."""
    return training_command("finetune/train_scst.py", __doc__, argv)


if __name__ == "__main__":
    sys.exit(main())
