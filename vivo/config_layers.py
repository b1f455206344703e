"""Configurations in layers: YAML files and dotted overrides over the defaults of a dataclass, strictly.

A configuration is a tree of dataclasses (`vivo.config` declares ours). It is filled in layers, later
ones winning:

1. the defaults of the dataclass;
2. the YAML file named by `base:`, which may have a base itself;
3. the YAML file given to the program;
4. overrides from the command line: `optim.lr=1e-4 masking.at_most=1`.

Every layer is checked by itself, so that an unknown key, a wrong type or a value out of range is
reported with the file (or "command line") that holds it; an unknown key with the nearest valid one.
This module knows no field of any configuration.
"""

import dataclasses
import difflib
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import field
from pathlib import Path
from typing import Any, TypeVar

import yaml
from omegaconf import MISSING, DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from vivo.durations import parse_duration
from vivo.errors import UserError

COMMAND_LINE = "command line"
Config = TypeVar("Config")


def one_of(*choices: str) -> Any:
    """A text field that takes one of `choices`; the first is the default."""
    return field(default=choices[0], metadata={"choices": choices})


def between(default: float, low: float, high: float) -> Any:
    """A number from `low` to `high`, both included."""
    return field(default=default, metadata={"low": low, "high": high})


def at_least(default: int | float | None, low: float) -> Any:
    """A number of `low` or more."""
    return field(default=default, metadata={"low": low, "high": math.inf})


def duration(default: str = "", percent: bool = True) -> Any:
    """A text field with a duration (`vivo.durations`), such as "800 steps"; "" is none."""
    return field(default=default, metadata={"duration": True, "percent": percent})


def load_layers(
    schema: type[Config], path: str | Path, overrides: Sequence[str], validate: Callable[[Config], None]
) -> Config:
    """An instance of the dataclass `schema`: its defaults, the bases of `path`, `path`, the overrides.

    Args:
        schema: the dataclass; its fields may be dataclasses, each with defaults.
        path: a YAML file.
        overrides: dotted `key=value` texts.
        validate: the checks across fields; raises `UserError` with a message that begins with the key.
    """
    layers = [(str(file), _read(file)) for file in _chain(Path(path))]
    layers += [(COMMAND_LINE, _parse_override(text, schema)) for text in overrides]
    merged: DictConfig = OmegaConf.structured(schema)
    set_by: dict[str, str] = {}
    for source, tree in layers:
        if source != COMMAND_LINE:
            tree.pop("base", None)
        _check_keys(tree, schema, source)
        try:
            merged = OmegaConf.merge(merged, tree)
        except OmegaConfBaseException as error:
            raise UserError(f"{source}: {_describe(error)}") from error
        set_by.update(dict.fromkeys(_leaves(tree), source))

    try:
        config = OmegaConf.to_object(merged)
    except OmegaConfBaseException as error:  # an interpolation ${...} that leads nowhere
        raise UserError(f"{set_by.get(str(error.full_key), path)}: {_describe(error)}") from error
    for key, problem in value_problems(config):
        raise UserError(f"{set_by.get(key, path)}: {key}: {problem}")
    try:
        validate(config)
    except UserError as error:
        raise UserError(f"{path}{' with overrides' if overrides else ''}: {error}") from None
    return config


def value_problems(config: Any, prefix: str = "") -> Iterator[tuple[str, str]]:
    """(key, what is wrong) for each field of `config` outside the choices or the range declared with it."""
    for item in dataclasses.fields(config):
        key, value = prefix + item.name, getattr(config, item.name)
        if dataclasses.is_dataclass(value):
            yield from value_problems(value, f"{key}.")
        elif choices := item.metadata.get("choices"):
            if value not in choices:
                near = difflib.get_close_matches(str(value), choices, n=1, cutoff=0.0)[0]
                yield key, f"{value!r} is none of {', '.join(choices)}; the nearest is {near}"
        elif item.metadata.get("duration"):
            try:
                if parse_duration(value).unit == "percent" and not item.metadata["percent"]:
                    yield key, "cannot be in percent: it is the whole"
            except ValueError as error:
                yield key, str(error)
        elif isinstance(value, int | float) and not isinstance(value, bool):
            low, high = item.metadata.get("low", -math.inf), item.metadata.get("high", math.inf)
            if not low <= value <= high or not math.isfinite(value):
                rule = f"{_figure(low)} or more" if high == math.inf else f"from {_figure(low)} to {_figure(high)}"
                yield key, f"must be {rule}, not {value}"


def _figure(bound: int | float) -> str:
    return str(bound) if isinstance(bound, int) else f"{bound:g}"


def _chain(path: Path) -> list[Path]:
    """`path` and its bases, the farthest base first."""
    chain: list[Path] = []
    while True:
        if path.resolve() in [seen.resolve() for seen in chain]:
            raise UserError(f"{chain[-1]}: base: comes back to {path}, which is based on this file")
        if not path.is_file():
            if chain:
                raise UserError(f"{chain[-1]}: base: there is no file {path}")
            raise UserError(f"{path}: no such configuration file")
        chain.append(path)
        base = _read(path).get("base")
        if base is None:
            return chain[::-1]
        if not isinstance(base, str) or not base:
            raise UserError(f"{path}: base: must be the path of one YAML file")
        path = path.parent / base


