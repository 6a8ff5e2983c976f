"""Which versions made a unit: software only, nothing of who, where or when."""

from __future__ import annotations

import platform
from importlib import metadata

PACKAGES = (
    "emodistill", "numpy", "opensmile", "soundfile", "tokenizers", "torch", "torchaudio",
    "transformers", "zarr",
)  # fmt: skip


def versions() -> dict[str, str]:
    """Package -> version, Python's included; a package that is not installed is left out."""
    found = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return found
