"""Checkpoints of a run: all that it resumes from, as safetensors and JSON, never a pickle.

``checkpoint/NNNNNNNN/`` is written beside its place and renamed; the two newest are kept, so that
a run continues to the same bytes even when it is killed while one is being written, or when the
newest is damaged afterwards.
"""

from __future__ import annotations

import json
import re
import secrets
import shutil
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from itertools import zip_longest
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from featstore.core.console import say
from featstore.core.files import fsync_folder, read_small, sha256_of, strict_json, write_file
from featstore.core.os_errors import io_failure
from featstore.core.schema import Corrupt, UserError, printable
from featstore.core.settings import digest
from featstore.core.weights import check_tensors, read_tensors, save_tensors

if TYPE_CHECKING:
    from distill.training.loop import Learner

KEEP = 2
STATE, TENSORS = "state.json", "tensors.safetensors"
_POSITION = re.compile(r"[0-9]{8,18}\Z")
Tensors = dict[str, torch.Tensor]


@dataclass
class Report:
    """Sums over the utterances of the steps since the last report.

    Attributes:
        n: utterances.
        terms: loss term -> sum of its unweighted values; ``total`` is the weighted sum of all.
        gradients: loss term -> norm of its weighted gradient with respect to the pooled output,
            measured on one micro-batch of a step now and then and summed over ``n_gradients``
            of them. None are measured where nothing of the backbone trains.
    """

    n: int = 0
    terms: dict[str, float] = field(default_factory=dict)
    gradients: dict[str, float] = field(default_factory=dict)
    n_gradients: int = 0

    def add(self, other: Report) -> None:
        """Add another one's sums.

        >>> both = Report(1, {"ce": 0.5})
        >>> both.add(Report(2, {"ce": 1.0}))
        >>> both
        Report(n=3, terms={'ce': 1.5}, gradients={}, n_gradients=0)
        """
        self.n += other.n
        self.n_gradients += other.n_gradients
        for mine, theirs in ((self.terms, other.terms), (self.gradients, other.gradients)):
            mine.update({name: mine.get(name, 0.0) + value for name, value in theirs.items()})

    def means(self) -> dict[str, dict[str, float]]:
        """``train``: mean of each term an utterance; ``gradients``: of each norm measured."""
        n, g = max(self.n, 1), max(self.n_gradients, 1)
        return {
            "train": {name: value / n for name, value in self.terms.items()},
            "gradients": {name: value / g for name, value in self.gradients.items()},
        }


@dataclass
class Progress:
    """How far a run has come."""

    epoch: int = 1
    step: int = 0
    """Optimiser steps done in this epoch."""
    total: int = 0
    history: list[dict[str, Any]] = field(default_factory=list)
    """The lines of ``metrics.jsonl``."""
    best_epoch: int = 0
    best_score: tuple[float, float] = (-1.0, 0.0)
    seconds: float = 0.0


def save(folder: Path, learner: Learner) -> None:
    """Commit a checkpoint of a run; in a team all take part, and the first process writes.

    Args:
        folder: the run's ``checkpoint`` folder.
        learner: the student, its optimiser, and how far it has come.
    """
    generators = {"rng.cpu": torch.get_rng_state()}
    if learner.device.type == "cuda":
        generators["rng.cuda"] = torch.cuda.get_rng_state(learner.device)
    team = learner.team.gather((generators, asdict(learner.report)))
    if not learner.team.leads:
        return
    progress = learner.progress
    tensors = {f"student.{name}": value for name, value in learner.student.state_dict().items()}
    tensors |= optimiser_tensors(learner.optimiser)
    at_best = progress.best_epoch == progress.epoch - 1 and not progress.step
    if learner.best and not at_best:  # where the student is at its best, once is enough
        tensors |= {f"best.{name}": value for name, value in learner.best.items()}
    for rank, (states, _) in enumerate(team):
        tensors |= {f"{name}.{rank}": state for name, state in states.items()}
    state = {
        "progress": asdict(progress),
        "schedule": learner.schedule.state_dict(),
        "scaler": learner.scaler.state_dict(),
        "reports": [report for _, report in team],
    }
    save_checkpoint(folder, progress.total, tensors, state)


