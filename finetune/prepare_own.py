"""Your own pictures, captions and tags into what the training programs read.

    python finetune/prepare_own.py photos.jsonl OUT
    python finetune/prepare_own.py captions.json OUT --pictures images --instances instances.json
    python finetune/prepare_own.py owner/name OUT --captions-column text        (any source of `datasets`)

Writes to OUT what there is: captions.jsonl (fine-tuning), captions.json (the same in COCO's format: references for
validation and scoring), tags.jsonl (pre-training), pictures.tsv (for pretrain/extract_regions.py --list), and
images/ where the source holds the pictures themselves. `vivo data check` shows what is in a source.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from vivo.data.examples import write_caption_examples, write_tag_examples
from vivo.data.novel_files import picture_list, write_coco_captions
from vivo.data.own import OwnPicture, caption_examples_of, tag_examples_of
from vivo.data.own_arguments import add_source_arguments, read_source, sources_of
from vivo.errors import UserError
from vivo.files import atomic_folder, atomic_write_text, refuse_loss
from vivo.program import exits_cleanly

_FILES = ("captions.jsonl", "captions.json", "tags.jsonl", "pictures.tsv")
_ENDINGS = {b"\xff\xd8\xff": ".jpg", b"\x89PNG": ".png", b"RIFF": ".webp", b"GIF8": ".gif", b"BM": ".bmp"}


@exits_cleanly
def main(argv: Sequence[str] | None = None) -> None:
    """Command line of the preparation; see `vivo.data.own`."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_source_arguments(parser)
    parser.add_argument("out", type=Path, help="folder to write; replaced if it holds nothing else")
    parser.add_argument("--pictures-elsewhere", action="store_true", help="do not look for the pictures' files")
    arguments = parser.parse_args(argv)

    data = read_source(arguments).or_raise()
    pictures = data.pictures
    holds_pictures = any(picture.data is not None for picture in pictures)
    refuse_loss(arguments.out, (*_FILES, *(["images"] if holds_pictures else [])), sources_of(arguments))
    unnamed = next((picture for picture in pictures if picture.path is None and picture.data is None), None)
    if unnamed is not None:
        raise UserError(f"{unnamed.where}: picture {unnamed.image_id} names no file; add one, or remove it")
    missing = [picture for picture in pictures if picture.path is not None and not picture.path.is_file()]
    if missing and not arguments.pictures_elsewhere:
        raise UserError(
            f"{missing[0].where}: there is no picture {missing[0].path}; {len(missing)} of {len(pictures)} pictures"
            " are not there: name their folder with --pictures, or say --pictures-elsewhere"
        )
    captioned = [picture for picture in pictures if picture.captions]
    tagged = list(tag_examples_of(pictures))
    with atomic_folder(arguments.out) as folder:
        folder_of_pictures = data.folder
        if holds_pictures:
            folder_of_pictures = arguments.out / "images"
            write_pictures(pictures, folder / "images")
        if captioned:
            write_caption_examples(caption_examples_of(captioned), folder / "captions.jsonl")
            write_coco_captions(folder / "captions.json", arguments.source, captioned)
        if tagged:
            write_tag_examples(tagged, folder / "tags.jsonl")
        atomic_write_text(folder / "pictures.tsv", picture_list(pictures))
    captions = sum(len(picture.captions) for picture in captioned)
    print(
        f"{arguments.out}: {len(pictures):,} pictures, {len(captioned):,} with {captions:,} captions,"
        f" {len(tagged):,} with {sum(len(example.tags) for example in tagged):,} tags"
    )
    store = arguments.out / "regions"
    pictures_list = f"--list {arguments.out}/pictures.tsv"
    print(f"next: pretrain/extract_regions.py {folder_of_pictures} {store} {pictures_list} --detector grid")


def write_pictures(pictures: Sequence[OwnPicture], folder: Path) -> None:
    """Write the pictures that a table holds as files named after their ids, and let each picture name its file.

    Raises:
        UserError: a mixture of files and bytes.
    """
    folder.mkdir()
    for number, picture in enumerate(pictures):
        if picture.data is None:
            raise UserError(f"{picture.where}: a path, where other rows hold the picture itself; use one or the other")
        data = picture.data()
        ending = next((end for start, end in _ENDINGS.items() if data.startswith(start)), ".img")
        plain = picture.image_id.isascii() and picture.image_id.replace("-", "").replace("_", "").isalnum()
        picture.file = (picture.image_id if plain else f"{number:08d}") + ending
        (folder / picture.file).write_bytes(data)


if __name__ == "__main__":
    sys.exit(main())
