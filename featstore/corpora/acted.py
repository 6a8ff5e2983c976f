"""Corpora of acted sentences whose file names say everything: one table each, one reader.

RAVDESS. Livingstone & Russo 2018, "The Ryerson Audio-Visual Database of Emotional Speech and Song",
doi 10.5281/zenodo.1188976: 24 actors say two sentences in eight emotions; North American English,
48 kHz, 16 bit, mono but for a few stereo files; CC BY-NC-SA 4.0. Of its archives only
``Audio_Speech_Actors_01-24.zip`` is needed: 1,440 files in ``Actor_01`` ... ``Actor_24``, or all in
one folder. Named ``modality-channel-emotion-intensity-statement-repetition-actor.wav``, two digits
each. Video, full-AV and song files are passed over and counted. Actors with odd numbers are men.

EmoDB. Burkhardt et al. 2005, "A database of German emotional speech", TU Berlin: ten actors say ten
German sentences in seven emotions; 16 kHz mono, 535 utterances in the folder ``wav``; free of
charge from http://emodb.bilderbar.info. Named ``<speaker><sentence><emotion><version>.wav``, such
as ``03a01Fa.wav``: speaker 03, sentence a01, Freude, version a. The letters are German: W Wut,
L Langeweile, E Ekel, A Angst, F Freude, T Trauer, N neutral.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from featstore.core.config import CorpusSettings
from featstore.core.schema import Fault, Manifest, UserError
from featstore.corpora.manifest import (
    AUDIO_SUFFIXES,
    BadFile,
    FileKind,
    Row,
    choose_labels,
    fault,
    read_duration,
    require,
    require_any,
    scan,
    silent_speakers,
    to_manifest,
    walk,
)

DEPTH = 2
"""How many folders down files are looked for: an archive's own folder, then one a speaker."""


@dataclass(frozen=True)
class Acted:
    """A corpus as its file names describe it.

    Attributes:
        name: what ``--dataset`` takes.
        about: licence and where to get it, one line.
        pattern: of a file name, with the groups ``id``, ``speaker``, ``sentence`` and ``emotion``.
        example: a file name, for the remedy.
        emotions: the emotion's code -> the raw label; their order is the classes'.
        sentences: the sentence's code -> its words.
        genders: the speaker's code -> female or male.
        n_files: how many files the published corpus has of each speaker, or in all.
        speaker_prefix: goes before the speaker's code.
        skipped: why a file that the pattern matches is none of this task's, else ``None``.
    """

    name: str
    about: str
    pattern: re.Pattern[str]
    example: str
    emotions: Mapping[str, str]
    sentences: Mapping[str, str]
    genders: Mapping[str, str]
    n_files: int | Mapping[str, int]
    speaker_prefix: str = ""
    skipped: Callable[[re.Match[str]], str | None] = lambda match: None

    def read(self, root: Path, settings: CorpusSettings) -> Manifest:
        """Read the corpus from its files' names and headers, at most two folders down.

        Raises:
            UserError: where root is no folder, no utterance is usable, or the label settings make
                no sense.
        """
        return _read(self, root, settings)


_RAVDESS_MODALITIES = {"01": "full audio-visual", "02": "video only", "03": "audio only"}


def _no_audio_speech(match: re.Match[str]) -> str | None:
    if (match["modality"], match["channel"]) == ("03", "01"):
        return None
    channel = {"01": "speech", "02": "song"}[match["channel"]]
    return f"{channel}, {_RAVDESS_MODALITIES[match['modality']]}"


RAVDESS = Acted(
    name="ravdess",
    about="RAVDESS: CC BY-NC-SA 4.0, Audio_Speech_Actors_01-24.zip from doi 10.5281/zenodo.1188976",
    pattern=re.compile(
        r"(?P<id>(?P<modality>0[1-3])-(?P<channel>0[12])-(?P<emotion>0[1-8])-0[12]"
        r"-(?P<sentence>0[12])-0[12]-(?P<speaker>0[1-9]|1\d|2[0-4]))\.(?:wav|flac|mp4)\Z",
        re.ASCII | re.IGNORECASE,
    ),
    example="03-01-05-02-01-01-12.wav",
    emotions={
        "01": "neutral",
        "02": "calm",
        "03": "happy",
        "04": "sad",
        "05": "angry",
        "06": "fearful",
        "07": "disgust",
        "08": "surprised",
    },
    sentences={"01": "Kids are talking by the door", "02": "Dogs are sitting by the door"},
    genders={f"{n:02}": "male" if n % 2 else "female" for n in range(1, 25)},
    n_files={f"actor{n:02}": 60 for n in range(1, 25)},
    speaker_prefix="actor",
    skipped=_no_audio_speech,
)

