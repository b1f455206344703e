"""The captioners that there are, and how one is found by its folder."""

from pathlib import Path

from vivo.captioning import CaptioningModel
from vivo.errors import UserError
from vivo.modeling import VivoForCaptioning
from vivo.show_and_tell.modeling import ShowAndTell
from vivo.weights import load_model, read_configuration

CAPTIONERS: dict[str, type[CaptioningModel]] = {
    kind.config_class.model_type: kind for kind in (VivoForCaptioning, ShowAndTell)
}
"""By the model type that a folder's config.json names."""


def captioner_class(folder: str | Path) -> type[CaptioningModel]:
    """Which captioner lies in `folder`.

    Raises:
        UserError: none, or a model of a type that is not known here.
    """
    path = Path(folder) / "config.json"
    if not path.is_file():
        raise UserError(f"{folder}: no config.json; give the folder of a trained model")
    kind = read_configuration(path).get("model_type", "")
    if kind not in CAPTIONERS:
        raise UserError(f"{path}: model type {kind!r} is no captioner of vivo ({', '.join(CAPTIONERS)})")
    return CAPTIONERS[kind]


def load_captioner(folder: str | Path, **changes) -> CaptioningModel:
    """A trained captioner of any kind from its folder; see `vivo.weights.load_model`."""
    return load_model(captioner_class(folder), folder, **changes)
