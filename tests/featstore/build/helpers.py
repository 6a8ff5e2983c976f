"""What the tests of a build look at: its plan, its units, their bytes."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from featstore.build.plan import make_plan
from featstore.build.units import source_sums

SHARED = ["audio", "corpus", "splits", "lld"]
TEACHERS = ["folds/01/linguistic", "folds/01/prosodic", "folds/02/linguistic", "folds/02/prosodic"]

Build = Callable[[Any], Any]
Change = Callable[..., Any]


def planned(request: Any) -> Any:
    """The plan of what is asked for."""
    return make_plan(request, source_sums(request.manifest))


def plan(request: Any) -> dict[str, tuple[str, str]]:
    """Unit -> status and why."""
    return {step.unit: (step.status, step.why) for step in planned(request).steps}


def files(folder: Path) -> dict[str, bytes]:
    """Every file below, by its name."""
    paths = sorted(path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in paths}
