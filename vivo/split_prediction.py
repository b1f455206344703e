"""Captions of a whole split, by any number of processes on any number of nodes, any of which may be killed.

    OUT/predictions.json                 the captions, with predictions.header.json and, with constraints or n_best,
                                         predictions.constraints.jsonl, predictions.n_best.jsonl; there when the work
                                         is done, whole
        predictions.parts/request.json   while it is not: what the captions are of (vivo/split_captioner.py)
                          <hash>-00007.json   the captions of batch 7, <hash> of the request

The split is cut into batches of `decode.batch_size`, and what is in a batch hangs on nothing else, so captions are
those of one process on any number of them. (The last bits of scores hang on the number of threads on a CPU.) A process
takes every n-th batch that is to be done and keeps each as a part: written under another name, then renamed. Parts of
another request are never looked at. The parts need not lie in one folder: what the first process does not see is sent
to it by a process that does. Nothing is padded, so every picture has one caption.
"""

import dataclasses
import json
import os
import shutil
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from time import perf_counter
from typing import Any

from vivo.config import DecodeConfig
from vivo.constrained_prediction import summary_of
from vivo.data.predictions import constraints_path, n_best_path, read_header, read_predictions, write_predictions
from vivo.data.region_format import sha256_of
from vivo.errors import UserError
from vivo.files import atomic_write_json, atomic_write_text, lock_folder, remove_file, writable_folder
from vivo.n_best import write_n_best
from vivo.processes import ALONE, Processes
from vivo.progress import progress_of
from vivo.split_captioner import WEIGHTS, Part, SplitCaptioner, hash_of
from vivo.training.identity import check_same_everywhere
from vivo.training.runtime import environment


class Parts:
    """The batches of a split that are done, as files beside `out`.

    Args:
        out: of the whole. request: of all parts. batches: ids of each.
    """

    def __init__(self, out: Path, request: Mapping[str, Any], batches: Sequence[Sequence[str]]) -> None:
        self.folder = out.with_name(f"{out.stem}.parts")
        self.request, self.batches = dict(request), batches
        self._asked = hash_of(self.request)

    def begin(self) -> str:
        """Make the folder and remove what is of another request; returns a line that says so, or ""."""
        writable_folder(self.folder)
        others = [file for file in self.folder.glob("*-*.json") if not file.name.startswith(f"{self._asked}-")]
        told = ""
        if others:
            told = f"{self.folder}: {len(others)} parts of other settings ({self._difference()}) are made anew"
        for file in others:
            file.unlink(missing_ok=True)
        atomic_write_json(self.folder / "request.json", self.request)
        return told

    def keep(self, number: int, part: Part) -> None:
        """Write batch `number`."""
        atomic_write_text(self._file(number), json.dumps(part, ensure_ascii=False, allow_nan=False) + "\n")

    def read(self) -> dict[int, Part]:
        """The parts that this process sees, by number. What is cut, damaged or of other pictures is none."""
        found = {}
        for number, ids in enumerate(self.batches):
            try:
                part = json.loads(self._file(number).read_text(encoding="utf-8"))
                kept = [part["records"], *(part[name] for name in ("traces", "n_best") if part[name] is not None)]
                if part["request"] == self._asked and all(_ids_of(rows) == list(ids) for rows in kept):
                    found[number] = part
            except (OSError, ValueError, KeyError, TypeError):
                continue
        return found

    def clear(self) -> None:
        """Remove the folder; several processes may do it at once."""
        shutil.rmtree(self.folder, ignore_errors=True)

    def _file(self, number: int) -> Path:
        return self.folder / f"{self._asked}-{number:05d}.json"

    def _difference(self) -> str:
        """The first setting that was another one."""
        try:
            before = json.loads((self.folder / "request.json").read_text(encoding="utf-8"))
            for name in (*self.request, *before):
                if before.get(name) != self.request.get(name):
                    return f"{name} {before.get(name, 'not given')}, now {self.request.get(name, 'not given')}"
        except (OSError, ValueError, AttributeError):
            pass
        return "which ones is not known"


