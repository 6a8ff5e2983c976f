"""Settings in general: frozen models, TOML files, overrides, and the hash that names a result.

Later layers win: flag > ``--set a.b=c`` > file > preset > the corpus' own defaults > the model's.
"""

from __future__ import annotations

import difflib
import hashlib
import json
import stat
import tomllib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError

from featstore.core.schema import UserError, listed


class Settings(BaseModel):
    """Base of every settings model: frozen, and an unknown key is an error."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


S = TypeVar("S", bound=Settings)
T = TypeVar("T")

MAX_TOML_BYTES = 1024**2
_TOML = {"valid tuple": "list", "Tuple": "List", "valid dictionary": "table"}
"""What pydantic calls Python's kinds -> what a settings file has."""


def resolve(model: type[S], *layers: Mapping[str, Any]) -> S:
    """Merge the layers, later ones winning, and check the result.

    Raises:
        UserError: with every fault of the settings at once.

    >>> class Example(Settings):
    ...     seed: int = 42
    >>> resolve(Example, {"seed": 1}, {"seed": 7})
    Example(seed=7)
    """
    merged: dict[str, Any] = {}
    for layer in layers:
        merged = merge(merged, layer)
    try:
        return model.model_validate(merged)
    except ValidationError as error:
        faults = [_fault(model, item) for item in error.errors()]
        raise UserError(
            f"{len(faults)} setting(s) not accepted:\n{listed(faults)}",
            "mend the file or the --set flags; --dry-run --json prints the resolved settings",
        ) from error


def merge(base: Mapping[str, Any], delta: Mapping[str, Any]) -> dict[str, Any]:
    """Nested update without touching either: tables merge, anything else is replaced.

    >>> merge({"a": {"b": 1, "c": 2}}, {"a": {"b": 3}})
    {'a': {'b': 3, 'c': 2}}
    """
    out = dict(base)
    for key, value in delta.items():
        mine = out.get(key)
        nested = isinstance(mine, Mapping) and isinstance(value, Mapping)
        out[key] = merge(mine, value) if nested else value  # type: ignore[arg-type]
    return out


def flat(settings: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested tables as dotted keys.

    >>> flat({"losses": {"alpha": 1.0}, "seed": 42})
    {'losses.alpha': 1.0, 'seed': 42}
    """
    out: dict[str, Any] = {}
    for key, value in settings.items():
        dotted = f"{prefix}{key}"
        out |= flat(value, f"{dotted}.") if isinstance(value, Mapping) else {dotted: value}
    return out


def load_toml(path: Path) -> dict[str, Any]:
    """A settings file as nested tables.

    Raises:
        UserError: where the file is missing or is not TOML.
    """
    see = "see data/configs for some"
    try:
        facts = path.stat()
        if not stat.S_ISREG(facts.st_mode) or facts.st_size > MAX_TOML_BYTES:
            raise UserError(
                f"{path}: not a readable TOML file (no regular file of a usual size)", see
            )
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(
            f"{path}: no such settings file", f"give --config an existing TOML; {see}"
        ) from None
    except (ValueError, RecursionError, OSError) as error:
        raise UserError(f"{path}: not a readable TOML file ({error})", see) from error


def overrides(pairs: Iterable[str]) -> dict[str, Any]:
    """``--set a.b=c`` flags as nested tables; values are TOML, bare words are text.

    >>> overrides(["folds.seed=7", "corpus.kind=improvised"])
    {'folds': {'seed': 7}, 'corpus': {'kind': 'improvised'}}
    """
    out: dict[str, Any] = {}
    for pair in pairs:
        dotted, equals, text = pair.partition("=")
        keys = dotted.strip().split(".")
        if not equals or not all(keys):
            raise UserError(f"--set {pair}: expected key=value", "e.g. --set folds.seed=7")
        try:
            value = tomllib.loads(f"value = {text}")["value"]
        except (ValueError, RecursionError):
            value = text
        for key in reversed(keys):
            value = {key: value}
        out = merge(out, value)
    return out


def choose(flag: str, name: str, choices: Mapping[str, T]) -> T:
    """One of some named things.

    Raises:
        UserError: with the names there are.
    """
    if name not in choices:
        raise UserError(f"{flag} {name}: not known", f"choose one of {', '.join(choices)}")
    return choices[name]


def to_toml(settings: Settings) -> str:
    """The settings as TOML that :func:`load_toml` reads back; unset optional keys are left out."""
    lines: list[str] = []
    _write_table(settings.model_dump(mode="json", exclude_none=True), "", lines)
    return "\n".join(lines).strip() + "\n"


def canonical(value: Any) -> bytes:
    """The one JSON text of a value: sorted keys, no spaces, finite numbers only."""
    return json.dumps(
        value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False
    ).encode("utf-8")


def digest(value: Any) -> str:
    """SHA-256 of a value's canonical JSON, in hex."""
    return hashlib.sha256(canonical(value)).hexdigest()


def differences(old: Any, new: Any, prefix: str = "") -> list[str]:
    """Which keys differ between two nested tables, as ``key: old -> new``.

    >>> differences({"a": {"b": 1}}, {"a": {"b": 2}})
    ['a.b: 1 -> 2']
    """
    if isinstance(old, Mapping) and isinstance(new, Mapping):
        out: list[str] = []
        for key in sorted(set(old) | set(new)):
            out += differences(old.get(key), new.get(key), f"{prefix}.{key}" if prefix else key)
        return out
    if canonical(old) == canonical(new):
        return []
    return [f"{prefix}: {_short(old)} -> {_short(new)}"]


def _short(value: Any) -> str:
    text = value if isinstance(value, str) else json.dumps(value, default=str)
    return text if len(text) <= 40 else f"{text[:16]}..."


def _write_table(table: Mapping[str, Any], prefix: str, lines: list[str]) -> None:
    scalars = {k: v for k, v in table.items() if not isinstance(v, Mapping)}
    if prefix and (scalars or not table):
        lines.append(f"\n[{prefix}]")
    lines += [f"{_key(k)} = {_text(v)}" for k, v in scalars.items()]
    for key, value in table.items():
        if isinstance(value, Mapping):
            _write_table(value, f"{prefix}.{_key(key)}" if prefix else _key(key), lines)


def _key(key: str) -> str:
    bare = key.isascii() and key.replace("_", "").replace("-", "").isalnum()
    return key if bare else _text(key)


def _text(value: Any) -> str:
    """JSON is TOML but for one character that TOML wants escaped."""
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")


def _fault(model: type[Settings], item: Any) -> str:
    parts = [str(part) for part in item["loc"]]
    if parts[:1] == ["teachers"]:
        del parts[2:3]  # pydantic names the kind once more
    place = ".".join(parts)
    if item["type"] == "extra_forbidden":
        last, schema = parts[-1], model.model_json_schema()
        tables = [schema, *schema.get("$defs", {}).values()]
        keys = {key for table in tables for key in table.get("properties", {})} - {last}
        near = difflib.get_close_matches(last, sorted(keys), n=1)
        return f"{place}: unknown key" + (f"; did you mean {near[0]}?" if near else "")
    message = item["msg"].removeprefix("Value error, ")
    for theirs, ours in _TOML.items():
        message = message.replace(theirs, ours)
    whole = item["type"] == "value_error" and isinstance(item["input"], Mapping)
    if not whole and item["type"] != "missing":  # a table in one line tells nobody anything
        message += f" (given: {_short(item['input'])})"
    return f"{place}: {message}" if place else message
