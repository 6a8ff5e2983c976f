"""``distill run``: settings from flags, and the folds of one student as runs."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from distill.config import PRESETS, RANDOM, VARIANTS, RunSettings, default_preset, refuse_unknown
from distill.experiments.estimates import BASIS, estimate
from distill.experiments.resources import Resources
from distill.runs.folder import CHECKPOINT, RunFolder
from distill.runs.request import RunRequest, key_of
from featstore.core.config import cross_fitted
from featstore.core.console import say
from featstore.core.schema import UTTERANCE_ID, Corrupt, Refused, UserError, printable
from featstore.core.settings import choose, load_toml, overrides, resolve
from featstore.core.torch_pair import load_torchaudio
from featstore.folds import parse_numbers
from featstore.inspection.teachers import warnings_of
from featstore.store import open_store
from featstore.store.store import Store

if TYPE_CHECKING:
    from distill.experiments.running import Done


@dataclass(frozen=True)
class Order:
    """What ``distill run`` is asked for."""

    store: Path | str
    folds: str
    settings: RunSettings
    runs: Path
    experiment: str
    variant: str
    resources: Resources = field(default_factory=Resources)
    root: Path | None = None
    weights: Path | None = None
    max_steps: int | None = None
    tensorboard: bool = False

    def request(self, fold: int) -> RunRequest:
        """One fold of the order."""
        return RunRequest(
            store=self.store, fold=fold, settings=self.settings, runs=self.runs,
            experiment=self.experiment, variant=self.variant, device=self.resources.device,
            threads=self.resources.threads, root=self.root, weights=self.weights,
            max_steps=self.max_steps, tensorboard=self.tensorboard,
        )  # fmt: skip


def run_settings(
    student: str | None,
    variant: str,
    preset: str | None,
    config: Path | None,
    sets: Sequence[str],
    seed: int | None,
) -> RunSettings:
    """Preset, file, variant, --set, flags: later ones win; None is a flag that was not given.

    Raises:
        UserError: with every fault at once.
    """
    flags: dict[str, Any] = {"student": {"backbone": student}} if student is not None else {}
    if seed is not None:
        flags["seed"] = seed
    layers = (
        load_toml(config) if config else {},
        choose("--variant", variant, VARIANTS),
        overrides(sets),
        flags,
    )
    if preset is None:
        preset = default_preset(resolve(RunSettings, *layers).student.backbone)
    settings = resolve(RunSettings, choose("--preset", preset, PRESETS), *layers)
    refuse_unknown(settings.student.backbone)
    return settings


def experiment_name(student: str, variant: str) -> str:
    """A folder name for a student and a variant.

    >>> experiment_name("hf:facebook/wav2vec2-base", "full")
    'hf-wav2vec2-base-full'
    """
    kind, _, place = student.partition(":")
    name = f"{kind}-{Path(place).name}" if place else kind
    safe = "".join(c if c.isalnum() or c in "._-" else "-" for c in name)
    return f"{safe}-{variant}"


def plan(order: Order) -> dict[str, Any]:
    """Which runs there would be, which are finished, and what would be downloaded for them.

    Raises:
        UserError: also where weights are missing that a run would need.
    """
    refuse_order(order)
    store = open_store(order.store)
    rows: list[dict[str, Any]] = []
    for fold in parse_numbers(order.folds, len(store.folds)):
        status, why, folder = standing(store, order.request(fold))
        rows.append({"fold": fold, "status": status, "why": why, "folder": folder})
    begins = any(row["status"] in BEGINS for row in rows)
    weights = weights_note(order.settings.student.backbone, order.weights) if begins else ""
    done = [Path(row["folder"]) for row in rows if row["status"] == "done"]
    left = sum(row["status"] in BEGINS for row in rows)
    return {
        "runs": rows,
        "weights": weights,
        "estimate": estimate(order.settings.student.backbone, left, done, order.resources),
        "basis": BASIS,
        "settings": order.settings.model_dump(mode="json"),
    }


def weights_note(backbone: str, weights: Path | None) -> str:
    """What a run would download first, see :func:`distill.model.backbones.check_weights`."""
    if backbone == "tiny" and weights is None:
        return ""
    from distill.model.backbones import check_weights

    return check_weights(backbone, weights)


WARNINGS = 10
"""Teachers of doubtful fitness that are named before a run."""

BEGINS = ("run", "resume", "again")
"""Of a run's standings, those in which it would be trained."""


