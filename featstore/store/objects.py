"""Object storage through obstore: bounded, retried a little, and failing in one line."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

from featstore.core.schema import Corrupt, Refused, TaskFailed, UserError, printable

MAX_OBJECTS = 500_000
"""Of one store: two teachers of 100 folds have 2,400."""
PIECE_BYTES = 1024**2
CONNECT_S = 3
STALLED_S = 20
"""Without a byte for so long, an answer is given up."""
SENT_S = 600
"""For 5 MiB to be sent and answered."""
READ_S = 24 * 3600
"""For an object to be read, however large, as long as it does not stall."""
RETRIES = 2
RETRY_S = 10
"""After so long, what fails is not tried again."""
PARTS = 2
"""Parts of 5 MiB of one object that are sent at once."""

_CODE = re.compile(r"<Code>([A-Za-z]{1,60})</Code>")
_STATUS = re.compile(r"status: ([45]\d\d)\b")
_DENIED = re.compile(
    "AccessDenied|InvalidAccessKeyId|SignatureDoesNotMatch|InvalidToken|ExpiredToken"
    "|AllAccessDisabled|AuthorizationHeaderMalformed"
)
_NO_KEYS = re.compile(
    r"Missing AccessKeyId|MissingAccount|MissingSecretAccessKey|/latest/api/token"
    r"|169\.254\.169\.254|metadata\.google\.internal"
)
"""Signs that it came to asking the machine's own metadata service, which only clouds have."""
_AGAIN = "run the same command again: what is done is kept"
_KEYS = (
    "check AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY, AWS_SESSION_TOKEN and AWS_REGION (or what "
    "your cloud has in their place); AWS_SKIP_SIGNATURE=true reads a public bucket"
)
_UNREACHED = "cannot be reached", "check the network and AWS_ENDPOINT_URL, then "
_LATE = "no answer in time", ""
_SIGNS = {
    "kind: Connect": _UNREACHED,
    "dns error": _UNREACHED,
    "BadScheme": (
        "plain HTTP is not allowed",
        "set AWS_ALLOW_HTTP=true for a server of your own, then ",
    ),
    "TimedOut": _LATE,
    "kind: Timeout": _LATE,
}
"""What an error's text has in it -> what that means, and the hint."""


@dataclass(frozen=True)
class Objects:
    """What lies below a URL."""

    url: str
    reader: Any
    writer: Any
    """Without a limit on stalled answers, which for an upload would count its sending, too."""

    @staticmethod
    def open(url: str) -> Objects:
        """A handle; nothing is asked yet.

        Args:
            url: as :func:`featstore.core.places.checked` gives it.

        Raises:
            UserError: obstore is not installed, or the environment lacks what it needs.
        """
        try:
            from obstore.store import from_url
        except ImportError:
            raise UserError(
                f"{url}: obstore is not installed, which reads object storage",
                "pip install 'emodistill[s3]'",
            ) from None
        # Options given here take the place of those that obstore reads from the environment.
        options = {
            "connect_timeout": timedelta(seconds=CONNECT_S),
            "allow_http": os.environ.get("AWS_ALLOW_HTTP", "").lower() in ("1", "true", "yes"),
        }
        retries = {"max_retries": RETRIES, "retry_timeout": timedelta(seconds=RETRY_S)}
        local = {"mkdir": True} if url.startswith("file:") else {}

        def opened(**times_s: int) -> Any:
            times = {name: timedelta(seconds=seconds) for name, seconds in times_s.items()}
            return from_url(url, client_options=options | times, retry_config=retries, **local)

        with failing(url):
            reader = opened(read_timeout=STALLED_S, timeout=READ_S)
            return Objects(url, reader, opened(timeout=SENT_S))

    def sizes(self) -> dict[str, int]:
        """Every object below, with its size in bytes.

        Raises:
            Refused: a name or a number of them that no store has.
        """
        import obstore

        found: dict[str, int] = {}
        with failing(self.url):
            for some in obstore.list(self.reader):
                found |= {str(one["path"]): int(one["size"]) for one in some}
                if len(found) > MAX_OBJECTS:
                    raise Refused(
                        f"{self.url}: over {MAX_OBJECTS:,} objects, more than a store has",
                        "give the prefix of one store",
                    )
        return found

    def read(self, name: str, most: int) -> bytes:
        """A small object, whole."""
        return b"".join(self.pieces(name, most))

    def pieces(self, name: str, most: int) -> Iterator[bytes]:
        """An object piece by piece.

        Raises:
            Corrupt: it is not there, or larger than ``most`` bytes; then nothing is read of it.
        """
        import obstore

        shown = f"{self.url}/{printable(name)}"
        n_bytes = 0
        with failing(shown):
            answer = obstore.get(self.reader, name)
            if answer.meta["size"] > most:
                raise Corrupt(
                    f"{shown}: {answer.meta['size']:,} bytes, at most {most:,} belong there",
                    again(self.url),
                )
            stream = iter(answer.stream(PIECE_BYTES))
        while True:
            with failing(shown):
                piece = next(stream, None)
            if piece is None:
                return
            n_bytes += len(piece)
            if n_bytes > most:
                raise Corrupt(f"{shown}: more than {most:,} bytes", again(self.url))
            yield bytes(piece)

    def put(self, name: str, content: bytes | Path) -> None:
        """Write an object; readers meet the whole of it or what was there before."""
        import obstore

        with failing(f"{self.url}/{name}"):
            obstore.put(self.writer, name, content, max_concurrency=PARTS)

    def delete(self, names: Iterable[str]) -> None:
        """Remove objects; those that are not there are passed over."""
        import obstore

        for name in names:
            with suppress(Corrupt), failing(f"{self.url}/{name}"):
                obstore.delete(self.writer, name)


def again(url: str) -> str:
    """The remedy for a damaged object."""
    return f"copy the store there again, `featstore copy STORE {url}`, and repeat this command"


@contextmanager
def failing(shown: str) -> Iterator[None]:
    """Tell what failed in our own words: the answer of a server repeats keys and signatures.

    Raises:
        Corrupt: there is no such object.
        Refused: the listing holds names that cannot be.
        UserError: no such bucket, or access denied.
        TaskFailed: anything else, mostly the network.
    """
    from obstore import exceptions

    try:
        yield
    except (exceptions.BaseError, OSError, ValueError) as error:
        text = str(error)
        match = _CODE.search(text)
        code = match[1] if match else ""
        failure: UserError
        if code in ("NoSuchBucket", "ContainerNotFound"):
            failure = UserError(f"{shown}: no such bucket", "make it, or mend the URL")
        elif _NO_KEYS.search(text):
            failure = UserError(f"{shown}: no credentials found", _KEYS)
        elif _DENIED.fullmatch(code) or isinstance(
            error, exceptions.PermissionDeniedError | exceptions.UnauthenticatedError
        ):
            failure = UserError(f"{shown}: access denied{f' ({code})' if code else ''}", _KEYS)
        elif isinstance(error, exceptions.InvalidPathError):
            failure = Refused(
                f"{shown}: holds a name that no store has", "give a prefix of its own"
            )
        elif isinstance(error, FileNotFoundError):
            failure = Corrupt(f"{shown}: not there", "copy the store there again")
        else:
            status = _STATUS.search(text)
            why = f"the server answers with status {status[1]}" if status else type(error).__name__
            why, hint = next((known for sign, known in _SIGNS.items() if sign in text), (why, ""))
            message = f"{shown}: {why}{f' ({code})' if code else ''}"
            failure = TaskFailed(message, f"{hint}{_AGAIN}")
        raise failure from None  # no traceback shows the server's own words
