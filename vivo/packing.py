"""Rows of unequal length without their padding: where the real elements stand, there and back.

On a GPU pictures are also laid into *windows*, rows of one fixed length that hold several pictures each
(`in_windows`): attention then runs on few large blocks of equal shape instead of many small ones with padding,
and everything that a GPU would have to be waited for (how many elements are real, where) is known beforehand.

B rows, L their common length, n real elements of the padded [B, L], K wanted ones, D width, W windows of length N
"""

from bisect import bisect_left, insort
from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor, arange

WINDOW = 128
"""Length of a window: a block of the GPU's attention kernels, and room for two or three pictures of the paper."""
WINDOWS_AT_ONCE = 8
"""The number of windows is a multiple of it, so that batches have few different shapes."""


class Packing:
    """The n real elements of rows that are padded to a common length.

    Args:
        rows, length: B and L of the padded [B, L].
        places: int [n], where the real elements stand in the flattened [B * L], each once, in any order;
            None for all of them, in order.
    """

    def __init__(self, rows: int, length: int, places: Tensor | None = None):
        self.rows, self.length, self.places = rows, length, places

    def pack(self, x: Tensor) -> Tensor:
        """[B, L, ...] -> [n, ...]."""
        flat = x.flatten(0, 1)
        return flat if self.places is None else flat.index_select(0, self.places)

    def pad(self, x: Tensor, wanted: Tensor | None = None) -> Tensor:
        """[n, D] (or [K, D] at the places `wanted`) -> [B, L, D], zero elsewhere."""
        places = self.places if wanted is None else wanted
        if places is not None:
            x = x.new_zeros(self.rows * self.length, x.shape[1]).index_copy(0, places, x)
        return x.view(self.rows, self.length, -1)

    def order(self, places: Tensor) -> Tensor:
        """Places in [B * L], int [K], all of them real -> their indices among the n."""
        if self.places is None:
            return places
        index = arange(self.places.shape[0], device=places.device)
        return places.new_zeros(self.rows * self.length).index_copy(0, self.places, index)[places]


def context_places(places: Tensor, length: int, size: int, first: int = 0) -> Tensor:
    """Places in a flattened [B * length] -> in the flattened [B * size] whose rows hold it from `first` on."""
    return places.div(max(length, 1), rounding_mode="floor") * size + places % max(length, 1) + first


def true_places(mask: Tensor) -> Tensor:
    """bool [B, L] -> int64 [n], where it is True in the flattened [B * L] (a GPU is waited for)."""
    return mask.flatten().nonzero()[:, 0]


def fill_windows(lengths: np.ndarray, size: int) -> tuple[np.ndarray, int]:
    """Lay rows of these lengths (int [B], at most `size` each) into windows, the longest first, each into the fullest
    window that has room.

    Returns:
        int64 [B], where each row begins in the flattened [W * size], and W.
    """
    starts = np.zeros(len(lengths), dtype=np.int64)
    rooms: list[tuple[int, int]] = []  # (room left, window), ascending
    windows = 0
    for row in np.argsort(-lengths, kind="stable").tolist():
        length = int(lengths[row])
        place = bisect_left(rooms, (length, -1))
        if place < len(rooms):
            room, window = rooms.pop(place)
        else:
            room, window, windows = size, windows, windows + 1
        starts[row] = window * size + size - room
        insort(rooms, (room - length, window))
    return starts, windows


def in_windows(
    tag_mask: Tensor, region_mask: Tensor, size: int = WINDOW, multiple: int = WINDOWS_AT_ONCE
) -> dict[str, Tensor]:
    """Keys of a batch that lay its tags and regions into windows; computed on the CPU, before a batch travels.

    Args:
        tag_mask: bool [B, T]. region_mask: bool [B, R]. size: N, or more where a picture is longer.

    Returns:
        tag_places, region_places: int64, where the real ones stand in the flattened [B * T] and [B * R].
        window_places: int64 [n], where these tags and then these regions stand in the flattened [W * N]; those of
            a picture are neighbours, its tags first.
        window_rows: int64 [W, N], which picture each place is of; B where there is none.
    """
    rows = tag_mask.shape[0]
    tags, regions = tag_mask.numpy(), region_mask.numpy()
    n_tags = tags.sum(axis=1)
    lengths = n_tags + regions.sum(axis=1)
    size = max(size, -(-int(lengths.max(initial=0)) // 64) * 64)
    starts, windows = fill_windows(lengths, size)
    windows = -(-windows // multiple) * multiple
    # the place of an element in its picture is the number of real ones before it
    of_tags = (starts[:, None] + tags.cumsum(axis=1) - 1)[tags]
    of_regions = ((starts + n_tags)[:, None] + regions.cumsum(axis=1) - 1)[regions]
    places = np.concatenate([of_tags, of_regions])
    picture = np.full(windows * size, rows, dtype=np.int64)
    picture[places] = np.concatenate([np.nonzero(tags)[0], np.nonzero(regions)[0]])
    return {
        "tag_places": true_places(tag_mask),
        "region_places": true_places(region_mask),
        "window_places": torch.from_numpy(places),
        "window_rows": torch.from_numpy(picture).view(windows, size),
    }


class Windows:
    """Tags and regions of a batch that has the keys of `in_windows`."""

    def __init__(self, batch: Mapping[str, Tensor]):
        self.tag_places, self.region_places = batch["tag_places"], batch["region_places"]
        self.places, self.rows = batch["window_places"], batch["window_rows"]

    def pack(self, x: Tensor) -> Tensor:
        """[n, D] (all tags, then all regions) -> [W * N, D], zero where there is no element."""
        return x.new_zeros(self.rows.numel(), x.shape[1]).index_copy(0, self.places, x)

    def mask(self) -> Tensor:
        """bool [W, N, N]: elements of one picture see each other; so do empty places (a softmax over nothing is
        NaN), which nobody reads."""
        return self.rows[:, :, None] == self.rows[:, None, :]
