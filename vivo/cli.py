"""The `vivo` command: `vivo demo`, `vivo caption`, `vivo features`, `vivo config`.

Thin: it reads arguments, calls the library and prints. Libraries are imported inside the verbs, so
that `vivo --help` does not wait for PyTorch. Training and evaluation are programs of their own
(pretrain/, finetune/, eval/), because `accelerate launch` and `torchrun` start files.
"""

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path

from vivo import __version__
from vivo.errors import UserError, exits_cleanly


@exits_cleanly
def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line `argv` (default: the process's own) and return the exit status."""
    arguments = _parser().parse_args(argv)
    return arguments.run(arguments) or 0


def demo(arguments: argparse.Namespace) -> None:
    """`vivo demo`: world -> regions -> pre-training -> fine-tuning -> captions -> scores -> report."""
    from vivo.files import writable_folder

    out = writable_folder(arguments.out)  # before the seconds that the next import takes
    from vivo.demo.pipeline import run_demo

    run_demo(out, arguments.size, arguments.seeds, arguments.ablations)


def caption(arguments: argparse.Namespace) -> None:
    """`vivo caption`: a caption for each picture, with its score and the tags that the model saw."""
    for path in (*arguments.pictures, arguments.checkpoint):
        if not path.exists():
            raise UserError(f"{path}: no such {'folder' if path is arguments.checkpoint else 'picture'}")
    from vivo.captioner import Captioner

    captioner = Captioner.from_pretrained(arguments.checkpoint)
    rows = [
        {"picture": str(picture), "caption": found.text, "score": float(found.score), "tags": list(found.tags)}
        for picture in arguments.pictures
        for found in captioner(picture, beam=arguments.beam)
    ]
    if arguments.json:
        print(json.dumps(rows, indent=2, ensure_ascii=False))
        return
    for row in rows:
        print(f"{row['picture']}: {row['caption']}")
        print(f"    score {row['score']:.3f}   tags: {', '.join(row['tags']) or '(none)'}")


def features_inspect(arguments: argparse.Namespace) -> None:
    """`vivo features inspect`: what a store holds and which detector made it."""
    from vivo.data.regions import RegionStore

    store = RegionStore(arguments.store)
    regions = store.manifest["regions"]
    print(f"pictures      {len(store)}")
    print(f"regions       {regions} ({regions / max(1, len(store)):.1f} a picture)")
    print(f"feature size  {store.feature_size}")
    print(f"fingerprint   {store.fingerprint}")
    print("detector")
    for key, value in store.detector.items():
        print(f"    {key}: {value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)}")


def features_verify(arguments: argparse.Namespace) -> int:
    """`vivo features verify`: read all of a store; each problem on a line, exit status 1 if there is one."""
    from vivo.data.regions import RegionStore

    store = RegionStore(arguments.store)
    problems = store.verify()
    for problem in problems:
        print(f"{arguments.store}: {problem}", file=sys.stderr)
    if not problems:
        print(f"{arguments.store}: {len(store)} pictures, no problem found")
    return 1 if problems else 0


def config(arguments: argparse.Namespace) -> None:
    """`vivo config`: every field of a configuration after bases and overrides, as YAML."""
    from vivo.config import load_config, load_eval_config, to_yaml

    load = load_eval_config if arguments.eval else load_config
    print(to_yaml(load(arguments.config, arguments.overrides)), end="")


def _parser() -> argparse.ArgumentParser:
    """All verbs and their arguments."""
    parser = argparse.ArgumentParser(prog="vivo", description="Visual vocabulary pre-training for image captioning.")
    parser.add_argument("--version", action="version", version=f"vivo {__version__}")
    verbs = parser.add_subparsers(required=True, metavar="VERB")

    verb = verbs.add_parser("demo", help="the whole job on embedded data: pictures in, a table and a report out")
    verb.add_argument(
        "--out", type=Path, required=True, help="folder for everything; an interrupted demo goes on there"
    )
    verb.add_argument("--size", choices=("tiny", "demo", "full"), default="demo", help="default: demo, 10 minutes")
    verb.add_argument("--seeds", type=_positive, metavar="N", help="default: 1, or 3 with --size full")
    verb.add_argument("--ablations", action="store_true", help="also the paper's ablations (always with --size full)")
    verb.set_defaults(run=demo)

    verb = verbs.add_parser("caption", help="captions for pictures of your own")
    verb.add_argument("pictures", nargs="+", type=Path, metavar="PICTURE")
    verb.add_argument("--checkpoint", type=Path, required=True, metavar="DIR", help="as runs/demo/vivo of the demo")
    verb.add_argument("--beam", type=_positive, default=1, metavar="N", help="width of the search; default: 1, greedy")
    verb.add_argument("--json", action="store_true", help="print JSON")
    verb.set_defaults(run=caption)

    verb = verbs.add_parser("features", help="look into a store of region features")
    kinds = verb.add_subparsers(required=True, metavar="inspect|verify")
    for name, run, text in (
        ("inspect", features_inspect, "what it holds and which detector made it"),
        ("verify", features_verify, "read everything and list what is wrong"),
    ):
        kind = kinds.add_parser(name, help=text)
        kind.add_argument("store", type=Path, metavar="STORE")
        kind.set_defaults(run=run)

    verb = verbs.add_parser("config", help="print a configuration with all bases and overrides resolved")
    verb.add_argument("config", type=Path, metavar="CONFIG")
    verb.add_argument("overrides", nargs="*", metavar="key=value", help="as in optim.lr=1e-4")
    verb.add_argument("--eval", action="store_true", help="an evaluation (configs/eval/), not a training run")
    verb.set_defaults(run=config)
    return parser


def _positive(text: str) -> int:
    """A whole number above 0, for argparse."""
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"must be 1 or more, not {text}")
    return number


if __name__ == "__main__":
    sys.exit(main())
