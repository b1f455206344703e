"""Open Images labels (the official CSV files) into tag examples for pre-training.

    python pretrain/prepare_open_images.py train-annotations-human-imagelabels.csv class-descriptions.csv tags.parquet
    python pretrain/prepare_open_images.py LABELS BOXES DESCRIPTIONS OUT --classes class-descriptions-boxable.csv
    python pretrain/prepare_open_images.py LABELS DESCRIPTIONS OUT --regions STORE --hierarchy labels_hierarchy.json

Tags of a picture are the names of the classes that people verified as present, lower case, without repetition,
15 word pieces at most. Label and box files may be several and in any order; the header tells which they are.
Rows stream through files beside OUT, so memory does not grow with the number of labels. docs/data.md has the
choices one by one: the paper leaves most of them open.
"""

import argparse
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from time import perf_counter

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from vivo.data.class_hierarchy import read_hierarchy, tags_above
from vivo.data.examples import write_tag_examples
from vivo.data.open_images import (
    LabelRows,
    boxable_classes,
    read_class_descriptions,
    read_picture_ids,
    tag_examples,
)
from vivo.data.tag_rules import TagRules, detector_tags, tag_name
from vivo.data.types import TagExample
from vivo.errors import UserError
from vivo.files import atomic_write_json, writable_folder
from vivo.program import exits_cleanly, whole_number

DRY_RUN_ROWS = 100_000


@exits_cleanly
def main(argv: Sequence[str] | None = None) -> None:
    """Command line of the preparation; see `vivo.data.open_images.tag_examples`."""
    arguments = _parser().parse_args(argv)
    if arguments.dry_run:
        with tempfile.TemporaryDirectory(prefix="vivo-dry-run-") as folder:
            arguments.out, arguments.vocabulary = Path(folder) / arguments.out.name, None
            _prepare(arguments, DRY_RUN_ROWS)
        print(f"dry run: of the first {DRY_RUN_ROWS:,} rows of each label file; nothing was written")
    else:
        _prepare(arguments)


def _prepare(arguments: argparse.Namespace, most: int | None = None) -> None:
    """Read, choose, write.

    Args:
        most: rows that are read of each label file.
    """
    for file in filter(None, (arguments.out, arguments.vocabulary)):
        writable_folder(file.parent)
        if file.is_dir():
            raise UserError(f"{file}: is a folder; name a file to write")
    classes = None if arguments.classes is None else boxable_classes(arguments.classes)
    rows = LabelRows(
        arguments.confidence,
        arguments.sources,
        None if arguments.pictures is None else read_picture_ids(arguments.pictures),
        most,
    )
    rules = _rules(arguments, classes)

    report: Counter[str] = Counter()
    used: Counter[str] = Counter()

    def counted(examples: Iterator[TagExample]) -> Iterator[TagExample]:
        for example in examples:
            used.update(example.tags)
            yield example

    start = perf_counter()
    with _Bar(arguments.labels) as bar:
        examples = tag_examples(
            arguments.labels,
            arguments.descriptions,
            classes,
            rows=rows,
            rules=rules,
            folder=arguments.out.with_name(f".{arguments.out.name}.labels"),
            watch=bar.read,
            report=report,
        )
        pictures = write_tag_examples(bar.written(counted(examples), report), arguments.out)
    if arguments.vocabulary is not None:
        atomic_write_json(arguments.vocabulary, sorted(used))
    tags = used.total()
    print(
        f"{arguments.out}: {pictures} pictures with {tags} tags ({tags / pictures:.1f} a picture, {len(used)} different"
        f" ones) from {report['label rows']} labels of {report['labelled pictures']} pictures"
        f" in {perf_counter() - start:.1f} s"
    )
    for reason, count in report.items():
        if count and reason not in ("label rows", "labelled pictures"):
            print(f"    left out: {count} {reason}" if "both" not in reason else f"    kept: {count} {reason}")


def _rules(arguments: argparse.Namespace, classes: set[str] | None) -> TagRules:
    """What the options say about the tags of a picture."""
    names = {mid: tag_name(name) for mid, name in read_class_descriptions(arguments.descriptions).items()}
    tokens = None
    if arguments.max_tag_tokens:
        from vivo.data.text import TagPieces, load_tokenizer
        from vivo.weights import bert_folder

        pieces = TagPieces(load_tokenizer(bert_folder(arguments.tokenizer)))

        def tokens(tag: str) -> int:
            return len(pieces(tag))

    return TagRules(
        detector=None if arguments.regions is None else _detector(arguments.regions, arguments.detector_score),
        allowed=None if classes is None else {names[mid] for mid in classes if mid in names},
        min_count=arguments.min_count,
        above={} if arguments.hierarchy is None else tags_above(names, read_hierarchy(arguments.hierarchy)),
        tokens=tokens,
        max_tokens=arguments.max_tag_tokens,
        first=arguments.first,
    )


