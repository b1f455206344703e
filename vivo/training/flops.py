"""Floating-point operations of a training step, by formula, and the peak of the machine: the two sides of MFU.

Counted are matrix products, a multiplication with its addition as two operations, of what a loss needs: the n real
elements of a batch, without padding, in every linear map; the K elements that a loss reads alone behind the last
layer's keys and values and in the head; attention of tags and regions over those of their picture, of text over its
caption and picture (what a CPU computes, vivo/block_attention.py; a GPU computes more: padded rows, or windows). With
D width, I feed-forward width, F region feature size, P word pieces that compete, n elements that look through S keys
each:

    linear maps of a layer     2 n D (4 D + 2 I)        4 D: query, key, value, output; 2 I: in and out
      of the last layer        2 n D 2 D + 2 K D (2 D + 2 I)
    attention of a layer       4 n S D                  scores and weighted sum; of the last layer 4 K S D
    region projection          2 n_regions (F + 6) D
    head                       2 K D (D + P)

Backward, each product is done twice more (for its input and for its weights), except: region features want no gradient,
frozen word embeddings none either (the head's last map then has the input's only). The last layer of a context that is
only read by captions computes keys and values, nothing else.

Embedding look-ups, norms, softmax and the loss are not counted, nor what recomputation would add: model FLOPs.
"""

import time
from dataclasses import dataclass

import torch
from torch import Tensor

from vivo.data.collate import Batch
from vivo.modeling import VivoConfig

FORWARD, BOTH_GRADIENTS, ONE_GRADIENT = 1, 3, 2
"""How often a product is done: forward alone; forward and both gradients; forward and one of them."""

# Dense matrix rate in FLOPs/s by (bf16 and fp16, fp32 without TF32), from the vendors' data sheets (without sparsity).
# The first name that is part of what the driver calls the GPU counts, so longer names stand before shorter ones.
GPU_PEAKS: tuple[tuple[str, float, float], ...] = (
    ("B200", 2250e12, 75e12),
    ("H200 NVL", 835e12, 60e12),
    ("H200", 989e12, 67e12),
    ("H100 NVL", 835e12, 60e12),
    ("H100 PCIe", 756e12, 51e12),
    ("H100", 989e12, 67e12),
    ("A100", 312e12, 19.5e12),
    ("A40", 149.7e12, 37.4e12),
    ("A30", 165e12, 10.3e12),
    ("A10", 125e12, 31.2e12),
    ("L40S", 362e12, 91.6e12),
    ("L40", 181e12, 90.5e12),
    ("L4", 121e12, 30.3e12),
    ("RTX 6000 Ada", 364e12, 91.1e12),
    ("RTX A6000", 154.8e12, 38.7e12),
    ("RTX 4090", 165.2e12, 82.6e12),
    ("RTX 3090", 71e12, 35.6e12),
)
MEASURING_SECONDS = 0.3
MEASURED_SIZE = 1024


@dataclass(frozen=True)
class ModelSize:
    """What of a model decides its FLOPs; letters as above."""

    D: int
    I: int  # noqa: E741
    F: int
    V: int
    layers: int
    word_embeddings_trained: bool

    @classmethod
    def of(cls, config: VivoConfig, word_embeddings_trained: bool) -> "ModelSize":
        return cls(
            config.hidden_size,
            config.intermediate_size,
            config.feature_size,
            config.vocab_size,
            config.num_hidden_layers,
            word_embeddings_trained,
        )


@dataclass(frozen=True)
class Work:
    """FLOPs of a micro-batch, forward and backward, and the elements that went through the encoder (no padding)."""

    flops: float
    elements: int

    def __add__(self, other: "Work") -> "Work":
        return Work(self.flops + other.flops, self.elements + other.elements)


