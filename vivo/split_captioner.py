"""What captions the pictures of a split, opened once in each process, and what its captions hang on."""

import dataclasses
import functools
import hashlib
import json
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import torch

from vivo.config import DecodeConfig
from vivo.constrained_prediction import ConstrainedCaptions
from vivo.data.region_format import MANIFEST, sha256_of
from vivo.data.tag_source import TagSource
from vivo.data.text import decode_caption
from vivo.ensemble import Ensemble
from vivo.errors import UserError
from vivo.n_best import n_best_captions
from vivo.prediction import decode_pictures, load_captioning_model, open_store
from vivo.self_tagging import VOCABULARY, open_tag_source, open_tagger, written_tags
from vivo.training.runtime import fast_bf16

WEIGHTS = "model.safetensors"
TAGGER = "tagger"
Part = dict[str, Any]
"""{"request", "records": [{"image_id", "caption", "score"}], "traces": those of constrained search, or None,
"n_best": [{"image_id", "captions"}] as `n_best_captions` gives them, or None}"""


class SplitCaptioner:
    """All that captions the pictures of a split, opened once in each process.

    Args:
        regions: a RegionStore; or, of a captioner that sees pixels, the file of each picture.
        image_ids: the split. shown: for a control, the picture whose regions and tags the model gets instead.
        tags: "detector", "none", "file" (with `tag_file`) or "self" (by the model in the checkpoint's tagger/).
        precision: "fp32" | "bf16" | "fp16" | "auto", of the matrix products.
        n_best: captions of each picture to keep beside the best one's record (vivo/n_best.py); 0: none.
        ensemble: further checkpoints, whose probabilities are averaged with those of the first.

    Attributes:
        request: `request_of`, and the word pieces of the model.

    Raises:
        UserError: whatever cannot be opened or does not fit; pictures that the store lacks; fp16 without a GPU.
    """

    def __init__(
        self,
        checkpoint: Path,
        regions: Path | Mapping[str, Path],
        image_ids: Sequence[str],
        tags: str,
        decode: DecodeConfig,
        shown: Mapping[str, str] | None = None,
        tag_file: str = "",
        precision: str = "fp32",
        n_best: int = 0,
        ensemble: Sequence[Path] = (),
    ) -> None:
        self.image_ids, self.decode, self.shown, self.n_best = list(image_ids), decode, shown, n_best
        self.ensemble = list(ensemble)
        self.store = open_store(checkpoint, regions)
        self.tokenizer, self.model = load_captioning_model(checkpoint, self.store)
        if ensemble:
            others = [load_captioning_model(other, self.store) for other in ensemble]
            tokenizers = [self.tokenizer, *(own for own, _ in others)]
            self.model = Ensemble([self.model, *(other for _, other in others)], tokenizers)
        lost = [i for i in self.image_ids if i not in self.store]
        if lost:
            raise UserError(
                f"{self.store.path}: lacks {len(lost):,} of the {len(self.image_ids):,} pictures to caption (first:"
                f" {lost[0]}); extract their regions too, or give the store of this split"
            )
        self.precision = _resolved(precision)
        self._writer = open_tagger(checkpoint / TAGGER, self.store) if tags == "self" else None
        self._tags: TagSource | None = None
        if self._writer is None:
            repeats = self.model.config.tags_as_text
            self._tags = open_tag_source(tags, self.store, self.image_ids, tag_file, repeats=repeats)
        self._constrained = None
        if decode.constraints != "none":
            self._constrained = ConstrainedCaptions.open(self.tokenizer, self.store, self.image_ids, decode, shown)
        pieces = {"word pieces": hash_of(sorted(self.tokenizer.get_vocab().items()))}
        given = (self.image_ids, tags, decode, shown, tag_file, self.precision, n_best, ensemble)
        self.request = pieces | request_of(checkpoint, regions, *given)

    @property
    def batches(self) -> list[list[str]]:
        """The pictures that are captioned together."""
        size = self.decode.batch_size
        return [self.image_ids[first : first + size] for first in range(0, len(self.image_ids), size)]

    def caption(self, ids: Sequence[str]) -> Part:
        """The captions of one batch."""
        sources = [self.shown[i] if self.shown else i for i in ids]
        tags = written_tags(self._writer, self.store, sources) if self._writer else self._tags
        with self._autocast():
            found = decode_pictures(
                self.model, self.tokenizer, self.store, ids, tags, self.decode, self.shown, self._constrained
            )
        records = [
            {"image_id": i, "caption": decode_caption(self.tokenizer, found[i][0].tokens), "score": found[i][0].score}
            for i in ids
        ]
        traces = None
        if self._constrained:
            traces = [{"image_id": i} | self._constrained.traces.pop(i) for i in ids]
        several = None
        if self.n_best:
            several = [{"image_id": i, "captions": n_best_captions(self.tokenizer, found[i], self.n_best)} for i in ids]
        return {"request": hash_of(self.request), "records": records, "traces": traces, "n_best": several}

    def _autocast(self) -> AbstractContextManager[None]:
        if self.precision == "fp32":
            return nullcontext()
        dtype = torch.float16 if self.precision == "fp16" else torch.bfloat16
        return torch.autocast(self.model.device.type, dtype)


