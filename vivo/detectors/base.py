"""The contract of every detector, and how one is found by name or folder.

A detector turns pictures into `vivo.data.types.Regions`: boxes in pixels of the original picture,
one feature vector a region, class names where it knows them. Whoever keeps regions (RegionStore)
or consumes them (a model) records the detector's fingerprint, because features of two detectors
of equal size are still strangers to each other.
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol, runtime_checkable

from PIL import Image

from vivo.data.types import Regions
from vivo.errors import UserError

CONFIG_FILE = "detector.json"
"""In a folder written by `save_pretrained`: its key "detector" says which class reads the rest."""


@runtime_checkable
class Detector(Protocol):
    """Pictures in, regions out.

    Attributes:
        name: short name, part of the fingerprint.
        feature_size: F, the length of a region's feature vector.
        class_names: every name that may appear as a region's label.
    """

    name: str
    feature_size: int
    class_names: list[str]

    def fingerprint(self) -> dict[str, str | int | float]:
        """What decides the regions: name, SHA-256 of the weights, thresholds, feature size."""
        ...

    def detect(self, pictures: Sequence[Image.Image]) -> list[Regions]:
        """Regions of each RGB picture, in order; at least one a picture, see `Regions`."""
        ...

    def save_pretrained(self, folder: str | Path) -> None:
        """Write everything that `load_detector(folder)` needs to give the same regions again."""
        ...


def load_detector(name_or_folder: str | Path) -> Detector:
    """The detector of that name ("embedded"), or the one that `save_pretrained` wrote into a folder."""
    from vivo.detectors.embedded import EmbeddedDetector  # here: it imports this module

    classes = {EmbeddedDetector.name: EmbeddedDetector}
    if str(name_or_folder) in classes:
        return classes[str(name_or_folder)].from_package()
    folder = Path(name_or_folder)
    if not (folder / CONFIG_FILE).is_file():
        names = ", ".join(sorted(classes))
        raise UserError(f"no detector {str(name_or_folder)!r}: give a name ({names}) or a folder with {CONFIG_FILE}")
    try:
        kind = json.loads((folder / CONFIG_FILE).read_text(encoding="utf-8"))["detector"]
        return classes[kind].from_pretrained(folder)
    except (KeyError, ValueError, TypeError) as error:
        if isinstance(error, UserError):
            raise
        raise UserError(f"{folder / CONFIG_FILE} is not a detector's configuration: save the detector again") from None
