"""Stores out of stores: `merge_stores` and `subset_store` (`vivo features merge|subset`), and the tags of a store's
detector (`vivo features tags`).

The first two copy picture by picture through `RegionStoreWriter`: the result appears whole or not at all, and a
run that was killed goes on when the same command is given again. Features stay bit for bit what they were.
Every shard is compared with its SHA-256 before anything is copied out of it, so that damage is not
passed on under a fresh checksum.
"""

import shutil
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path

from vivo.data.examples import write_tag_examples
from vivo.data.regions import RegionStore, RegionStoreWriter
from vivo.data.tag_rules import detector_tags
from vivo.data.types import TagExample
from vivo.errors import UserError
from vivo.progress import progress_of, size_text

_FEW = 3  # ids that a message shows


def merge_stores(
    stores: Sequence[str | Path], out: str | Path, duplicates: str = "refuse", progress: bool = True
) -> tuple[int, int]:
    """Copy all pictures of `stores`, in that order, into a new store.

    Args:
        stores: two or more finished stores of one detector.
        out: the new store's folder; missing, or left by a killed run of the same command.
        duplicates: what to do with an id that several stores hold: "refuse", or take the "first" store's.
        progress: draw a bar on stderr.

    Returns:
        Pictures in the result, and how many of them this run copied.

    Raises:
        UserError: stores of different detectors or feature sizes, an id in two stores, damage, a disk
            that is too small, `out` being one of the stores or holding other pictures.
    """
    if duplicates not in ("refuse", "first"):
        raise UserError(f"duplicates {duplicates!r}: must be refuse or first")
    opened = [RegionStore(path) for path in stores]
    if len(opened) < 2:
        raise UserError(f"{len(opened)} store to merge: give two or more")
    first = opened[0]
    for place, store in enumerate(opened[1:], 1):
        if (store.fingerprint, store.feature_size) != (first.fingerprint, first.feature_size):
            raise UserError(
                f"{store.path}: features of size {store.feature_size} from detector {store.fingerprint}"
                f" ({_name(store)}), but {first.path} holds size {first.feature_size} from {first.fingerprint}"
                f" ({_name(first)}); features of two detectors must not be mixed: extract one set again"
            )
        for earlier in opened[:place] if duplicates == "refuse" else ():
            _refuse_common(earlier, store)

    def held(image_id: str, count: int) -> bool:
        """Whether one of the first `count` stores has the picture."""
        return any(image_id in store for store in opened[:count])

    pictures = (
        (store, image_id)
        for place, store in enumerate(opened)
        for image_id in store
        if duplicates == "refuse" or not held(image_id, place)
    )
    needed = sum(_bytes_of(store) for store in opened)
    wanted = partial(held, count=len(opened))
    return _copy(opened, pictures, wanted, sum(map(len, opened)), needed, Path(out), progress)


def subset_store(
    path: str | Path, out: str | Path, image_ids: Sequence[str], missing: str = "refuse", progress: bool = True
) -> tuple[int, int]:
    """Copy the pictures of a list, in its order, into a new store.

    Args:
        path: a finished store.
        out: the new store's folder; missing, or left by a killed run of the same command.
        image_ids: the ids, each once.
        missing: what to do with an id that the store lacks: "refuse" or "skip".
        progress: draw a bar on stderr.

    Returns:
        Pictures in the result, and how many of them this run copied.

    Raises:
        UserError: an id that the store lacks, an empty list, and what `merge_stores` raises.
    """
    if missing not in ("refuse", "skip"):
        raise UserError(f"missing {missing!r}: must be refuse or skip")
    store = RegionStore(path)
    lacking = [image_id for image_id in image_ids if image_id not in store]
    if lacking and missing == "refuse":
        raise UserError(
            f"{store.path}: lacks {len(lacking)} of the {len(image_ids)} pictures: {_some(lacking)}; extract them, or"
            f" leave them out with --missing skip; the store's ids look like {store.image_ids[:_FEW]}"
        )
    absent = set(lacking)
    wanted = [image_id for image_id in image_ids if image_id not in absent]
    if not wanted:
        raise UserError(
            f"{store.path}: holds none of the {len(image_ids)} pictures of the list; is it another data set?"
        )
    needed = _bytes_of(store) * len(wanted) // len(store)
    pictures = ((store, image_id) for image_id in wanted)
    return _copy([store], pictures, set(wanted).__contains__, len(wanted), needed, Path(out), progress)


