"""How two stores differ, or two teachers of one: made from what, and how far their targets drift.

Utterances are matched by id, logits by class; what only one side has is counted, not compared.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from featstore.core import settings
from featstore.core.schema import Corrupt, UserError, printable
from featstore.folds import parse_numbers
from featstore.inspection.drift import linear_cka, logit_drift, mean_cosine
from featstore.store.store import Store, TeacherOutputs, unit_name
from featstore.store.unit import REPAIR, Unit


@dataclass(frozen=True)
class Sides:
    """What is compared with what.

    Attributes:
        a: a store.
        b: another, or the same where two of its teachers are compared.
        teacher: the only one of ``a`` to compare, '' for all.
        other: its counterpart in ``b``, '' for the one of the same name.
        folds: ``all``, or numbers and ranges.
    """

    a: Store
    b: Store
    teacher: str = ""
    other: str = ""
    folds: str = "all"

    @property
    def one_store(self) -> bool:
        """Whether two teachers of one store are compared."""
        return self.a.path.resolve() == self.b.path.resolve()

    def counterpart(self, name: str) -> str:
        """The target of ``b`` that ``name`` of ``a`` is compared with."""
        return self.other or name


@dataclass(frozen=True)
class Common:
    """The utterances that both stores have, by row in each."""

    a: npt.NDArray[np.int64]
    b: npt.NDArray[np.int64]
    facts: Mapping[str, int] = field(default_factory=dict)


def compare(sides: Sides) -> dict[str, Any]:
    """Everything that differs, as plain data.

    Raises:
        UserError: nothing is to be compared, or nothing can be.
        Corrupt: a store is damaged.
    """
    if sides.other and not sides.teacher:
        raise UserError("--with: of which teacher?", "give --teacher too")
    alike = sides.counterpart(sides.teacher) == sides.teacher
    if sides.one_store and alike:
        raise UserError(
            "one store and no two teachers: nothing to compare",
            "`featstore diff A B`, or `featstore diff STORE --teacher T --with U`",
        )
    common = _common(sides)
    pairs, alone = _pairs(sides)
    return {
        "a": _side(sides.a),
        "b": _side(sides.b),
        "one_store": sides.one_store,
        "same_content": sides.a.content_hash() == sides.b.content_hash(),
        "utterances": dict(common.facts),
        "units": _units(sides, pairs),
        "only_a": [*_others_alone(sides, sides.a, sides.b), *alone[0]],
        "only_b": [*_others_alone(sides, sides.b, sides.a), *alone[1]],
        "drift": [_drift(sides, common, *pair) for pair in pairs],
    }


def _side(store: Store) -> dict[str, Any]:
    return {
        "store": store.name,
        "fingerprint": store.fingerprint(),
        "content": store.content_hash(),
        "classes": list(store.classes),
    }


def _common(sides: Sides) -> Common:
    """Match utterances by id.

    Raises:
        UserError: the stores have none in common, or other classes.
    """
    a, b = sides.a.utterances, sides.b.utterances
    if set(sides.a.classes) != set(sides.b.classes):
        told = [", ".join(map(printable, store.classes)) for store in (sides.a, sides.b)]
        raise UserError(
            f"other classes: {told[0]} in A, {told[1]} in B",
            "targets are compared class by class; compare stores of one set of labels",
        )
    rows = {str(name): row for row, name in enumerate(b["utterance_id"])}
    matched = [(row, rows[name]) for row, name in enumerate(a["utterance_id"]) if name in rows]
    if not matched:
        raise UserError(
            f"{sides.a.path} and {sides.b.path}: no utterance in common",
            "they are of different corpora; compare stores of one",
        )
    at = np.array(matched, dtype=np.int64)
    labels = [table["label"].to_numpy()[at[:, side]] for side, table in enumerate((a, b))]
    facts = {
        "a": len(a),
        "b": len(b),
        "common": len(at),
        "relabelled": int((labels[0] != labels[1]).sum()),
    }
    return Common(at[:, 0], at[:, 1], facts)


Pair = tuple[str, str]
"""A unit of A and the one of B that it is compared with."""


def _pairs(sides: Sides) -> tuple[list[Pair], tuple[list[str], list[str]]]:
    """The targets to compare, and those that only one side has.

    Raises:
        UserError: a teacher is not there.
    """
    n_folds = max(len(sides.a.folds), len(sides.b.folds))
    pairs: list[Pair] = []
    only_a: list[str] = []
    only_b: list[str] = []
    for number in parse_numbers(sides.folds, n_folds):
        names_a = _targets(sides.a, number, sides.teacher)
        names_b = _targets(sides.b, number, sides.counterpart(sides.teacher))
        matched = [name for name in names_a if sides.counterpart(name) in names_b]
        pairs += [
            (unit_name(number, name), unit_name(number, sides.counterpart(name)))
            for name in matched
        ]
        only_a += [unit_name(number, name) for name in names_a if name not in matched]
        taken = {sides.counterpart(name) for name in matched}
        only_b += [unit_name(number, name) for name in names_b if name not in taken]
    if sides.teacher and not pairs:
        other = sides.counterpart(sides.teacher)
        raise UserError(
            f"no fold has {printable(sides.teacher)} in A and {printable(other)} in B",
            "`featstore inspect` lists a store's teachers",
        )
    return pairs, (only_a, only_b)


def _others_alone(sides: Sides, here: Store, there: Store) -> list[str]:
    """Shared units and kept teachers that only one of two stores has."""
    if sides.one_store or sides.teacher:
        return []
    elsewhere = there.units()
    return [
        name for name in here.units() if name not in elsewhere and not name.startswith("folds/")
    ]


def _targets(store: Store, fold: int, wanted: str) -> list[str]:
    names = store.target_names(fold) if fold <= len(store.folds) else []
    return [name for name in names if not wanted or name == wanted]


def _units(sides: Sides, pairs: Sequence[Pair]) -> list[dict[str, Any]]:
    """What each pair of units was made from; of two stores the shared units too."""
    shared = [] if sides.one_store else [n for n in sides.a.units() if "/" not in n]
    both = [(name, name) for name in shared if name in sides.b.units()]
    return [_unit(sides.a.record(a), sides.b.record(b)) for a, b in [*both, *pairs]]


def _unit(a: Unit, b: Unit) -> dict[str, Any]:
    return {
        "a": a.unit,
        "b": b.unit,
        "fingerprints": [a.fingerprint, b.fingerprint],
        "same_fingerprint": a.fingerprint == b.fingerprint,
        "same_content": a.files == b.files,
        "settings": settings.differences(a.settings, b.settings),
        "parents": [
            _parent(name, name in a.parents, name in b.parents)
            for name in sorted({*a.parents, *b.parents})
            if a.parents.get(name) != b.parents.get(name)
        ],
        "versions": settings.differences(a.provenance, b.provenance),
    }


def _parent(name: str, in_a: bool, in_b: bool) -> str:
    if in_a and in_b:
        return f"another {name}"
    return f"{name} in {'A' if in_a else 'B'} alone"


def _drift(sides: Sides, common: Common, unit_a: str, unit_b: str) -> dict[str, Any]:
    """How far two teachers' targets lie apart on the utterances that both have."""
    a, b = _finite(sides.a.outputs(unit_a)), _finite(sides.b.outputs(unit_b))
    order = [sides.b.classes.index(name) for name in sides.a.classes]
    fold = int(unit_a.split("/")[1])
    rows = sides.a.roles[fold - 1][common.a], sides.b.roles[fold - 1][common.b]
    logits = a.logits[common.a].astype(np.float64), b.logits[common.b][:, order].astype(np.float64)
    return {
        "fold": fold,
        "teacher": unit_a.split("/")[2],
        "with": unit_b.split("/")[2],
        "utterances": len(common.a),
        "other_role": int((rows[0] != rows[1]).sum()),
        **logit_drift(*logits, rows[0]),
        **_embedding_drift(a, b, common),
    }


def _finite(outputs: TeacherOutputs) -> TeacherOutputs:
    if not (np.isfinite(outputs.logits).all() and np.isfinite(outputs.embeddings).all()):
        raise Corrupt(f"{outputs.unit.path}: not finite, so nothing can be compared", REPAIR)
    return outputs


def _embedding_drift(a: TeacherOutputs, b: TeacherOutputs, common: Common) -> dict[str, Any]:
    x = a.embeddings[common.a].astype(np.float64)
    y = b.embeddings[common.b].astype(np.float64)
    return {"mean_cosine": mean_cosine(x, y), "cka": linear_cka(x, y)}


def rows(facts: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The drift as flat rows, for a table: agreement in one column a role."""
    return [
        {
            **{key: value for key, value in row.items() if key != "agreement"},
            **{f"agreement_{role}": value for role, value in row["agreement"].items()},
        }
        for row in facts["drift"]
    ]
