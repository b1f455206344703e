"""What all pages share: one HTML file that runs no script but its own and asks no host for anything.

Captions are written by a model, references, names and file names by others. So everything that a template puts in is
escaped (autoescape), data for the page's script are JSON in which no tag can begin, the script puts text in as text
alone, and a content security policy with the script's hash forbids any other script and any host.
"""

import base64
import contextlib
import hashlib
import json
import math
import os
from collections.abc import Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from vivo.errors import UserError


def read_asset(name: str) -> str:
    """A file that ships beside this module."""
    return resources.files("vivo.report").joinpath(name).read_text(encoding="utf-8")


def script_hash(script: str) -> str:
    """The source expression that allows exactly this inline script in a content security policy."""
    return "'sha256-" + base64.b64encode(hashlib.sha256(script.encode("utf-8")).digest()).decode("ascii") + "'"


class Page:
    """A template with the style and the one script of its page.

    Args:
        template: its file. styles, scripts: files that are joined in this order.
    """

    def __init__(self, template: str, styles: Sequence[str], scripts: Sequence[str]):
        environment = Environment(
            loader=PackageLoader("vivo.report", "."),
            autoescape=True,
            undefined=StrictUndefined,
            trim_blocks=True,
            lstrip_blocks=True,
        )
        self._template = environment.get_template(template)
        script = "".join(read_asset(name) for name in scripts)
        self._constants = {
            "style": Markup("".join(read_asset(name) for name in styles)),
            "script": Markup(script),
            "script_hash": Markup(script_hash(script)),
        }

    def render(self, **values: Any) -> str:
        """The page with these values, all of them escaped but `Markup`."""
        return self._template.render(**self._constants, **values).lstrip()


def json_in_page(value: Any) -> Markup:
    """JSON for a script element of type application/json: `</script>` and `<!--` cannot stand in it."""
    text = json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    return Markup(text.replace("<", "\\u003c"))


def plain_text(text: str) -> str:
    """`text` without what UTF-8 cannot write: a lone surrogate (half an emoji) becomes a question mark."""
    return text.encode("utf-8", "replace").decode()


def finite(values: Mapping[str, Any]) -> dict[str, float]:
    """The entries that are finite numbers: a page shows no other ones."""
    return {
        name: float(value)
        for name, value in values.items()
        if isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    }


def write_atomically(path: Path, text: str) -> None:
    """Write to a temporary name beside `path`, then rename: a reader sees the old page or the new one."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary.write_text(text, encoding="utf-8", newline="\n")
        os.replace(temporary, path)
    except OSError as error:
        raise UserError(f"{path}: cannot write the report ({error.strerror}); choose another --out") from error
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
