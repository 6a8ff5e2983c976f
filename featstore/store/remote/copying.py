"""``featstore copy``: a store between folders and object storage."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from featstore.core.schema import UserError
from featstore.inspection.render import clean, size
from featstore.store import open_store
from featstore.store.remote.fetching import retrieve
from featstore.store.remote.objects import Objects
from featstore.store.remote.places import is_url
from featstore.store.remote.publishing import publish


def copy(
    source: Path | str, to: Path | str, *, compress: bool = False, replace: bool = False
) -> dict[str, Any]:
    """Copy a store, unit by unit; see :func:`publish` and :func:`retrieve`.

    Args:
        source: a folder, or a URL as :func:`featstore.store.remote.places.place` checks it.
        to: likewise.
        compress: send arrays compressed; only to a URL.
        replace: put the store's units in the place of others.

    Raises:
        UserError: there is nothing to copy, or something else in the way.
    """
    if source == to:
        raise UserError(f"{source}: the same place twice", "name another to copy to")
    if isinstance(to, str) and is_url(to):
        return publish(open_store(source), Objects.open(to), compress=compress, replace=replace)
    if compress:
        raise UserError(
            "--compress: a folder holds a store as it was built",
            "compress where it is copied to a URL",
        )
    url = source if isinstance(source, str) else open_store(source).path.absolute().as_uri()
    return retrieve(Objects.open(url), Path(to), replace=replace)


def render(facts: Mapping[str, Any]) -> Iterator[str]:
    """``featstore copy``, for people."""
    yield (f"copied {len(facts['copied'])} unit(s), {size(facts['sent_bytes'])}; there before: "
           f"{len(facts['there_before'])} unit(s), {size(facts['skipped_bytes'])}; all verified"
    )  # fmt: skip
    yield f"store: {clean(facts['to'])}   content: {facts['content']}"
