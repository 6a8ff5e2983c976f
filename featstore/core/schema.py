"""What a corpus, an utterance and a user's mistake are. Imports nothing of ours, nor slow."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    import pandas as pd

SAMPLING_RATE = 16_000
"""Every signal in a store is mono at this rate, in Hz (HuBERT's and eGeMAPS' common ground)."""

FOUR_CLASSES = ("ang", "hap", "neu", "sad")
"""The paper's classes (section 4.1), in the order of the logits' columns."""

UTTERANCE_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,127}\Z")
"""What may name an utterance, a speaker, a session or a teacher: never a path, never an escape."""

Kind = Literal["scripted", "improvised", "unknown"]

COLUMNS: Mapping[str, str] = {
    "utterance_id": "str",
    "file": "str",  # relative to the corpus root, with forward slashes
    "start_s": "float64",  # where the utterance begins in its file
    "duration_s": "float64",  # its length; from the header, not from the annotation
    "speaker": "str",
    "session": "str",  # empty where the corpus has no sessions
    "gender": "str",  # female | male | empty
    "text": "str",  # the manual transcript, tags stripped
    "kind": "str",  # scripted | improvised | unknown
    "label": "str",  # one of the manifest's classes
    "label_raw": "str",  # as the corpus writes it
}
"""The manifest's columns and dtypes, in order: one row per utterance."""


class UserError(Exception):
    """Something a user can mend: the fact with its values, and what to do next.

    Shown as one ``error:`` line and one ``hint:`` line; a traceback only with ``-v``.
    """

    exit_code = 2

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint


class TaskFailed(UserError):
    """A task or a check did not succeed although it was asked for correctly."""

    exit_code = 1


class Corrupt(UserError):
    """A store, checkpoint or student is not what was written."""

    exit_code = 3


class Refused(UserError):
    """Doing this would leak test data, run foreign code or mix versions."""

    exit_code = 4


class OtherVersion(Refused):
    """Another version of this program wrote it, and only that one may touch it."""


Severity = Literal["exclude", "warn", "stop"]


@dataclass(frozen=True)
class Fault:
    """One thing wrong with a corpus, where it is, and how to mend it.

    ``exclude`` drops the utterance and counts it, ``warn`` only tells, and ``stop`` would falsify
    the protocol (a conflicting label, a missing session), so nothing is built.
    """

    reason: str  # a short key that counts are kept by, e.g. "missing-audio"
    file: str  # relative to the corpus root
    message: str
    remedy: str
    line: int | None = None
    utterance_id: str = ""
    severity: Severity = "exclude"

    @property
    def place(self) -> str:
        """``file:line`` where the line is known, else ``file``."""
        return self.file if self.line is None else f"{self.file}:{self.line}"


@dataclass(frozen=True)
class Manifest:
    """A corpus as read: its usable utterances, and what was left out and why.

    Attributes:
        name: the corpus' name, e.g. ``iemocap``.
        root: the folder that ``file`` is relative to.
        utterances: one row per utterance, columns as in :data:`COLUMNS`, sorted by id.
        classes: the class names, in the order of the logits' columns.
        faults: all that is wrong, in the order found.
        other_labels: how many utterances each label outside the classes accounts for.
        full_release: whether this is the published corpus in full, its counts checked; only then
            may a figure stand beside a published one.
    """

    name: str
    root: Path
    utterances: pd.DataFrame
    classes: tuple[str, ...]
    faults: tuple[Fault, ...] = ()
    other_labels: Mapping[str, int] | None = None
    full_release: bool = False

    @property
    def excluded(self) -> dict[str, int]:
        """Utterances excluded for a fault, counted by reason."""
        excluded = (fault.reason for fault in self.faults if fault.severity == "exclude")
        return dict(Counter(excluded))


_UNPRINTABLE = re.compile(
    "[\x00-\x1f\x7f-\x9f\u061c\u200b-\u200f\u2028-\u202e\u2060-\u2069\ufeff\ud800-\udfff]"
)


def printable(text: str) -> str:
    r"""Corpus text made safe for a terminal: control and bidi characters shown as escapes.

    >>> printable("red\x1b[31m")
    'red\\x1b[31m'
    """

    def escape(match: re.Match[str]) -> str:
        return match.group().encode("unicode_escape").decode("ascii")

    return _UNPRINTABLE.sub(escape, text)


def listed(items: Iterable[str], limit: int = 20) -> str:
    """Up to ``limit`` items, one a line, then how many more there are.

    >>> print(listed(["a", "b", "c"], limit=2))
    a
    b
    and 1 more
    """
    lines = list(items)
    more = len(lines) - limit
    return "\n".join(lines[:limit] + ([f"and {more} more"] if more > 0 else []))
