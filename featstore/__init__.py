"""featstore: fine-tune the teachers once per fold, and keep what they know in a Zarr store.

For notebooks, loaded when they are first used, so that importing this package loads neither zarr
nor torch:

* :class:`~featstore.store.store.Store`: ``Store.open("demo/store").fold(3)["linguistic"].logits``;
* :func:`~featstore.store.open_store`: the same for a folder or a URL such as ``s3://bucket/store``;
* ``build_store``, which is :func:`featstore.build.run.build`: carry out a build's request
  (``featstore.build`` is a package).
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from featstore.build.run import build as build_store
    from featstore.store import open_store
    from featstore.store.store import Store

__all__ = ["Store", "build_store", "open_store"]

_HOMES = {
    "Store": ("featstore.store.store", "Store"),
    "build_store": ("featstore.build.run", "build"),
    "open_store": ("featstore.store", "open_store"),
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module, function = _HOMES[name]
    return getattr(import_module(module), function)