EMODB = Acted(
    name="emodb",
    about="EmoDB: free of charge, from http://emodb.bilderbar.info (the folder wav)",
    pattern=re.compile(
        r"(?P<id>(?P<speaker>03|08|09|1[0-6])(?P<sentence>a0[12457]|b0[1239]|b10)"
        r"(?P<emotion>[WLEAFNT])[a-z]?)\.(?:wav|flac)\Z"
    ),
    example="03a01Fa.wav",
    emotions={
        "W": "anger",
        "L": "boredom",
        "E": "disgust",
        "A": "fear",
        "F": "happiness",
        "N": "neutral",
        "T": "sadness",
    },
    sentences={
        "a01": "Der Lappen liegt auf dem Eisschrank.",
        "a02": "Das will sie am Mittwoch abgeben.",
        "a04": "Heute abend könnte ich es ihm sagen.",
        "a05": "Das schwarze Stück Papier befindet sich da oben neben dem Holzstück.",
        "a07": "In sieben Stunden wird es soweit sein.",
        "b01": "Was sind denn das für Tüten, die da unter dem Tisch stehen?",
        "b02": "Sie haben es gerade hochgetragen und jetzt gehen sie wieder runter.",
        "b03": "An den Wochenenden bin ich jetzt immer nach Hause gefahren und habe Agnes besucht.",
        "b09": "Ich will das eben wegbringen und dann mit Karl was trinken gehen.",
        "b10": "Die wird auf dem Platz sein, wo wir sie immer hinlegen.",
    },
    genders={
        **dict.fromkeys(("03", "10", "11", "12", "15"), "male"),
        **dict.fromkeys(("08", "09", "13", "14", "16"), "female"),
    },
    n_files=535,
)


def _read(corpus: Acted, root: Path, settings: CorpusSettings) -> Manifest:
    names = tuple(corpus.emotions.values())
    labels = choose_labels(settings, {name: name for name in names}, names, names)
    try:
        scan(root, root)
    except BadFile as bad:
        raise UserError(f"{root}: {bad.message}", "give --root the corpus folder") from None
    rows: list[Row] = []
    faults: list[Fault] = []
    skipped: Counter[str] = Counter()
    other: Counter[str] = Counter()
    seen: dict[str, str] = {}
    speakers: dict[str, tuple[str, int | None]] = {}
    for path, kind in walk(root, DEPTH):
        file = path.relative_to(root).as_posix()
        match = corpus.pattern.match(path.name)
        if match is None:
            faults += _foreign(path, kind, file, corpus.example)
        elif why := corpus.skipped(match):
            skipped[why] += 1
        elif (first := seen.setdefault(match["id"], file)) != file:
            message = f"{match['id']} is also {first}, which is used"
            faults.append(fault("duplicate-id", file, message, utterance_id=match["id"]))
        elif (raw := corpus.emotions[match["emotion"]]) not in labels.to_class:
            other[raw] += 1
        elif settings.kind in ("all", "scripted"):
            speaker = corpus.speaker_prefix + match["speaker"]
            speakers.setdefault(speaker, (file, None))
            try:
                require(kind)
                length_s = read_duration(path)
            except BadFile as bad:
                faults.append(bad.fault("audio", file, match["id"]))
                continue
            gender, words = corpus.genders[match["speaker"]], corpus.sentences[match["sentence"]]
            what = (words, "scripted", labels.to_class[raw], raw)
            rows.append(Row(match["id"], file, 0.0, length_s, speaker, "", gender, *what))
    for why, n in sorted(skipped.items()):
        faults.append(fault("skipped", ".", f"{n} files skipped: {why}"))
    faults += silent_speakers(speakers, {row.speaker for row in rows})
    require_any(corpus.name, rows, faults, root)
    if settings.label_map is None and settings.classes is None:
        faults += _compare_counts(corpus, rows)
    return to_manifest(corpus.name, root, rows, labels.classes, faults, other)


def _foreign(path: Path, kind: FileKind, file: str, example: str) -> list[Fault]:
    """A fault of audio whose name is not in the grammar, and of links and pipes."""
    if kind == "file" and path.suffix.lower() in AUDIO_SUFFIXES:
        remedy = f"expected {example}; rename or remove it"
        return [fault("bad-name", file, "the name is not in the corpus' grammar", remedy)]
    try:
        require(kind)
    except BadFile as bad:
        return [bad.fault("entry", file, severity="warn")]
    return []


def _compare_counts(corpus: Acted, rows: list[Row]) -> list[Fault]:
    """A warning where usable files differ in number from the published corpus'."""
    if isinstance(corpus.n_files, int):
        if len(rows) == corpus.n_files:
            return []
        message = f"{len(rows)} utterances; published are {corpus.n_files}"
        remedy = "compare with the corpus' distribution (a second edition may have more)"
        return [fault("count-differs", ".", message, remedy)]
    counts = Counter(row.speaker for row in rows)
    return [
        fault("count-differs", ".", f"speaker {who}: {counts[who]} utterances; published are {n}")
        for who, n in corpus.n_files.items()
        if counts[who] != n
    ]
