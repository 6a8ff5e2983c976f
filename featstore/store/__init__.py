"""What is kept, and how it is proved: a store in a folder, or at a URL.

:func:`open_store` opens either. :mod:`~featstore.store.store` knows folders alone;
:mod:`~featstore.store.remote` stands above it.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from featstore.store.store import Store


def open_store(place: Path | str) -> Store:
    """Open a store to read.

    Args:
        place: a folder; or a URL such as ``s3://bucket/store``, of which units are fetched into a
            cache when they are first read.

    Raises:
        UserError: there is no store.
        Corrupt: its root is damaged.
        Refused: another version wrote it.
    """
    from featstore.core.places import is_url

    if is_url(place):
        from featstore.store.remote import RemoteStore

        return RemoteStore.at(str(place))
    from featstore.store.store import Store

    return Store.open(place)
