"""What a notebook imports from ``featstore``."""

from __future__ import annotations

import subprocess
import sys

import pytest

import featstore
from featstore.build.run import build
from featstore.store.store import Store
from tests.featstore.store.kept_store import KEPT

HEAVY = """
import sys
import featstore
print([name for name in ("torch", "zarr", "numpy", "pandas", "pydantic") if name in sys.modules])
from featstore import Store, build_store, open_store
print([one.__name__ for one in (Store, build_store, open_store)])
"""


def test_importing_the_package_loads_nothing_heavy() -> None:
    done = subprocess.run([sys.executable, "-c", HEAVY], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == ["[]", "['Store', 'build', 'open_store']"]


def test_names_are_those_of_their_modules() -> None:
    assert featstore.Store is Store
    assert featstore.build_store is build
    assert featstore.open_store(KEPT) == Store.open(str(KEPT))
    with pytest.raises(AttributeError, match="has no attribute 'Stores'"):
        _ = featstore.Stores  # type: ignore[attr-defined]
    for name in featstore.__all__:
        assert name in (featstore.__doc__ or "")
