"""What a run was given: fingerprints of its region stores, SHA-256 of its files. Kept as inputs.json in the run folder.

    {"regions": {"path", "pictures", "regions", "fingerprint", "index_sha256"},
     "examples": {"path", "bytes", "sha256"}, ..., "init": {"path", "sha256"}}

One entry for each path of the configuration that leads to something; a path tells where it was, the rest what it was.
"""

from pathlib import Path
from typing import Any

from vivo.config import TrainConfig
from vivo.data.region_format import sha256_of
from vivo.data.regions import RegionStore

FILE = "inputs.json"
_WEIGHTS = "model.safetensors"


def data_facts(config: TrainConfig) -> dict[str, dict[str, Any]]:
    """Facts about all that `config` reads, by field name. Files are read whole (about a second for each GB)."""
    data = config.data
    paths = {
        "regions": data.regions,
        "examples": data.examples,
        "pairs": data.pairs,
        "pairs_regions": data.pairs_regions,
        "validation_regions": data.validation_regions,
        "validation_references": data.validation_references,
        "tag_file": data.tag_file,
        "frequencies": config.scst.frequencies,
        "tag_vocabulary": data.vocabulary,
        "model_vocabulary": config.model.vocabulary,
        "tagger": data.tagger,
        "encoder": config.show_and_tell.weights,
        "init": config.init,
    }
    facts = {name: _facts(Path(path)) for name, path in paths.items() if path}
    return {name: found for name, found in facts.items() if found}


def _facts(path: Path) -> dict[str, Any]:
    """Of a RegionStore, a model folder or a file; {} of anything else (as `init: minilm`)."""
    if (path / "manifest.json").is_file():
        store = RegionStore(path)
        return {
            "path": str(path),
            "pictures": len(store),
            "regions": store.manifest["regions"],
            "fingerprint": store.fingerprint,
            "index_sha256": store.manifest["index"]["sha256"],
        }
    if (path / _WEIGHTS).is_file():
        return {"path": str(path), "sha256": sha256_of(path / _WEIGHTS)}
    if path.is_file():
        return {"path": str(path), "bytes": path.stat().st_size, "sha256": sha256_of(path)}
    return {}