def standing(store: Store, request: RunRequest) -> tuple[str, str, str]:
    """How a run stands: its status, why, and its folder; the last two may be empty.

    The status is ``done``, ``resume``, ``run``, ``again`` (it failed before); or, where it cannot
    begin, ``missing``, ``refused`` or ``damaged``.
    """
    try:
        key = key_of(store, request.fold, request.settings, request.weights)
        seed = request.settings.seed
        folder = RunFolder.of(request.runs, request.experiment, key, request.fold, seed)
        if folder.done:
            return "done", "", str(folder.path)
        if why := folder.failure:
            return "again", f"it failed: {why}", str(folder.path)
        begun = (folder.path / CHECKPOINT).is_dir()
        return "resume" if begun else "run", "", str(folder.path)
    except UserError as error:
        named = {UserError.exit_code: "missing", Refused.exit_code: "refused"}
        return named.get(error.exit_code, "damaged"), error.message, ""


def plan_exit_code(rows: Iterable[Mapping[str, Any]]) -> int:
    """What the runs of a plan would come to: the code of the gravest that cannot begin."""
    codes = {"missing": 2, "damaged": Corrupt.exit_code, "refused": Refused.exit_code}
    return max((codes.get(row["status"], 0) for row in rows), default=0)


def require_encoders(settings: Iterable[RunSettings]) -> None:
    """Stop once, not in every run, where an encoder needs torchaudio and it cannot be loaded.

    Raises:
        UserError: naming the pair of torch and torchaudio that fits.
    """
    if any(not one.student.backbone.removeprefix(RANDOM).startswith("hf:") for one in settings):
        load_torchaudio()


def warn_of_teachers(store: Store, folds: Sequence[int], settings: Sequence[RunSettings]) -> None:
    """Say which teachers, of those that would teach, are not plainly fit for it.

    What cannot be judged (a damaged unit, a fold without teachers) is left to its run to refuse.
    """
    wanted = {
        cross_fitted(name, one.targets.cross_fit)
        for one in settings
        if one.losses.alpha > 0 or one.losses.beta > 0
        for name, term in one.losses.teachers.items()
        if term.weight > 0
    }
    lines: list[str] = []
    for fold in folds if wanted else ():
        with suppress(UserError):
            lines += warnings_of(store, [fold], sorted(wanted))
    for line in lines[:WARNINGS]:
        say(f"warning: {printable(line)}")
    if len(lines) > WARNINGS:
        say(f"warning: and {len(lines) - WARNINGS} more")
    if lines:
        say("warning: they teach all the same; `featstore inspect STORE --fitness` shows all")


def refuse_order(order: Order) -> None:
    """Refuse what would be noticed late, or write outside of ``runs``.

    Raises:
        UserError: with what to give instead.
    """
    if not UTTERANCE_ID.match(order.experiment):
        raise UserError(
            f"--experiment {printable(order.experiment)}: no name for a folder",
            "use letters, digits, dot, dash and underscore, up to 128 of them",
        )
    refuse_runs(order.runs)


def refuse_runs(runs: Path) -> None:
    """Refuse a place for runs that is no folder.

    Raises:
        UserError: it is something else.
    """
    if runs.exists() and not runs.is_dir():
        raise UserError(f"--runs {runs}: not a folder", "give a folder")


def launch(order: Order) -> Done:
    """Train the folds, see :func:`distill.experiments.running.run_all`.

    Raises:
        UserError: the store or the folds are not there.
    """
    from distill.experiments.running import run_all  # brings torch

    refuse_order(order)
    return run_all(partial(_requests, order), order.resources, order.experiment)


def _requests(order: Order) -> list[RunRequest]:
    store = open_store(order.store)
    folds = parse_numbers(order.folds, len(store.folds))
    require_encoders([order.settings])
    warn_of_teachers(store, folds, [order.settings])
    return [order.request(fold) for fold in folds]
