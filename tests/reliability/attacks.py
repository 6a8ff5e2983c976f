"""Damage done to a store, and the commands that must refuse it."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import NamedTuple

from tests.reliability.forgery import reseal
from tests.reliability.harness import run_arguments
from tests.reliability.sandbox import Sandbox, Tally, shared

Damage = Callable[[Path], object]
ALL = ("read", "inspect", "verify", "run")
BAD = (2, 3, 4)


class Case(NamedTuple):
    """What is done to a store, which unit's record is made to fit, and what must refuse it."""

    damage: Damage
    unit: str = "corpus"
    met_by: tuple[str, ...] = ("read", "verify", "run")
    codes: tuple[int, ...] = (3, 4)
    sealed: bool = True


def command(entry: str, store: Path, runs: Path) -> tuple[str, ...]:
    """One of the commands that meet a store."""
    if entry == "run":
        return ("distill", *run_arguments(store, runs, "--set", "optim.epochs=1"))
    return (entry, str(store)) if entry == "read" else ("featstore", entry, str(store))


def attack(
    sandbox: Sandbox, undisturbed: Path, tmp_path: Path, cases: Mapping[str, Case], title: str
) -> None:
    """Every case through every command that meets it; all must refuse it."""
    tally = Tally()
    for number, (name, case) in enumerate(cases.items()):
        place = tmp_path / f"{title.split()[0]}{number}"
        store = Path(shutil.copytree(undisturbed, place / "store"))
        case.damage(store)
        if case.sealed:
            reseal(store / case.unit)
        for entry in case.met_by:
            ended = sandbox(*command(entry, store, place / "runs"))
            tally.add(f"{name} ({entry})", ended, case.codes)
        shutil.rmtree(place)
    tally.close(title)


def text(path: str, content: Callable[[bytes], bytes]) -> Damage:
    """Replace a file's content."""

    def damage(store: Path) -> None:
        (store / path).write_bytes(content((store / path).read_bytes()))

    return damage


def fifo(path: str) -> Damage:
    def damage(store: Path) -> None:
        (store / path).unlink()
        os.mkfifo(store / path)

    return damage


def finished_run(store: Path, runs: Path) -> Path:
    """A run of one epoch that was finished."""
    ended = shared()(*command("run", store, runs))
    assert ended.code == 0, ended.err
    return next(runs.glob("*/*/fold01-*"))
