"""The walk: through which files of ours one build of 80 utterances goes."""

from __future__ import annotations

import inspect
import sys
import threading
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any

from tests import ROOT

MOST = 33
"""Files that a newcomer meets who follows a build with two teachers of one fold to the end."""


def test_a_build_is_followed_through_few_files(
    build_here: Callable[[Any], Any], changed: Callable[..., Any], tmp_path: Path
) -> None:
    entered: Counter[str] = Counter()
    top = f"{ROOT / 'featstore'}/"

    def watch(frame: FrameType, event: str, _: object) -> None:
        code = frame.f_code
        is_function = bool(code.co_flags & inspect.CO_OPTIMIZED)  # no module or class being made
        if event == "call" and is_function and code.co_filename.startswith(top):
            entered[code.co_filename.removeprefix(top)] += 1

    request = changed(store=tmp_path / "store", folds="1")
    threading.setprofile(watch)
    sys.setprofile(watch)
    try:
        build_here(request)
    finally:
        sys.setprofile(None)
        threading.setprofile(None)
    print(f"\n{len(entered)} files, {entered.total()} calls")
    for name, calls in sorted(entered.items()):
        print(f"{calls:>8} {name}")
    assert len(entered) <= MOST
