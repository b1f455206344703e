"""Karpathy's split files (dataset_coco.json, dataset_flickr8k.json, dataset_flickr30k.json).

    {"dataset": "coco", "images": [{"cocoid", "filepath", "filename", "split", "sentences": [{"raw"}]}]}

`split` is train, restval (COCO alone), val or test. **All published COCO scores train on train + restval,
113,287 pictures**; a copy of the split with 82,783 lacks restval.
"""

from pathlib import Path
from typing import Any

from vivo.data.coco import check_count, entries_of, join_lines, picture_id, read_json
from vivo.data.types import CaptionExample
from vivo.errors import UserError

# What to ask for -> the values of "split" that it takes.
SPLITS = {
    "train": ("train", "restval"),
    "val": ("val",),
    "test": ("test",),
    "train-without-restval": ("train",),
    "restval": ("restval",),
}
COCO_PICTURES = {"train": 113_287, "val": 5_000, "test": 5_000, "train-without-restval": 82_783, "restval": 30_504}


def read_karpathy(path: str | Path, split: str = "train", any_count: bool = False) -> list[CaptionExample]:
    """The pictures of a split with their captions, in the order of the file.

    Ids are COCO's, or the stem of the file name where there is no "cocoid" (Flickr). File names have the folder
    before them where the file names one: train2014/COCO_train2014_000000000009.jpg.

    Args:
        path: the JSON file.
        split: a key of `SPLITS`; "train" includes restval.
        any_count: accept a COCO split of another size than the published one (a part of the file).

    Raises:
        UserError: naming file and entry: a key missing or mistyped, an unknown split, an id twice (in the whole
            file: a picture in two splits is a leak), no or blank captions, no picture in this split, and another
            number than COCO's.
    """
    content = read_json(Path(path))
    images = entries_of(path, content, "images") if isinstance(content, dict) else []
    if not images or "sentences" not in images[0]:
        raise UserError(
            f'{path}: no "images" with "sentences" in them, as dataset_coco.json has; COCO\'s own layout has no splits'
            " to choose from (leave --split out)"
        )
    wanted = SPLITS[split]
    seen: set[str] = set()
    examples = []
    for number, image in enumerate(images):
        where = f"{path}, images[{number}]"
        file_name = image.get("filename")
        if not isinstance(file_name, str) or not file_name:
            raise UserError(f"{where}: filename must be text, found {file_name!r}")
        image_id = picture_id(image.get("cocoid", Path(file_name).stem), f"{where}.cocoid")
        if image_id in seen:
            raise UserError(f"{where}: picture {image_id} is listed twice; keep one entry")
        seen.add(image_id)
        if image.get("split") not in ("train", "restval", "val", "test"):
            raise UserError(f"{where}: split must be train, restval, val or test, found {image.get('split')!r}")
        if image["split"] in wanted:
            captions = _captions(image, image_id, where)
            folder = image.get("filepath") or ""
            if not isinstance(folder, str):
                raise UserError(f"{where}: filepath must be text, found {folder!r}")
            examples.append(CaptionExample(image_id, str(Path(folder, file_name)), captions))
    if not examples:
        raise UserError(f"{path}: no picture has the split {' or '.join(wanted)}; ask for another one")
    if content.get("dataset") == "coco" and not any_count:
        hint = (
            "it lacks restval" if split == "train" and len(examples) == COCO_PICTURES["train-without-restval"] else ""
        )
        check_count(f"{path}, split {split}", "pictures", COCO_PICTURES[split], len(examples), hint)
    return examples


def _captions(image: dict[str, Any], image_id: str, where: str) -> list[str]:
    sentences = image.get("sentences")
    if not isinstance(sentences, list) or not sentences:
        raise UserError(f"{where}: picture {image_id} has no sentences; remove it or add one")
    captions = []
    for place, sentence in enumerate(sentences):
        raw = sentence.get("raw") if isinstance(sentence, dict) else None
        if not isinstance(raw, str) or not raw.strip():
            raise UserError(f"{where}.sentences[{place}]: raw must be text that is not blank, found {raw!r}")
        captions.append(join_lines(raw))
    return captions
