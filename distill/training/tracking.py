"""Each epoch's figures for TensorBoard (extra ``tracking``)."""

from __future__ import annotations

from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from featstore.core.schema import UserError


def refuse_without_tensorboard() -> None:
    """Before anything is trained, not after its first epoch.

    Raises:
        UserError: TensorBoard is not installed.
    """
    if find_spec("tensorboard") is None:
        raise UserError(
            "--tensorboard: TensorBoard is not installed", "pip install 'emodistill[tracking]'"
        )


def log_epoch(folder: Path, entry: Mapping[str, Any]) -> None:
    """Add a line of ``metrics.jsonl`` to the run's event files, in ``tensorboard/``."""
    from torch.utils.tensorboard import SummaryWriter

    with SummaryWriter(str(folder / "tensorboard")) as writer:
        for group in ("train", "gradients", "validation"):
            for name, value in entry.get(group, {}).items():
                writer.add_scalar(f"{group}/{name}", value, entry["epoch"])
