"""Training steps to be timed, on a CPU or a GPU: made-up batches, vivo's update, and the rival's.

Batches come from the project's own collators. The rival is what one writes on top of transformers: `BertModel` (with
its fastest attention: plain products on a CPU, PyTorch's fused kernels on a GPU) on sequences that are padded to a
common length, regions through a linear map into `inputs_embeds`, masked positions gathered before the MLM head, the
tags of each picture matched by SciPy in a loop, the same optimizer.
Same weights' shapes, same dropout, same precision.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from scipy.optimize import linear_sum_assignment
from torch import Tensor, nn
from transformers import BertConfig, BertModel
from transformers.models.bert.modeling_bert import BertLMPredictionHead

from vivo.data.collate import Batch, CaptionCollator, Limits, TagCollator
from vivo.data.types import Regions
from vivo.losses import caption_loss, tag_set_loss
from vivo.modeling import VivoConfig, VivoForCaptioning, VivoForTagPretraining
from vivo.training.flops import ModelSize, work_of
from vivo.training.gradients import Loss, accumulate

CLIP = 10.0
FIRST_PIECE = 1000
"""Below stand BERT's unused and special pieces."""


@dataclass(frozen=True)
class Shape:
    """Of a BERT."""

    name: str
    width: int = 768
    layers: int = 12
    heads: int = 12
    inner: int = 3072
    vocabulary: int = 30522
    features: int = 2048

    def config(self, **more: object) -> VivoConfig:
        """Its VivoConfig; dropout is BERT's 0.1."""
        return VivoConfig(
            vocab_size=self.vocabulary,
            hidden_size=self.width,
            num_hidden_layers=self.layers,
            num_attention_heads=self.heads,
            intermediate_size=self.inner,
            feature_size=self.features,
            **more,
        )


BASE = Shape("base")
LARGE = Shape("large", 1024, 24, 16, 4096)
TINY = Shape("tiny", 64, 2, 4, 128, 2000, 32)


class Numbers:
    """A tokenizer whose texts are word pieces by number: "2010 2011"."""

    pad_token_id, cls_token_id, sep_token_id, mask_token_id = 0, 101, 102, 103

    def __call__(self, text: str, **_: object) -> dict[str, list[int]]:
        """{"input_ids": [...]}."""
        return {"input_ids": [int(number) for number in text.split()]}


class Letters(Numbers):
    """`Numbers` whose pieces can be written out: piece 27 is "wbb"."""

    def convert_ids_to_tokens(self, ids: Sequence[int], skip_special_tokens: bool = True) -> list[str]:
        """A word for each id."""
        return [f"w{chr(97 + i // 676 % 26)}{chr(97 + i // 26 % 26)}{chr(97 + i % 26)}" for i in ids if i > 103]


def some_regions(counts: np.ndarray, rng: np.random.Generator) -> list[Regions]:
    """Regions of random boxes; features are drawn later, where they are wanted."""
    found = []
    for count in counts.tolist():
        corners = np.sort(rng.uniform(0, 1, (count, 2, 2)), axis=1).reshape(-1, 4) * [640, 480, 640, 480]
        boxes, none = corners.astype(np.float32), np.zeros(count, np.float32)
        found.append(Regions(boxes, np.zeros((count, 1), np.float16), ["x"] * count, none, 640, 480))
    return found


def some_tags(pieces: int, words: int, rng: np.random.Generator) -> list[str]:
    """Tags of one (70 %), two (25 %) or three pieces that fill `pieces` places."""
    tags, left = [], pieces
    while left:
        size = min(left, int(rng.choice(3, p=[0.7, 0.25, 0.05])) + 1)
        tags.append(" ".join(map(str, rng.integers(FIRST_PIECE, words, size))))
        left -= size
    return tags


def with_features(batch: Batch, size: int, device: torch.device) -> Batch:
    """The batch on the device, with features float16 [B, R, F] that are drawn there."""
    rows, regions = batch["region_mask"].shape
    features = torch.randn(rows, regions, size, device=device, dtype=torch.float16)
    moved = {k: v.to(device) if isinstance(v, Tensor) else v for k, v in batch.items()}
    return moved | {"region_features": features}


def tag_batch(
    pictures: int,
    shape: Shape,
    seed: int,
    regions: tuple[int, int] = (10, 50),
    tags: tuple[int, int] = (1, 15),
    share: float = 0.15,
) -> Batch:
    """A TagBatch on the CPU without features: regions and tag tokens drawn uniformly, 15 % of the tags masked."""
    rng = np.random.default_rng(seed)
    given = some_regions(rng.integers(regions[0], regions[1] + 1, pictures), rng)
    pieces = rng.integers(tags[0], tags[1] + 1, pictures).tolist()
    names = [some_tags(n, shape.vocabulary, rng) for n in pieces]
    collator = TagCollator(Numbers(), Limits.of(shape.config()), seed, share, share, 0)
    return collator([(0, str(i), t, [], r) for i, (t, r) in enumerate(zip(names, given, strict=True))])


