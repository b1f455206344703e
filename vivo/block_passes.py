"""The passes of the model in training on a CPU: attention block by block (vivo/block_attention.py).

The same output as `VivoModel.encode_context` and `encode_text` for those elements that a loss reads.

n packed elements, K wanted ones, D width
"""

from collections.abc import Mapping
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from vivo.block_attention import BlockPass, Blocks, context_blocks, text_blocks

if TYPE_CHECKING:
    from vivo.modeling import VivoModel

KeysAndValues = tuple[Tensor, Tensor]


def hidden_of_tags(model: "VivoModel", batch: Mapping[str, Tensor], slots: Tensor) -> Tensor:
    """Tags and regions, which see each other.

    Args:
        batch: see `VivoModel.encode_context`. slots: int64 [K], places in the flattened [B * (T + R)].

    Returns:
        [K, D], their last layer's output.
    """
    x, places, lengths = _context(model, batch)
    return _through_layers(model, x, context_blocks(lengths), torch.searchsorted(places, slots), None)[0]


def hidden_of_text(model: "VivoModel", batch: Mapping[str, Tensor], targets: Tensor) -> Tensor:
    """Captions, which read their pictures' tags and regions.

    Args:
        batch: keys of data/collate.py's CaptionBatch. targets: int64 [K], places in the flattened [B * L].

    Returns:
        [K, D], their last layer's output.
    """
    x, _, lengths = _context(model, batch)
    context = _through_layers(model, x, context_blocks(lengths), targets[:0], None)[1]
    ids, real = batch["text_ids"], torch.ones_like(batch["text_ids"], dtype=torch.bool)
    if (places := batch.get("text_places")) is not None:
        real = torch.zeros_like(real).view(-1).index_fill(0, places, True).view(real.shape)
    places = real.flatten().nonzero()[:, 0]
    x = model.embed_text(ids.flatten()[places], batch["text_positions"].flatten()[places])
    blocks = text_blocks(batch["text_mask"], real, lengths)
    return _through_layers(model, x, blocks, torch.searchsorted(places, targets), context)[0]


def _context(model: "VivoModel", batch: Mapping[str, Tensor]) -> tuple[Tensor, Tensor, list[int]]:
    """Tags and regions packed picture by picture [n, D], their places in the flattened [B * (T + R)], and how many of
    each picture."""
    x, packing = model.embed_context(batch)
    places, order = packing.places.sort()
    lengths = batch["tag_mask"].sum(dim=1) + batch["region_mask"].sum(dim=1)
    return x.index_select(0, order), places, lengths.tolist()


def _through_layers(
    model: "VivoModel", x: Tensor, blocks: Blocks, wanted: Tensor, context: list[KeysAndValues] | None
) -> tuple[Tensor, list[KeysAndValues]]:
    """[n, D] -> the last layer's output [K, D] of those `wanted` (int64 [K], any order), and each layer's keys and
    values."""
    wanted, order = wanted.sort(stable=True)
    last, found = blocks.of(wanted), []
    for index, layer in enumerate(model.layers):
        read = context[index] if context else None
        final = index == len(model.layers) - 1
        given = BlockPass(last, wanted, read) if final else BlockPass(blocks, None, read)
        if model.activation_checkpointing and model.training:
            x, own = checkpoint(layer, x, None, None, blocks=given, use_reentrant=False)
        else:
            x, own = layer(x, None, None, blocks=given)
        found.append(own)
    return torch.empty_like(x).index_copy(0, order, x), found
