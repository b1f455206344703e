"""Rows of unequal length without their padding: where the real elements stand, there and back.

B rows, L their common length, n real elements of the padded [B, L], K wanted ones, D width
"""

from torch import Tensor, arange


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
