"""What a demo run consists of: sizes, rows of the table, and which runs stand behind each row.

A *row* of the table is one way of captioning the evaluation pictures. A *model* is a pre-training
(or none) and a fine-tuning; several rows may read one model with other inputs (controls). Rows
"none" and "vivo" differ in nothing but the checkpoint that fine-tuning starts from.
"""

from dataclasses import dataclass, field


@dataclass(frozen=True)
class Size:
    """How much of everything. Pictures by data set, updates by stage."""

    open_images: int
    coco: int
    coco_val: int
    nocaps: int
    pretrain_steps: int
    finetune_steps: int
    seeds: int
    batch_size: int = 0  # 0: the configuration's
    all_rows: bool = False


SIZES = {
    # seconds, for tests: everything real, nothing learned
    "tiny": Size(
        open_images=160, coco=64, coco_val=8, nocaps=48, pretrain_steps=6, finetune_steps=6, seeds=1, batch_size=16
    ),
    # ten minutes on two cores
    "demo": Size(
        open_images=3600, coco=1200, coco_val=32, nocaps=420, pretrain_steps=1200, finetune_steps=150, seeds=1
    ),
    # hours: three seeds, every row
    "full": Size(
        open_images=5000,
        coco=1600,
        coco_val=32,
        nocaps=800,
        pretrain_steps=1400,
        finetune_steps=200,
        seeds=3,
        all_rows=True,
    ),
}


@dataclass(frozen=True)
class ModelPlan:
    """A model: overrides of configs/world.yaml (None: no pre-training) and of configs/finetune/world.yaml."""

    name: str
    pretrain: tuple[str, ...] | None
    finetune: tuple[str, ...] = ()


@dataclass(frozen=True)
class Row:
    """A row of the table.

    model: whose captions; "" for the untrained template. tags: "detector" or "none".
    shuffled: regions and tags of another picture (does the model look at the picture?).
    """

    name: str
    description: str
    model: str
    tags: str = "detector"
    shuffled: bool = False


@dataclass(frozen=True)
class Plan:
    """Models to train and rows to score."""

    models: list[ModelPlan] = field(default_factory=list)
    rows: list[Row] = field(default_factory=list)


UNFROZEN = ("model.freeze_embeddings=false", "model.freeze_head_bias=false")

NONE = ModelPlan("none", None)
VIVO = ModelPlan("vivo", ())
ABLATIONS = [
    ModelPlan("none_unfrozen", None, UNFROZEN),
    ModelPlan("one_mask", ("masking.at_most=1",)),
    ModelPlan("no_hungarian", ("loss.hungarian=false",)),
    ModelPlan("vocab_boxed", ("data.vocabulary={examples}/boxed_classes.json",)),
]

_MAIN_ROWS = [
    Row("none", "no pre-training: captions only", "none"),
    Row("vivo", "visual vocabulary pre-training, then captions", "vivo"),
]
_ABLATION_ROWS = [
    Row("none_unfrozen", "no pre-training, word embeddings trained too", "none_unfrozen"),
    Row("one_mask", "VIVO with one masked tag a picture (paper's Table 6)", "one_mask"),
    Row("no_hungarian", "VIVO without matching (paper's Table 6)", "no_hungarian"),
    Row("vocab_boxed", "VIVO on tags of boxed classes only (paper's Table 5)", "vocab_boxed"),
    Row("copy", "control: a template filled with the detector's tags, untrained", ""),
    Row("none, no tags", "control: none without tags at test", "none", tags="none"),
    Row("vivo, no tags", "control: VIVO without tags at test", "vivo", tags="none"),
    Row("none, other picture", "control: none with another picture's regions and tags", "none", shuffled=True),
    Row("vivo, other picture", "control: VIVO with another picture's regions and tags", "vivo", shuffled=True),
]


def plan_of(all_rows: bool) -> Plan:
    """The two rows of the demo, or all of them."""
    if not all_rows:
        return Plan([NONE, VIVO], _MAIN_ROWS)
    return Plan([NONE, VIVO, *ABLATIONS], _MAIN_ROWS + _ABLATION_ROWS)
