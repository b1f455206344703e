"""A COCO captions file into caption examples for fine-tuning.

python finetune/prepare_coco.py captions_train2017.json train.parquet
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from vivo.data.coco import read_captions
from vivo.data.examples import write_caption_examples
from vivo.errors import UserError, exits_cleanly


@exits_cleanly
def main(argv: Sequence[str] | None = None) -> None:
    """Command line of the preparation; see `vivo.data.coco.read_captions`."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("captions", type=Path, help="captions JSON in COCO's layout")
    parser.add_argument("out", type=Path, help="file to write, .parquet or .jsonl")
    parser.add_argument("--pictures", type=Path, help="folder of the pictures: check that every one is there")
    arguments = parser.parse_args(argv)

    examples = read_captions(arguments.captions)
    if arguments.pictures is not None:
        missing = [example for example in examples if not (arguments.pictures / example.file_name).is_file()]
        if missing:
            raise UserError(
                f"{arguments.pictures}: {len(missing)} of {len(examples)} pictures of {arguments.captions} are not"
                f" there (first: {missing[0].file_name or missing[0].image_id}); is it the folder of this split?"
            )
    pictures = write_caption_examples(examples, arguments.out)
    captions = sum(len(example.captions) for example in examples)
    print(f"{arguments.out}: {pictures} pictures with {captions} captions ({captions / pictures:.1f} a picture)")


if __name__ == "__main__":
    sys.exit(main())
