"""Records of units changed so that their own sums are right again."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

from featstore.core.settings import digest
from featstore.store.unit import Identity


def forged(content: bytes, change: Callable[[dict[str, Any]], Any]) -> bytes:
    """A ``unit.json`` after ``change``."""
    record = json.loads(content)
    change(record)
    identity = Identity(record["unit"], record["settings"], record["parents"])
    record["fingerprint"] = identity.fingerprint
    record.pop("sha256")
    record["sha256"] = digest(record)
    return json.dumps(record).encode()
