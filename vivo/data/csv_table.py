"""CSV files row by row, whatever their size, with the row number that an error message needs.

Rows are counted as lines of the file, the header being row 1, so that `sed -n 17p` shows what an error
is about. Memory holds one row.
"""

import csv
from collections.abc import Callable, Iterator
from pathlib import Path

from vivo.errors import UserError

Watch = Callable[[Path, int, int], None]  # (file, rows so far, bytes so far)
_WATCHED = 50_000  # rows between two reports


class CsvRows:
    """The rows of a CSV file that are not blank, as lists of cells; to be read once.

    Attributes:
        path: the file.
        row: line number of the row that came last.
        width: cells that each further row must have; None: any number.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self.width: int | None = None
        self._file = None
        self._reader = None

    @property
    def row(self) -> int:
        return 1 if self._reader is None else max(1, self._reader.line_num)

    @property
    def bytes_read(self) -> int:
        """How far into the file reading has come, for a progress bar."""
        return 0 if self._file is None or self._file.closed else self._file.buffer.tell()

    def __iter__(self) -> Iterator[list[str]]:
        """Raises `UserError` naming file and row: not CSV, not UTF-8, not readable, another width than wanted."""
        try:
            with self.path.open(encoding="utf-8-sig", newline="") as self._file:
                self._reader = reader = csv.reader(self._file, strict=True)
                try:
                    for cells in reader:
                        if cells:
                            if self.width is not None and len(cells) != self.width:
                                raise UserError(
                                    f"{self.path}, row {self.row}: {len(cells)} columns, the header has {self.width};"
                                    " was the file truncated?"
                                )
                            yield cells
                except csv.Error as error:
                    raise UserError(f"{self.path}, row {self.row}: not CSV ({error}); is the file whole?") from error
        except UnicodeDecodeError as error:
            # The decoder works in blocks, so its byte counts from an unknown place; the row is near.
            raise UserError(
                f"{self.path}: not UTF-8 text ({error.reason}, after row {self.row}); is it unpacked?"
            ) from error
        except OSError as error:
            raise UserError(f"{self.path}: cannot be read ({error.strerror}); check the path") from error


class CsvTable:
    """The rows below the header of a CSV file; every row must be as wide as the header.

    Args:
        path: the file.
        names: columns that must be there.
        optional: columns that may be.

    Attributes:
        rows: the open file, for row numbers.
        columns: place of each of `names` and `optional` in a row; None where there is no such column.

    Raises:
        UserError: naming the file: a column missing, and what `CsvRows` raises; when iterated, no rows at all.
    """

    def __init__(self, path: str | Path, names: tuple[str, ...], optional: tuple[str, ...] = ()) -> None:
        self.rows = CsvRows(path)
        self._cells = iter(self.rows)
        header = next(self._cells, [])
        missing = [name for name in names if name not in header]
        if missing:
            raise UserError(
                f"{path}, row 1: no column {', '.join(missing)}; the header must name {', '.join(names)}, found"
                f" {','.join(header)[:120]!r}"
            )
        self.rows.width = len(header)
        self.columns = [header.index(name) if name in header else None for name in (*names, *optional)]

    def __iter__(self) -> Iterator[list[str]]:
        first = next(self._cells, None)
        if first is None:
            raise UserError(f"{self.rows.path}: no rows below the header; download the file again")
        yield first
        yield from self._cells

    def watched(self, watch: Watch | None) -> Iterator[list[str]]:
        """The rows, with a call of `watch` now and then and one at the end of the file."""
        if watch is None:
            yield from self
            return
        number = 0
        for number, cells in enumerate(self, 1):
            yield cells
            if number % _WATCHED == 0:
                watch(self.rows.path, number, self.rows.bytes_read)
        watch(self.rows.path, number, self.rows.path.stat().st_size)

    def where(self) -> str:
        """File and number of the row that came last, as error messages begin."""
        return f"{self.rows.path}, row {self.rows.row}"
