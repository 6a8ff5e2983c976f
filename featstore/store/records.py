"""What the record of each kind of unit says: the keys and types that readers rely on.

A record's own SHA-256 proves that it is what somebody wrote; this check proves that no reader trips
over it. A key that is ever removed or changes its meaning raises
:data:`featstore.store.unit.SCHEMA`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import islice
from typing import Any

from pydantic import TypeAdapter, ValidationError

from featstore.core.config import (
    CROSS_FITTED,
    AudioSettings,
    CorpusSettings,
    FoldSettings,
    LldSettings,
    TeacherSettings,
)
from featstore.core.schema import Corrupt, listed, printable
from featstore.core.settings import canonical
from featstore.store.unit import REPAIR

_NUMBER = (int, float)
_MAYBE = (int, float, type(None))
_COUNTS = {str: int}
_EPOCHS = [{str: _NUMBER}]
_SCORES = {"wa": _NUMBER, "ua": _NUMBER, "n": int, "confusion": [[int]]}
_TARGETS: Mapping[Any, Any] = {
    "fold": int, "kind": str, "fitted_on": [str], "selected_on": [str], "held_out": [str],
    "temperature": type(None), "parameters": int, "embedding_width": int,
    "scores": {"test": _SCORES, str: _SCORES},
}  # fmt: skip
_PART = {
    "held_out": [str], "fitted_on": [str], "selected_on": [str], "residual": _NUMBER,
    "parameters": int, "best_epoch": int, "history": _EPOCHS,
}  # fmt: skip

FACTS: Mapping[str, Any] = {
    "corpus": {
        "name": str, "classes": [str], "speakers": [str], "sessions": [str], "excluded": _COUNTS,
        "other_labels": _COUNTS, "warnings": _COUNTS, "full_release": bool,
    },
    "audio": {
        "n_samples": int, "n_utterances": int,
        "excluded": [{"utterance_id": str, "file": str, "reason": str}],
    },
    "lld": {"names": [str], "n_frames": int, "n_utterances": int, "hop_ms": _NUMBER},
    "splits": {
        "folds": [{"number": int, "test": [str], "validation": [str]}],
        "text_overlap": [{"fold": int, str: _MAYBE}],
    },
    "folds": {**_TARGETS, "best_epoch": int, "history": _EPOCHS},
    "cross-fit": {
        **_TARGETS, "parts": [_PART], "beyond_training": str,
        "agreement": {"same": _NUMBER, "different": _NUMBER},
    },
}  # fmt: skip
"""Kind of unit -> form of its facts: a type, ``[form of each item]``, or ``{key: form}``, in which
``str`` stands for any further key. An ``int`` is a count, never below 0.
"""
_SETTINGS: Mapping[str, tuple[str, TypeAdapter[Any]]] = {
    "corpus": ("corpus", TypeAdapter(CorpusSettings)),
    "audio": ("audio", TypeAdapter(AudioSettings)),
    "lld": ("lld", TypeAdapter(LldSettings)),
    "splits": ("folds", TypeAdapter(FoldSettings)),
    "folds": ("teacher", _TEACHER := TypeAdapter(TeacherSettings)),
    "cross-fit": ("teacher", _TEACHER),
}
"""Kind of unit -> which of its settings readers use, and their model."""


def check_record(unit: str, settings: Any, facts: Any, place: str) -> None:
    """Refuse a record that a reader could trip over.

    Args:
        unit: the unit's name, e.g. ``folds/01/linguistic``.
        settings: what the record says that it was made from.
        facts: what the record says of the outcome.
        place: the record's file, for the message.

    Raises:
        Corrupt: naming the first faults.
    """
    kind = unit.partition("/")[0]
    kind = "cross-fit" if kind == "folds" and CROSS_FITTED.match(unit) else kind
    faults = [*islice(_misfits(facts, FACTS[kind], "facts"), 5)]
    if kind in ("folds", "cross-fit"):
        numbers = {"fold": int} | ({"cross_fit": int} if kind == "cross-fit" else {})
        faults += _misfits(settings, {str: object, **numbers}, "settings")
    key, model = _SETTINGS[kind]
    try:
        model.validate_json(canonical(settings.get(key)))
    except ValidationError as error:
        faults += [
            printable(f"settings.{key}.{'.'.join(map(str, item['loc']))}: {item['msg']}")
            for item in error.errors(include_input=False)
        ]
    if faults:
        raise Corrupt(f"{place}: not the record of a {kind} unit:\n{listed(faults, 5)}", REPAIR)


def _misfits(value: Any, form: Any, name: str) -> Iterator[str]:
    """Where a value is not of a form, one line each.

    >>> list(_misfits({"n": -1, "who": ["a", 2]}, {"n": int, "who": [str]}, "facts"))
    ['facts.n: not a count', 'facts.who.1: not of type str']
    """
    if isinstance(form, dict) and isinstance(value, dict):
        for key in form.keys() - {str} - value.keys():
            yield f"{name}.{key}: missing"
        for key, item in value.items():
            if (inner := form.get(key, form.get(str))) is None:
                yield printable(f"{name}.{key}: an unknown key")
            else:
                yield from _misfits(item, inner, f"{name}.{printable(key)}")
    elif isinstance(form, list) and isinstance(value, list):
        for at, item in enumerate(value):
            yield from _misfits(item, form[0], f"{name}.{at}")
    elif isinstance(form, dict | list):
        yield f"{name}: no {'table' if isinstance(form, dict) else 'list'}"
    elif not isinstance(value, form) or (isinstance(value, bool) and form not in (bool, object)):
        types = form if isinstance(form, tuple) else (form,)
        yield f"{name}: not of type {' or '.join(one.__name__ for one in types)}"
    elif form is int and value < 0:
        yield f"{name}: not a count"
