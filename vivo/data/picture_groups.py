"""Notes about pictures that come in any order and amount, gathered by picture in bounded memory.

An external group-by: notes go to bucket files by a hash of the picture's id, each bucket is gathered
on its own, and the buckets are merged again into the order in which the pictures first came up. Rows
of one picture need not be neighbours, nor stand in one file. Memory holds a 128th of the pictures.

    with PictureGroups(folder) as groups:
        groups.add("000026e7ee790996", [3, -7])
        groups.add("0000c64e1253d68f", [5])
        groups.add("000026e7ee790996", [3, 4])
        counts = groups.gather()
        list(groups)      # [("000026e7ee790996", [3, -7, 4]), ("0000c64e1253d68f", [5])]
"""

import heapq
import shutil
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from itertools import chain
from pathlib import Path
from types import TracebackType
from typing import TextIO

from vivo.errors import UserError

BUCKETS = 128


class PictureGroups:
    """Whole numbers (what they mean is the caller's business) noted of pictures.

    Args:
        folder: for the bucket files; emptied first, deleted when the block ends. About 25 bytes for a
            run of notes of one picture and 5 for each number.

    Raises:
        UserError: the folder cannot be written, or the disk is full.
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)
        self.pictures = 0
        self._added = 0
        self._stack = ExitStack()
        self._files: list[TextIO] = []

    def __enter__(self) -> "PictureGroups":
        try:
            shutil.rmtree(self.folder, ignore_errors=True)  # what a killed run left
            self.folder.mkdir(parents=True)
            names = [self._bucket(number) for number in range(BUCKETS)]
            self._files = [self._stack.enter_context(name.open("w", encoding="utf-8", newline="\n")) for name in names]
        except OSError as error:
            self.__exit__(None, None, None)
            raise self._problem(error) from error
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        try:
            self._stack.close()
        except OSError:  # a full disk again, at the flush that nobody needs any more
            pass
        shutil.rmtree(self.folder, ignore_errors=True)

    def add(self, image_id: str, numbers: Iterable[int]) -> None:
        """Note `numbers` of a picture; cheapest when neighbouring notes of one picture come as one call."""
        if "\n" in image_id or "\r" in image_id:
            raise UserError(f"picture id {image_id!r} has a line break in it; ids must be one line")
        line = f"{self._added}\t{','.join(map(str, dict.fromkeys(numbers)))}\t{image_id}\n"
        try:
            self._files[hash(image_id) % BUCKETS].write(line)
        except OSError as error:
            raise self._problem(error) from error
        self._added += 1

    def gather(self) -> Counter[int]:
        """Bring the notes of each picture together; to be called once, after the last `add`.

        Returns:
            how many pictures have each number.
        """
        counts: Counter[str] = Counter()
        try:
            self._stack.close()
            for number in range(BUCKETS):
                self._gather_bucket(self._bucket(number), counts)
        except OSError as error:
            raise self._problem(error) from error
        return Counter({int(number): count for number, count in counts.items() if number})

    def _gather_bucket(self, path: Path, counts: Counter[str]) -> None:
        gathered: dict[str, tuple[int, str]] = {}  # picture id -> order, numbers as they stand in the file
        came_back: dict[str, list[str]] = {}
        for order, numbers, image_id in _lines(path):
            first = gathered.setdefault(image_id, (order, numbers))
            if first[0] != order:
                came_back.setdefault(image_id, [first[1]]).append(numbers)
        if came_back:  # else the file is as it should be
            for image_id, parts in came_back.items():
                numbers = dict.fromkeys(number for part in parts if part for number in part.split(","))
                gathered[image_id] = (gathered[image_id][0], ",".join(numbers))
            with path.open("w", encoding="utf-8", newline="\n") as file:
                file.writelines(f"{order}\t{numbers}\t{image_id}\n" for image_id, (order, numbers) in gathered.items())
        self.pictures += len(gathered)
        counts.update(chain.from_iterable(numbers.split(",") for _, numbers in gathered.values()))

    def __iter__(self) -> Iterator[tuple[str, list[int]]]:
        """(picture id, its numbers, each once) in the order in which the pictures came first."""
        # Orders differ, so that a comparison never looks behind them.
        for _, numbers, image_id in heapq.merge(*(_lines(self._bucket(number)) for number in range(BUCKETS))):
            yield image_id, list(map(int, numbers.split(","))) if numbers else []

    def _bucket(self, number: int) -> Path:
        return self.folder / f"{number:03d}.txt"

    def _problem(self, error: OSError) -> UserError:
        return UserError(
            f"{self.folder}: cannot keep the labels there while sorting them ({error.strerror or error}); free some"
            " space or write the result to another disk"
        )


def _lines(path: Path) -> Iterator[tuple[int, str, str]]:
    """(order, numbers joined by commas, picture id) of each line of a bucket."""
    with path.open(encoding="utf-8", newline="\n") as file:
        for line in file:
            order, numbers, image_id = line.split("\t", 2)
            yield int(order), numbers, image_id[:-1]
