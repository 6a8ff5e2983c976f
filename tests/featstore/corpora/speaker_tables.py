"""Manifest tables for fold tests, made from nothing but sessions and speakers."""

from __future__ import annotations

import pandas as pd


def corpus(sessions: dict[str, tuple[str, ...]], per_speaker: int = 2) -> pd.DataFrame:
    """Each speaker says ``per_speaker`` utterances of the labels a, b, a, b ..."""
    rows = [
        {
            "utterance_id": f"{speaker}_{at}",
            "speaker": speaker,
            "session": session,
            "text": f"{speaker} {at}",
            "kind": "improvised",
            "label": "ab"[at % 2],
        }
        for session, speakers in sessions.items()
        for speaker in speakers
        for at in range(per_speaker)
    ]
    return pd.DataFrame(rows)


FIVE = corpus({f"s{at}": (f"s{at}F", f"s{at}M") for at in range(1, 6)})
NO_SESSIONS = corpus({"": ("p", "q", "r", "s", "t")})
