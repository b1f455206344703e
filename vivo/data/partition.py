"""Which domain each picture of a split belongs to, where it is another than the captions file says.

nocaps' server scored domains of 648 / 2,938 / 914 validation pictures, the public file's `domain` gives 417 /
2,670 / 1,413. Who has the server's list can score by it. A partition file is JSON or CSV (by its first character):

    {"0": "in-domain", "1": "near-domain", ...}

    image_id,domain
    0,in-domain
    1,near-domain

Ids are those of the captions file; a domain is one of `DOMAINS`, or "in", "near", "out". Every picture of the split is
named once, and no other.
"""

import csv
import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from vivo.data.coco import plain_id, read_text
from vivo.data.nocaps import DOMAINS
from vivo.data.types import CaptionExample
from vivo.errors import UserError

_SHORT = {domain.split("-")[0]: domain for domain in DOMAINS}


def with_partition(examples: Sequence[CaptionExample], path: str | Path) -> list[CaptionExample]:
    """`examples` with the domains of the partition file `path`.

    Raises:
        UserError: naming file and entry: neither JSON object nor CSV, an unknown domain, a picture twice, pictures
            without a domain, pictures that are not of the split.
    """
    domains = read_partition(path)
    missing = [example.image_id for example in examples if example.image_id not in domains]
    if missing:
        raise UserError(
            f"{path}: no domain for {len(missing):,} of {len(examples):,} pictures (first: {', '.join(missing[:3])}); "
            "is it the partition of this split?"
        )
    strange = domains.keys() - {example.image_id for example in examples}
    if strange:
        raise UserError(
            f"{path}: {len(strange):,} pictures are not of this split (one is {min(strange)}); is it the partition of"
            " this split?"
        )
    return [replace(example, domain=domains[example.image_id]) for example in examples]


def read_partition(path: str | Path) -> dict[str, str]:
    """Domain ("in-domain", "near-domain", "out-domain") by picture id.

    Raises:
        UserError: see `with_partition`.
    """
    text = read_text(Path(path))
    rows = _json_rows(path, text) if text.lstrip()[:1] in ("{", "[") else _csv_rows(path, text)
    domains: dict[str, str] = {}
    for where, name, domain in rows:
        image_id = plain_id(name.strip())
        if image_id in domains:
            raise UserError(f"{where}: picture {image_id} is there twice; keep one")
        known = domain.strip() if isinstance(domain, str) else domain
        if known in _SHORT:
            known = _SHORT[known]
        if known not in DOMAINS:
            raise UserError(f"{where}: domain must be one of {', '.join(DOMAINS)} (or in, near, out), found {domain!r}")
        domains[image_id] = known
    if not domains:
        raise UserError(f"{path}: names no picture; it must give every picture of the split its domain")
    return domains


def _json_rows(path: str | Path, text: str) -> list[tuple[str, str, object]]:
    pairs: list[tuple[str, object]] = []

    def keep(found: list[tuple[str, object]]) -> None:  # a dict would hide a key that is there twice
        pairs[:] = found

    try:
        content = json.loads(text, object_pairs_hook=keep)
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path}: not JSON ({error}); see vivo/data/partition.py for the format") from error
    if content is not None:
        raise UserError(f'{path}: a {type(content).__name__}, expected an object {{"image id": "domain"}}')
    return [(f"{path}, picture {name}", name, domain) for name, domain in pairs]


def _csv_rows(path: str | Path, text: str) -> list[tuple[str, str, object]]:
    rows = list(csv.reader(text.splitlines()))
    if not rows or [cell.strip() for cell in rows[0]] != ["image_id", "domain"]:
        found = ",".join(rows[0])[:60] if rows else ""
        raise UserError(f"{path}, line 1: expected image_id,domain (or a JSON object), found {found!r}")
    found_rows: list[tuple[str, str, object]] = []
    for number, row in enumerate(rows[1:], 2):
        if len(row) != 2:
            raise UserError(f"{path}, line {number}: expected 2 cells (image_id,domain), found {len(row)}")
        found_rows.append((f"{path}, line {number}", row[0], row[1]))
    return found_rows
