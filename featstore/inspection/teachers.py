"""A store's teachers: their outputs as a table to filter, their scores, and whether they are fit.

In: a store and fold numbers. Out: data frames and plain data.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from featstore.core import metrics
from featstore.core.metrics import divergence, entropy, soften
from featstore.core.schema import SAMPLING_RATE, UserError, printable
from featstore.folds import ROLE_NAMES, TEST, TRAIN, VALIDATION
from featstore.store.store import Store, TeacherOutputs, unit_name

if TYPE_CHECKING:
    import pandas as pd

Floats = npt.NDArray[np.float64]
Integers = npt.NDArray[np.int64]

SORTS: Mapping[str, bool] = {
    "row": True,
    "duration_s": False,
    "confidence": False,
    "entropy": False,
    "p_truth": True,
    "divergence": False,
}
"""What a list may be sorted by -> whether the smallest comes first."""

Z = 1.645
"""One-sided 5 %: how many standard errors above chance a teacher's UA has to be."""
HARD = 0.05
"""Entropy on training rows, as a share of the largest possible, under which targets are labels."""
GAP = 0.2
"""Validation UA above test UA (or below) by more than this, and by 2.6 standard errors."""
DEAD = 0.05
"""Recall under which a class counts as never recognised."""
COLLAPSED = 0.99
"""Mean cosine of two utterances' embeddings, of different classes, above which all look alike."""


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


def outputs_table(
    store: Store, fold: int, tau: float = 1.0, teachers: Sequence[str] = ()
) -> pd.DataFrame:
    """One row an utterance: what it is, and what each teacher predicts.

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
        UserError: the fold or a teacher is not there.
    """
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


def teachers_of(table: pd.DataFrame) -> list[str]:
    """The teachers whose outputs a table holds."""
    return [name.rpartition(":")[0] for name in table.columns if name.endswith(":prediction")]


def select(
    table: pd.DataFrame,
    classes: Sequence[str],
    *,
    disagree: bool = False,
    wrong: bool = False,
    confident: float | None = None,
    label: str | None = None,
    speaker: str | None = None,
    role: str | None = None,
    text: str | None = None,
    sort: str = "row",
) -> pd.DataFrame:
    """The rows for which every condition holds, sorted; the index is that of ``table``.

    Args:
        table: as :func:`outputs_table` makes it.
        classes: of the store, to tell a mistyped label from one without utterances.
        disagree: the teachers do not all predict the same class.
        wrong: some teacher predicts another class than the truth.
        confident: some teacher's confidence is at least this; with ``wrong``, the same teacher's.
        label: of this class.
        speaker: of this speaker.
        role: ``training``, ``validation``, ``test`` or ``left out`` in the fold.
        text: the transcript holds these words, whatever their case.
        sort: one of :data:`SORTS`; of several teachers the one that comes first counts.

    Raises:
        UserError: there is no such label, speaker, role, confidence or order.
    """
    choices: Mapping[str, tuple[str | None, Sequence[str]]] = {
        "label": (label, list(classes)),
        "speaker": (speaker, sorted(set(table["speaker"]))),
        "role": (role, list(ROLE_NAMES.values())),
        "sort": (sort, list(SORTS)),
    }
    for flag, (value, values) in choices.items():
        if value is not None and value not in values:
            raise UserError(f"--{flag} {value}: not known", f"one of {', '.join(values)}")
    if confident is not None and not 0 <= confident <= 1:
        raise UserError(f"--confident {confident}: not within 0..1", "e.g. --confident 0.9")
    names = teachers_of(table)
    for column in ("label", "speaker", "role"):
        value = choices[column][0]
        table = table[(table[column] == value) | (value is None)]
    if text is not None:
        table = table[table["text"].str.contains(text, case=False, regex=False)]
    predictions = table[[f"{name}:prediction" for name in names]]
    if disagree:
        table = table[predictions.nunique(axis=1) > 1]
    if wrong or confident is not None:
        truth = table["label"].to_numpy()[:, None]
        matching = np.ones((len(table), len(names)), dtype=bool)
        if wrong:
            matching &= table[predictions.columns].to_numpy() != truth
        if confident is not None:
            matching &= table[[f"{name}:confidence" for name in names]].to_numpy() >= confident
        table = table.iloc[np.flatnonzero(matching.any(axis=1))]
    by = [sort] if sort in table.columns else [f"{name}:{sort}" for name in names]
    keys = table[by].min(axis=1) if SORTS[sort] else -table[by].max(axis=1)
    return table.loc[keys.sort_values(kind="stable").index]


