"""The file that nocaps' evaluation server takes, from predictions that are checked first. Nothing is uploaded.

    python eval/nocaps_submit.py runs/vivo/val/predictions.json --info nocaps_val_image_info.json \\
        --out runs/vivo/val/submission.json --run runs/vivo/scst

--info is the official list of the split's pictures, nocaps_val_image_info.json (4,500) or nocaps_test_image_info.json
(10,600); which split it is is told by their number. Refused are: a picture without a caption or with two, pictures
of another split, ids of another kind, empty captions, what is no text. --run names the training (or the model folder)
whose captions these are; its manifests, and those of the trainings before it, tell whether it has learned from captions
other than COCO's, which the challenge does not allow: that is a warning, for its track with extra data does.

The upload is a step of yours, with EvalAI's own client; the command is printed. See docs/predictions.md.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from vivo.data.predictions import header_path, read_header
from vivo.errors import UserError
from vivo.files import writable_folder
from vivo.program import exits_cleanly
from vivo.submission import TITLES, check_captions, read_split, upload_command, write_submission


@exits_cleanly
def main(argv: Sequence[str] | None = None) -> None:
    """Parse, check, write, say how to upload."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("predictions", type=Path, help="predictions.json of eval/predict.py, or any list of its kind")
    parser.add_argument("--info", type=Path, required=True, help="official list of the split's pictures")
    parser.add_argument("--out", type=Path, required=True, help="file to write")
    parser.add_argument("--run", type=Path, metavar="FOLDER", help="of the training, or model, that wrote the captions")
    parser.add_argument("--dry-run", action="store_true", help="check all, write nothing")
    arguments = parser.parse_args(argv)
    for read in (arguments.predictions, arguments.info):
        if arguments.out.resolve() == read.resolve():
            raise UserError(f"{arguments.out}: is a file that is read; name another one to write")
    if arguments.out.is_dir():
        raise UserError(f"{arguments.out}: is a folder; name a file to write")
    split = read_split(arguments.info)
    records, warnings = check_captions(arguments.predictions, split)
    if arguments.run:
        warnings += of_training(arguments.run, arguments.predictions)
    else:
        warnings.append("which captions the model has learned from was not looked at: name its training with --run")
    print(f"{arguments.predictions}: {len(records):,} captions, one for each picture of nocaps {TITLES[split.name]}")
    for warning in warnings:
        print(f"WARNING: {warning}")
    if arguments.dry_run:
        print(f"dry run: {arguments.out} was not written")
        return
    writable_folder(arguments.out.parent)
    write_submission(arguments.out, records)
    print(f"written: {arguments.out}")
    print("nothing was uploaded; to do it, with EvalAI's client (pip install evalai, evalai set_token TOKEN):")
    print(f"    {upload_command(split, arguments.out)}")
    if split.name == "test":
        print("(the server takes few submissions of test; validation is there to try)")


def of_training(run: Path, predictions: Path) -> list[str]:
    """Whether the captions are of that training, and what it has learned that the challenge does not allow.

    Raises:
        UserError: other weights wrote the captions.
    """
    from vivo.data.region_format import sha256_of
    from vivo.training.lineage import other_captions, stages_of, weights_of

    warnings = []
    stages = stages_of(run)
    if told := read_header(predictions).get("weights_sha256"):
        if told not in [sha256_of(path) for path in weights_of(run)]:
            raise UserError(f"--run {run}: {predictions} was written by other weights; name the run that wrote it")
    else:
        warnings.append(f"nothing says that these captions are of {run} ({header_path(predictions).name} is missing)")
    found = other_captions(stages)
    if found:
        warnings.append("the nocaps challenge allows COCO's captions as the only image-caption pairs, but:")
    return warnings + found


if __name__ == "__main__":
    sys.exit(main())
