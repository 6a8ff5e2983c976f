"""What each of two processes does for test_two_processes.py; started by it, never imported.

Trains one fold undisturbed; then the same with the second process failing in the middle of the
second epoch, and again until it is done; then leaves words of how each of these ended.
"""

import json
import sys
from pathlib import Path

import torch
from torch import nn
from torch.optim.optimizer import register_optimizer_step_post_hook

from distill.data import FoldTargets
from distill.runs.folder import RunRequest
from distill.training import loop as trainer
from distill.training.loop import run_fold
from distill.training.team import Team, join
from featstore.core.schema import UserError
from tests.distill.small_runs import STEPS, request

FAILS_AFTER = STEPS + 2


def failing(order: RunRequest, team: Team) -> dict[str, object]:
    """The run, where the second process fails in the step after so many."""
    done: list[object] = []
    batch = FoldTargets.batch

    def fails(self, rows):
        if team.rank == 1 and len(done) == FAILS_AFTER:
            raise UserError("the second process has had enough", "give it a rest")
        return batch(self, rows)

    FoldTargets.batch = fails
    counted = register_optimizer_step_post_hook(lambda *_: done.append(None))
    try:
        run_fold(order, team=team)
    except UserError as error:
        return {"message": error.message, "hint": error.hint, "steps": len(done)}
    finally:
        FoldTargets.batch = batch
        counted.remove()
    return {}


def collectives(team: Team) -> dict[str, object]:
    """What each of them comes to, from something that every process has another of."""
    layer = nn.Linear(2, 3)
    with torch.no_grad():
        layer.weight.fill_(team.rank + 5)
    net = team.wrap(layer)
    weights = layer.weight.unique().tolist()
    for ends_step, factor in ((False, 1.0), (True, 10.0)):
        with team.exchanging(net, ends_step):
            (net(torch.ones(1, 2)).sum() * factor * (team.rank + 1)).backward()
    return {
        "means": layer.weight.grad.unique().tolist(),
        "weights": weights,
        "gathered": team.gather(f"process {team.rank}"),
        "any": [team.any(team.rank == n) for n in range(3)],
    }


def threads() -> list[str]:
    """The names of those that still run, as Linux knows them."""
    return [(task / "comm").read_text().strip() for task in Path("/proc/self/task").glob("*")]


def main(store: Path, place: Path) -> None:
    team = join("cpu")
    seeds, seed_all = [], trainer.seed_all

    def remembered(seed: int) -> None:
        seeds.append(seed)
        seed_all(seed)

    trainer.seed_all = remembered
    whole = run_fold(request(store, place / "whole"), team=team)
    trainer.CHECKPOINT_EVERY_S = 0
    order = request(store, place / "cut")
    error = failing(order, team)
    resumed = run_fold(order, team=team)
    skipped = run_fold(order, team=team)
    stopped = run_fold(request(store, place / "half", max_steps=2), team=team)
    words = {
        "device": str(team.device),
        "collectives": collectives(team),
        "error": error,
        "seeds": sorted(set(seeds)),
        "whole": [whole.status, str(whole.folder), whole.wa, whole.ua],
        "resumed": [resumed.status, str(resumed.folder), resumed.wa, resumed.ua],
        "again": [skipped.status, stopped.status],
    }
    team.leave()
    words["threads"] = threads()
    (place / f"words{team.rank}.json").write_text(json.dumps(words))


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
