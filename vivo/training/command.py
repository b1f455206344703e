"""What the training programs do with their arguments: load a configuration, and look at the run, replay or start it."""

import argparse
from collections.abc import Sequence
from pathlib import Path

from vivo.config import load_config
from vivo.errors import UserError
from vivo.training.preview import add_preview_arguments, preview

# objective -> the program that is for it
PROGRAMS = {
    "tags": "pretrain/train.py",
    "pairs": "pretrain/train.py",
    "both": "pretrain/train.py",
    "captions": "finetune/train.py",
    "scst": "finetune/train_scst.py",
    "show_and_tell": "finetune/train_show_and_tell.py",
}
# program -> the functions of vivo/training/runs.py that train and replay
_STAGES = {
    "pretrain/train.py": ("pretrain", "replay_pretrain"),
    "finetune/train.py": ("finetune", "replay_finetune"),
    "finetune/train_scst.py": ("self_critical", "replay_finetune"),
    "finetune/train_show_and_tell.py": ("show_and_tell", "replay_finetune"),
}


def training_command(program: str, description: str, argv: Sequence[str] | None) -> int:
    """Parse, load, look or train; returns the exit status.

    Args:
        program: one of the values of `PROGRAMS`. description: shown by --help.

    Raises:
        UserError: the configuration is wrong or for another program, or the run fails.
    """
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("config")
    parser.add_argument("overrides", nargs="*", metavar="key=value")
    parser.add_argument("--replay", type=Path, metavar="FOLDER", help="run an update again that was not finite")
    add_preview_arguments(parser)
    arguments = parser.parse_args(argv)
    config = load_config(arguments.config, arguments.overrides)
    if PROGRAMS[config.objective] != program:
        right = PROGRAMS[config.objective]
        raise UserError(f"{arguments.config}: objective is {config.objective}; run it with {right}")
    train, replay = _STAGES[program]
    if preview(arguments, config, train):
        return 0
    from vivo.training import runs  # seconds of imports, only for a configuration that is right

    if arguments.replay:
        return int(getattr(runs, replay)(config, arguments.replay))
    print(getattr(runs, train)(config))
    return 0
