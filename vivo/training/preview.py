"""The options of the training programs that look at a run before it starts, in the order of what they cost.

--print-config   every field after bases and overrides, as YAML that load_config reads back
--estimate       parameters, memory, disk, steps, hours for any number of GPUs: estimate.py
--dry-run        real updates on made-up data: dry_run.py; together with --estimate its rate gives the hours
"""

import argparse
import functools

from vivo.config import TrainConfig, to_yaml
from vivo.errors import UserError
from vivo.program import whole_number


def add_preview_arguments(parser: argparse.ArgumentParser) -> None:
    """The options above, and what they are for."""
    parser.add_argument("--print-config", action="store_true", help="print the resolved configuration and end")
    parser.add_argument("--estimate", action="store_true", help="print what the run needs and end; no file is needed")
    parser.add_argument("--dry-run", action="store_true", help="one process's update on made-up data, then end")
    parser.add_argument("--gpus", type=whole_number(1), default=1, metavar="N", help="processes of the job; default: 1")
    parser.add_argument("--rate", type=_rate, metavar="R", help="for --estimate: pictures a second of one GPU")
    parser.add_argument("--pictures", type=whole_number(1), metavar="N", help="for --estimate: of the training set")


def preview(arguments: argparse.Namespace, config: TrainConfig, stage: str) -> bool:
    """Do what the options ask for; False where they ask for nothing and the run is to start.

    Args:
        stage: "pretrain", "finetune" or "self_critical", the function of `vivo.training.runs` that a dry run calls.
    """
    if arguments.replay and (arguments.print_config or arguments.estimate or arguments.dry_run):
        raise UserError("--replay: runs a saved update again; leave out --print-config, --estimate and --dry-run")
    if not (arguments.print_config or arguments.estimate or arguments.dry_run):
        if arguments.gpus != 1 or arguments.rate or arguments.pictures:
            raise UserError(
                "--gpus, --rate and --pictures are for --estimate and --dry-run; a launcher starts processes"
            )
        return False
    if arguments.print_config:
        print(to_yaml(config), end="")
    if not (arguments.estimate or arguments.dry_run):
        return True
    from vivo.training import dry_run, estimate, runs
    from vivo.training.plan import plan_of

    plan = plan_of(config, arguments.gpus)
    rate, source = arguments.rate, "given"
    if arguments.dry_run:
        train = getattr(runs, stage)
        if stage == "self_critical":
            train = functools.partial(train, from_anything=True)
        found = dry_run.dry_run(plan, train)
        print("\n".join(dry_run.describe(plan, found)))
        if rate is None:
            rate, source = found.rate, found.source
    if arguments.estimate:
        print("\n".join(estimate.describe(plan, arguments.pictures, rate, source, with_notes=not arguments.dry_run)))
    return True


def _rate(text: str) -> float:
    value = float(text)
    if not value > 0:
        raise argparse.ArgumentTypeError(f"must be above 0, not {text}")
    return value


_rate.__name__ = "rate"  # argparse names the type in its message