def _detector(path: Path, least_score: float) -> Callable[[str], list[str] | None]:
    """Tags by picture id from a RegionStore; None for a picture that it lacks."""
    from vivo.data.regions import RegionStore

    store = RegionStore(path)
    return lambda image_id: detector_tags(store[image_id], least_score) if image_id in store else None


class _Bar(Progress):
    """How far reading (by bytes) and writing (by pictures) are, with their rates and the time left, on stderr."""

    def __init__(self, files: Sequence[Path]) -> None:
        columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.fields[speed]}"))
        super().__init__(*columns, TimeRemainingColumn(), console=Console(stderr=True))
        self._sizes = {path: path.stat().st_size for path in files if path.is_file()}
        self._rows: dict[Path, int] = {}
        self._reading = self.add_task("reading", total=sum(self._sizes.values()), speed="")
        self._writing = self.add_task("writing", total=None, speed="", visible=False)
        self._start = perf_counter()

    def read(self, path: Path, rows: int, size: int) -> None:
        """For `tag_examples`: so many rows and bytes of a file are read."""
        self._rows[path] = rows
        done = sum(self._sizes.get(earlier, 0) for earlier in self._rows if earlier != path) + size
        rate = sum(self._rows.values()) / (perf_counter() - self._start)
        self.update(self._reading, completed=done, speed=f"{rate:,.0f} rows/s")

    def written(self, examples: Iterator[TagExample], report: Counter[str]) -> Iterator[TagExample]:
        """Pass the examples on and show how many they are."""
        start = None
        for number, example in enumerate(examples):
            start = start or perf_counter()
            if number % 10_000 == 0:
                rate = number / max(1e-9, perf_counter() - start)
                total = report["labelled pictures"]
                self.update(self._writing, total=total, completed=number, visible=True, speed=f"{rate:,.0f} pictures/s")
            yield example
        self.update(self._writing, completed=report["labelled pictures"])


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("labels", type=Path, nargs="+", help="…-human-imagelabels.csv and …-bbox.csv, as many as you like")
    add("descriptions", type=Path, help="class-descriptions.csv: class id, name")
    add("out", type=Path, help="file to write: .parquet (opens faster) or .jsonl")
    add(
        "--classes",
        type=Path,
        metavar="FILE",
        help="only these classes may become tags: class-descriptions-boxable.csv, the 500 of a challenge, or a boxes"
        " CSV; default: all that are described (the paper's 6.4K)",
    )
    add(
        "--confidence",
        type=_share,
        default=1.0,
        metavar="P",
        help="Confidence that makes a label count; default: 1, verified by people; below 1 also machine labels",
    )
    add(
        "--sources",
        nargs="+",
        metavar="NAME",
        help="values of Source that count, as verification crowdsource-verification; default: all",
    )
    add(
        "--pictures",
        type=Path,
        metavar="FILE",
        help="only pictures in the column ImageID of this CSV, or one id a line; default: all that have labels",
    )
    add("--regions", type=Path, metavar="STORE", help="add the detector's tags in this store; default: labels alone")
    add(
        "--detector-score",
        type=_share,
        default=0.0,
        metavar="P",
        help="confidence that a detector's tag needs; default: 0, all that the store holds",
    )
    add(
        "--hierarchy",
        type=Path,
        metavar="JSON",
        help="drop a tag where a finer one by this class hierarchy is there; default: keep both",
    )
    add("--min-count", type=whole_number(0), default=1, metavar="N", help="pictures that a tag needs; default: 1")
    add(
        "--max-tag-tokens",
        type=whole_number(0),
        default=15,
        metavar="N",
        help="word pieces of a picture's tags together; default: 15, as in the paper; 0: keep all, training then draws"
        " a set that fits in each epoch",
    )
    add(
        "--first",
        choices=("listed", "rare"),
        default="listed",
        help="tags that get the places where not all fit: labels in file order, then the detector's; or the rarest"
        " first; default: listed",
    )
    add("--tokenizer", default="minilm", metavar="DIR", help="counts the word pieces; default: minilm, BERT's words")
    add("--vocabulary", type=Path, metavar="JSON", help="also write the list of tags used, as data.vocabulary reads it")
    add("--dry-run", action="store_true", help="the first rows of each label file alone, nothing is written")
    return parser


def _share(text: str) -> float:
    """A number from 0 to 1, for argparse."""
    number = float(text)
    if not 0 <= number <= 1:
        raise argparse.ArgumentTypeError(f"must be from 0 to 1, not {text}")
    return number


if __name__ == "__main__":
    sys.exit(main())
