"""Rows of unequal length as one tensor."""

import torch
from torch import Tensor


def padded(rows: list[list], fill: int | bool) -> Tensor:
    """Rows of unequal length -> [B, longest]; no column at all where every row is empty."""
    longest = max(map(len, rows), default=0)
    dtype = torch.bool if isinstance(fill, bool) else torch.int64
    return torch.tensor([row + [fill] * (longest - len(row)) for row in rows], dtype=dtype).view(len(rows), longest)


def lengths_mask(rows: list[list]) -> Tensor:
    """bool [B, longest], True where a row has an element."""
    lengths = torch.tensor([len(row) for row in rows])
    return torch.arange(int(lengths.max()) if rows else 0)[None, :] < lengths[:, None]
