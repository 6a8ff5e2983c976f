"""Settings of runs from flags, and how each run stands before it is trained."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from distill.config import (
    HUGGING_FACE,
    PRESETS,
    RANDOM,
    VARIANTS,
    RunSettings,
    default_preset,
    refuse_unknown,
)
from distill.runs.folder import CHECKPOINT, Keys, Outcome, RunFolder, RunRequest, require_teachers
from featstore.core.schema import UTTERANCE_ID, Corrupt, Refused, UserError, printable
from featstore.core.settings import choose, load_toml, overrides, resolve
from featstore.core.torch_pair import load_torchaudio
from featstore.folds import parse_numbers
from featstore.store import open_store

BEGINS = ("run", "resume", "again")
"""States of runs that would be trained."""


def run_settings(
    student: str | None,
    variant: str,
    preset: str | None,
    config: Path | None,
    sets: Sequence[str],
    seed: int | None,
    row: Mapping[str, Any] | None = None,
) -> RunSettings:
    """Preset, file, variant, --set, a grid's row, flags: later ones win; None was not given.

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
        row or {},
        flags,
    )
    if preset is None:
        preset = default_preset(student or resolve(RunSettings, *layers).student.backbone)
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


def each_fold(request: RunRequest, folds: str) -> list[RunRequest]:
    """One request for each of some folds, e.g. ``1..10``.

    Raises:
        UserError: the store or a fold is not there, or the request writes outside of ``runs``.
    """
    if not UTTERANCE_ID.match(request.experiment):
        raise UserError(
            f"--experiment {printable(request.experiment)}: no name for a folder",
            "use letters, digits, dot, dash and underscore, up to 128 of them",
        )
    return [replace(request, fold=fold) for fold in folds_of(request, folds)]


def folds_of(request: RunRequest, folds: str) -> list[int]:
    """Numbers of the store's folds that a command is to train on, e.g. ``1..10``.

    Raises:
        UserError: the store or a fold is not there, or ``runs`` is no folder.
    """
    runs = request.runs
    if runs.exists() and not runs.is_dir():
        raise UserError(f"--runs {runs}: not a folder", "give a folder")
    return parse_numbers(folds, len(open_store(request.store).folds))


@dataclass(frozen=True)
class RunState:
    """How a run stands before it is trained.

    Attributes:
        state: ``done``, ``resume``, ``run``, ``again`` (it failed before); or, where it cannot
            begin, ``missing``, ``refused`` or ``damaged``.
        why: it cannot begin, or failed before.
        folder: where it lies, if that is known.
        result: of a run that is not to be trained.
    """

    state: str
    why: str = ""
    folder: RunFolder | None = None
    result: Outcome | UserError | None = None


def states(requests: Iterable[RunRequest]) -> Iterator[tuple[RunRequest, RunState]]:
    """How each run stands; touches nothing.

    Raises:
        UserError: the store is not there.
    """
    opened: dict[Path | str, Keys] = {}
    for request in requests:
        if request.store not in opened:
            opened[request.store] = Keys(open_store(request.store))
        try:
            yield request, _state(request, opened[request.store])
        except UserError as error:
            names = {UserError.exit_code: "missing", Refused.exit_code: "refused"}
            state = names.get(error.exit_code, "damaged")
            yield request, RunState(state, error.message, result=error)


def _state(request: RunRequest, keys: Keys) -> RunState:
    folder = keys.folder(request)
    settings = request.settings
    require_teachers(keys.store, request.fold, settings.losses, settings.targets.cross_fit)
    if outcome := folder.outcome("finished before"):
        return RunState("done", "", folder, outcome)
    if why := folder.failure:
        return RunState("again", f"it failed: {why}", folder)
    return RunState("resume" if (folder.path / CHECKPOINT).is_dir() else "run", "", folder)


def plan(requests: Sequence[RunRequest]) -> dict[str, Any]:
    """``distill run --dry-run`` as plain data: how each fold stands, and what is left to do.

    Raises:
        UserError: also where weights are missing that a run would need.
    """
    each = list(states(requests))
    left = sum(one.state in BEGINS for _, one in each)
    first = requests[0]
    return {
        "runs": [
            {
                "fold": request.fold,
                "status": one.state,
                "why": one.why,
                "folder": str(one.folder.path) if one.folder else "",
            }
            for request, one in each
        ],
        "weights": weights_note(first.settings.student.backbone, first.weights) if left else "",
        "left": left,
        "settings": first.settings.model_dump(mode="json"),
    }


def plan_exit_code(facts: Mapping[str, Any]) -> int:
    """What the runs of a plan would come to: the code of the gravest that cannot begin."""
    codes = {"missing": 2, "damaged": Corrupt.exit_code, "refused": Refused.exit_code}
    return max((codes.get(run["status"], 0) for run in facts["runs"]), default=0)


def weights_note(backbone: str, weights: Path | None) -> str:
    """What a run would download first, see :func:`distill.model.weights.check_weights`."""
    if backbone == "tiny" and weights is None:
        return ""
    from distill.model.weights import check_weights

    return check_weights(backbone, weights)


def require_encoders(requests: Sequence[RunRequest]) -> None:
    """Stop once, not in every run, where an encoder needs torchaudio and it cannot be loaded."""
    backbones = {one.settings.student.backbone.removeprefix(RANDOM) for one in requests}
    if any(not name.startswith(HUGGING_FACE) for name in backbones):
        load_torchaudio()
