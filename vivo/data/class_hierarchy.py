"""The class hierarchy of Open Images: which class is a kind of which.

{"LabelName", "Subcategory": [...], "Part": [...]} nested
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

from vivo.errors import UserError


def read_hierarchy(path: str | Path) -> dict[str, list[str]]:
    """Class id -> ids of its direct parents (a class may have several); the root has none.

    Only "Subcategory" (is a) counts; "Part" (a nose of a face) makes nothing a parent.

    Raises:
        UserError: missing file, not JSON, a node without LabelName, subclasses that are no list.
    """
    try:
        root = json.loads(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror}); give the class hierarchy JSON") from error
    except ValueError as error:
        raise UserError(f"{path}: not JSON ({error}); download the class hierarchy again") from error
    parents: dict[str, list[str]] = {}
    todo: list[tuple[object, str | None]] = [(root, None)]
    while todo:
        node, parent = todo.pop()
        if not isinstance(node, dict) or not isinstance(node.get("LabelName"), str):
            raise UserError(
                f"{path}: a node under {parent or 'the root'} has no LabelName; is this the hierarchy JSON?"
            )
        for key in ("Subcategory", "Part"):
            if not isinstance(node.get(key, []), list):
                raise UserError(
                    f"{path}: {key} of {node['LabelName']} is not a list; download the class hierarchy again"
                )
        known = parents.setdefault(node["LabelName"], [])
        if parent is not None and parent not in known:
            known.append(parent)
        # Parts are walked for the classes below them, but do not hang on this node.
        todo += [(child, node["LabelName"]) for child in reversed(node.get("Subcategory", []))]
        todo += [(part, None) for part in reversed(node.get("Part", []))]
    return parents


def ancestors(mid: str, parents: Mapping[str, Sequence[str]]) -> set[str]:
    """All classes above `mid`, without itself; safe against circles."""
    found: set[str] = set()
    todo = list(parents.get(mid, []))
    while todo:
        parent = todo.pop()
        if parent not in found:
            found.add(parent)
            todo += parents.get(parent, [])
    return found - {mid}


def tags_above(tags: Mapping[str, str], parents: Mapping[str, Sequence[str]]) -> dict[str, frozenset[str]]:
    """Tag -> the tags of all classes above it, for the tags that have any.

    Args:
        tags: class id -> tag. Two classes may share a tag: it then has the ancestors of both.
        parents: as `read_hierarchy` gives them; classes without a tag (the root) are passed over.
    """
    above: dict[str, set[str]] = {}
    for mid, tag in tags.items():
        more_general = {tags[ancestor] for ancestor in ancestors(mid, parents) if ancestor in tags} - {tag}
        if more_general:
            above.setdefault(tag, set()).update(more_general)
    return {tag: frozenset(more_general) for tag, more_general in above.items()}
