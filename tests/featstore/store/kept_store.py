"""The kept store of 8 tones, built long ago, so that it costs a test nothing."""

from __future__ import annotations

import shutil
from pathlib import Path

from tests import ROOT

KEPT = ROOT / "tests" / "data" / "store-v3"


def copied(place: Path) -> Path:
    """The kept store, to change."""
    return Path(shutil.copytree(KEPT, place))


def contents(folder: Path) -> dict[str, bytes]:
    """Every file below, by name."""
    files = (path for path in sorted(folder.rglob("*")) if path.is_file())
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in files}
