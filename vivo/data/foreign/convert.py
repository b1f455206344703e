"""A foreign feature file into a RegionStore: streaming, resumable, whole or not at all."""

from contextlib import suppress
from pathlib import Path
from time import perf_counter
from typing import Any

from vivo.data.foreign.base import ForeignSource, check_feature_size
from vivo.data.region_tools import require_space
from vivo.data.regions import RegionStoreWriter
from vivo.errors import UserError
from vivo.progress import progress_of, size_text


def detector_of(source: ForeignSource, name: str | None) -> dict[str, Any]:
    """The description of the detector for the manifest: foreign files do not say, so its name is what the user says.

    Two files of one detector get the same fingerprint when they are given the same name, and only then can
    they be merged, and a model that was trained on the one reads the other.
    """
    return {"name": name or f"unknown detector of a {source.kind}", "origin": "converted from foreign features"}


def convert(
    source: ForeignSource,
    store: str | Path,
    name: str | None = None,
    feature_size: int | None = None,
    shard_pictures: int = 1024,
    progress: bool = True,
) -> tuple[int, int]:
    """Write all pictures of `source` to the RegionStore at `store`; pictures that it has already are passed over.

    An unfinished or finished store of the same detector is gone on with, so that the parts of a set can be
    converted one after the other. After an error or a kill the finished shards stay and no manifest is there:
    readers call the store unfinished, and the same command goes on.

    Args:
        source: a reader (`oscar_tsv.OscarTsv`, `bottom_up.BottomUpTsv`, ...).
        store: the store's folder.
        name: the detector's name (see `detector_of`).
        feature_size: F that the features must have; None: that of the first picture.
        shard_pictures: pictures in a shard.
        progress: draw a bar on stderr.

    Returns:
        Pictures written, and pictures that the store had.

    Raises:
        UserError: naming file and row; or the disk is too small, or the store is of another detector.
    """
    out = Path(store)
    if not out.exists() and source.store_bytes:
        require_space(out, source.store_bytes)
    writer: RegionStoreWriter | None = None
    written = skipped = 0
    start = perf_counter()
    with progress_of(f"convert to {out.name}", source.extent, shown=progress) as update:
        try:
            done: frozenset[str] = frozenset()
            for picture in source:
                if writer is not None and picture.image_id in done:
                    skipped += 1
                else:
                    regions = picture.regions()
                    size = regions.features.shape[1]
                    if writer is None:
                        check_feature_size(picture.where, size, feature_size)
                        writer = RegionStoreWriter(out, detector_of(source, name), size, shard_pictures)
                        done = writer.done_ids()
                    check_feature_size(picture.where, size, writer.feature_size)
                    if picture.image_id in done:  # the first one, which had to be read for its size
                        skipped += 1
                    else:
                        _write(writer, picture.where, picture.image_id, regions)
                        written += 1
                update(picture.position, written + skipped)
            if writer is None:
                raise UserError(f"{source.path}: holds no picture; is it the right file, and whole?")
            writer.close()
        except BaseException:
            if writer is not None:
                writer.abort()
            with suppress(OSError):
                out.rmdir()  # only where nothing is in it
            raise
    if progress:
        seconds = perf_counter() - start
        print(
            f"{out}: {written} pictures written in {seconds:.1f} s ({written / max(seconds, 1e-9):.1f} pictures/s,"
            f" {size_text(sum(file.stat().st_size for file in out.glob('*.arrow')))} now), {skipped} were there already"
        )
    return written, skipped


def _write(writer: RegionStoreWriter, where: str, image_id: str, regions: Any) -> None:
    """Write one picture; what the store refuses is told with the place in the foreign file."""
    try:
        writer.write(image_id, regions)
    except UserError as error:
        raise UserError(f"{where}: {error}") from error
