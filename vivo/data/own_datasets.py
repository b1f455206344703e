"""Rows of a `datasets` source: a Parquet file, a folder, a hub id. Read as a stream, without a copy on disk."""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from vivo.data.own import Columns
from vivo.data.region_format import first_line
from vivo.errors import UserError


def dataset_rows(source: str, split: str, columns: Columns) -> Iterator[tuple[str, dict[str, Any]]]:
    """(place, row) of the columns that `columns` names; pictures stay encoded: a path or bytes.

    Args:
        source: a Parquet file, a folder that `datasets` understands (imagefolder with metadata, Parquet files,
            `save_to_disk`), or the id of a data set on the hub. What exists on disk is read without any network.
        split: "train" also stands for the one split of a source that has no other.

    Raises:
        UserError: no such file, folder or hub id, an unknown split or column, a file that cannot be read.
    """
    table = _open(source, split)
    found = list(table.features or next(iter(table), {}))
    wanted = [columns.image, columns.captions, columns.tags, columns.boxes, columns.image_id]
    if columns.image not in found:
        raise _no_column(source, "image", columns.image, found)
    for option, name in (("captions", columns.captions), ("tags", columns.tags), ("id", columns.image_id)):
        if name not in found and name not in vars(Columns()).values():
            raise _no_column(source, option, name, found)
    if columns.captions not in found and columns.tags not in found:
        raise _no_column(source, "captions", columns.captions, found)
    return _rows(source, table.select_columns([name for name in wanted if name in found]))


def _rows(source: str, table: Any) -> Iterator[tuple[str, dict[str, Any]]]:
    number = 0
    try:
        for number, row in enumerate(table, 1):
            yield f"{source}, row {number}", row
    except UserError:
        raise
    except Exception as error:  # whatever `datasets` and Arrow raise for a file that they cannot take
        reason = first_line(error.__cause__ or error)
        raise UserError(f"{source}, after row {number}: `datasets` cannot read on ({reason})") from error


def _open(source: str, split: str) -> Any:
    path = Path(source)
    local = path.exists()
    if not local and (source.startswith((".", "/", "~")) or source.count("/") != 1 or path.suffix == ".parquet"):
        raise UserError(f"{source}: no such file or folder, and no hub id (owner/name); check the path")
    if local and any(sign in str(path) for sign in "[]*?"):
        raise UserError(f"{source}: `datasets` takes [ ] * ? in a path for patterns; rename it")
    if not local and os.environ.get("HF_HUB_OFFLINE", "") not in ("", "0"):
        raise UserError(f"{source}: no such file or folder, and HF_HUB_OFFLINE forbids asking the hub; check the path")
    import datasets

    try:
        if path.is_dir() and any((path / name).is_file() for name in ("state.json", "dataset_dict.json")):
            table = datasets.load_from_disk(str(path))
            table = _only(table, source, split) if isinstance(table, datasets.DatasetDict) else table
        elif path.is_file() and path.suffix.lower() == ".parquet":
            files = {"train": str(path)}
            table = datasets.load_dataset("parquet", data_files=files, split="train", streaming=True)
        elif path.is_file():
            raise UserError(f"{source}: give .jsonl, .json (COCO), .parquet, a folder or a hub id")
        else:
            # streaming also for what is there: no copy is made, and none is left in the home folder
            table = _only(datasets.load_dataset(_absolute(path, source), streaming=True), source, split)
        kinds = table.features or {}
        for name, kind in kinds.items():
            if isinstance(kind, datasets.Image):
                table = table.cast_column(name, datasets.Image(decode=False))
    except UserError:
        raise
    except Exception as error:  # as above; the network's own errors too
        reason = first_line(error.__cause__ or error)
        raise UserError(
            f"{source}: `datasets` cannot read it ({reason}); see docs/data.md for what it takes"
        ) from error
    return table


def _absolute(path: Path, source: str) -> str:
    return str(path.resolve()) if path.exists() else source


def _only(splits: Any, source: str, split: str) -> Any:
    names = list(splits)
    if split in names:
        return splits[split]
    if split == "train" and len(names) == 1:
        return splits[names[0]]
    raise UserError(f"{source}: no split {split!r}; --split is one of {', '.join(names)}")


def _no_column(source: str, option: str, name: str, found: list[str]) -> UserError:
    return UserError(
        f'{source}: no column "{name}" (found {", ".join(map(str, found)) or "none"}); name it with --{option}-column'
    )
