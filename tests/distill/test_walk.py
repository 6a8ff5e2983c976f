"""How many of our files one run of one fold enters: who reads along must open as many."""

import sys
import threading
from pathlib import Path

from tests import ROOT
from tests.distill.small_runs import train

MOST = 35
"""Entered at present; the aim is under 20."""


def test_one_run_enters_few_files(small_store, tmp_path):
    train(small_store, tmp_path / "first", max_steps=1)  # imports enter files, too
    entered = set()

    def look(frame, event, _):
        if event == "call":
            entered.add(frame.f_code.co_filename)

    threading.setprofile(look)
    sys.setprofile(look)
    try:
        train(small_store, tmp_path / "second")
    finally:
        sys.setprofile(None)
        threading.setprofile(None)
    rooms = (str(ROOT / "distill"), str(ROOT / "featstore"))
    ours = sorted(Path(name).relative_to(ROOT) for name in entered if name.startswith(rooms))
    print(*ours, sep="\n")
    assert len(ours) <= MOST
