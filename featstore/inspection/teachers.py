"""What each teacher thinks of every utterance of a fold, as a table to filter and to sort."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from featstore.core.metrics import divergence, entropy, soften
from featstore.core.schema import SAMPLING_RATE, UserError
from featstore.folds import ROLE_NAMES
from featstore.store.store import Store, TeacherOutputs, unit_name

if TYPE_CHECKING:
    import pandas as pd

Floats = npt.NDArray[np.float64]

SORTS: Mapping[str, bool] = {
    "row": True,
    "duration_s": False,
    "confidence": False,
    "entropy": False,
    "p_truth": True,
    "divergence": False,
}
"""What a list may be sorted by -> whether the smallest comes first."""
ROLES = {name: role for role, name in ROLE_NAMES.items()}


@dataclass(frozen=True)
class Wanted:
    """Which utterances to list; every condition that is given must hold.

    Attributes:
        disagree: the teachers do not all predict the same class.
        wrong: some teacher predicts another class than the truth.
        confident: some teacher's confidence is at least this; with ``wrong``, the same teacher's.
        label: of this class.
        speaker: said by this speaker.
        role: ``training``, ``validation``, ``test`` or ``left out`` in the fold.
        text: the transcript holds these words, whatever their case.
        sort: one of :data:`SORTS`.
        limit: at most so many.
    """

    disagree: bool = False
    wrong: bool = False
    confident: float | None = None
    label: str | None = None
    speaker: str | None = None
    role: str | None = None
    text: str | None = None
    sort: str = "row"
    limit: int = 20


def outputs_of(store: Store, fold: int, teachers: Sequence[str] = ()) -> dict[str, TeacherOutputs]:
    """The fold's targets by name, cross-fitted ones under theirs.

    Args:
        store: where from.
        fold: its number.
        teachers: only these; all where empty.

    Raises:
        UserError: the fold, or one of them, is not there.
    """
    store.fold(fold)  # refuses a fold that is not there
    names = store.target_names(fold)
    if missing := [name for name in teachers if name not in names]:
        raise UserError(
            f"fold {fold}: no teacher {', '.join(missing)} in {store.path}",
            f"it has {', '.join(names)}",
        )
    return {name: store.outputs(unit_name(fold, name)) for name in teachers or names}


def opinions(
    store: Store, fold: int, tau: float = 1.0, teachers: Sequence[str] = ()
) -> pd.DataFrame:
    """One row an utterance: what it is, and what each teacher says.

    Args:
        store: where from.
        fold: whose teachers.
        tau: temperature of the probabilities.
        teachers: only these; all where empty.

    Returns:
        ``row``, ``utterance_id``, ``speaker``, ``kind``, ``duration_s``, ``role``, ``label``,
        ``text``; ``divergence``, the generalised Jensen-Shannon divergence of the teachers'
        distributions in nats (0 for one teacher); and for each teacher ``<teacher>:prediction``,
        ``:confidence`` (the largest probability), ``:entropy`` (nats) and ``:p_truth``.

    Raises:
        UserError: the fold or a teacher is not there, or tau is not positive.
    """
    refuse_tau(tau)
    outputs = outputs_of(store, fold, teachers)
    table = store.utterances[["utterance_id", "speaker", "kind", "label", "text"]].copy()
    table.insert(0, "row", np.arange(len(table)))
    table["duration_s"] = store.lengths / SAMPLING_RATE
    table["role"] = [ROLE_NAMES[int(role)] for role in store.roles[fold - 1]]
    labels = store.labels.astype(np.int64)
    classes = np.array(store.classes, dtype=object)
    p = {name: soften(output.logits, tau) for name, output in outputs.items()}
    table["divergence"] = divergence(list(p.values()))
    for name, values in p.items():
        table[f"{name}:prediction"] = classes[outputs[name].logits.argmax(1)]
        table[f"{name}:confidence"] = values.max(1)
        table[f"{name}:entropy"] = entropy(values)
        table[f"{name}:p_truth"] = values[np.arange(len(values)), labels]
    return table


def refuse_tau(tau: float) -> None:
    """Refuse what is no temperature.

    Raises:
        UserError: it is not finite, or not above 0.
    """
    if not 0 < tau < np.inf:
        raise UserError(f"--tau {tau}: a temperature is finite and above 0", "e.g. --tau 1")


def select(table: pd.DataFrame, wanted: Wanted, classes: Sequence[str]) -> pd.DataFrame:
    """The rows that are wanted, sorted; the index is that of ``table``.

    Args:
        table: as :func:`opinions` makes it.
        wanted: the conditions.
        classes: of the store, to tell a mistyped label from one without utterances.

    Raises:
        UserError: a label, speaker, role, confidence or order that there is none of.
    """
    _refuse_unknown(table, wanted, classes)
    names = teachers_of(table)
    keep = np.ones(len(table), dtype=bool)
    predictions = table[[f"{name}:prediction" for name in names]]
    if wanted.disagree:
        keep &= (predictions.nunique(axis=1) > 1).to_numpy()
    if wanted.wrong or wanted.confident is not None:
        some = np.zeros(len(table), dtype=bool)
        for name in names:
            mine = np.ones(len(table), dtype=bool)
            if wanted.wrong:
                mine &= (table[f"{name}:prediction"] != table["label"]).to_numpy()
            if wanted.confident is not None:
                mine &= (table[f"{name}:confidence"] >= wanted.confident).to_numpy()
            some |= mine
        keep &= some
    for column in ("label", "speaker", "role"):
        if (value := getattr(wanted, column)) is not None:
            keep &= (table[column] == value).to_numpy()
    if wanted.text is not None:
        keep &= table["text"].str.contains(wanted.text, case=False, regex=False).to_numpy()
    found = table[keep]
    order = _key(found, wanted.sort, names)
    return found.iloc[np.argsort(order, kind="stable")]


def teachers_of(table: pd.DataFrame) -> list[str]:
    """The teachers whose opinions a table holds."""
    return [name.rpartition(":")[0] for name in table.columns if name.endswith(":prediction")]


def _key(table: pd.DataFrame, sort: str, names: Sequence[str]) -> Floats:
    """What to sort by, ascending; of several teachers the one that comes first counts."""
    first = SORTS[sort]
    if sort in table.columns:
        values = table[sort].to_numpy(dtype=np.float64)
    else:
        columns = table[[f"{name}:{sort}" for name in names]].to_numpy(dtype=np.float64)
        values = columns.min(1) if first else columns.max(1)
    return values if first else -values


def _refuse_unknown(table: pd.DataFrame, wanted: Wanted, classes: Sequence[str]) -> None:
    known: Mapping[str, tuple[Any, Sequence[str]]] = {
        "--label": (wanted.label, list(classes)),
        "--speaker": (wanted.speaker, sorted(set(table["speaker"]))),
        "--role": (wanted.role, list(ROLES)),
        "--sort": (wanted.sort, list(SORTS)),
    }
    for flag, (value, values) in known.items():
        if value is not None and value not in values:
            raise UserError(f"{flag} {value}: not known", f"one of {', '.join(values)}")
    if wanted.confident is not None and not 0 <= wanted.confident <= 1:
        raise UserError(f"--confident {wanted.confident}: not within 0..1", "e.g. --confident 0.9")
