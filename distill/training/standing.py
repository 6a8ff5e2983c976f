"""Where a run stands, and all that it goes on from: what its checkpoints hold."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch

from distill.training.checkpoint import (
    Tensors,
    load_newest,
    optimiser_tensors,
    restore_optimiser,
    save_checkpoint,
)
from distill.training.parallel import Team
from distill.training.step import Stepper, StepReport
from featstore.core.schema import UserError


@dataclass
class Position:
    """Where a run stands, as its checkpoints tell."""

    epoch: int = 1
    step: int = 0  # optimiser steps done in this epoch
    total: int = 0
    history: list[dict[str, Any]] = field(default_factory=list)
    best_epoch: int = 0
    best_score: tuple[float, float] = (-1.0, 0.0)
    seconds: float = 0.0


def save_standing(folder: Path, position: Position, stepper: Stepper, best: Tensors) -> None:
    """Commit a checkpoint; in a team all take part, and the first process writes.

    Args:
        folder: the run's ``checkpoint`` folder.
        position: where the run stands.
        stepper: student, optimiser and what they have summed up.
        best: the weights of the best epoch, if there was one.
    """
    generators = {"rng.cpu": torch.get_rng_state()}
    if stepper.device.type == "cuda":
        generators["rng.cuda"] = torch.cuda.get_rng_state(stepper.device)
    team = stepper.team.gather((generators, asdict(stepper.report)))
    if not stepper.team.leads:
        return
    tensors = {f"student.{k}": v for k, v in stepper.student.state_dict().items()}
    tensors |= optimiser_tensors(stepper.optimiser)
    at_best = position.best_epoch == position.epoch - 1 and not position.step
    if best and not at_best:  # where the student is at its best, once is enough
        tensors |= {f"best.{name}": value for name, value in best.items()}
    for rank, (states, _) in enumerate(team):
        tensors |= {_of(name, rank): state for name, state in states.items()}
    state: dict[str, Any] = {"position": asdict(position), "stepper": stepper.state()}
    if others := [report for _, report in team[1:]]:
        state["reports"] = others
    save_checkpoint(folder, position.total, tensors, state)


def load_standing(folder: Path, stepper: Stepper) -> tuple[Position, Tensors] | None:
    """Bring student, optimiser and random state back; None where there is no checkpoint.

    Returns:
        Where the run stands, and the weights of its best epoch.

    Raises:
        UserError: another number of processes has begun the run, or the processes of this one do
            not see the same checkpoint.
    """
    found = load_newest(folder)
    _refuse_other_views(folder, stepper.team, found[1]["position"] if found else None)
    if found is None:
        return None
    tensors, state = found
    _refuse_other_team(folder, stepper.team, 1 + len(state.get("reports", ())))
    stepper.student.load_state_dict(_part(tensors, "student."))
    restore_optimiser(stepper.optimiser, tensors)
    stepper.restore(state["stepper"])
    rank = stepper.team.rank
    if rank:
        stepper.report = StepReport(**state["reports"][rank - 1])
    position = Position(**state["position"])
    position.best_score = tuple(state["position"]["best_score"])
    best: Tensors = {}
    if position.best_epoch:
        best = _part(tensors, "best.") or _part(tensors, "student.")
    torch.set_rng_state(tensors[_of("rng.cpu", rank)])
    on_gpu = _of("rng.cuda", rank)
    if stepper.device.type == "cuda" and on_gpu in tensors:
        torch.cuda.set_rng_state(tensors[on_gpu], stepper.device)
    return position, best


def _refuse_other_views(folder: Path, team: Team, position: dict[str, Any] | None) -> None:
    """Processes that look at different folders would train different students."""
    views = team.gather(position)
    if any(view != views[0] for view in views):
        raise UserError(
            f"{folder}: the processes of this run find different checkpoints there",
            "put --runs on a file system that all machines share",
        )


def _refuse_other_team(folder: Path, team: Team, size: int) -> None:
    """What a process has drawn and summed up is its own; another number cannot go on from it."""
    if size != team.size:
        raise UserError(
            f"{folder}: begun by {size} process(es), now there are {team.size}",
            f"start it with {size}, or remove that folder to begin anew",
        )


def _of(name: str, rank: int) -> str:
    """A checkpoint's key for what belongs to one process."""
    return f"{name}.{rank}" if rank else name


def _part(tensors: Tensors, prefix: str) -> Tensors:
    return {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}
