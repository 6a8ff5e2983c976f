"""How two stores differ, or two teachers of one: made from what, and how far their targets drift.

Utterances are matched by id, logits by class; what only one side has is counted, not compared.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from featstore.core import settings
from featstore.core.schema import Corrupt, UserError, printable
from featstore.folds import OUT, ROLE_NAMES, parse_numbers
from featstore.store.store import Store, TeacherOutputs, unit_name
from featstore.store.unit import REPAIR, Unit

Floats = npt.NDArray[np.float64]


def compare(
    a: Store, b: Store, *, teacher: str = "", counterpart: str = "", folds: str = "all"
) -> dict[str, Any]:
    """Everything that differs, as plain data.

    Args:
        a: a store.
        b: another, or the same where two of its teachers are compared.
        teacher: the only one of ``a`` to compare, '' for all.
        counterpart: the one of ``b`` to compare it with, '' for the one of the same name.
        folds: ``all``, or numbers and ranges.

    Raises:
        UserError: nothing is to be compared, or nothing can be.
        Corrupt: a store is damaged.
    """
    if counterpart and not teacher:
        raise UserError("--with: of which teacher?", "give --teacher too")
    one_store = a.path.resolve() == b.path.resolve()
    if one_store and (not counterpart or counterpart == teacher):
        raise UserError(
            "one store and no two teachers: nothing to compare",
            "`featstore diff A B`, or `featstore diff STORE --teacher T --with U`",
        )
    rows, n_relabelled = _common_rows(a, b)
    numbers = parse_numbers(folds, max(len(a.folds), len(b.folds)))
    of_a = _units(a, numbers, teacher, teacher)
    of_b = _units(b, numbers, counterpart or teacher, teacher)
    pairs = [(unit, of_b[key]) for key, unit in of_a.items() if key in of_b]
    only_a = [unit for key, unit in of_a.items() if key not in of_b]
    only_b = [unit for key, unit in of_b.items() if key not in of_a]
    targets = [pair for pair in pairs if "/" in pair[0]]
    if teacher:
        only_a, only_b = ([unit for unit in alone if "/" in unit] for alone in (only_a, only_b))
        if not targets:
            raise UserError(
                f"no fold has {printable(teacher)} in A and "
                f"{printable(counterpart or teacher)} in B",
                "`featstore inspect` lists a store's teachers",
            )
    return {
        **{
            side: {
                "store": store.name,
                "fingerprint": store.fingerprint(),
                "content": store.content_hash(),
                "classes": list(store.classes),
            }
            for side, store in (("a", a), ("b", b))
        },
        "one_store": one_store,
        "same_content": a.content_hash() == b.content_hash(),
        "utterances": {
            "a": len(a.utterances),
            "b": len(b.utterances),
            "common": len(rows),
            "relabelled": n_relabelled,
        },
        "units": [
            _unit(a.record(one), b.record(other))
            for one, other in (targets if one_store else pairs)
        ],
        "only_a": only_a,
        "only_b": only_b,
        "drift": [_drift(a, b, rows, pair) for pair in targets],
    }


def _common_rows(a: Store, b: Store) -> tuple[npt.NDArray[np.int64], int]:
    """Rows in A and in B of the utterances that both have ``[n, 2]``; how many labels differ.

    Raises:
        UserError: the stores have none in common, or other classes.
    """
    if set(a.classes) != set(b.classes):
        in_a, in_b = (", ".join(map(printable, store.classes)) for store in (a, b))
        raise UserError(
            f"other classes: {in_a} in A, {in_b} in B",
            "targets are compared class by class; compare stores of one set of labels",
        )
    tables = [store.utterances[["utterance_id", "label"]].reset_index() for store in (a, b)]
    both = tables[0].merge(tables[1], on="utterance_id", suffixes=("_a", "_b"))
    if both.empty:
        raise UserError(
            f"{a.path} and {b.path}: no utterance in common",
            "they are of different corpora; compare stores of one",
        )
    rows = both[["index_a", "index_b"]].to_numpy(np.int64)
    return rows, int((both["label_a"] != both["label_b"]).sum())


def _units(store: Store, folds: list[int], teacher: str, alias: str) -> dict[str, str]:
    """What there is to compare: the name that both sides have in common -> the unit.

    Args:
        store: whose units.
        folds: the numbers of those whose targets count.
        teacher: the only one that counts, '' for all.
        alias: what it is called on both sides.
    """
    units = {name: name for name in store.units() if not name.startswith("folds/")}
    for fold in folds:
        for name in store.target_names(fold):
            if teacher in ("", name):
                units[unit_name(fold, alias or name)] = unit_name(fold, name)
    return units


def _unit(a: Unit, b: Unit) -> dict[str, Any]:
    """What each of two units was made from."""
    parents = []
    for name in sorted({*a.parents, *b.parents}):
        if name in a.parents and name in b.parents:
            parents += [f"another {name}"] if a.parents[name] != b.parents[name] else []
        else:
            parents.append(f"{name} in {'A' if name in a.parents else 'B'} alone")
    return {
        "a": a.unit,
        "b": b.unit,
        "fingerprints": [a.fingerprint, b.fingerprint],
        "same_fingerprint": a.fingerprint == b.fingerprint,
        "same_content": a.files == b.files,
        "settings": settings.differences(a.settings, b.settings),
        "parents": parents,
        "versions": settings.differences(a.provenance, b.provenance),
    }


def _drift(
    a: Store, b: Store, rows: npt.NDArray[np.int64], pair: tuple[str, str]
) -> dict[str, Any]:
    """How far two teachers' targets lie apart on the utterances that both have."""
    (_, fold, name), (_, _, other) = (unit.split("/") for unit in pair)
    targets_a, targets_b = _finite(a.outputs(pair[0])), _finite(b.outputs(pair[1]))
    order = [b.classes.index(label) for label in a.classes]
    roles_a, roles_b = a.roles[int(fold) - 1][rows[:, 0]], b.roles[int(fold) - 1][rows[:, 1]]
    x = targets_a.embeddings[rows[:, 0]].astype(np.float64)
    y = targets_b.embeddings[rows[:, 1]].astype(np.float64)
    return {
        "fold": int(fold),
        "teacher": name,
        "with": other,
        "utterances": len(rows),
        "other_role": int((roles_a != roles_b).sum()),
        **logit_drift(
            targets_a.logits[rows[:, 0]].astype(np.float64),
            targets_b.logits[rows[:, 1]][:, order].astype(np.float64),
            roles_a,
        ),
        "mean_cosine": mean_cosine(x, y),
        "cka": linear_cka(x, y),
    }


