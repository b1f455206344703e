"""After `import vivo`, transformers' auto classes know our model types, in whatever order the two are imported.

Importing vivo must stay cheap (`vivo --help` waits for no library), so nothing of transformers is imported here. Our
modules are imported when transformers' own auto modules have been: at once if that was before, else behind them.
"""

import importlib
import sys
from collections.abc import Sequence
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType

# Each of ours registers its classes when it is imported.
_AUTO = {
    "transformers.models.auto.configuration_auto": ("vivo.model_config", "vivo.show_and_tell.model_config"),
    "transformers.models.auto.modeling_auto": ("vivo.modeling", "vivo.show_and_tell.modeling"),
    "transformers.models.auto.processing_auto": ("vivo.processing", "vivo.show_and_tell.processing"),
}


class _Behind(Loader):
    """Loads a module as its own loader does, then imports some of ours."""

    def __init__(self, loader: Loader, ours: Sequence[str]):
        self.loader, self.ours = loader, ours

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        return self.loader.create_module(spec)

    def exec_module(self, module: ModuleType) -> None:
        # as if we had never been there: code that asks a module for its source or its resources asks its own loader
        module.__loader__ = module.__spec__.loader = self.loader
        self.loader.exec_module(module)
        for name in self.ours:
            importlib.import_module(name)


class _Finder(MetaPathFinder):
    """Finds transformers' auto modules the first time that they are imported."""

    def find_spec(self, name: str, path: Sequence[str] | None, target: ModuleType | None = None) -> ModuleSpec | None:
        if name not in _AUTO:
            return None
        others = (finder for finder in sys.meta_path if finder is not self)
        found = (finder.find_spec(name, path, target) for finder in others if hasattr(finder, "find_spec"))
        spec = next(filter(None, found), None)
        if spec is not None and spec.loader is not None:
            spec.loader = _Behind(spec.loader, _AUTO[name])
        return spec


def register_with_transformers() -> None:
    """Called once, by the package's `__init__`."""
    sys.meta_path.insert(0, _Finder())
    for theirs, ours in _AUTO.items():
        if theirs in sys.modules:
            for name in ours:
                importlib.import_module(name)
