"""Self-critical training of a fine-tuned captioner: CIDEr-D of its own samples is the reward (docs/scst.md).

    one process     python finetune/train_scst.py configs/finetune/world_scst.yaml
    several         as finetune/train.py

CONFIG is a YAML file with objective scst and `init`, the model folder of finetune/train.py, followed by dotted
overrides. A run whose folder holds a checkpoint goes on from it. The trained model lies in <out>/model, with
`tracking.best` the best one in <out>/best. Before a long run: --print-config, --estimate --gpus 8.
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
    if config.objective != "scst":
        program = "finetune/train.py" if config.objective == "captions" else "pretrain/train.py"
        raise UserError(f"{arguments.config}: objective is {config.objective}; run it with {program}")
    if preview(arguments, config, "self_critical"):
        return 0
    from vivo.training import runs  # seconds of imports, only for a configuration that is right

    if arguments.replay:
        return int(runs.replay_finetune(config, arguments.replay))
    print(runs.self_critical(config))
    return 0


if __name__ == "__main__":
    sys.exit(main())
