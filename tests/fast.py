"""Settings for tests."""

from __future__ import annotations

from typing import Any

FAST: dict[str, Any] = {
    "teachers": {
        "linguistic": {"model": "tiny", "optim": {"lr": 1e-3, "epochs": 2, "batch_size": 16}},
        "prosodic": {
            "channels": [4, 4, 8, 8],
            "time_stride": 8,
            "optim": {"lr": 1e-3, "epochs": 2, "batch_size": 16},
        },
    }
}
"""Settings of teachers that a test fits in a second or two; they learn next to nothing."""
