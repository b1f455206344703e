"""Rows of unequal length as one tensor."""

import numpy as np
import torch
from torch import Tensor


def padded(rows: list[list], fill: int | bool) -> Tensor:
    """Rows of unequal length -> [B, longest]; no column at all where every row is empty."""
    longest = max(map(len, rows), default=0)
    dtype = bool if isinstance(fill, bool) else np.int64
    # numpy reads lists more than twice as fast as torch
    table = np.array([row + [fill] * (longest - len(row)) for row in rows], dtype)
    return torch.from_numpy(table.reshape(len(rows), longest))


def lengths_mask(rows: list[list]) -> Tensor:
    """bool [B, longest], True where a row has an element."""
    lengths = np.array([len(row) for row in rows], np.int64)
    return torch.from_numpy(np.arange(lengths.max(initial=0)) < lengths[:, None])
