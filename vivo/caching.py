"""Keys and values that the text of a batch reads, kept from step to step of a search.

B pictures, N heads, H width of a head, S context positions, P kept text positions
"""

from typing import Protocol

from torch import Tensor


class Encoded(Protocol):
    """What is read of an encoded context (vivo/modeling.py: Context): per layer [B, N, S, H]."""

    keys: list[Tensor]
    values: list[Tensor]


class TextCache:
    """One buffer a layer: the context, the kept tokens, and room for more.

    A step writes its own keys and values behind the kept ones and reads all of them in place; nothing is copied but
    when the room is used up. Which kept token a beam may see is a matter of the mask: beams that are
    reordered move no memory.

    Attributes:
        kept: P. first: S, where the kept ones begin.
        place: int64 [L] on the device, where the next L elements are written, behind the context; then all of the
            buffer is read, so that nothing depends on P (CUDA graphs). None: behind the kept ones.
    """

    def __init__(self, context: Encoded, room: int):
        self.first = context.keys[0].shape[2]
        self.kept = 0
        self.place: Tensor | None = None
        if context.keys[0].is_cuda:  # whose attention wants masks of aligned rows
            room += -(self.first + room) % 8
        self._keys = [_with_room(k, room) for k in context.keys]
        self._values = [_with_room(v, room) for v in context.values]

    def write(self, layer: int, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        """Put [B, N, L, H] behind what is kept -> views of all, [B, N, S + P + L, H]."""
        if self.place is not None:
            for buffers, new in ((self._keys, keys), (self._values, values)):
                buffers[layer].index_copy_(2, self.place + self.first, new)
            return self._keys[layer], self._values[layer]
        begin = self.first + self.kept
        end = begin + keys.shape[2]
        for buffers, new in ((self._keys, keys), (self._values, values)):
            if end > buffers[layer].shape[2]:
                buffers[layer] = _with_room(buffers[layer][:, :, :begin], end)
            buffers[layer][:, :, begin:end] = new
        return self._keys[layer][:, :, :end], self._values[layer][:, :, :end]

    @property
    def room(self) -> int:
        """Elements that fit behind the context."""
        return self._keys[0].shape[2] - self.first

    def keep(self, count: int) -> None:
        """Keep the first `count` of the elements that were written last; the others will be written over."""
        self.kept += count


def _with_room(x: Tensor, room: int) -> Tensor:
    """[B, N, L, H] copied into the beginning of [B, N, L + room, H]."""
    buffer = x.new_empty(*x.shape[:2], x.shape[2] + room, x.shape[3])
    buffer[:, :, : x.shape[2]] = x
    buffer[:, :, x.shape[2] :] = 0  # `GraphedStep` reads all of it, and 0 times NaN is NaN
    return buffer
