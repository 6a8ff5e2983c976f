"""What a transcript may hold: words, within reason."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import NamedTuple

from featstore.core.schema import Severity

MAX_CHARACTERS = 100_000
"""More than any utterance says: ten minutes of fast talk are some 15,000 characters."""

_NO_WORDS = re.compile("[\x00-\x08\x0e-\x1b\x7f-\x84\x86-\x9f\u202a-\u202e\u2066-\u2069]")
"""Control characters that are no white space, and the overrides of writing direction. The joiners
and direction marks that Persian, Hindi or Arabic are written with are left alone."""


class Wrong(NamedTuple):
    """What is wrong with a text, and what becomes of its utterance."""

    reason: str
    message: str
    remedy: str
    severity: Severity


def has_controls(text: str) -> bool:
    r"""Whether a text holds characters that steer a terminal instead of being read.

    >>> has_controls("red\x1b[31m"), has_controls("two\nlines")
    (True, False)
    """
    return _NO_WORDS.search(text) is not None


def judged(text: str, strip: Callable[[str], str] = str) -> tuple[str, Wrong | None]:
    r"""The words of a transcript, white space collapsed, and what is wrong with it.

    Args:
        text: as it is written.
        strip: takes out what is no words; it is never given an endless text.

    >>> judged(" Excuse   me. ")
    ('Excuse me.', None)
    >>> words, wrong = judged("nul\0l")
    >>> words, wrong.reason, wrong.severity
    ('null', 'control-characters', 'warn')
    """
    if len(text) > MAX_CHARACTERS:
        message = f"{len(text)} characters of text, more than {MAX_CHARACTERS}"
        remedy = "give this utterance its own words; a line end or a quotation mark may be missing"
        return "", Wrong("oversized-text", message, remedy, "exclude")
    words = " ".join(_NO_WORDS.sub("", strip(text)).split())
    if not words:
        message = "no words; it is kept, with empty text"
        remedy = "nothing to do where nothing is said, else fill them in"
        return "", Wrong("empty-text", message, remedy, "warn")
    if has_controls(text):
        message = "control characters in the text, which are left out"
        return words, Wrong("control-characters", message, "remove them there", "warn")
    return words, None
