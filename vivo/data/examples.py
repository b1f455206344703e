"""Tag and caption examples on disk: JSON lines or Parquet, read through `datasets` without any network.

    tag example       {"image_id": "0001", "tags": ["dog", "grass"]}
    caption example   {"image_id": "42", "file_name": "42.jpg", "captions": ["a dog"], "domain": "", "tags": []}

`image_id`, and `tags` or `captions`, must be there; the other keys may be missing. A key that is not named
here is an error: it is far more often a typing mistake than a wish. Reading checks every row first, because
`datasets` itself turns numbers into text without a word and names no rows.
"""

import contextlib
import difflib
import itertools
import json
import os
import shutil
import tempfile
import typing
import weakref
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, TypeVar, overload

import pyarrow as pa
import pyarrow.compute
import pyarrow.parquet

from vivo.data.region_format import first_line
from vivo.data.types import CaptionExample, TagExample
from vivo.errors import UserError

if TYPE_CHECKING:
    import datasets

Example = TypeVar("Example", TagExample, CaptionExample)
_ROW_GROUP = 10_000  # examples written to Parquet at a time


@dataclass(frozen=True)
class _Layout:
    """Keys of one kind of example: text or list of text, and which must be there."""

    make: type
    texts: tuple[str, ...]
    lists: tuple[str, ...]
    required: tuple[str, ...]

    @property
    def keys(self) -> tuple[str, ...]:
        return self.texts + self.lists

    @property
    def schema(self) -> pa.Schema:
        fields = [pa.field(key, pa.string()) for key in self.texts]
        return pa.schema(fields + [pa.field(key, pa.list_(pa.string())) for key in self.lists])


_TAGS = _Layout(TagExample, ("image_id",), ("tags",), ("image_id", "tags"))
_CAPTIONS = _Layout(CaptionExample, ("image_id", "file_name", "domain"), ("captions", "tags"), ("image_id", "captions"))


class Examples(Sequence[Example], Generic[Example]):
    """A list of examples that stays on disk: rows are read from a memory-mapped Arrow copy.

    The copy lives in a temporary folder that goes when the object that `read_*` returned goes. A pickled
    `Examples` (data-loader workers) uses the same copy, so the reader must outlive its workers.
    """

    def __init__(self, dataset: "datasets.Dataset", layout: _Layout, folder: str, path: Path) -> None:
        self.path = path  # of the file that was read, for messages
        self._dataset = dataset
        self._layout = layout
        # By process: a forked worker that drops its copy of this object must not delete the parent's files.
        weakref.finalize(self, _remove, folder, os.getpid())

    def __getstate__(self) -> dict[str, Any]:
        return {"path": self.path, "_dataset": self._dataset, "_layout": self._layout}

    def __len__(self) -> int:
        return len(self._dataset)

    @overload
    def __getitem__(self, place: int) -> Example: ...
    @overload
    def __getitem__(self, place: slice) -> list[Example]: ...
    def __getitem__(self, place):
        if isinstance(place, slice):
            return [self[i] for i in range(*place.indices(len(self)))]
        if not -len(self) <= place < len(self):
            raise IndexError(f"example {place} of {len(self)}")
        return self._example(self._dataset[place])

    def __iter__(self) -> Iterator[Example]:
        for start in range(0, len(self), 1000):
            columns = self._dataset[start : start + 1000]
            for values in zip(*columns.values(), strict=True):
                yield self._example(dict(zip(columns, values, strict=True)))

    def _example(self, row: dict[str, Any]) -> Example:
        texts = {key: row.get(key) or "" for key in self._layout.texts}
        return self._layout.make(**texts, **{key: row.get(key) or [] for key in self._layout.lists})


def read_tag_examples(path: str | Path, cache_dir: str | Path | None = None) -> Examples[TagExample]:
    """Open a file of tag examples (.jsonl or .parquet).

    Args:
        path: the file.
        cache_dir: where the temporary Arrow copy is made; default: the system's temporary folder. The
            home folder is never written to.

    Raises:
        UserError: naming file and row: missing or empty file, not JSON, a missing, unknown or mistyped key.
    """
    return _read(Path(path), _TAGS, cache_dir)


def read_caption_examples(path: str | Path, cache_dir: str | Path | None = None) -> Examples[CaptionExample]:
    """Open a file of caption examples; as `read_tag_examples`."""
    return _read(Path(path), _CAPTIONS, cache_dir)


