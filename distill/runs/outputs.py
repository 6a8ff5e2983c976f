"""The tables that a run leaves: what the student says of held-out speakers, the teachers of all.

Logits are raw, so that whoever reads them chooses the temperature.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt
import pandas as pd

Floats = npt.NDArray[np.float32]
Rows = Mapping[str, npt.NDArray[np.int64]]


def predictions_table(
    utterances: pd.DataFrame,
    rows: Rows,
    logits: Mapping[str, Floats],
    labels: npt.NDArray[np.int64],
    classes: Sequence[str],
    fold: int,
) -> pd.DataFrame:
    """Truth, prediction and raw logits of some utterances, role by role.

    Args:
        utterances: the store's table.
        rows: role (``test``, ``validation``) -> rows.
        logits: role -> ``[rows, C]``.
        labels: class index of every utterance of the store.
        classes: class names in logit order.
        fold: the fold's number.

    Returns:
        ``utterance_id``, ``speaker``, ``fold``, ``role``, ``truth``, ``prediction`` and a column
        ``logit_<class>`` for each class.
    """
    parts = []
    for role, index in rows.items():
        part = utterances.iloc[index][["utterance_id", "speaker"]].reset_index(drop=True)
        part["fold"] = np.int16(fold)
        part["role"] = role
        part["truth"] = [classes[label] for label in labels[index]]
        part["prediction"] = [classes[best] for best in logits[role].argmax(1)]
        for column, name in enumerate(classes):
            part[f"logit_{name}"] = logits[role][:, column]
        parts.append(part)
    return pd.concat(parts, ignore_index=True)


def teachers_table(
    utterances: pd.DataFrame,
    rows: Rows,
    teachers: Mapping[str, Floats],
    labels: npt.NDArray[np.int64],
    classes: Sequence[str],
    fold: int,
) -> pd.DataFrame:
    """The same of every teacher, its training utterances included, with a column ``teacher``.

    Args:
        utterances: the store's table.
        rows: role (``train``, ``validation``, ``test``) -> rows.
        teachers: name -> raw logits ``[N, C]`` of all utterances of the store.
        labels: class index of every utterance of the store.
        classes: class names in logit order.
        fold: the fold's number.
    """
    present = {role: index for role, index in rows.items() if len(index)}
    parts = []
    for name, logits in sorted(teachers.items()):
        said = {role: logits[index] for role, index in present.items()}
        part = predictions_table(utterances, present, said, labels, classes, fold)
        part.insert(1, "teacher", name)
        parts.append(part)
    return pd.concat(parts, ignore_index=True)
