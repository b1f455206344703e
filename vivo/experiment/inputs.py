"""What a comparison was begun with, kept in OUT/experiment.json: finished stages are not made again, so another
configuration, benchmark or choice of tags in the same folder would take over old models and captions in silence.
"""

import dataclasses
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from vivo import __version__
from vivo.config import TrainConfig, configs_dir, load_eval_config
from vivo.data.region_format import sha256_of
from vivo.data.regions import RegionStore
from vivo.errors import UserError
from vivo.experiment import stages
from vivo.experiment.benchmark import RECURRENT, Benchmark
from vivo.experiment.plan import VIVO
from vivo.files import atomic_write_json

FILE = "experiment.json"
# Fields that hold a path: told by what is there, so that a folder may be moved.
_PATHS = {
    "regions", "examples", "pairs", "pairs_regions", "validation_regions", "validation_references", "tag_file",
    "vocabulary", "tagger",
}  # fmt: skip
# Fields that change nothing that is learned. (Seed and init are those of any run, unless an override fixes them.)
_FREE = {"out", "tracking", "validation_pictures", "workers", "engine"}


def inputs_of(bench: Benchmark) -> dict[str, Any]:
    """All that decides the results but the seeds: resolved configurations, tags, contents of files and stores."""
    run = Path("run")
    recurrent = {}
    if bench.caption_pictures:
        for number, name in enumerate(("show_and_tell_frozen", "show_and_tell")):
            config = stages.recurrent_config(bench, number, run / "rows" / "x" / "seed0" / name, "random", 0)
            groups = ("show_and_tell", "optim", "model", "loss")
            recurrent[name] = {group: dataclasses.asdict(getattr(config, group)) for group in groups} | {
                "captions_per_picture": config.data.captions_per_picture
            }
        recurrent["show_and_tell_decode"] = dataclasses.asdict(load_eval_config(configs_dir() / RECURRENT[2]).decode)
    files = [bench.evaluation_references, bench.classes, *bench.records]
    return {
        "vivo": __version__,
        "configs": list(bench.configs),
        "tags": bench.tags,
        "pretrain": _settings(stages.pretrain_config(bench, VIVO, run, 0)),
        "finetune": _settings(stages.finetune_config(bench, VIVO, run, "minilm", 0)),
        "decode": dataclasses.asdict(load_eval_config(configs_dir() / bench.configs[2]).decode),
        "evaluation_regions": _content(bench.evaluation_regions),
        "files": {path.name: _content(path) for path in files},
        **recurrent,
    }


def check_inputs(out: Path, bench: Benchmark) -> dict[str, Any]:
    """The inputs of this call, written to experiment.json when the folder has none yet.

    What only one of the two records knows (another version of vivo wrote it) is not compared; nor is the version.

    Raises:
        UserError: `out` was begun with other inputs, naming the first that differs; a damaged experiment.json.
    """
    path, found = out / FILE, inputs_of(bench)
    if not path.is_file():
        atomic_write_json(path, found)
        return found
    try:
        begun = dict(_leaves(json.loads(path.read_text(encoding="utf-8"))))
    except (OSError, ValueError, AttributeError) as error:
        raise UserError(f"{path}: cannot be read ({error}); choose another --out, or remove {out}") from error
    for key, value in _leaves(found):
        if key != "vivo" and begun.get(key, value) != value:
            raise UserError(
                f"{out}: holds results of other inputs: {key} was {_shown(begun[key])} and is {_shown(value)} now;"
                " choose another --out, or remove that folder"
            )
    return found


def _settings(config: TrainConfig) -> dict[str, Any]:
    """The fields of a configuration, paths replaced by what is there."""

    def told(fields: dict[str, Any]) -> dict[str, Any]:
        kept = {}
        for name, value in fields.items():
            if name in _FREE:
                continue
            is_path = name in _PATHS and isinstance(value, str) and value
            kept[name] = told(value) if isinstance(value, dict) else _content(Path(value)) if is_path else value
        return kept

    return told(dataclasses.asdict(config))


def _content(path: Path) -> str:
    """What a file or a RegionStore holds, in one text; the path itself where neither is there."""
    if (path / "manifest.json").is_file():
        store = RegionStore(path)
        return f"{len(store)} pictures of detector {store.fingerprint}, index {store.manifest['index']['sha256'][:16]}"
    return f"sha256 {sha256_of(path)}" if path.is_file() else str(path)


def _leaves(tree: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """(dotted key, value) of all values."""
    for name, value in tree.items():
        if isinstance(value, dict):
            yield from _leaves(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value


def _shown(value: Any) -> str:
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)[:80] or "nothing"
