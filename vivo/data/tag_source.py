"""Which tags the model sees for a picture."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from vivo.data.collate import detected_tags
from vivo.data.examples import read_tag_examples
from vivo.data.types import Regions
from vivo.errors import UserError


class TagSource:
    """The tags of a picture, lower-cased, each once (or with its repetitions).

    Args:
        kind: "labels" the example's own, "detector" the class names of its regions, "both" (labels first),
            "none", or "given": those of `given`.
        given: image id -> tags.
        repeats: keep a tag that occurs twice, for models that know tags as one text (VivoConfig.tags_as_text).
    """

    def __init__(self, kind: str, given: Mapping[str, Sequence[str]] | None = None, repeats: bool = False):
        self.kind, self.given, self.repeats = kind, given or {}, repeats

    @property
    def needs_regions(self) -> bool:
        """Whether the tags come from the regions."""
        return self.kind in ("detector", "both")

    def __call__(self, image_id: str, labels: Sequence[str], regions: Regions | None) -> list[str]:
        """The tags of one picture, in the order of their source.

        Args:
            labels: the example's own tags. regions: whose labels are the detector's tags; None where not needed.
        """
        chosen: list[str] = []
        if self.kind in ("labels", "both"):
            chosen += labels
        if self.needs_regions and regions is not None:
            chosen += detected_tags(regions, self.repeats)
        if self.kind == "given":
            chosen += self.given[image_id]
        chosen = [tag.lower() for tag in chosen]
        return chosen if self.repeats else list(dict.fromkeys(chosen))

    def check(self, image_ids: Iterable[str]) -> None:
        """`UserError` where pictures have no entry among the given tags (an empty list is an entry)."""
        if self.kind != "given":
            return
        missing = [i for i in image_ids if i not in self.given]
        if missing:
            raise UserError(
                f"{len(missing)} pictures have no line in the tag file (first: {missing[0]}); write their tags too, "
                "an empty list for none"
            )


def read_tag_file(path: str | Path, repeats: bool = False) -> TagSource:
    """Tags from a file of tag examples: one JSON line {"image_id", "tags"} a picture (docs/data.md)."""
    return TagSource("given", {example.image_id: example.tags for example in read_tag_examples(path)}, repeats)
