"""What a run needs, from its configuration alone: parameters, memory of each GPU, disk, steps, hours.

Bytes of one process, at the longest inputs that the configuration allows (real batches are shorter):

    weights      4 P                           fp32 always
    gradients    4 Pt (+ 4 Pt) (+ 8 V D)       of the trained ones; the buckets of DDP are a second copy, on many GPUs.
                                               With several micro-batches those of trained word embeddings stand beside
                                               their sum before they are added, from the look-up and from the head
    optimizer    8 Pt (+ 4 P)                  AdamW's two averages (+ the average of the weights, `optim.ema`)
    activations  what the backward pass of one micro-batch reads (below), and the batch itself

with P parameters, Pt trained ones. Activations, b = 2 bytes a number in bf16 or fp16 (else 4), D width, I feed-forward
width, n elements that a layer computes (tags + regions of all pictures; in the text pass the text), m those whose keys
and values it reads, K supervised tokens:

    a layer      b (5 n D + 2 m D + 2 n I)     inputs of the linear maps, queries and attention's result (on a CPU 4: it
                                               is the input of a map); keys, values; before and after gelu
                 + 8 n D                       inputs of the two layer norms, fp32
                 + 2 n D                       dropout masks, none at dropout 0
                 + attention's own             fused (GPU): 4 bytes a query and head, and joined keys and values of
                                               context and text. On a CPU, in blocks: a query, head and key of its
                                               picture or caption has its probability in fp32, and a byte of dropout
    last layer   the same with n = K for all but the keys and values
    inputs       n_r b (F + 6) + n D (4 + 1), for n_r regions: the projection's input, and the embeddings'
    head         K D (3 b + 4) + 16 K V        logits in fp32, their log-softmax and the gradients of both
    16-bit copies of the weights of linear maps: 2 P_linear, while the update lasts

Updates of objective "both" are of tags or of captions: what the larger kind needs is what the process needs.
With `engine.activation_checkpointing` the layers keep their inputs (4 n D each) and one layer at a time the rest.
The sum is no exact peak: gradients appear while activations go, and copies come and go. On a CPU it lies within 15 %
of the most bytes that PyTorch's tensors held during real updates (tests/test_estimate.py: both stages, fp32, bf16,
with and without dropout, both ways of attention); what is resident is more, by the allocator's and the libraries'
own (docs/scaling.md). On a GPU it is not verified.
"""

from dataclasses import dataclass

from vivo.data.mixed import pairs_before
from vivo.training.plan import Plan

# Besides features, a region has a box (16 bytes), a score (4) and a label (about 8 with its offset); a picture has its
# id, size and Arrow's own description.
REGION_EXTRA, PICTURE_EXTRA = 28, 1000
DTYPE_BYTES = {"fp32": 4, "bf16": 2, "fp16": 2, "auto": 2}


@dataclass(frozen=True)
class Memory:
    """Bytes of one process, by what they are for."""

    weights: int
    gradients: int
    optimizer: int
    activations: int

    @property
    def total(self) -> int:
        """All of them."""
        return self.weights + self.gradients + self.optimizer + self.activations


@dataclass(frozen=True)
class Parameters:
    """Numbers of the model: all, those trained, those of weight matrices that compute in 16 bits."""

    all: int
    trained: int
    linear: int


def parameters_of(plan: Plan) -> Parameters:
    """Counted on the real model, without memory for it."""
    named = dict(plan.meta_model.named_parameters())
    embeddings = ("position.weight", "segment.weight")
    return Parameters(
        sum(p.numel() for p in named.values()),
        sum(p.numel() for p in named.values() if p.requires_grad),
        sum(
            p.numel() for name, p in named.items() if p.dim() == 2 and p.requires_grad and not name.endswith(embeddings)
        ),
    )


def memory_of(plan: Plan, cpu: bool = False) -> Memory:
    """Bytes of one process of `plan`.

    Args:
        cpu: as a CPU without bf16 units computes: fp32 where `optim.precision` is auto, attention by plain products.
    """
    count, config = parameters_of(plan), plan.config
    precision = "fp32" if cpu and config.optim.precision == "auto" else config.optim.precision
    number = DTYPE_BYTES[precision]
    copies = 2 if plan.gpus > 1 else 1
    averaged = 4 * count.all if config.optim.ema else 0
    added = 0
    if plan.micro_batch < plan.per_process and not config.model.freeze_embeddings:
        added = 2 * 4 * plan.shape.pieces * plan.shape.width
    return Memory(
        4 * count.all,
        4 * count.trained * copies + added,
        8 * count.trained + averaged,
        activations_of(plan, number, cpu) + (number * count.linear if number == 2 else 0),
    )


def activations_of(plan: Plan, number: int, cpu: bool) -> int:
    """Bytes that the backward pass of one micro-batch reads, and of the batches of one update, at most.

    Args: see `_activations`.
    """
    return max(_activations(plan, kind, number, cpu) for kind in plan.kinds)