def request_of(
    checkpoint: Path,
    regions: Path | Mapping[str, Path],
    image_ids: Sequence[str],
    tags: str,
    decode: DecodeConfig,
    shown: Mapping[str, str] | None,
    tag_file: str,
    precision: str,
    n_best: int,
    ensemble: Sequence[Path],
) -> dict[str, Any]:
    """What decides captions, name -> value or hash, as JSON keeps it: content, and not where it lies.

    Args: see `SplitCaptioner`.
    """
    found: dict[str, Any] = {
        "pictures": len(image_ids),
        "their ids": hash_of(list(image_ids)),
        "weights": sha256_of(checkpoint / WEIGHTS),
        "model configuration": sha256_of(checkpoint / "config.json")[:16],
        **_seen(regions, image_ids, shown),
        "tags": tags,
        "precision": precision,
        "n_best": n_best,
        "code": code_hash(),
        **{f"decode.{name}": value for name, value in dataclasses.asdict(decode).items()},
    }
    for number, other in enumerate(ensemble, 2):
        found[f"weights of model {number}"] = sha256_of(other / WEIGHTS)
        found[f"configuration of model {number}"] = sha256_of(other / "config.json")[:16]
    if tags == "file":
        found["tag file"] = sha256_of(Path(tag_file))[:16]
    if tags == "self":
        found |= {f"{TAGGER}/{name}": sha256_of(checkpoint / TAGGER / name)[:16] for name in (WEIGHTS, VOCABULARY)}
    if decode.constraint_regions:
        found["decode.constraint_regions"] = sha256_of(Path(decode.constraint_regions) / MANIFEST)[:16]
    for name in ("constraint_classes", "constraint_hierarchy"):
        if path := getattr(decode, name):
            found[f"decode.{name}"] = sha256_of(Path(path))[:16]
    if shown:
        found["regions and tags of other pictures"] = hash_of([shown[i] for i in image_ids])
    return found


def _seen(
    regions: Path | Mapping[str, Path], image_ids: Sequence[str], shown: Mapping[str, str] | None
) -> dict[str, str]:
    """What the captioner sees, as a hash: of the store's manifest, or of the picture files."""
    if isinstance(regions, Path):
        return {"regions": sha256_of(regions / MANIFEST)[:16]}
    return {"picture files": hash_of([sha256_of(regions[shown[i] if shown else i]) for i in image_ids])}


def hash_of(value: Any) -> str:
    """16 hex digits over a JSON value."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:16]


@functools.cache
def code_hash() -> str:
    """16 hex digits over this package's source: after an update captions may be others, and are made anew."""
    root = Path(__file__).parent
    digest = hashlib.sha256()
    for path in sorted([*root.rglob("*.py"), *root.rglob("*.txt")]):
        digest.update(f"{path.relative_to(root)}\n".encode() + path.read_bytes())
    return digest.hexdigest()[:16]


def _resolved(precision: str) -> str:
    """The precision that "auto" is on this machine."""
    if precision == "fp16" and not torch.accelerator.is_available():
        raise UserError("precision: fp16 needs a GPU; use bf16 or fp32")
    if precision == "auto":
        return "bf16" if fast_bf16() else "fp32"
    return precision