def scores(
    store: Store, folds: Sequence[int] | None = None, tau: float = 1.0, teachers: Sequence[str] = ()
) -> list[dict[str, Any]]:
    """How each teacher does on each role of each fold.

    Args:
        store: where from.
        folds: their numbers; every fold that has teachers where None.
        tau: temperature of the probabilities.
        teachers: only these; all where empty.

    Returns:
        ``fold``, ``teacher``, ``role``, ``n``, ``wa``, ``ua``, ``confidence`` (mean of the largest
        probability), ``over_confidence`` (that less the accuracy), ``entropy`` (mean, nats), and
        ``agreement``: for each other teacher the share of utterances that both label the same.

    Raises:
        UserError: a fold or a teacher is not there.
    """
    labels = store.labels.astype(np.int64)
    scored = []
    for fold in _folds(store, folds):
        outputs = outputs_of(store, fold, teachers)
        predictions = {name: output.logits.argmax(1) for name, output in outputs.items()}
        for name, output in outputs.items():
            p = soften(output.logits, tau)
            for role in (TRAIN, VALIDATION, TEST):
                rows = np.flatnonzero(store.roles[fold - 1] == role)
                if not len(rows):
                    continue
                mine = predictions[name][rows]
                accuracy, confidence = metrics.wa(labels[rows], mine), float(p[rows].max(1).mean())
                agreement = {
                    other: float((mine == theirs[rows]).mean())
                    for other, theirs in predictions.items()
                    if other != name
                }
                scored.append(
                    {
                        "fold": fold,
                        "teacher": name,
                        "role": ROLE_NAMES[role],
                        "n": len(rows),
                        "wa": accuracy,
                        "ua": metrics.ua(labels[rows], mine, len(store.classes)),
                        "confidence": confidence,
                        "over_confidence": confidence - accuracy,
                        "entropy": float(entropy(p[rows]).mean()),
                        "agreement": agreement,
                    }
                )
    return scored


def fitness(
    store: Store, folds: Sequence[int] | None = None, teachers: Sequence[str] = ()
) -> list[dict[str, Any]]:
    """Whether each teacher is fit to teach: ``fold``, ``teacher``, ``verdict``, ``reasons``.

    Rules of thumb with their limits stated, no proof: what a teacher knows shows on speakers whom
    it has not seen, what it passes on to a student on those whom it has.

    Args:
        store: where from.
        folds: their numbers; every fold that has teachers where None.
        teachers: only these; all where empty.

    Raises:
        UserError: a fold, or one of the teachers in every fold, is not there.
    """
    numbers = _folds(store, folds)
    names = sorted({name for fold in numbers for name in store.target_names(fold)})
    if missing := [name for name in teachers if name not in names]:
        raise UserError(
            f"no teacher {', '.join(missing)} in {store.path}", f"it has {', '.join(names)}"
        )
    labels = store.labels.astype(np.int64)
    rows = []
    for fold in numbers:
        for name, output in outputs_of(store, fold).items():
            if not teachers or name in teachers:
                verdict, reasons = judge(output, labels, store.roles[fold - 1], store.classes)
                rows.append({"fold": fold, "teacher": name, "verdict": verdict, "reasons": reasons})
    return rows


def warnings_of(store: Store, folds: Sequence[int], teachers: Sequence[str]) -> list[str]:
    """A line for every one of some teachers that is not plainly fit.

    Args:
        store: where from.
        folds: the folds that are to be taught.
        teachers: those that are to teach.
    """
    return [
        f"fold {one['fold']}: teacher {one['teacher']} is {one['verdict']}: "
        + "; ".join(one["reasons"])
        for one in fitness(store, [fold for fold in folds if store.target_names(fold)])
        if one["verdict"] != "fit" and one["teacher"] in teachers
    ]