def _ids_of(rows: Iterable[Mapping[str, Any]]) -> list[str]:
    return [row["image_id"] for row in rows]


def predict_split(
    checkpoint: Path,
    regions: Path | Mapping[str, Path],
    image_ids: Sequence[str],
    tags: str,
    decode: DecodeConfig,
    out: Path,
    shown: Mapping[str, str] | None = None,
    tag_file: str = "",
    precision: str = "fp32",
    n_best: int = 0,
    processes: Processes = ALONE,
    progress: bool = False,
    ensemble: Sequence[Path] = (),
) -> dict[str, str]:
    """Caption a split and write `out` with what lies beside it; what an earlier call of the same request did, stays.

    Args: see `SplitCaptioner`.
        out: of the first process; the others keep their parts beside theirs, which may be on another disk.
        processes: what `join_processes` gave; every process calls this function with the same arguments.
        progress: the first process reports on stderr.

    Returns:
        The captions by picture id in the first process, nothing in the others.

    Raises:
        UserError: what `SplitCaptioner` raises; a folder that cannot be written, or that another command writes; a
            process that ended, or whose files are others.
    """
    start = perf_counter()
    given = (image_ids, tags, decode, shown, tag_file, precision, n_best, ensemble)
    opened = open_everywhere(processes, checkpoint, regions, *given)
    parts = Parts(out, opened.request, opened.batches)
    lock: list[int] = []
    shows = progress and processes.is_main

    def say(text: str) -> None:
        if shows and text:
            print(text, file=sys.stderr, flush=True)

    def prepare() -> bool:
        if _is_finished(out, opened):
            return True
        writable_folder(out.parent)
        writable_folder(parts.folder)
        lock.append(lock_folder(parts.folder, "these captions"))
        say(parts.begin())
        return False

    def look() -> set[int]:
        writable_folder(parts.folder)  # on the disk of this process
        return set(parts.read())

    try:
        if processes.from_main(prepare):
            say(f"{out}: is finished; to caption anew, name another out or remove it")
            parts.clear()
            return read_predictions(out) if processes.is_main else {}
        done = set().union(*processes.all_gather(processes.everywhere(look)))
        _work(opened, parts, sorted(set(range(len(parts.batches))) - done), processes, shows)
        processes.wait(lambda: None)
        found = _collected(parts, processes)
        captions = processes.on_main(lambda: _write(out, opened, found, checkpoint, tags)) or {}
    finally:
        for descriptor in lock:
            os.close(descriptor)
    parts.clear()
    made = len(opened.image_ids) - sum(len(parts.batches[number]) for number in done)
    seconds = perf_counter() - start
    by = f" by {processes.count} processes" if processes.count > 1 else ""
    say(
        f"{made:,} captions in {seconds:.1f} s, {made / seconds:.1f}/s with loading{by}"
        + (f"; {len(opened.image_ids) - made:,} were there already" if done else "")
    )
    return captions


def try_split(processes: Processes, opened: SplitCaptioner) -> list[str]:
    """A dry run: lines that say how fast the first batches are captioned, and their first captions."""
    batches = opened.batches[:2]  # the first warms up
    opened.caption(batches[0])
    start = perf_counter()
    records = opened.caption(batches[-1])["records"]
    rate = len(records) / (perf_counter() - start)
    pictures, count = len(opened.image_ids), processes.count
    several = f" by {count} processes" if count > 1 else ""
    return [
        f"dry run: {len(records)} of {pictures:,} pictures at {rate:.1f}/s on {opened.model.device.type},"
        f" {opened.precision}; all of them{several} would take about {pictures / rate / count / 60:.1f} min;"
        " nothing was written",
        *(f"    {record['image_id']}: {record['caption']}" for record in records[:3]),
    ]


