"""The kept store of 8 tones, built long ago, so that it costs a test nothing."""

from __future__ import annotations

import shutil
from pathlib import Path

from featstore.store.staging import staged
from featstore.store.unit import Identity
from tests import ROOT

KEPT = ROOT / "tests" / "data" / "store-v3"
IDENTITY = Identity("lld", {"lld": {"feature_set": "eGeMAPSv02"}}, {"audio": "0" * 64})


def commit(place: Path, content: bytes = b"frames", *, replace: bool = False) -> Path:
    """A unit of two files, one of them in a folder."""
    with staged(place, IDENTITY, replace=replace) as staging:
        (staging.folder / "values").mkdir()
        (staging.folder / "values" / "c").write_bytes(content)
        (staging.folder / "offsets").write_bytes(b"12")
        staging.facts["n_frames"] = 1.5
        staging.provenance["python"] = "3"
    return place


def copied(place: Path) -> Path:
    """The kept store, to change."""
    return Path(shutil.copytree(KEPT, place))


def contents(folder: Path) -> dict[str, bytes]:
    """Every file below, by name."""
    files = (path for path in sorted(folder.rglob("*")) if path.is_file())
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in files}
