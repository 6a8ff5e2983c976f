"""A torchaudio that cannot be loaded, as one that does not fit its torch."""

from __future__ import annotations

import os
from pathlib import Path

SAYS = "Could not load this library: libtorchaudio.so"
ROOT = Path(__file__).resolve().parents[1]


def without_torchaudio(place: Path, **versions: str) -> dict[str, str]:
    """The environment of a process in which torchaudio's import raises an OSError.

    Args:
        place: an empty folder to put it into.
        versions: of torch and torchaudio, where others than the true ones are to be claimed.
    """
    (place / "torchaudio").mkdir(parents=True)
    (place / "torchaudio" / "__init__.py").write_text(f"raise OSError({SAYS!r})\n")
    for name, version in versions.items():
        facts = place / f"{name}-{version}.dist-info" / "METADATA"
        facts.parent.mkdir()
        facts.write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
    path = os.pathsep.join([str(place), str(ROOT)])
    return os.environ | {"PYTHONPATH": path, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
