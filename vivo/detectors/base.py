"""The contract of every detector, and how one is found by name or folder.

A detector turns pictures into `vivo.data.types.Regions`: boxes in pixels of the original picture,
one feature vector a region, class names where it knows them. Whoever keeps regions (RegionStore)
or consumes them (a model) records the detector's fingerprint, because features of two detectors
of equal size are still strangers to each other.
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

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
    """The detector of a specification ("embedded", "grid", "whole", "transformers:FOLDER,threshold=0.2", ...: see
    docs/detectors.md), or the one that `save_pretrained` wrote into a folder.

    Raises:
        UserError: unknown name or option, a package or a file that is missing, weights that do not fit.
    """
    specification = str(name_or_folder)
    if specification == "embedded":
        return _class_of("embedded").from_package()
    folder = Path(name_or_folder)
    if (folder / CONFIG_FILE).is_file():
        try:
            kind = json.loads((folder / CONFIG_FILE).read_text(encoding="utf-8"))["detector"]
            return _class_of(kind).from_pretrained(folder)
        except UserError:
            raise
        except (KeyError, ValueError, TypeError):
            raise UserError(
                f"{folder / CONFIG_FILE} is not a detector's configuration: save the detector again"
            ) from None
    kind = specification.replace(",", ":").split(":")[0]
    if kind not in KINDS or kind == "embedded":
        names = ", ".join(KINDS)
        raise UserError(f"no detector {specification!r}: give a name ({names}) or a folder with {CONFIG_FILE}")
    return _class_of(kind).from_specification(specification)


KINDS = ("embedded", "grid", "whole", "transformers", "torchvision", "detectron2")


def _class_of(kind: str) -> Any:
    """The class of that kind; imported here, so that each needs its own library only when it is used."""
    try:
        if kind in ("grid", "whole"):
            import timm  # noqa: F401  (their networks import it when they are made: what is missing is said here)
        if kind == "embedded":
            from vivo.detectors.embedded import EmbeddedDetector as Found
        elif kind == "grid":
            from vivo.detectors.grid import GridDetector as Found
        elif kind == "whole":
            from vivo.detectors.whole import WholePictureDetector as Found
        elif kind == "tagged":
            from vivo.detectors.tagger import TaggedDetector as Found
        elif kind == "transformers":
            from vivo.detectors.transformers_adapter import TransformersDetector as Found
        elif kind == "torchvision":
            from vivo.detectors.torchvision_adapter import TorchvisionDetector as Found
        elif kind == "detectron2":
            from vivo.detectors.detectron2_adapter import Detectron2Detector as Found
        else:
            raise KeyError(kind)
    except ImportError as error:
        if (error.name or "").startswith("vivo"):
            raise
        package = (error.name or kind).split(".")[0]
        raise UserError(
            f"detector {kind} needs the package {package}, which cannot be imported ({error});"
            " docs/detectors.md says how to install it"
        ) from None
    return Found