def open_everywhere(
    processes: Processes, checkpoint: Path, regions: Path | Mapping[str, Path], *given: Any
) -> SplitCaptioner:
    """The captioner of this process, where all processes could open theirs and have the same files."""
    opened = processes.everywhere(lambda: SplitCaptioner(checkpoint, regions, *given))
    requests = processes.all_gather(opened.request)
    processes.on_main(lambda: check_same_everywhere(requests))
    return opened


def _work(opened: SplitCaptioner, parts: Parts, todo: Sequence[int], processes: Processes, shows: bool) -> None:
    """Caption this process's share of the batches."""
    own = todo[processes.rank :: processes.count]
    sizes = {number: len(parts.batches[number]) for number in todo}
    # all processes are about as fast, so what this one has done says what all have done
    share = sum(sizes.values()) / max(1, sum(sizes[number] for number in own))
    before, done = len(opened.image_ids) - sum(sizes.values()), 0
    with progress_of("captions", len(opened.image_ids), shown=shows, before=before) as update:
        for number in own:
            parts.keep(number, opened.caption(parts.batches[number]))
            done += sizes[number]
            everywhere = round(done * share)
            update(before + everywhere, everywhere)


def _collected(parts: Parts, processes: Processes) -> dict[int, Part]:
    """All parts, in the first process; what it does not see is sent by the first process that does."""
    found = parts.read()
    unseen = processes.from_main(lambda: set(range(len(parts.batches))) - found.keys())
    if unseen:
        holders = processes.all_gather(unseen & found.keys())
        own = [n for n in unseen & found.keys() if all(n not in held for held in holders[: processes.rank])]
        for brought in processes.all_gather({number: found[number] for number in own}):
            found |= brought
    return found


def _write(out: Path, opened: SplitCaptioner, found: Mapping[int, Part], checkpoint: Path, tags: str) -> dict[str, str]:
    """Merge the parts into the files of the split."""
    order = [found[number] for number in range(len(opened.batches)) if number in found]
    records = [record for part in order for record in part["records"]]
    if _ids_of(records) != opened.image_ids:
        lost = len(set(opened.image_ids) - set(_ids_of(records)))
        raise UserError(f"{out}: captions of {lost} pictures are lost; run the same command again")
    header = {
        "decode": dataclasses.asdict(opened.decode),
        "tags": tags,
        "checkpoint": checkpoint.name,
        "weights_sha256": opened.request["weights"],
        "region_fingerprint": opened.store.fingerprint,
        "pictures": len(records),
        "precision": opened.precision,
        "control": "another picture's regions and tags" if opened.shown else "",
        "request": opened.request,
        "environment": environment(),
    }
    if opened.ensemble:
        header["ensemble"] = [sha256_of(other / WEIGHTS) for other in opened.ensemble]
    traces = None
    if opened.decode.constraints != "none":
        traces = [trace for part in order for trace in part["traces"]]
        header["constraints"] = summary_of(traces)
    several = [row for part in order for row in part["n_best"]] if opened.n_best else []
    remove_file(out)  # before what lies beside it: a kill leaves no captions beside the n-best of others
    write_n_best(out, {row["image_id"]: row["captions"] for row in several})
    write_predictions(out, records, header, traces)
    return {record["image_id"]: record["caption"] for record in records}


def _is_finished(out: Path, opened: SplitCaptioner) -> bool:
    """Whether `out` holds the captions of this very request."""
    try:
        told = read_header(out).get("request") == opened.request
        return told and out.is_file() and list(read_predictions(out)) == opened.image_ids and _is_whole(out, opened)
    except UserError:
        return False  # damaged: made anew


def _is_whole(out: Path, opened: SplitCaptioner) -> bool:
    """Whether beside `out` lies what was asked for, and nothing that was not."""
    traces, several = constraints_path(out).is_file(), n_best_path(out).is_file()
    return traces == (opened.decode.constraints != "none") and several == (opened.n_best > 0)
