"""The `vivo` command: `vivo demo`, `novel`, `world`, `caption`, `serve`, `doctor`, `features`, `data`, `config`,
`sync`.

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
from vivo.caption_command import add_caption
from vivo.data.own_arguments import add_source_arguments
from vivo.program import exits_cleanly, whole_number
from vivo.serve.options import add_serve


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

    run_demo(out, arguments.size, arguments.seeds, arguments.ablations, tuple(arguments.hold_out), arguments.jobs)


def novel(arguments: argparse.Namespace) -> None:
    """`vivo novel`: no pre-training against VIVO on a novel-object benchmark of photographs."""
    from vivo.files import writable_folder

    out = writable_folder(arguments.out)
    from vivo.experiment.photographs import run_novel

    run_novel(
        arguments.benchmark,
        out,
        arguments.pictures,
        arguments.config,
        arguments.seeds,
        arguments.tags,
        arguments.set,
        arguments.jobs,
    )


def world(arguments: argparse.Namespace) -> None:
    """`vivo world`: the embedded data set alone, of any size."""
    from vivo.files import writable_folder
    from vivo.world.write import WorldConfig, write_world

    sizes = {name: getattr(arguments, name) for name in ("open_images", "coco", "coco_val", "nocaps")}
    given = {name: size for name, size in sizes.items() if size is not None}
    settings = WorldConfig(seed=arguments.seed, held_out_pairs=tuple(arguments.hold_out), **given)
    settings.validate()
    write_world(writable_folder(arguments.out), settings)


def doctor(arguments: argparse.Namespace) -> int:
    """`vivo doctor`: what of this machine works, and the fix of what does not; exit status 1 if training cannot run."""
    from vivo.doctor.report import run_doctor

    return run_doctor(arguments.distributed, arguments.json, arguments.processes, arguments.seconds, arguments.timeout)


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


def features_merge(arguments: argparse.Namespace) -> None:
    """`vivo features merge`: one store out of several of the same detector."""
    from vivo.data.region_tools import merge_stores

    pictures, copied = merge_stores(arguments.stores, arguments.out, arguments.duplicates)
    print(f"{arguments.out}: {pictures} pictures, {copied} of them copied now")


def features_subset(arguments: argparse.Namespace) -> None:
    """`vivo features subset`: the pictures of a list as a store of their own."""
    from vivo.data.region_tools import read_id_list, subset_store

    ids = read_id_list(arguments.ids)
    pictures, copied = subset_store(arguments.store, arguments.out, ids, arguments.missing)
    left_out = f", {len(ids) - pictures} are not in {arguments.store}" if len(ids) > pictures else ""
    print(f"{arguments.out}: {pictures} pictures, {copied} of them copied now{left_out}")


def features_tags(arguments: argparse.Namespace) -> None:
    """`vivo features tags`: what a store's detector calls its pictures' regions, as a tag file."""
    from vivo.data.region_tools import write_detector_tags
    from vivo.data.regions import RegionStore

    written = write_detector_tags(arguments.store, arguments.out, arguments.detector_score)
    pictures = len(RegionStore(arguments.store))
    print(f"{arguments.out}: {pictures} pictures with {written} tags ({written / pictures:.1f} a picture)")


def data_check(arguments: argparse.Namespace) -> int:
    """`vivo data check`: what is in a source and what the model will see; exit status 1 if something is broken."""
    from rich.console import Console

    from vivo.config import TrainConfig, load_config
    from vivo.data.check import check_data
    from vivo.data.check_view import print_examples, print_report
    from vivo.data.collate import CaptionCollator, Limits, TagCollator
    from vivo.data.own_arguments import read_source
    from vivo.data.text import load_tokenizer
    from vivo.detectors.pictures import open_picture
    from vivo.files import atomic_write_text
    from vivo.weights import bert_folder

    config = load_config(arguments.config, []) if arguments.config else TrainConfig()
    model, masking = config.model, config.masking
    limits = Limits(
        model.max_regions, model.max_tag_tokens, model.max_caption_tokens, model.max_caption_tokens, model.tag_slots
    )
    data = read_source(arguments)
    tokenizer = load_tokenizer(bert_folder(arguments.tokenizer))
    report = check_data(data, tokenizer, limits, None if arguments.no_pictures else open_picture)
    console = Console()
    tag_masks = (masking.share_min, masking.share_max, masking.at_most, masking.next_piece)
    tags = TagCollator(tokenizer, limits, config.seed, *tag_masks)
    captions = CaptionCollator(
        tokenizer,
        limits,
        config.seed,
        masking.caption,
        masking.caption_probability,
        1,
        config.data.tag_dropout,
        at_most=masking.caption_at_most,
    )
    print_examples(data.pictures, tokenizer, tags, captions, console)
    console.print()
    print_report(report, arguments.source, console)
    if arguments.problems is not None:
        atomic_write_text(arguments.problems, "".join(f"{line}\n" for line in report.problems))
    print(f"problems: {len(report.problems):,}" if report.problems else "no problem found")
    return 1 if report.problems else 0


def config(arguments: argparse.Namespace) -> None:
    """`vivo config`: every field of a configuration after bases and overrides, as YAML."""
    from vivo.config import load_config, load_eval_config, to_yaml

    load = load_eval_config if arguments.eval else load_config
    print(to_yaml(load(arguments.config, arguments.overrides)), end="")


def sync(arguments: argparse.Namespace) -> None:
    """`vivo sync`: the records of a run folder as one W&B run."""
    from vivo.training.sync import sync_run

    print(sync_run(arguments.run_folder, arguments.offline, arguments.project))


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
    verb.add_argument("--seeds", type=whole_number(1), metavar="N", help="default: 1, or 3 with --size full")
    verb.add_argument("--ablations", action="store_true", help="also the paper's ablations (always with --size full)")
    _add_jobs(verb)
    _add_hold_out(verb)
    verb.set_defaults(run=demo)

    verb = verbs.add_parser("novel", help="no pre-training against VIVO on a novel-object benchmark of photographs")
    verb.add_argument("benchmark", type=Path, metavar="DIR", help="of finetune/prepare_novel_split.py, with its stores")
    verb.add_argument("--out", type=Path, required=True, help="folder for trainings and results; may be resumed")
    verb.add_argument("--pictures", type=Path, required=True, metavar="DIR", help="the photographs, for the page")
    verb.add_argument(
        "--config", default="flickr_novel.yaml", help="name in configs/, configs/finetune/, configs/eval/"
    )
    verb.add_argument("--seeds", type=whole_number(1), default=3, metavar="N", help="default: 3")
    verb.add_argument("--tags", choices=("file", "self", "none"), default="file", help="default: file, the tagger's")
    verb.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="override in both trainings")
    _add_jobs(verb)
    verb.set_defaults(run=novel)

    verb = verbs.add_parser(
        "world", help="only the embedded data: pictures, tags, captions in the formats of real data"
    )
    verb.add_argument("--out", type=Path, required=True, help="folder for it")
    verb.add_argument("--seed", type=int, default=0, help="same seed and sizes, same bytes; default: 0")
    for name, text in (
        ("open-images", "with tags and boxes, for pre-training"),
        ("coco", "with captions, for fine-tuning"),
        ("coco-val", "with captions, for validation"),
        ("nocaps", "for evaluation, with ten references each"),
    ):
        verb.add_argument(f"--{name}", type=whole_number(1), metavar="N", help=f"pictures {text}")
    _add_hold_out(verb)
    verb.set_defaults(run=world)

    add_caption(verbs)
    add_serve(verbs)

    verb = verbs.add_parser("doctor", help="check this machine and print the fix of each thing that is wrong")
    verb.add_argument(
        "--distributed",
        action="store_true",
        help="also some seconds of all-reduce; joins torchrun's or accelerate's world",
    )
    verb.add_argument("--processes", type=whole_number(2), metavar="N", help="for it; default: one a GPU, at least 2")
    verb.add_argument("--seconds", type=float, default=5.0, help="for it; default: 5")
    verb.add_argument("--timeout", type=float, metavar="S", help="give up after so long; default: 60 s more than that")
    verb.add_argument("--json", action="store_true", help="print JSON")
    verb.set_defaults(run=doctor)

    verb = verbs.add_parser("features", help="look into stores of region features, join and cut them")
    kinds = verb.add_subparsers(required=True, metavar="inspect|verify|merge|subset|tags")
    for name, run, text in (
        ("inspect", features_inspect, "what it holds and which detector made it"),
        ("verify", features_verify, "read everything and list what is wrong"),
    ):
        kind = kinds.add_parser(name, help=text)
        kind.add_argument("store", type=Path, metavar="STORE")
        kind.set_defaults(run=run)
    kind = kinds.add_parser("merge", help="one store out of several of the same detector")
    kind.add_argument("stores", nargs="+", type=Path, metavar="STORE")
    kind.add_argument("--out", type=Path, required=True, metavar="STORE", help="the new store")
    kind.add_argument(
        "--duplicates",
        choices=("refuse", "first"),
        default="refuse",
        help="a picture in two stores: an error (default), or the first store's",
    )
    kind.set_defaults(run=features_merge)
    kind = kinds.add_parser("subset", help="the pictures of a list as a store of their own")
    kind.add_argument("store", type=Path, metavar="STORE")
    kind.add_argument("--ids", type=Path, required=True, metavar="FILE", help="text file, one picture id a line")
    kind.add_argument("--out", type=Path, required=True, metavar="STORE", help="the new store")
    kind.add_argument(
        "--missing",
        choices=("refuse", "skip"),
        default="refuse",
        help="an id that the store lacks: an error (default), or left out",
    )
    kind.set_defaults(run=features_subset)
    kind = kinds.add_parser("tags", help="what its detector calls the regions, as a tag file")
    kind.add_argument("store", type=Path, metavar="STORE")
    kind.add_argument("--out", type=Path, required=True, metavar="FILE", help=".jsonl or .parquet, for tags: file")
    kind.add_argument(
        "--detector-score", type=float, default=0.0, metavar="P", help="confidence that a tag needs; default: 0, all"
    )
    kind.set_defaults(run=features_tags)

    verb = verbs.add_parser("data", help="look into pictures, captions and tags of your own")
    kinds = verb.add_subparsers(required=True, metavar="check")
    kind = kinds.add_parser("check", help="counts, lengths, what is wrong, and examples as the model sees them")
    add_source_arguments(kind)
    kind.add_argument("--config", type=Path, help="training configuration: its limits and masks; default: the defaults")
    kind.add_argument("--tokenizer", default="minilm", metavar="DIR", help="checkpoint or BERT folder; default: minilm")
    kind.add_argument("--no-pictures", action="store_true", help="do not open the picture files")
    kind.add_argument("--problems", type=Path, metavar="FILE", help="also write all problems to a file, one a line")
    kind.set_defaults(run=data_check)

    verb = verbs.add_parser("config", help="print a configuration with all bases and overrides resolved")
    verb.add_argument("config", type=Path, metavar="CONFIG")
    verb.add_argument("overrides", nargs="*", metavar="key=value", help="as in optim.lr=1e-4")
    verb.add_argument("--eval", action="store_true", help="an evaluation (configs/eval/), not a training run")
    verb.set_defaults(run=config)

    verb = verbs.add_parser("sync", help="give W&B a whole training run again, from the files of its folder")
    verb.add_argument("run_folder", type=Path, metavar="RUN_DIR", help="`out` of the training's configuration")
    verb.add_argument("--offline", action="store_true", help="write a W&B folder below RUN_DIR/wandb, ask no server")
    verb.add_argument("--project", default="", help="W&B project; default: the one in RUN_DIR/config.yaml")
    verb.set_defaults(run=sync)
    return parser


def _add_jobs(verb: argparse.ArgumentParser) -> None:
    """How many trainings run side by side."""
    verb.add_argument(
        "--jobs", type=whole_number(1), default=1, metavar="N", help="trainings at a time, which share the cores"
    )


def _add_hold_out(verb: argparse.ArgumentParser) -> None:
    verb.add_argument(
        "--hold-out",
        type=lambda text: tuple(part.strip() for part in text.split(",")),
        action="append",
        default=[],
        metavar="A,B[,C]",
        help='keep a combination out of all training captions: "red,car" or "dog,left of,cat"; may be repeated',
    )


if __name__ == "__main__":
    sys.exit(main())
