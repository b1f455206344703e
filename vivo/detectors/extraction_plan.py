"""Who does what in an extraction, kept in files so that any process may die at any moment.

    STORE/plan.jsonl        what was asked for (a hash), threads, then one chunk of the picture list a line
          shard-00007.arrow the regions of chunk 7
          shard-00007.json  its receipt: written when the shard has its name, so a chunk with a receipt is done

A chunk is a fixed stretch of the list: what is in a shard depends neither on the number of processes nor on who
was killed when. The same command goes on with the plan that it finds; another list (or batch size) gets a new plan
for the pictures that are not done yet. The number of threads is kept because the last bits of a sum depend on it. When
the store is finished, plan and receipts are removed.
"""

import hashlib
import json
import os
import socket
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from vivo.data.region_shards import number_of, shard_name, write_whole
from vivo.errors import UserError

PLAN = "plan.jsonl"


@dataclass(frozen=True)
class Chunk:
    """A stretch of the picture list; becomes shard `number`. `ids` and `paths` are parallel."""

    number: int
    ids: list[str]
    paths: list[str]


@dataclass(frozen=True)
class Receipt:
    """What became of a chunk.

    Attributes:
        number: the chunk's.
        plan: `ExtractionPlan.asked` of the plan that it was part of.
        shard: entry of the shard for the manifest, with the ids; None where every picture was broken.
        broken: (image id, path, reason) of the pictures that could not be read.
    """

    number: int
    plan: str
    shard: dict[str, Any] | None
    broken: list[tuple[str, str, str]] = field(default_factory=list)


def request_hash(settings: Mapping[str, Any], ids: Sequence[str], paths: Sequence[str]) -> str:
    """SHA-256 over everything that decides a store's bytes: detector and batching, and the list in its order."""
    digest = hashlib.sha256(json.dumps(settings, sort_keys=True).encode())
    for image_id, path in zip(ids, paths, strict=True):
        digest.update(json.dumps([image_id, path]).encode())
    return digest.hexdigest()


class ExtractionPlan:
    """The plan in a store's folder.

    Args:
        store: the folder.
        asked: `request_hash` of the run; chunks of a plan with another hash are never touched.
    """

    def __init__(self, store: Path, asked: str) -> None:
        self.store = store
        self.asked = asked

    @property
    def threads(self) -> int | None:
        """Threads that each process computes with; None if the plan on disk is not that of this run.

        Then it was finished, replaced by another run, or never written.
        """
        try:
            with (self.store / PLAN).open(encoding="utf-8") as lines:
                header = json.loads(lines.readline())
                return header["threads"] if header["asked"] == self.asked else None
        except (FileNotFoundError, ValueError, KeyError):
            return None

    def write(
        self, ids: Sequence[str], paths: Sequence[str], chunk_pictures: int, first_number: int, threads: int
    ) -> None:
        """Plan these pictures as chunks numbered from `first_number`; takes the place of an older plan."""
        lines = [json.dumps({"asked": self.asked, "threads": threads})]
        for number, start in enumerate(range(0, len(ids), chunk_pictures), first_number):
            stretch = slice(start, start + chunk_pictures)
            lines.append(json.dumps(asdict(Chunk(number, list(ids[stretch]), list(paths[stretch])))))
        write_whole(self.store / PLAN, "".join(line + "\n" for line in lines).encode())

    def chunks(self, numbers: Collection[int] | None = None) -> Iterator[Chunk]:
        """The chunks of the plan by rising number, all or those of `numbers`; in memory one at a time.

        Raises:
            UserError: the plan is not there, as where the nodes do not see one folder.
        """
        wanted = None if numbers is None else frozenset(numbers)
        try:
            with (self.store / PLAN).open(encoding="utf-8") as lines:
                if json.loads(next(lines))["asked"] != self.asked:
                    raise KeyError("asked")
                for chunk in (Chunk(**json.loads(line)) for line in lines):
                    if wanted is None or chunk.number in wanted:
                        yield chunk
        except (OSError, StopIteration, ValueError, KeyError, TypeError) as error:
            raise UserError(
                f"{self.store / PLAN}: not the plan of this run ({error!r}); all processes must see the store in one"
                " shared folder, and only one command at a time may fill it"
            ) from error

    def sign(self, receipt: Receipt) -> None:
        """Keep the receipt of a finished chunk."""
        text = json.dumps(asdict(receipt)) + "\n"
        write_whole(self._receipt_file(receipt.number), text.encode(), self.temporary(f"{receipt.number}.json"))

    def temporary(self, name: str) -> Path:
        """A name for a file in work that no other process uses, here or on another node."""
        return self.store / f"{PLAN}.{socket.gethostname()}-{os.getpid()}.{name}.tmp"

    def receipts(self) -> dict[int, Receipt]:
        """All receipts in the folder whose shards are whole, by rising number; also those of older plans."""
        found = {}
        for file in sorted(self.store.glob("shard-*.json")):
            try:
                receipt = Receipt(**json.loads(file.read_text(encoding="utf-8")))
                shard = receipt.shard
                if shard is None or (self.store / shard["name"]).stat().st_size == shard["bytes"]:
                    found[receipt.number] = receipt
            except (OSError, ValueError, KeyError, TypeError):
                continue  # cut by a full disk, or its shard is gone: the chunk is done again
        return dict(sorted(found.items()))

    def receipt_numbers(self) -> set[int]:
        """Numbers of the chunks that have a receipt, by the names of the files alone."""
        names = (entry.name for entry in os.scandir(self.store))
        return {number_of(n[:-5] + ".arrow") for n in names if n.startswith("shard-") and n.endswith(".json")}

    def clear(self) -> None:
        """Remove plan, receipts and files in work of killed processes."""
        for pattern in ("shard-*.json", f"{PLAN}*"):
            for file in self.store.glob(pattern):
                file.unlink(missing_ok=True)

    def _receipt_file(self, number: int) -> Path:
        return (self.store / shard_name(number)).with_suffix(".json")
