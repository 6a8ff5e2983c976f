"""A process pool that is none."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future
from typing import Any


class InlineExecutor:
    """A process pool's face over plain calls: what a test patches is seen, and nothing starts."""

    def __init__(self, *_: Any, **__: Any) -> None:
        pass

    def __enter__(self) -> InlineExecutor:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def submit(self, function: Callable[..., Any], *args: Any) -> Future[Any]:
        future: Future[Any] = Future()
        try:
            future.set_result(function(*args))
        except Exception as error:  # what a worker would send back
            future.set_exception(error)
        return future

    def shutdown(self, **_: Any) -> None:
        pass