def _activations(plan: Plan, kind: str, number: int, cpu: bool) -> int:
    """`activations_of`, of an update of one kind.

    Args:
        kind: of `plan.kinds`. number: bytes of one number in matrix products. cpu: see `memory_of`.
    """
    config, shape, pictures = plan.config, plan.shape, plan.micro_batch
    width, dropout = shape.width, config.model.dropout > 0
    mask = 1 if dropout else 0
    regions, tags, text = config.model.max_regions, config.model.max_tag_tokens, plan.text_elements(kind)
    context, targets = pictures * (regions + tags), pictures * plan.targets(kind)

    def layer(n: int, own: int, keys: int) -> int:
        """n elements computed, `own` of them with keys and values, `keys` for each to read."""
        inputs = 4 if cpu else 5  # in rows attention's result is there twice, padded and packed
        dense = number * (inputs * n * width + 2 * n * shape.inner) + number * 2 * own * width
        if cpu:
            attention = n * shape.heads * keys * (4 + mask)
        else:
            joined = 2 * pictures * keys * width if text and keys > regions + tags else 0
            attention = 4 * n * shape.heads + number * joined
        return dense + 8 * n * width + 2 * mask * n * width + attention

    def stack(n: int, keys: int, last: int) -> int:
        """All layers of one pass; the last computes `last` elements."""
        whole, end = layer(n, n, keys), layer(last, n, keys)
        if config.engine.activation_checkpointing:
            return shape.layers * 4 * n * width + max(whole, end)
        return (shape.layers - 1) * whole + end

    features = pictures * regions * number * (shape.features + 6)
    embedded = (context + pictures * text) * width * (4 + mask)
    if text:
        seen = text // plan.captions(kind) if cpu else text
        passes = stack(context, regions + tags, 0) + stack(pictures * text, regions + tags + seen, targets)
    else:
        passes = stack(context, regions + tags, targets)
    head = targets * (width * (3 * number + 4) + 16 * shape.pieces)
    batches = plan.per_process * regions * (2 * shape.features + 4 * 6)
    return features + embedded + passes + head + batches


def checkpoint_bytes(plan: Plan) -> int:
    """One checkpoint: weights and AdamW's two averages in fp32 (+ the average of the weights)."""
    count = parameters_of(plan)
    return 4 * count.all + 8 * count.trained + (4 * count.all if plan.config.optim.ema else 0)


def store_bytes(plan: Plan, pictures: int) -> int:
    """A RegionStore of so many pictures with `max_regions` regions each, features in fp16."""
    return pictures * picture_bytes(plan.config.model.max_regions, plan.shape.features)


def picture_bytes(regions: int, features: int) -> int:
    """One picture of a RegionStore (measured for 50 x 2,048: docs/features.md)."""
    return regions * (2 * features + REGION_EXTRA) + PICTURE_EXTRA


def describe(
    plan: Plan, pictures: int | None, rate: float | None, rate_source: str = "given", with_notes: bool = True
) -> list[str]:
    """The estimate as lines for people.

    Args:
        pictures: of the training set, as `Plan.pictures` takes it.
        rate: pictures a second of one GPU; None: no hours.
        rate_source: where the rate comes from, for its line.
        with_notes: also what stands in for files that are not there.
    """
    config, shape = plan.config, plan.shape
    count, memory, pictures = parameters_of(plan), memory_of(plan), plan.pictures(pictures)
    steps = plan.steps(pictures)
    text = plan.text_elements(plan.kinds[-1])
    texts = (f", {text} of text" + (" in updates of pairs" if len(plan.kinds) > 1 else "")) if text else ""
    several = "GPU" if plan.gpus == 1 else "GPUs"
    lines = [
        f"estimate for {plan.gpus} {several}; nothing of it was run",
        *(f"note            {note}" for note in plan.notes if with_notes),
        f"model           {shape.layers} layers of {shape.width}, {shape.pieces:,} word pieces, regions of "
        f"{shape.features:,} numbers",
        f"parameters      {count.all / 1e6:.1f} M, {count.trained / 1e6:.1f} M of them trained",
        f"batch           {config.optim.batch_size:,} = {plan.gpus} x {plan.per_process // plan.micro_batch} "
        f"micro-batches x {plan.micro_batch} pictures of {config.model.max_regions} regions and "
        f"{config.model.max_tag_tokens} tag tokens" + texts,
        f"memory of one   {memory.total / 1e9:.2f} GB at the longest inputs: weights {memory.weights / 1e9:.2f}, "
        f"gradients {memory.gradients / 1e9:.2f}, optimizer {memory.optimizer / 1e9:.2f}, activations "
        f"{memory.activations / 1e9:.2f}",
        f"checkpoint      {checkpoint_bytes(plan) / 1e9:.2f} GB; {config.tracking.keep + 1} of them while one is "
        f"written, and the model: {((config.tracking.keep + 1) * checkpoint_bytes(plan) + 4 * count.all) / 1e9:.2f} GB",
    ]
    if pictures is None:
        lines.append("region store    of how many pictures? give --pictures N")
    else:
        size = store_bytes(plan, pictures)
        lines.append(f"region store    {size / 1e9:,.0f} GB" if size > 1e10 else f"region store    {size / 1e9:.2f} GB")
        lines[-1] += f" for {pictures:,} pictures of {config.model.max_regions} regions"
    if steps is None:
        lines.append(f"steps           {config.optim.duration} of how many pictures? give --pictures N")
        return lines
    seen = steps * config.optim.batch_size
    epochs = f", {seen / pictures:.1f} epochs" if pictures else ""
    kinds = ""
    if config.objective == "both":
        pairs = pairs_before(steps, config.data.pairs_share)
        kinds = f" ({steps - pairs:,} of tags, {pairs:,} of pairs)"
    lines.append(f"steps           {steps:,} updates{kinds}, {seen:,} pictures seen{epochs}")
    if rate is None:
        lines.append("hours           at which rate? give --rate PICTURES_PER_S_PER_GPU, or add --dry-run")
    else:
        hours = seen / (rate * plan.gpus) / 3600
        lines.append(
            f"hours           {hours:,.1f} ({hours * plan.gpus:,.0f} GPU hours) at {rate:,.1f} pictures/s a GPU "
            f"({rate_source}), without loading, validation and waiting for the network"
        )
    return lines
