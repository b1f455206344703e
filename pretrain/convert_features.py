"""Region features of other projects into a RegionStore.

    python pretrain/convert_features.py train.yaml STORE --detector vinvl-x152c4
    python pretrain/convert_features.py train.feature.tsv STORE --images captions_train2017.json
    python pretrain/convert_features.py karpathy_train_resnet101_faster_rcnn_genome.tsv STORE --detector butd-vg
    python pretrain/convert_features.py FOLDER_OF_NPZ STORE --detector butd-vg
    python pretrain/convert_features.py nocaps_val_features.h5 STORE --detector butd-vg

Formats: Oscar's and VinVL's feature.tsv (with label.tsv and yaml), the six-column TSV and the .npz files of
bottom-up-attention, the .h5 of the nocaps baseline; which one it is is seen from the file. Features are kept
as float16. Give files of one detector the same --detector name: only then can their stores be merged, and a
model that was trained on one reads the other. A run that was interrupted goes on when the same command is
given again; a second file with the same store is added to it. See docs/features.md.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from vivo.data.foreign.base import ForeignSource, PictureList, line_of, open_foreign
from vivo.data.foreign.bottom_up import BottomUpNpz, BottomUpTsv
from vivo.data.foreign.convert import convert
from vivo.data.foreign.nocaps_h5 import NocapsH5
from vivo.data.foreign.oscar_tsv import OscarTsv
from vivo.errors import UserError
from vivo.program import exits_cleanly

FORMATS = ("oscar", "bottom-up-tsv", "bottom-up-npz", "nocaps-h5")


def format_of(source: Path) -> str:
    """Which of `FORMATS` a file or folder is, by its name, and for TSV files by the columns of the first row."""
    if source.is_dir():
        return "bottom-up-npz"
    if source.suffix in (".yaml", ".yml"):
        return "oscar"
    if source.suffix in (".h5", ".hdf5"):
        return "nocaps-h5"
    with open_foreign(source) as file:
        columns = line_of(file, source, 1).count(b"\t") + 1
    if columns not in (2, 3, 6):
        raise UserError(
            f"{source}: {columns} columns in row 1; known are 2 or 3 (Oscar) and 6 (bottom-up-attention); if it is one"
            f" of these, say which with --format ({', '.join(FORMATS)})"
        )
    return "bottom-up-tsv" if columns == 6 else "oscar"


def open_source(arguments: argparse.Namespace) -> ForeignSource:
    """The reader that the command line asks for."""
    if not arguments.source.exists():
        raise UserError(f"{arguments.source}: no such file or folder")
    kind = arguments.format or format_of(arguments.source)
    if arguments.source.is_dir() != (kind == "bottom-up-npz"):
        raise UserError(
            f"{arguments.source}: the format {kind} is {'a folder' if kind == 'bottom-up-npz' else 'a file'}"
        )
    pictures = PictureList(arguments.images) if arguments.images else None
    if kind == "oscar":
        return OscarTsv(arguments.source, arguments.labels, arguments.match_labels, pictures, arguments.feature_size)
    if arguments.labels:
        raise UserError(f"--labels: {kind} has no label file; it belongs to Oscar's format")
    if kind == "bottom-up-tsv":
        return BottomUpTsv(arguments.source, pictures)
    if kind == "bottom-up-npz":
        from vivo.detectors.extract import image_id_of  # which loads PyTorch; no other format needs it

        return BottomUpNpz(arguments.source, image_id_of, pictures)
    return NocapsH5(arguments.source, pictures)


@exits_cleanly
def main(argv: Sequence[str] | None = None) -> None:
    """Command line of the conversion; see `vivo.data.foreign.convert`."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source", type=Path, help="feature file, yaml, or folder of .npz files")
    parser.add_argument("store", type=Path, help="folder of the RegionStore; made if missing")
    parser.add_argument("--detector", metavar="NAME", help="name of the detector that made the features")
    parser.add_argument("--format", choices=FORMATS, help="default: seen from the file")
    parser.add_argument(
        "--images",
        type=Path,
        metavar="JSON",
        help="COCO or nocaps JSON file: sizes of the pictures where the features lack them, and ids (Oscar names nocaps"
        " pictures by their Open Images id)",
    )
    parser.add_argument("--labels", metavar="TSV", help="Oscar: label.tsv; default: the one beside it; none: no labels")
    parser.add_argument(
        "--match-labels",
        choices=("rows", "overlap"),
        default="rows",
        help="Oscar: object i is region i (default, checked), or names go to the region that covers the object best",
    )
    parser.add_argument(
        "--feature-size", type=int, metavar="F", help="expected size, without Oscar's six position values"
    )
    arguments = parser.parse_args(argv)
    convert(open_source(arguments), arguments.store, arguments.detector, arguments.feature_size)


if __name__ == "__main__":
    sys.exit(main())