def write_tag_examples(examples: Iterable[TagExample], path: str | Path) -> int:
    """Write tag examples as .jsonl or .parquet; streams, so `examples` may be a generator of any length.

    The file appears whole or not at all.

    Returns:
        the number of examples.

    Raises:
        UserError: no examples, an unknown ending, a folder that cannot be written; also whatever the
            generator raises.
    """
    return _write(examples, Path(path), _TAGS)


def write_caption_examples(examples: Iterable[CaptionExample], path: str | Path) -> int:
    """Write caption examples; as `write_tag_examples`."""
    return _write(examples, Path(path), _CAPTIONS)


def _write(examples: Iterable[Any], path: Path, layout: _Layout) -> int:
    kind = _kind_of(path)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    rows = (vars(example) for example in examples)  # not asdict: it copies every list, at three times the cost
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        if kind == "json":
            count = _write_lines(rows, temporary)
        else:
            count = _write_parquet(rows, temporary, layout.schema)
        if count == 0:
            raise UserError(f"{path}: there are no examples to write; check the input files and the chosen classes")
        os.replace(temporary, path)
    except OSError as error:
        raise UserError(f"{path}: cannot be written ({error.strerror or error}); choose another folder") from error
    finally:
        with contextlib.suppress(OSError):  # not there, or in a folder that cannot be written anyway
            temporary.unlink()
    return count


def _write_lines(rows: Iterator[dict[str, Any]], file: Path) -> int:
    count = 0
    with file.open("w", encoding="utf-8", newline="\n") as sink:
        for row in rows:
            sink.write(json.dumps(row, ensure_ascii=False) + "\n")
            count += 1
    return count


def _write_parquet(rows: Iterator[dict[str, Any]], file: Path, schema: pa.Schema) -> int:
    count = 0
    with pyarrow.parquet.ParquetWriter(file, schema) as writer:
        while block := list(itertools.islice(rows, _ROW_GROUP)):
            writer.write_table(pa.Table.from_pylist(block, schema))
            count += len(block)
    return count


def _read(path: Path, layout: _Layout, cache_dir: str | Path | None) -> Examples:
    kind = _kind_of(path)
    if not path.is_file():
        raise UserError(
            f"{path}: no such file; make it with pretrain/prepare_open_images.py or finetune/prepare_coco.py"
        )
    rows = _check_lines(path, layout) if kind == "json" else _check_parquet(path, layout)
    try:
        folder = tempfile.mkdtemp(prefix="vivo-examples-", dir=cache_dir)
    except OSError as error:
        raise UserError(f"{cache_dir}: no folder for temporary files ({error.strerror}); set TMPDIR") from error
    try:
        dataset = _load(path, kind, layout, folder)
        if len(dataset) != rows:
            raise UserError(f"{path}: {rows} rows were checked but {len(dataset)} read; is another program writing it?")
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise
    return Examples(dataset, layout, folder, path)


def _load(path: Path, kind: str, layout: _Layout, folder: str) -> "datasets.Dataset":
    import datasets  # here, not above: half a second that writers need not wait

    # By a plain name in our own folder: `datasets` reads [, *, ? and :: in a path as patterns.
    link = Path(folder) / f"examples.{'jsonl' if kind == 'json' else 'parquet'}"
    link.symlink_to(path.resolve())
    features = datasets.Features.from_arrow_schema(layout.schema)
    silent = datasets.are_progress_bars_disabled()
    datasets.disable_progress_bars()
    try:
        return datasets.load_dataset(kind, data_files=str(link), split="train", cache_dir=folder, features=features)
    except Exception as error:  # whatever `datasets` and Arrow raise for a file that they cannot take
        reason = first_line(error.__cause__ or error)
        raise UserError(f"{path}: `datasets` cannot read it ({reason})") from error
    finally:
        if not silent:
            datasets.enable_progress_bars()


def _remove(folder: str, owner: int) -> None:
    if os.getpid() == owner:
        shutil.rmtree(folder, ignore_errors=True)


def _kind_of(path: Path) -> str:
    kind = {".jsonl": "json", ".json": "json", ".parquet": "parquet"}.get(path.suffix.lower())
    if kind is None:
        raise UserError(f"{path}: examples are kept in .jsonl or .parquet files, not {path.suffix or 'without ending'}")
    return kind