def _finite(outputs: TeacherOutputs) -> TeacherOutputs:
    if not (np.isfinite(outputs.logits).all() and np.isfinite(outputs.embeddings).all()):
        raise Corrupt(f"{outputs.unit.path}: not finite, so nothing can be compared", REPAIR)
    return outputs


def logit_drift(a: Floats, b: Floats, roles: npt.NDArray[np.int8]) -> dict[str, Any]:
    """Distance of two sets of logits ``[n, C]``, and how often they predict the same.

    ``changed`` is the share of utterances whose prediction differs; ``agreement`` is the share
    that is the same by role ``[n]``, None for a role that none of the utterances has.

    >>> a, b = np.array([[1.0, 0.0], [0.0, 1.0]]), np.array([[1.0, 0.0], [2.0, 1.0]])
    >>> drift = logit_drift(a, b, np.array([1, 3], dtype=np.int8))
    >>> drift["mean_abs_logit"], drift["max_abs_logit"], drift["changed"]
    (0.5, 2.0, 0.5)
    >>> drift["agreement"]
    {'training': 1.0, 'validation': None, 'test': 0.0}
    """
    apart = np.abs(a - b)
    same = a.argmax(axis=1) == b.argmax(axis=1)
    by_role = {
        name: float(same[roles == role].mean()) if (roles == role).any() else None
        for role, name in ROLE_NAMES.items()
        if role != OUT
    }
    return {
        "mean_abs_logit": float(apart.mean()),
        "max_abs_logit": float(apart.max()),
        "changed": float((~same).mean()),
        "agreement": by_role,
    }


def mean_cosine(x: Floats, y: Floats) -> float | None:
    """Mean cosine of the rows of two arrays ``[n, D]``; None where D differs or a row is zero.

    Two teachers that were fitted apart have axes of their own: near 0, although they may know the
    same. :func:`linear_cka` does not depend on the axes.

    >>> mean_cosine(np.array([[1.0, 0.0], [0.0, 2.0]]), np.array([[3.0, 0.0], [1.0, 0.0]]))
    0.5
    """
    if x.shape != y.shape:
        return None
    norms = np.linalg.norm(x, axis=1) * np.linalg.norm(y, axis=1)
    if not norms.all():
        return None
    return float(((x * y).sum(axis=1) / norms).mean())


def linear_cka(x: Floats, y: Floats) -> float | None:
    """Linear centred kernel alignment of two arrays ``[n, D]`` and ``[n, E]``, 0 to 1.

    1 where one is the other turned, shifted and scaled; None where all rows of one are equal.
    Kornblith et al., *Similarity of Neural Network Representations Revisited*, ICML 2019, eq. 3
    and 4: ``||Y^T X||^2 / (||X^T X|| ||Y^T Y||)`` of centred columns.

    >>> x = np.array([[1.0, 0.0], [0.0, 1.0], [2.0, 2.0]])
    >>> linear_cka(x, 3 * x[:, ::-1] + 1)
    1.0
    """
    x, y = x - x.mean(axis=0), y - y.mean(axis=0)
    scale = float(np.linalg.norm(x.T @ x) * np.linalg.norm(y.T @ y))
    if not scale:
        return None
    return round(float(np.linalg.norm(y.T @ x) ** 2) / scale, 12)