def work_of(size: ModelSize, batch: Batch) -> Work:
    """The work of one training pass over `batch` (on the CPU; of vivo/data/collate.py, either kind)."""
    n_regions = int(batch["region_mask"].sum())
    context = batch["tag_mask"].sum(dim=1) + batch["region_mask"].sum(dim=1)  # of each picture
    n_context = elements = int(context.sum())
    wanted = batch["target_ids"].shape[0]
    pieces = batch["competing"].shape[0] if "competing" in batch else size.V
    pairs = int(context.square().sum())
    flops = ONE_GRADIENT * 2.0 * n_regions * (size.F + 6) * size.D
    if "text_ids" in batch:
        keys, places = _keys_of_text(batch, context)
        elements += len(keys)
        flops += _layers(size, n_context, pairs, 0, 0)
        last = int(keys[torch.searchsorted(places, batch["target_index"])].sum())
        flops += _layers(size, len(keys), int(keys.sum()), wanted, last)
    else:
        last = int(context[batch["slot_index"] // max(batch["tag_mask"].shape[1], 1)].sum())
        flops += _layers(size, n_context, pairs, wanted, last)
    flops += BOTH_GRADIENTS * 2.0 * wanted * size.D * size.D
    flops += (BOTH_GRADIENTS if size.word_embeddings_trained else ONE_GRADIENT) * 2.0 * wanted * size.D * pieces
    return Work(flops, elements)


def _keys_of_text(batch: Batch, context: Tensor) -> tuple[Tensor, Tensor]:
    """Of the n real elements of text, int64 [n]: how many keys each looks through (its picture's `context`, int [B],
    and its caption, which begins at position 0), and its place in the flattened [B * L]."""
    positions = batch["text_positions"].flatten()
    places = batch.get("text_places")
    places = torch.arange(len(positions)) if places is None else places
    first = (positions[places] == 0).nonzero()[:, 0]
    lengths = torch.diff(first, append=first.new_tensor([len(places)]))
    of_picture = context[places // max(batch["text_ids"].shape[1], 1)]
    return of_picture + lengths.repeat_interleave(lengths), places


def _layers(size: ModelSize, n: int, pairs: int, wanted: int, wanted_pairs: int) -> float:
    """Forward and backward of all layers over `n` elements that look through `pairs` keys in all. The last layer
    computes `wanted` of them, which look through `wanted_pairs`, beside the keys and values of all."""
    D, wide = size.D, 2.0 * size.D * (4 * size.D + 2 * size.I)
    forward = (size.layers - 1) * (n * wide + 4.0 * pairs * D) + n * 4.0 * D * D
    forward += wanted * 2.0 * D * (2 * D + 2 * size.I) + 4.0 * wanted_pairs * D
    return BOTH_GRADIENTS * forward


def peak_flops(device: torch.device, half: bool) -> tuple[float, str]:
    """(FLOPs/s that `device` can do at most in dense matrix products, where the figure comes from).

    `half`: in 16 bits, else in fp32.

    A GPU of `GPU_PEAKS` has its data sheet's; any other and a CPU are measured, in less than a second: the best of a
    few products of square matrices in the precision of the run, with the threads that this process has.
    """
    if device.type == "cuda":
        name = torch.cuda.get_device_name(device)
        for part, in_half, in_fp32 in GPU_PEAKS:
            if part in name:
                return (in_half if half else in_fp32), f"data sheet of {part}"
    return measured_flops(device, half), f"measured, {MEASURED_SIZE} x {MEASURED_SIZE} matrices"


def measured_flops(device: torch.device, half: bool, seconds: float = MEASURING_SECONDS) -> float:
    """FLOPs/s of the fastest of the products that fit into `seconds` (at least two)."""
    matrix = torch.ones(MEASURED_SIZE, MEASURED_SIZE, device=device, dtype=torch.bfloat16 if half else torch.float32)
    best, count, begin = float("inf"), 0, time.perf_counter()
    with torch.no_grad():
        while count < 2 or time.perf_counter() - begin < seconds:
            before = time.perf_counter()
            matrix @ matrix
            if device.type == "cuda":
                torch.cuda.synchronize(device)
            best, count = min(best, time.perf_counter() - before), count + 1
    return 2.0 * MEASURED_SIZE**3 / best