def _check_lines(path: Path, layout: _Layout) -> int:
    """Check every row of a JSON lines file; returns how many there are."""
    count = 0
    try:
        with path.open(encoding="utf-8-sig") as lines:
            for number, line in enumerate(lines, 1):
                if line.isspace():
                    continue
                try:
                    row = json.loads(line)
                except json.JSONDecodeError as error:
                    raise UserError(
                        f"{path}, row {number}: not JSON ({error.msg} at column {error.colno}); each line must be one"
                        " JSON object; was the file truncated?"
                    ) from error
                if problem := _row_problem(row, layout):
                    raise UserError(f"{path}, row {number}: {problem}")
                count += 1
    except UnicodeDecodeError as error:
        raise UserError(f"{path}, after row {count}: not UTF-8 text; save the file as UTF-8") from error
    if count == 0:
        raise UserError(f"{path}: the file is empty; make it again from its sources")
    return count


def _row_problem(row: object, layout: _Layout) -> str | None:
    if not isinstance(row, dict):
        return f"a {type(row).__name__}, not an object; one {{...}} a line is wanted"
    for key in row:
        if key not in layout.keys:
            return _unknown(key, layout)
    for key in layout.required:
        if row.get(key) is None:
            return _missing(key, row, layout)
    for key in layout.texts:
        value = row.get(key)
        if value is not None and not isinstance(value, str):
            return f'"{key}" must be text, found {_shown(value)}'
    if row["image_id"] == "":
        return '"image_id" is empty'
    for key in layout.lists:
        value = row.get(key)
        if value is None:
            continue
        if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
            return f'"{key}" must be a list of texts, found {_shown(value)}'
    return None


def _check_parquet(path: Path, layout: _Layout) -> int:
    """Check types by the schema and nulls by the column, row group by row group; returns the number of rows."""
    try:
        file = pyarrow.parquet.ParquetFile(path)
    except (pa.ArrowException, OSError) as error:
        raise UserError(f"{path}: not a Parquet file or truncated ({first_line(error)})") from error
    with file:
        for field in file.schema_arrow:
            if field.name not in layout.keys:
                raise UserError(f"{path}: {_unknown(field.name, layout)}")
            wanted = "text" if field.name in layout.texts else "a list of texts"
            if not _is_wanted(field.type, field.name in layout.lists):
                raise UserError(f'{path}: column "{field.name}" must be {wanted}, found {field.type}')
        for key in layout.required:
            if key not in file.schema_arrow.names:
                raise UserError(f"{path}: {_missing(key, file.schema_arrow.names, layout)}")
        if file.metadata.num_rows == 0:
            raise UserError(f"{path}: the file is empty; make it again from its sources")
        start = 0
        try:
            for batch in file.iter_batches(batch_size=_ROW_GROUP):
                for name, column in zip(batch.schema.names, batch.columns, strict=True):
                    empty = pa.compute.equal(column, "").fill_null(False) if name == "image_id" else None
                    if name in layout.required and column.null_count:
                        row = pa.compute.index(column.is_null(), True).as_py()
                        raise UserError(f'{path}, row {start + row + 1}: "{name}" is missing')
                    if empty is not None and empty.true_count:
                        row = pa.compute.index(empty, True).as_py()
                        raise UserError(f'{path}, row {start + row + 1}: "image_id" is empty')
                    if name in layout.lists and column.flatten().null_count:
                        row = next(i for i, items in enumerate(column.to_pylist()) if items and None in items)
                        raise UserError(f'{path}, row {start + row + 1}: "{name}" must be a list of texts, found null')
                start += batch.num_rows
        except (pa.ArrowException, OSError) as error:
            raise UserError(f"{path}, after row {start}: damaged ({first_line(error)})") from error
        return start


def _is_wanted(found: pa.DataType, is_list: bool) -> bool:
    if is_list:
        lists = pa.types.is_list(found) or pa.types.is_large_list(found)
        return lists and (_is_wanted(found.value_type, False) or pa.types.is_null(found.value_type))
    return pa.types.is_string(found) or pa.types.is_large_string(found)


def _unknown(key: str, layout: _Layout) -> str:
    near = difflib.get_close_matches(key, layout.keys, 1)
    guess = f'; is "{near[0]}" meant?' if near else ""
    return f'unknown key "{key}"{guess} (keys are {", ".join(layout.keys)})'


def _missing(key: str, found: typing.Collection[str], layout: _Layout) -> str:
    return f'"{key}" is missing (found {", ".join(found) or "nothing"}; required are {", ".join(layout.required)})'


def _shown(value: object) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 40 else text[:37] + "..."
