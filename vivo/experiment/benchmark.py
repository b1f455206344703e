"""Where everything of a benchmark lies: what the embedded world and photographs have in common."""

from dataclasses import dataclass
from pathlib import Path

from vivo.data.nocaps import WorldClass, read_classes, read_nocaps, read_pictures
from vivo.data.types import CaptionExample


@dataclass(frozen=True)
class Goals:
    """What is asked of VIVO on a benchmark.

    Attributes:
        f1: of novel objects. cider: gain over the better row without pre-training, all pictures; None: out-of-domain
            CIDEr must rise, with an interval above 0, and the printed table has intervals (for few pictures).
        other_picture: share of the F1 that another picture's regions and tags may leave.
    """

    f1: float = 0.2
    cider: float | None = 8
    other_picture: float = 0.25


RECURRENT = ("finetune/show_and_tell_world.yaml", "finetune/show_and_tell_world_joint.yaml", "eval/show_and_tell.yaml")
"""Configurations of Show and Tell: frozen encoder, joint training, evaluation."""


@dataclass(frozen=True)
class Benchmark:
    """Image-tag pairs, captioned pictures and evaluation pictures, each with its regions, and the configurations.

    Attributes:
        title: heads the table and the page.
        configs: names of the configurations under configs/: pre-training, fine-tuning, evaluation.
        pair_regions, pair_examples: RegionStore and tag examples of pre-training.
        caption_regions, caption_examples: RegionStore and caption examples of fine-tuning.
        validation_references: captions of a few pictures of `caption_regions`, shown while training.
        evaluation_regions, evaluation_references: RegionStore and nocaps-format file of the evaluation pictures.
        pictures: folder of the evaluation pictures, for the page.
        classes: classes.json, the objects that F1 counts.
        tags, tag_file: the tags in fine-tuning and evaluation, see `vivo.self_tagging.open_tag_source`.
        records: other files that decide what is trained and scored, for experiment.json.
        goals: see `Goals`.
        attribution: whose pictures these are, for the page. notice: what has to stand beside trained weights.
        pretrain, finetune: overrides of the training configurations.
        caption_pictures: folder of the picture files of `caption_examples`, for Show and Tell; None: it has no row.
        recurrent: overrides of its two trainings (`RECURRENT`), frozen and joint.
    """

    title: str
    configs: tuple[str, str, str]
    pair_regions: Path
    pair_examples: Path
    caption_regions: Path
    caption_examples: Path
    validation_references: Path
    evaluation_regions: Path
    evaluation_references: Path
    pictures: Path
    classes: Path
    tags: str = "detector"
    tag_file: str = ""
    records: tuple[Path, ...] = ()
    goals: Goals = Goals()
    attribution: str = ""
    notice: str = ""
    pretrain: tuple[str, ...] = ()
    finetune: tuple[str, ...] = ()
    caption_pictures: Path | None = None
    recurrent: tuple[tuple[str, ...], tuple[str, ...]] = ((), ())

    def evaluation_set(self) -> tuple[list[CaptionExample], list[WorldClass]]:
        """The evaluation pictures with references and domains, and the classes: for scoring alone."""
        return read_nocaps(self.evaluation_references), read_classes(self.classes)

    def evaluation_ids(self) -> list[str]:
        """Ids of the evaluation pictures, from a file without captions where there is one (`read_pictures`)."""
        return [example.image_id for example in read_pictures(self.evaluation_references)]

    def evaluation_files(self) -> dict[str, Path]:
        """The file of each evaluation picture, by id; as `evaluation_ids`."""
        return {e.image_id: self.pictures / e.file_name for e in read_pictures(self.evaluation_references)}
