"""What the words of the captions on a page hang on, asked of the model that wrote them (`vivo.explanation`)."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vivo.data.predictions import header_path
from vivo.data.region_format import sha256_of
from vivo.data.regions import RegionStore
from vivo.data.tag_source import TagSource
from vivo.errors import UserError
from vivo.report.highlight import WORD

if TYPE_CHECKING:
    from vivo.explanation import WordEvidence


def check_checkpoint(checkpoint: Path, header: Mapping[str, Any], predictions: str | Path) -> None:
    """Refuse a checkpoint that has not written the captions, where their header says which one has.

    Raises:
        UserError: no weights there, or others.
    """
    weights = checkpoint / "model.safetensors"
    if not weights.is_file():
        raise UserError(f"--checkpoint {checkpoint}: no model.safetensors; give the model folder of a training")
    told = header.get("weights_sha256")
    if told and told != sha256_of(weights):
        raise UserError(
            f"--checkpoint {checkpoint}: {header_path(predictions)} says that other weights wrote these captions; give"
            " the model that did, or leave it out"
        )
    if header.get("control"):
        raise UserError(
            f"--checkpoint {checkpoint}: {predictions} are those of a control ({header['control']}): the regions on the"
            " page are not those that the model saw; leave it out"
        )


def evidence_of(
    checkpoint: Path,
    store: RegionStore,
    tags: TagSource,
    captions: Mapping[str, str],
    image_ids: Sequence[str],
) -> Iterator[tuple[str, list["WordEvidence"]]]:
    """(image id, evidence of each word of its caption), one picture after the other.

    Raises:
        UserError: the model is none for captions, or knows the features of another detector.
    """
    from vivo.explanation import Explainer
    from vivo.prediction import load_captioning_model

    tokenizer, model = load_captioning_model(checkpoint, store)
    explainer = Explainer(model, tokenizer)
    for image_id in image_ids:
        regions, caption = store[image_id], captions[image_id]
        words = [match.span() for match in WORD.finditer(caption)]
        yield image_id, explainer.explain(caption, tags(image_id, [], regions), regions, words)
