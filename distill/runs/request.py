"""What a run is asked to be, the key that follows from it, and what became of it."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from distill.config import LossSettings, RunSettings, portable, run_key
from distill.runs.folder import RunFolder
from distill.runs.read import Run
from featstore.core.config import cross_fitted, device_kind
from featstore.core.files import sha256_of
from featstore.core.schema import UserError
from featstore.core.weights import refuse_giant
from featstore.store.store import Store


@dataclass(frozen=True)
class RunRequest:
    """What to train, and where; only ``settings`` and the store decide the numbers."""

    store: Path | str
    fold: int = 0
    settings: RunSettings = field(default_factory=RunSettings)
    runs: Path = Path("runs")
    experiment: str = ""
    variant: str = "full"
    device: str = "auto"
    threads: int | None = None
    root: Path | None = None
    weights: Path | None = None
    max_steps: int | None = None
    tensorboard: bool = False
    title: str = ""

    @property
    def label(self) -> str:
        """What it is called in messages; unique among the runs of one command."""
        return self.title or f"fold {self.fold}"


@dataclass(frozen=True)
class Outcome:
    """What became of a run; scores are of the test speaker."""

    fold: int
    status: Literal["done", "skipped", "stopped"]
    folder: Path
    why: str = ""
    wa: float | None = None
    ua: float | None = None
    seconds: float = 0.0

    @staticmethod
    def skipped(run: Run, folder: RunFolder, why: str) -> Outcome:
        """A run that was finished, with the scores that its predictions give."""
        return Outcome(run.facts.fold, "skipped", folder.path, why, run.scores.wa, run.scores.ua)


class Keys:
    """The keys of many runs of one store: what they share is read once."""

    def __init__(self, store: Store) -> None:
        self.store, self._fingerprint = store, store.fingerprint()
        self._teachers: dict[tuple[int, int], list[dict[str, Any]]] = {}
        self._weights: dict[Path, str] = {}
        self._students: dict[Any, Any] = {}

    def folder(self, request: RunRequest) -> RunFolder:
        """Where a run lies; its key is the same for every fold of a store.

        Raises:
            UserError: the store lacks the fold, or there is no such file of weights.
        """
        settings = request.settings
        fold = request.fold, settings.targets.cross_fit
        if fold not in self._teachers:
            self._teachers[fold] = _made_from(self.store, *fold)
        weights = request.weights
        if weights is not None and weights not in self._weights:
            self._weights[weights] = _given(weights)
        given = self._weights[weights] if weights is not None else None
        if settings.student not in self._students:
            self._students[settings.student] = portable(settings).student
        settings = settings.model_copy(update={"student": self._students[settings.student]})
        kind = device_kind(request.device)
        key = run_key(settings, self._fingerprint, self._teachers[fold], given, kind)
        return RunFolder.of(request.runs, request.experiment, key, request.fold, settings.seed)


def _given(weights: Path) -> str:
    refuse_giant(weights)
    return sha256_of(weights)


def _made_from(store: Store, fold: int, cross_fit: int) -> list[dict[str, Any]]:
    """What tells a fold's teachers from others."""
    outputs = store.fold(fold, cross_fit=cross_fit)
    return [
        {
            "name": name,
            "teacher": output.unit.settings["teacher"],
            "parents": dict(output.unit.parents),
        }
        for name, output in sorted(outputs.items())
    ]


def require_teachers(store: Store, fold: int, losses: LossSettings, cross_fit: int = 0) -> None:
    """Refuse to train without a teacher that the losses count on or that other folds have.

    A killed build leaves such folds; a student of one teacher would pass for one of both. So would
    one whose targets are cross-fitted for some of the store's teachers only.

    Raises:
        UserError: with what to build, or how to do without on purpose.
    """
    names = set(store.teacher_names(fold, cross_fit))
    elsewhere = {
        name
        for n in range(1, len(store.folds) + 1)
        for parts in {0, cross_fit}
        for name in store.teacher_names(n, parts)
    }
    flag = f" --cross-fit {cross_fit}" if cross_fit else ""
    taught = losses.alpha > 0 or losses.beta > 0
    wanted = {name for name, term in losses.teachers.items() if taught and term.weight > 0}
    for name in sorted((wanted | elsewhere) - names):
        without = f"; to do without: --set losses.teachers.{name}.weight=0"
        raise UserError(
            f"fold {fold}: {store.url or store.path} has no teacher "
            f"{cross_fitted(name, cross_fit)} for it",
            f"finish the build: `featstore build --fold {fold}{flag}`"
            + ("" if name in elsewhere else without),
        )