def caption_batch(
    pictures: int,
    captions: int,
    shape: Shape,
    seed: int,
    supervision: str = "dense",
    regions: int = 50,
    tags: int = 20,
    tokens: int = 20,
) -> Batch:
    """A CaptionBatch on the CPU without features; captions of `tokens` tokens behind [CLS], the last of them [SEP]."""
    rng = np.random.default_rng(seed)
    given = some_regions(np.full(pictures, regions), rng)
    collator = CaptionCollator(Numbers(), Limits.of(shape.config()), seed, supervision, 0.15, captions, 0.0)
    words = rng.integers(FIRST_PIECE, shape.vocabulary, (pictures, captions, tokens - 1)).tolist()
    text = [[" ".join(map(str, caption)) for caption in row] for row in words]
    names = [some_tags(tags, shape.vocabulary, rng) for _ in range(pictures)]
    return collator([(0, str(i), n, t, r) for i, (n, t, r) in enumerate(zip(names, text, given, strict=True))])


def tag_loss(output: dict[str, Tensor], batch: Batch) -> dict[str, Tensor]:
    """As in `vivo.training.tasks`."""
    return tag_set_loss(output["logits"], batch["target_ids"], batch["group_slots"], batch["group_size"])


def text_loss(output: dict[str, Tensor], batch: Batch) -> dict[str, Tensor]:
    """As in `vivo.training.tasks`."""
    return caption_loss(output["logits"], batch["target_ids"])


def useful_flops(shape: Shape, batch: Batch) -> float:
    """FLOPs of one update (forward and backward) that padding has no part in, as trainings count them."""
    return work_of(ModelSize.of(shape.config(), word_embeddings_trained=True), batch).flops


class Ours:
    """The update of `vivo.training.loop`, without its log.

    Args:
        precision: "no" or "bf16", as accelerate names it.
        checked: look at loss and gradient before the weights change, as trainings do (the CPU waits for the GPU).
    """

    def __init__(
        self,
        model: VivoForTagPretraining | VivoForCaptioning,
        loss: Loss,
        precision: str,
        device: torch.device,
        checked: bool = True,
    ):
        AcceleratorState._reset_state()  # another precision before
        self.accelerator = Accelerator(mixed_precision=precision, cpu=device.type == "cpu")
        self.plain, self.loss, self.checked = model, loss, checked
        trained = [p for p in model.parameters() if p.requires_grad]
        optimizer = torch.optim.AdamW(trained, lr=1e-5, fused=True)
        self.model, self.optimizer = self.accelerator.prepare(model, optimizer)
        self.trained = trained
        self.model.train()

    def __call__(self, *micro: Batch) -> dict[str, Tensor]:
        """One update; its sums."""
        parts = accumulate(self.accelerator, self.model, self.loss, micro)
        norm = self.accelerator.clip_grad_norm_(self.trained, CLIP)
        if self.checked:
            torch.stack([*parts.values(), norm]).tolist()
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        return parts


class RivalBert(nn.Module):
    """transformers' BertModel over [tags ; regions], or [caption ; tags ; regions], and BERT's MLM head."""

    def __init__(self, shape: Shape, attention: str):
        super().__init__()
        self.additive = attention == "eager"  # which adds its mask
        config = BertConfig(
            vocab_size=shape.vocabulary,
            hidden_size=shape.width,
            num_hidden_layers=shape.layers,
            num_attention_heads=shape.heads,
            intermediate_size=shape.inner,
            attn_implementation=attention,
        )
        self.bert = BertModel(config, add_pooling_layer=False)
        self.regions = nn.Linear(shape.features + 6, shape.width)
        self.head = BertLMPredictionHead(config)
        self.head.decoder.weight = self.bert.embeddings.word_embeddings.weight

    def forward(self, ids: Tensor, positions: Tensor, batch: Batch, mask: Tensor, wanted: Tensor) -> Tensor:
        """Text int [B, L], bool mask [B, L + R] or [B, L + R, L + R], places int [K] in [B * (L + R)] -> [K, V]."""
        embeddings = self.bert.embeddings
        told = torch.cat([batch["region_features"].float(), batch["region_positions"]], dim=-1)
        # what BertEmbeddings does with text; regions get their linear map alone, as in Oscar
        text = embeddings.word_embeddings(ids) + embeddings.position_embeddings(positions)
        text = embeddings.LayerNorm(text + embeddings.token_type_embeddings.weight[0])
        x = torch.cat([text, self.regions(told).to(text.dtype)], dim=1)
        x = embeddings.dropout(x)
        mask = mask[:, None, None, :] if mask.dim() == 2 else mask[:, None]
        if self.additive:
            mask = torch.zeros(mask.shape, device=x.device).masked_fill_(~mask, torch.finfo(torch.float32).min)
        else:
            mask = mask.expand(-1, 1, x.shape[1], -1)
        hidden = self.bert.encoder(x, attention_mask=mask).last_hidden_state
        return self.head(hidden.flatten(0, 1)[wanted])


