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
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from featstore.core.config import CorpusSettings
from featstore.core.schema import Fault, Manifest, UserError
from featstore.corpora.manifest import (
    AUDIO_SUFFIXES,
    Place,
    Row,
    Unusable,
    choose_labels,
    fault,
    read_duration,
    require,
    require_any,
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
        n_files: speaker -> how many files the published corpus has; '' for all speakers together.
        genders: the speaker's code -> female or male, where it is known.
        speaker_prefix: goes before the speaker's code.
        skipped: the first five characters of names that are none of this task's -> why.
    """

    name: str
    about: str
    pattern: re.Pattern[str]
    example: str
    emotions: Mapping[str, str]
    sentences: Mapping[str, str]
    n_files: Mapping[str, int]
    genders: Mapping[str, str] = field(default_factory=dict)
    speaker_prefix: str = ""
    skipped: Mapping[str, str] = field(default_factory=dict)

    def read(self, root: Path, settings: CorpusSettings) -> Manifest:
        """Read the corpus from its files' names and headers, at most two folders down.

        Raises:
            UserError: where root is no folder, no utterance is usable, or the label settings make
                no sense.
        """
        own_labels = {name: name for name in self.emotions.values()}
        classes, to_class = choose_labels(settings, own_labels, own_labels)
        try:
            require(root, root, "folder")
        except Unusable as bad:
            raise UserError(f"{root}: {bad.message}", "give --root the corpus folder") from None
        rows: list[Row] = []
        faults: list[Fault] = []
        skipped: Counter[str] = Counter()
        other: Counter[str] = Counter()
        firsts: dict[str, str] = {}
        speakers: dict[str, Place] = {}
        for path, bad_file in walk(root, DEPTH):
            file = path.relative_to(root).as_posix()
            match = self.pattern.match(path.name)
            if match is None:
                if bad_file is not None:
                    faults.append(bad_file.fault("entry", file, severity="warn"))
                elif path.suffix.lower() in AUDIO_SUFFIXES:
                    remedy = f"expected {self.example}; rename or remove it"
                    message = "the name is not in the corpus' grammar"
                    faults.append(fault("bad-name", file, message, remedy))
                continue
            name, raw = match["id"], self.emotions[match["emotion"]]
            if why := self.skipped.get(name[:5]):
                skipped[why] += 1
            elif (first := firsts.setdefault(name, file)) != file:
                message = f"{name} is also {first}, which is used"
                faults.append(fault("duplicate-id", file, message, utterance_id=name))
            elif raw not in to_class:
                other[raw] += 1
            elif settings.kind in ("all", "scripted"):
                speaker = self.speaker_prefix + match["speaker"]
                speakers.setdefault(speaker, (file, None))
                gender = self.genders.get(match["speaker"], "")
                words = self.sentences[match["sentence"]]
                what = (speaker, "", gender, words, "scripted", to_class[raw], raw)
                try:
                    if bad_file is not None:
                        raise bad_file
                    rows.append(Row(name, file, 0.0, read_duration(path), *what))
                except Unusable as bad:
                    faults.append(bad.fault("audio", file, name))
        for why, n in sorted(skipped.items()):
            faults.append(fault("skipped", ".", f"{n} files skipped: {why}"))
        if rows and settings.label_map is None and settings.classes is None:
            faults += self._compare_counts(rows)
        manifest = to_manifest(self.name, root, rows, classes, faults, other, speakers)
        return require_any(manifest, root)

    def _compare_counts(self, rows: list[Row]) -> list[Fault]:
        """A warning where usable files differ in number from the published corpus'."""
        counts = Counter(row.speaker for row in rows)
        counts[""] = len(rows)
        newer = "compare with the corpus' distribution (a second edition may have more)"
        faults: list[Fault] = []
        for who, n in self.n_files.items():
            if counts[who] != n:
                whose = f"speaker {who}: " if who else ""
                message = f"{whose}{counts[who]} utterances; published are {n}"
                faults.append(fault("count-differs", ".", message, "" if who else newer))
        return faults


RAVDESS = Acted(
    name="ravdess",
    about="RAVDESS: CC BY-NC-SA 4.0, Audio_Speech_Actors_01-24.zip from doi 10.5281/zenodo.1188976",
    pattern=re.compile(
        r"(?P<id>0[1-3]-0[12]-(?P<emotion>0[1-8])-0[12]"
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
    skipped={
        "01-01": "speech, full audio-visual",
        "01-02": "song, full audio-visual",
        "02-01": "speech, video only",
        "02-02": "song, video only",
        "03-02": "song, audio only",
    },
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
    n_files={"": 535},
)
