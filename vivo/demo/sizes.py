"""How much of everything a demo makes and trains."""

from dataclasses import dataclass


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
    recurrent_steps: tuple[int, int] = (600, 150)  # of Show and Tell, with a frozen encoder and with all of it


SIZES = {
    # seconds, for tests: everything real, nothing learned
    "tiny": Size(
        open_images=160,
        coco=64,
        coco_val=8,
        nocaps=48,
        pretrain_steps=6,
        finetune_steps=6,
        seeds=1,
        batch_size=16,
        recurrent_steps=(4, 2),
    ),
    # ten minutes on two cores with bf16 units
    "demo": Size(open_images=3600, coco=1200, coco_val=32, nocaps=420, pretrain_steps=800, finetune_steps=150, seeds=1),
    # two hours: the demo's trainings with three seeds, every row, more pictures to judge them by
    "full": Size(
        open_images=3600,
        coco=1200,
        coco_val=32,
        nocaps=800,
        pretrain_steps=800,
        finetune_steps=150,
        seeds=3,
        all_rows=True,
    ),
}