class Rival:
    """A whole update of `RivalBert`.

    Args:
        half: autocast to bfloat16.
        loss: logits and batch -> the loss to be minimised.
    """

    def __init__(self, shape: Shape, half: bool, loss: Callable[[Tensor, Batch], Tensor], device: torch.device):
        # with dropout of attention PyTorch's own attention falls back to slower plain products on a CPU
        bert = RivalBert(shape, "eager" if device.type == "cpu" else "sdpa")
        self.model, self.half, self.loss = bert.to(device).train(), half, loss
        self.trained = list(self.model.parameters())
        self.optimizer = torch.optim.AdamW(self.trained, lr=1e-5, fused=True)
        self.device = device

    def __call__(self, *micro: tuple[Tensor, Tensor, Batch, Tensor, Tensor]) -> None:
        """One update from the arguments of the model, micro-batch by micro-batch."""
        count = sum(part[2]["target_ids"].shape[0] for part in micro)
        for part in micro:
            with torch.autocast(self.device.type, torch.bfloat16, enabled=self.half):
                logits = self.model(*part)
            (self.loss(logits.float(), part[2]) / count).backward()
        torch.nn.utils.clip_grad_norm_(self.trained, CLIP)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)


def rival_tag_input(batch: Batch) -> tuple[Tensor, Tensor, Batch, Tensor, Tensor]:
    """What RivalBert reads of a TagBatch."""
    length = batch["tag_mask"].shape[1]
    size = length + batch["region_mask"].shape[1]
    slots = batch["slot_index"]
    mask = torch.cat([batch["tag_mask"], batch["region_mask"]], dim=1)
    return batch["tag_ids"], batch["tag_positions"], batch, mask, slots // length * size + slots % length


def rival_caption_input(batch: Batch) -> tuple[Tensor, Tensor, Batch, Tensor, Tensor]:
    """What RivalBert reads of a CaptionBatch: one row for each picture of the batch, [text ; tags ; regions]."""
    length, places = batch["text_ids"].shape[1], batch["target_index"]
    context = torch.cat([batch["tag_mask"], batch["region_mask"]], dim=1)
    size = length + context.shape[1]
    mask = torch.zeros(len(context), size, size, dtype=torch.bool, device=context.device)
    mask[:, :length, :length] = batch["text_mask"]
    mask[:, :, length:] = context[:, None]
    ids = torch.cat([batch["text_ids"], batch["tag_ids"]], dim=1)
    positions = torch.cat([batch["text_positions"], batch["tag_positions"]], dim=1)
    return ids, positions, batch, mask, places // length * size + places % length


def scipy_targets(log_p: Tensor, batch: Batch) -> Tensor:
    """The targets of each slot after matching, group by group with SciPy.

    One copy of the probabilities that are asked for to the host (as DETR's matcher has it), then a loop over groups.
    """
    target = batch["target_ids"]
    slots, sizes = batch["group_slots"], batch["group_size"]
    host_slots, host_sizes = slots.tolist(), sizes.tolist()
    most, length = slots.shape[1:]
    pieces = target[slots.clamp(min=0)]
    p = log_p[slots.clamp(min=0)[:, :, None, :], pieces[:, None]].exp()  # [G, M, M, N]
    cost = torch.where((slots >= 0)[:, :, None, :], 1.0 - p, 0.0).sum(dim=-1).cpu().numpy()
    matched = target.tolist()
    known = list(matched)
    for group, (places, size) in enumerate(zip(host_slots, host_sizes, strict=True)):
        if size > 1:
            _, chosen = linear_sum_assignment(cost[group, :size, :size])
            for slot, tag in enumerate(chosen.tolist()):
                for piece in range(length):
                    if places[slot][piece] >= 0:
                        matched[places[slot][piece]] = known[places[tag][piece]]
    return torch.tensor(matched, device=target.device)


def scipy_targets_by_group(log_p: Tensor, batch: Batch) -> Tensor:
    """`scipy_targets` as one writes it first: the costs are gathered in the loop, too."""
    matched = batch["target_ids"].clone()
    for slots, size in zip(batch["group_slots"], batch["group_size"].tolist(), strict=True):
        if size > 1:
            slots = slots[:size, slots[0] >= 0]
            pieces = batch["target_ids"][slots]
            cost = (1.0 - log_p[slots[:, None], pieces[None]].exp()).sum(dim=-1)
            _, chosen = linear_sum_assignment(cost.numpy())
            matched[slots] = pieces[torch.from_numpy(chosen)]
    return matched


def rival_tag_loss(logits: Tensor, batch: Batch) -> Tensor:
    """Sum over the slots."""
    return F.cross_entropy(logits, scipy_targets(logits.detach().log_softmax(dim=-1), batch), reduction="sum")


def rival_caption_loss(logits: Tensor, batch: Batch) -> Tensor:
    """Sum over the tokens."""
    return F.cross_entropy(logits, batch["target_ids"], reduction="sum")


def on_device(batches: Sequence[Batch], shape: Shape, device: torch.device) -> list[Batch]:
    """All of them with features."""
    return [with_features(batch, shape.features, device) for batch in batches]