def judge(
    output: TeacherOutputs, labels: Integers, roles: Any, classes: Sequence[str]
) -> tuple[str, list[str]]:
    """A verdict on one teacher, and a sentence for each reason.

    Args:
        output: its logits and embeddings.
        labels: the truth, ``[N]``.
        roles: of each utterance in the fold, ``[N]``.
        classes: in logit order.

    Returns:
        ``unfit`` where it cannot teach anything, ``doubtful`` where its targets are to be looked at
        first, else ``fit``.
    """
    train, unseen = np.flatnonzero(roles == TRAIN), np.isin(roles, (VALIDATION, TEST))
    prediction, n_classes = output.logits.argmax(1), len(classes)
    fatal, doubts = [], []

    if unseen.any():
        counts = np.bincount(labels[unseen], minlength=n_classes)
        ua = metrics.ua(labels[unseen], prediction[unseen], n_classes)
        limit = 1 / np.count_nonzero(counts) + Z * chance_error(counts)
        if ua <= limit:
            fatal.append(
                f"no better than chance: UA {100 * ua:.1f} on {unseen.sum()} utterances of unseen "
                f"speakers, guessing reaches {100 * limit:.1f} in one case of 20"
            )
    between = cosine_between(output.embeddings[train].astype(np.float64), labels[train])
    if between is not None and between > COLLAPSED:
        fatal.append(
            f"embeddings collapsed: those of different classes have a mean cosine of "
            f"{between:.4f}, so matching them teaches nothing of the class"
        )
    recalls = metrics.recalls(labels[train], prediction[train], n_classes)
    if dead := [name for name, recall in zip(classes, recalls, strict=True) if recall < DEAD]:
        names = ", ".join(map(printable, dead))
        doubts.append(f"never says {names}: recall under 5 % even where fitted")
    share = float(entropy(soften(output.logits[train], 1.0)).mean() / np.log(n_classes))
    if share < HARD:
        doubts.append(
            f"memorised its training set: targets there have {100 * share:.1f} % of the entropy "
            "that they could have, so they tell little more than the labels; a higher tau or "
            "--cross-fit softens them"
        )
    if all((roles == role).any() for role in (VALIDATION, TEST)):
        (validation, error_v), (test, error_t) = (
            _ua_and_variance(labels[roles == role], prediction[roles == role], n_classes)
            for role in (VALIDATION, TEST)
        )
        gap = abs(validation - test)
        if gap > GAP and gap > 2.6 * np.sqrt(error_v + error_t):
            doubts.append(
                f"disagrees with its own validation: UA {100 * validation:.1f} there, "
                f"{100 * test:.1f} on the test speakers"
            )
    return "unfit" if fatal else "doubtful" if doubts else "fit", [*fatal, *doubts]


def chance_error(counts: Integers) -> float:
    """Standard error of the UA of guessing all classes equally often.

    The recall of a class of n utterances is binomial, p = 1/C; the UA is the mean of the recalls.

    >>> round(chance_error(np.array([25, 25, 25, 25])), 4)
    0.0433
    """
    present = counts[counts > 0]
    p = 1 / len(present)
    return float(np.sqrt((p * (1 - p) / present).sum()) / len(present))


def cosine_between(embeddings: Floats, labels: Integers) -> float | None:
    """Mean cosine of all pairs of different classes; None where there are none.

    >>> cosine_between(np.array([[1.0, 0.0], [0.0, 2.0], [3.0, 0.0]]), np.array([0, 1, 1]))
    0.5
    """
    norms = np.linalg.norm(embeddings, axis=1, keepdims=True)
    units = embeddings / np.maximum(norms, 1e-12)
    groups = [units[labels == label] for label in np.unique(labels)]
    sums = np.stack([group.sum(0) for group in groups])
    counts = np.array([len(group) for group in groups])
    pairs = counts.sum() ** 2 - (counts**2).sum()
    if pairs == 0:
        return None
    total = sums.sum(0)
    return float((total @ total - (sums * sums).sum()) / pairs)


def _ua_and_variance(truth: Integers, prediction: Any, n_classes: int) -> tuple[float, float]:
    """UA, and its variance where each class' recall is binomial."""
    counts = np.bincount(truth, minlength=n_classes)
    present = counts > 0
    recalls = np.array(metrics.recalls(truth, prediction, n_classes))[present]
    variance = (recalls * (1 - recalls) / counts[present]).sum() / present.sum() ** 2
    return float(recalls.mean()), float(variance)


def _folds(store: Store, folds: Sequence[int] | None) -> list[int]:
    """Some folds, or all that have teachers."""
    if folds is not None:
        return list(folds)
    return [n for n in range(1, len(store.folds) + 1) if store.target_names(n)]
