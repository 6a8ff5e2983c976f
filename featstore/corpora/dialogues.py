"""One dialogue in IEMOCAP's layout: its labelled turns get their words and their audio."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path

from featstore.core.schema import Fault
from featstore.corpora.files import BadFile, FileKind, fault, read_header, read_text, require, scan
from featstore.corpora.rows import Row
from featstore.corpora.text import judged
from featstore.corpora.turns import Turn, parse_transcript, strip_tags

Spoken = Mapping[str, tuple[str, int]]


def read_dialogue(
    folder: Path, dialogue: str, turns: Iterable[Turn], to_class: Mapping[str, str], base: Path
) -> tuple[list[Row], list[Fault]]:
    """Turns -> rows. A turn without audio or without a transcript line is an exclusion.

    Args:
        folder: the session's folder.
        dialogue: whose transcript and wavs to read.
        turns: its labelled turns; their codes are in ``to_class``.
        to_class: raw label -> class.
        base: the corpus root, which no path may leave.
    """
    transcript = folder / "dialog" / "transcriptions" / f"{dialogue}.txt"
    wavs = folder / "sentences" / "wav" / dialogue
    spoken, faults = _read_transcript(transcript, base)
    sounds: Mapping[str, FileKind] | BadFile
    try:
        sounds = scan(wavs, base)
    except BadFile as bad:
        sounds = bad
    rows: list[Row] = []
    for turn in turns:
        file = (wavs / f"{turn.utterance_id}.wav").relative_to(base).as_posix()
        text, wordless = _words(turn, spoken, transcript.relative_to(base).as_posix())
        duration_s, soundless = _duration(turn, wavs, sounds, file)
        if soundless is not None:
            faults.append(soundless)
        if wordless is not None and (soundless is None or wordless.severity == "warn"):
            # One exclusion per utterance, so that the counts by reason add up.
            faults.append(wordless)
        if text is None or duration_s is None:
            continue
        rows.append(
            Row(
                utterance_id=turn.utterance_id,
                file=file,
                start_s=0.0,
                duration_s=duration_s,
                speaker=turn.speaker,
                session=turn.session,
                gender=turn.gender,
                text=text,
                kind=turn.kind,
                label=to_class[turn.code],
                label_raw=turn.code,
            )
        )
    return rows, faults


def _read_transcript(path: Path, base: Path) -> tuple[Spoken | BadFile, list[Fault]]:
    try:
        return parse_transcript(read_text(path, base), path.relative_to(base).as_posix())
    except BadFile as bad:
        return bad, []


def _words(
    turn: Turn, spoken: Spoken | BadFile, transcript: str
) -> tuple[str | None, Fault | None]:
    if isinstance(spoken, BadFile):
        return None, fault(
            f"{spoken.reason}-transcript",
            transcript,
            f"{turn.utterance_id} has no words: {spoken.message}",
            spoken.remedy,
            utterance_id=turn.utterance_id,
        )
    if turn.utterance_id not in spoken:
        return None, fault(
            "missing-transcript",
            transcript,
            f"no line for {turn.utterance_id}",
            "copy the file again from the release",
            utterance_id=turn.utterance_id,
        )
    written, line = spoken[turn.utterance_id]
    text, wrong = judged(written, strip_tags)
    if wrong is None:
        return text, None
    return None if wrong.severity == "exclude" else text, fault(
        wrong.reason,
        transcript,
        f"{turn.utterance_id}: {wrong.message}",
        wrong.remedy,
        line=line,
        utterance_id=turn.utterance_id,
        severity=wrong.severity,
    )


def _duration(
    turn: Turn, wavs: Path, sounds: Mapping[str, FileKind] | BadFile, file: str
) -> tuple[float | None, Fault | None]:
    name = f"{turn.utterance_id}.wav"
    try:
        if isinstance(sounds, BadFile):
            raise sounds
        require(sounds.get(name, "missing"))
        return read_header(wavs / name).duration_s, None
    except BadFile as bad:
        return None, bad.fault("audio", file, turn.utterance_id)
