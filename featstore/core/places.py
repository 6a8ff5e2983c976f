"""Where a store lies: a folder of this machine, or a URL of object storage."""

from __future__ import annotations

import re
from pathlib import Path
from urllib.parse import urlsplit

from featstore.core.schema import UserError, printable

SCHEMES = ("s3", "s3a", "gs", "az", "abfs", "abfss", "file")
"""What obstore can also list; plain HTTP it can only read."""
_URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://")
_CREDENTIALS = "give credentials in the environment, e.g. AWS_ACCESS_KEY_ID, never in a URL"


def is_url(place: Path | str) -> bool:
    """Whether a place is a URL.

    >>> is_url("s3://bucket/store"), is_url("stores/iemocap")
    (True, False)
    """
    return isinstance(place, str) and _URL.match(place) is not None


def place(text: str) -> Path | str:
    """What a user gave for a store: a checked URL, or a folder.

    >>> place("s3://bucket/stores/iemocap/")
    's3://bucket/stores/iemocap'

    Raises:
        UserError: a URL that names no store, or holds credentials.
    """
    return checked(text) if is_url(text) else Path(text)


def folder(text: str) -> Path:
    """A folder, where a URL will not do.

    Raises:
        UserError: it is a URL.
    """
    if is_url(text):
        raise UserError(
            f"{without_secrets(text)}: a folder of this machine is needed here",
            "`featstore copy` brings a store from object storage, or takes one there",
        )
    return Path(text)


def checked(url: str) -> str:
    """A URL without its last slash.

    Raises:
        UserError: see :func:`place`; nothing secret is repeated.
    """
    shown = without_secrets(url)
    try:
        parts = urlsplit(url)
    except ValueError:
        raise UserError("not a URL", "e.g. s3://bucket/stores/iemocap") from None
    if "@" in parts.netloc or parts.query or parts.fragment:
        raise UserError(f"{shown}: a URL with more than bucket and prefix", _CREDENTIALS)
    if parts.scheme not in SCHEMES:
        raise UserError(
            f"{shown}: no object storage that a store can be in",
            f"use one of {', '.join(f'{scheme}://' for scheme in SCHEMES)}",
        )
    names = [name for name in parts.path.split("/") if name]
    if (parts.scheme != "file" and not parts.netloc) or not names:
        raise UserError(f"{shown}: names no store", "e.g. s3://bucket/stores/iemocap")
    if any(name in (".", "..") or printable(name) != name for name in names):
        raise UserError(f"{shown}: a prefix that cannot be", "e.g. s3://bucket/stores/iemocap")
    return f"{parts.scheme}://{parts.netloc}/{'/'.join(names)}"


def without_secrets(url: str) -> str:
    """A URL as it may be shown: no user, no password, no query.

    >>> without_secrets("s3://me:secret@bucket/store?sig=1")
    's3://bucket/store'
    """
    scheme, _, rest = url.partition("://")
    host, slash, path = re.split(r"[?#]", rest, maxsplit=1)[0].partition("/")
    if "@" in path and "@" not in host:  # a password with a slash in it
        host, slash, path = "", "", ""
    return printable(f"{scheme}://{host.rpartition('@')[2]}{slash}{path}")
