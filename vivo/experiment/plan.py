"""What a comparison consists of: rows of the table, and which trainings stand behind each row.

A *row* of the table is one way of captioning the evaluation pictures. A *model* is a pre-training
(or none) and a fine-tuning; several rows may read one model with other inputs (controls). Rows
"none" and "vivo" differ in nothing but the checkpoint that fine-tuning starts from.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field


@dataclass(frozen=True)
class ModelPlan:
    """A model: overrides of configs/world.yaml (None: no pre-training) and of configs/finetune/world.yaml.

    length: updates of pre-training, as a multiple of the benchmark's.
    """

    name: str
    pretrain: tuple[str, ...] | None
    finetune: tuple[str, ...] = ()
    length: float = 1.0


@dataclass(frozen=True)
class Row:
    """A row of the table.

    model: whose captions; "" for the untrained template. tags: "" as in training, or "none".
    shuffled: regions and tags of another picture (does the model look at the picture?).
    stage: the training whose model captions; Show and Tell has "frozen" before "finetune".
    """

    name: str
    description: str
    model: str
    tags: str = ""
    shuffled: bool = False
    stage: str = "finetune"


@dataclass(frozen=True)
class Plan:
    """Models to train and rows to score.

    recurrent: names of Show and Tell models (vivo/show_and_tell), which have nothing of a `ModelPlan`.
    """

    models: list[ModelPlan] = field(default_factory=list)
    rows: list[Row] = field(default_factory=list)
    recurrent: list[str] = field(default_factory=list)


# Image-sentence pairs in pre-training: the captioned pictures of fine-tuning (a benchmark has no others), read as
# fine-tuning reads them.
_PAIRS = (
    "data.pairs={captions}",
    "data.pairs_regions={caption_regions}",
    "data.tag_dropout=0.5",
    "data.captions_per_picture=2",
    "masking.caption=dense",
)
UNFROZEN = ("model.freeze_embeddings=false", "model.freeze_head_bias=false")

NONE = ModelPlan("none", None)
VIVO = ModelPlan("vivo", ())
NONE_UNFROZEN = ModelPlan("none_unfrozen", None, UNFROZEN)
ABLATIONS = [
    NONE_UNFROZEN,
    # "pairs" has a quarter of VIVO's updates, "pairs_and_tags" the updates of both
    ModelPlan("pairs", ("objective=pairs", *_PAIRS), length=0.25),
    ModelPlan("pairs_and_tags", ("objective=both", *_PAIRS, "data.pairs_share=0.2"), length=1.25),
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
    Row("pairs", "pre-training on captions instead of tags (paper's Table 4)", "pairs"),
    Row("pairs_and_tags", "pre-training on captions and tags by turns (paper's Table 4)", "pairs_and_tags"),
    Row("one_mask", "VIVO with one masked tag a picture (paper's Table 6)", "one_mask"),
    Row("no_hungarian", "VIVO without matching (paper's Table 6)", "no_hungarian"),
    Row("vocab_boxed", "VIVO on tags of boxed classes only (paper's Table 5)", "vocab_boxed"),
]
SHOW_AND_TELL = "Show_and_Tell"
_RECURRENT_ROWS = [
    Row("Show and Tell", "the CNN + LSTM captioner of 2016, encoder fine-tuned too", SHOW_AND_TELL),
    Row("Show and Tell, frozen encoder", "the same before its encoder is fine-tuned", SHOW_AND_TELL, stage="frozen"),
]
_COPY = Row("copy", "control: a template filled with the tags, untrained", "")


def control_rows(models: Sequence[ModelPlan]) -> list[Row]:
    """The template, and each model without tags and with another picture's regions and tags."""
    rows = [_COPY]
    for model in models:
        rows += [
            Row(f"{model.name}, no tags", f"control: {model.name} without tags at test", model.name, tags="none"),
            Row(
                f"{model.name}, other picture",
                f"control: {model.name} with another picture's regions and tags",
                model.name,
                shuffled=True,
            ),
        ]
    return rows


def world_plan(all_rows: bool) -> Plan:
    """The two rows of the demo, or all of them."""
    if not all_rows:
        return Plan([NONE, VIVO], _MAIN_ROWS)
    models = [NONE, VIVO, *ABLATIONS]
    rows = _MAIN_ROWS + _RECURRENT_ROWS + _ABLATION_ROWS + control_rows(models)
    return Plan(models, rows, [SHOW_AND_TELL])


def show_and_tell_plan() -> Plan:
    """No pre-training, VIVO and Show and Tell: the rows of its own claims (vivo/experiment/recurrent_claims.py)."""
    return Plan([NONE, VIVO], _MAIN_ROWS + _RECURRENT_ROWS, [SHOW_AND_TELL])


def photograph_plan() -> Plan:
    """No pre-training (both ways) against VIVO, and the controls."""
    models = [NONE, VIVO, NONE_UNFROZEN]
    return Plan(models, [*_MAIN_ROWS, _ABLATION_ROWS[0], *control_rows(models)])