def _read(path: Path) -> dict[str, Any]:
    """The keys and values of one YAML file, unchecked. OmegaConf's reader refuses doubled keys."""
    try:
        tree = OmegaConf.to_container(OmegaConf.load(path))
    except (yaml.YAMLError, UnicodeDecodeError, OSError) as error:
        raise UserError(f"{path}: cannot be read: {_one_line(error)}") from error
    except OmegaConfBaseException as error:
        raise UserError(f"{path}: {_describe(error)}") from error
    if not isinstance(tree, dict):
        raise UserError(f"{path}: must hold `key: value` lines")
    return tree


def _parse_override(override: str, schema: type) -> dict[str, Any]:
    """`optim.lr=1e-4` as {"optim": {"lr": 0.0001}}. Text fields take the text as it stands, unquoted."""
    key, equals, text = override.partition("=")
    if not equals or not key or key.startswith("-"):
        raise UserError(f"{COMMAND_LINE}: {override!r} is not an override; write key=value, as in optim.lr=1e-4")
    if _leaf_type(key, schema) is str:
        value: Any = text  # YAML would read "1:2" as a number and "" as null
    else:
        try:
            value = OmegaConf.to_container(OmegaConf.from_dotlist([f"value={text}"]))["value"]
        except yaml.YAMLError as error:
            raise UserError(f"{COMMAND_LINE}: {key}: cannot read {text!r}: {_one_line(error)}") from error
    for part in reversed(key.split(".")):
        value = {part: value}
    return value


def _leaf_type(key: str, schema: type) -> Any:
    """Declared type of the dotted `key` in `schema`; None if there is no such key (reported later)."""
    found: Any = schema
    for part in key.split("."):
        types = _field_types(found) if dataclasses.is_dataclass(found) else {}
        found = types.get(part)
    return found


def _field_types(schema: Any) -> dict[str, Any]:
    """Field name -> declared type."""
    return {item.name: item.type for item in dataclasses.fields(schema)}


def _leaves(tree: dict[str, Any], prefix: str = "") -> Iterator[str]:
    """The dotted keys of all values in `tree`."""
    for name, value in tree.items():
        if isinstance(value, dict):
            yield from _leaves(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}"


def _check_keys(tree: dict[str, Any], schema: type, source: str, group: Any = None, prefix: str = "") -> None:
    """Refuse unknown keys, and values whose type OmegaConf would bend (5 to "5", 3 to true).

    Works on `tree`, the part of a layer that belongs to `group` (a class inside `schema`), whose keys
    begin with `prefix`. A group with nothing in it (every line commented out) counts as absent.
    """
    types = _field_types(group or schema)
    for name in list(tree):
        key, value = f"{prefix}{name}", tree[name]
        if name not in types:
            raise UserError(f"{source}: unknown key {key}; the nearest valid key is {_nearest_key(key, schema)}")
        kind = types[name]
        if dataclasses.is_dataclass(kind):
            if value is None:
                del tree[name]
            elif isinstance(value, dict):
                _check_keys(value, schema, source, kind, f"{key}.")
            else:
                raise UserError(f"{source}: {key}: is a group ({', '.join(_field_types(kind))}), not a value")
        elif value == MISSING:  # OmegaConf would keep what the layers below say
            raise UserError(f"{source}: {key}: is to be filled in")
        elif isinstance(value, dict | list):
            raise UserError(f"{source}: {key}: must be one value, not {value!r}")
        elif kind in (str, bool) and not isinstance(value, kind) and "${" not in str(value):
            wanted = "text; put it in quotes" if kind is str else "true or false"
            raise UserError(f"{source}: {key}: {value!r} is not {wanted}")


def _nearest_key(key: str, schema: type) -> str:
    """The valid dotted key that `key` most probably stands for: a neighbour, else the same name elsewhere."""
    known = list(_all_keys(schema))
    group, _, name = key.rpartition(".")
    neighbours = [other.rpartition(".")[2] for other in known if other.rpartition(".")[0] == group]
    if near := difflib.get_close_matches(name, neighbours, n=1):
        return f"{group}.{near[0]}".lstrip(".")
    for other in known:
        if other.rpartition(".")[2] == name:
            return other
    return difflib.get_close_matches(key, known, n=1, cutoff=0.0)[0]


def _all_keys(schema: Any, prefix: str = "") -> Iterator[str]:
    """Every dotted key of `schema`, groups included."""
    for name, kind in _field_types(schema).items():
        yield prefix + name
        if dataclasses.is_dataclass(kind):
            yield from _all_keys(kind, f"{prefix}{name}.")


def _describe(error: OmegaConfBaseException) -> str:
    """What OmegaConf found, in one line that begins with the key."""
    message = _one_line(error.msg or error)
    return f"{error.full_key}: {message}" if error.full_key else message


def _one_line(error: object) -> str:
    return " ".join(str(error).split("full_key:")[0].split())