def write_detector_tags(path: str | Path, out: str | Path, least_score: float = 0.0, progress: bool = True) -> int:
    """Write the names that a detector gave to the pictures of its store as a tag file (`tags: file`).

    Args:
        path: the store. out: .jsonl or .parquet, a line a picture, an empty list for none; appears whole or not at all.
        least_score: confidence that a name needs.

    Returns:
        Tags of all pictures together.

    Raises:
        UserError: the detector names nothing; `out` cannot be written.
    """
    store = RegionStore(path)
    written = 0

    def examples() -> Iterator[TagExample]:
        nonlocal written
        with progress_of("tags", len(store), shown=progress) as update:
            for place, image_id in enumerate(store, 1):
                tags = detector_tags(store[image_id], least_score)
                written += len(tags)
                yield TagExample(image_id, tags)
                update(place, place)
        if not written:
            raise UserError(
                f"{path}: its detector, {_name(store)}, names nothing (of score {least_score:g} or more); take the"
                " store of one that does"
            )

    write_tag_examples(examples(), out)
    return written


def read_id_list(path: str | Path) -> list[str]:
    """Picture ids of a text file: one a line; empty lines do not count.

    Raises:
        UserError: naming file and line: not readable, an id twice, no id at all.
    """
    try:
        lines = Path(path).read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: the list of ids cannot be read ({error}); give a text file, one id a line") from error
    first: dict[str, int] = {}
    for number, line in enumerate(lines, 1):
        image_id = line.strip()
        if image_id in first:
            raise UserError(f"{path}, line {number}: {image_id!r} stands in line {first[image_id]} already; remove one")
        if image_id:
            first[image_id] = number
    if not first:
        raise UserError(f"{path}: no ids in it; write one a line")
    return list(first)


def require_space(folder: Path, needed: int) -> None:
    """Raise `UserError` unless the disk of `folder` (which need not exist yet) has `needed` bytes free."""
    existing = next(parent for parent in (folder, *folder.absolute().parents) if parent.exists())
    free = shutil.disk_usage(existing).free
    if free < needed:
        raise UserError(
            f"{folder}: needs about {size_text(needed)}, the disk has {size_text(free)} free; free some space or choose"
            " another disk"
        )


def _copy(
    stores: Sequence[RegionStore],
    pictures: Iterable[tuple[RegionStore, str]],
    wanted: Callable[[str], bool],
    total: int,
    needed: int,
    out: Path,
    progress: bool,
) -> tuple[int, int]:
    """Copy (store, id) pairs to `out`; what it holds already is passed over, what is not `wanted` there refused."""
    if any(out.resolve() == store.path.resolve() for store in stores):
        raise UserError(f"{out}: is one of the stores that are read; choose another folder")
    if not out.exists():  # a run that goes on has part of it already
        require_space(out, needed)
    checked: set[tuple[Path, int]] = set()
    written = 0
    try:
        with RegionStoreWriter(out, stores[0].detector, stores[0].feature_size) as writer:
            done = writer.done_ids()
            other = next((image_id for image_id in done if not wanted(image_id)), None)
            if other is not None:
                raise UserError(
                    f"{out}: holds other pictures already (as {other!r}); choose another folder or delete it"
                )
            with progress_of(out.name, total, shown=progress) as update:
                for place, (store, image_id) in enumerate(pictures, 1):
                    if image_id not in done:
                        shard = store.shard_of(image_id)
                        if (store.path, shard) not in checked:
                            _refuse_damaged(store, shard)
                            checked.add((store.path, shard))
                        writer.write(image_id, store[image_id])
                        written += 1
                    update(place, written)
    except BaseException:
        with suppress(OSError):
            out.rmdir()  # only where nothing is in it
        raise
    return len(done) + written, written


def _refuse_damaged(store: RegionStore, shard: int) -> None:
    if problem := store.shard_problem(shard):
        raise UserError(f"{store.path}: {problem}; see `vivo features verify`, then copy or extract the store again")


def _refuse_common(first: RegionStore, second: RegionStore) -> None:
    """Two stores that hold one picture: which of the two is right is not for us to say."""
    common = list(first.common_ids(second))
    if common:
        raise UserError(
            f"{second.path}: holds {len(common)} pictures that {first.path} holds too: {_some(common)}; take those of"
            " the first store with --duplicates first, or cut one with `vivo features subset`"
        )


def _bytes_of(store: RegionStore) -> int:
    return store.manifest["index"]["bytes"] + sum(shard["bytes"] for shard in store.manifest["shards"])


def _name(store: RegionStore) -> str:
    return str(store.detector.get("name", "without name"))


def _some(ids: Sequence[str]) -> str:
    return ", ".join(map(repr, ids[:_FEW])) + (", ..." if len(ids) > _FEW else "")