def load(folder: Path, learner: Learner) -> bool:
    """Bring student, optimiser, progress and random state back; False without a checkpoint.

    Raises:
        UserError: another number of processes has begun the run, or the processes of this one do
            not see the same checkpoint.
    """
    newest, team = load_newest(folder), learner.team
    views = team.gather(newest[1]["progress"] if newest else None)
    if any(view != views[0] for view in views):  # they would train different students
        raise UserError(
            f"{folder}: the processes of this run find different checkpoints there",
            "put --runs on a file system that all machines share",
        )
    if newest is None:
        return False
    tensors, state = newest
    size, rank = len(state["reports"]), team.rank
    if size != team.size:  # random state and sums belong to one process
        raise UserError(
            f"{folder}: begun by {size} process(es), now there are {team.size}",
            f"start it with {size}, or remove that folder to begin anew",
        )
    learner.student.load_state_dict(_part(tensors, "student."))
    restore_optimiser(learner.optimiser, tensors)
    learner.schedule.load_state_dict(dict(state["schedule"]))
    rates = learner.schedule.get_last_lr()
    for group, lr in zip(learner.optimiser.param_groups, rates, strict=True):
        group["lr"] = lr
    if state["scaler"]:
        learner.scaler.load_state_dict(dict(state["scaler"]))
    progress = Progress(**state["progress"])
    progress.best_score = tuple(state["progress"]["best_score"])
    learner.progress = progress
    learner.report = Report(**state["reports"][rank])
    if progress.best_epoch:
        learner.best = _part(tensors, "best.") or _part(tensors, "student.")
    torch.set_rng_state(tensors[f"rng.cpu.{rank}"])
    if learner.device.type == "cuda" and f"rng.cuda.{rank}" in tensors:
        torch.cuda.set_rng_state(tensors[f"rng.cuda.{rank}"], learner.device)
    return True


def _part(tensors: Tensors, prefix: str) -> Tensors:
    return {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}


def save_checkpoint(
    folder: Path, position: int, tensors: Tensors, state: Mapping[str, Any]
) -> None:
    """Commit a checkpoint, then drop the older ones.

    Args:
        folder: the run's ``checkpoint`` folder.
        position: optimiser steps done; names the checkpoint and orders them.
        tensors: weights, optimiser and random state.
        state: everything else, as JSON.
    """
    if not folder.is_dir():
        folder.mkdir(parents=True)
        fsync_folder(folder.parent)
    staging = folder / f".{position:08d}-{secrets.token_hex(4)}"
    staging.mkdir()
    save_tensors(tensors, staging / TENSORS)
    record: dict[str, Any] = {"state": dict(state), "tensors": sha256_of(staging / TENSORS)}
    record["sha256"] = digest(record)
    write_file(staging / STATE, json.dumps(record).encode())
    place = folder / f"{position:08d}"
    if place.exists():
        shutil.rmtree(place)
    staging.rename(place)
    fsync_folder(folder)
    # A newer one is damaged: otherwise the run would have resumed from it.
    newer = [other for other in _checkpoints(folder) if int(other.name) > position]
    older = [other for other in _checkpoints(folder) if int(other.name) < position]
    for gone in [*newer, *older[KEEP - 1 :], *folder.glob(".*")]:
        shutil.rmtree(gone, ignore_errors=True)


def load_newest(folder: Path) -> tuple[Tensors, dict[str, Any]] | None:
    """The newest checkpoint that is whole, or None; says which newer ones are not, and why."""
    places = _checkpoints(folder)
    for place, before in zip_longest(places, places[1:]):
        try:
            return _load(place)
        except (OSError, UserError) as error:
            instead = f"taking {before.name}" if before else "none is left, so it starts anew"
            error = io_failure(error, Path()) if isinstance(error, OSError) else error
            say(f"damaged checkpoint passed over, {instead}: {printable(error.message)}")
    return None


def _load(place: Path) -> tuple[Tensors, dict[str, Any]]:
    """One checkpoint, every byte checked before it is used."""
    record = strict_json(read_small(place / STATE), str(place / STATE))
    claimed = record.pop("sha256", None)
    if set(record) != {"state", "tensors"} or claimed != digest(record):
        raise Corrupt(f"{place / STATE}: not what was written")
    check_tensors(place / TENSORS)  # a pipe or a pickle is refused before a byte is summed
    if sha256_of(place / TENSORS) != record["tensors"]:
        raise Corrupt(f"{place / TENSORS}: not what was written")
    return read_tensors(place / TENSORS), record["state"]


def _checkpoints(folder: Path) -> list[Path]:
    """Checkpoints that are there, newest first."""
    if not folder.is_dir():
        return []
    places = [place for place in folder.iterdir() if _POSITION.match(place.name)]
    return sorted(places, key=lambda place: (int(place.name), place.name), reverse=True)


def optimiser_tensors(optimiser: torch.optim.Optimizer) -> Tensors:
    """An optimiser's per-parameter state, keyed ``optim.<index>.<name>``."""
    return {
        f"optim.{index}.{name}": torch.as_tensor(value)
        for index, entries in optimiser.state_dict()["state"].items()
        for name, value in entries.items()
    }


def restore_optimiser(optimiser: torch.optim.Optimizer, tensors: Tensors) -> None:
    """Put back what :func:`optimiser_tensors` took."""
    state: dict[int, dict[str, torch.Tensor]] = {}
    for key, value in tensors.items():
        if key.startswith("optim."):
            _, index, name = key.split(".", 2)
            state.setdefault(int(index), {})[name] = value
    full = optimiser.state_dict()
    full["state"] = state
    optimiser.load_state_dict(full)
