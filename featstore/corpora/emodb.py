"""EmoDB: ten actors say ten German sentences in seven emotions.

Burkhardt et al. 2005, "A database of German emotional speech", TU Berlin; 16 kHz mono, 535
utterances in the folder ``wav``; free of charge from http://emodb.bilderbar.info. Named
``<speaker><sentence><emotion><version>.wav``, such as ``03a01Fa.wav``: speaker 03, sentence a01,
Freude, version a. The letters are German: W Wut, L Langeweile, E Ekel, A Angst, F Freude, T Trauer,
N neutral.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from featstore.core.config import CorpusSettings
from featstore.core.schema import Manifest
from featstore.corpora.files import fault
from featstore.corpora.named import Named, Skipped, read_named
from featstore.corpora.rows import choose_labels

ABOUT = "EmoDB: free of charge, from http://emodb.bilderbar.info (the folder wav)"

EMOTIONS: Mapping[str, str] = {
    "W": "anger",
    "L": "boredom",
    "E": "disgust",
    "A": "fear",
    "F": "happiness",
    "N": "neutral",
    "T": "sadness",
}
SENTENCES: Mapping[str, str] = {
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
}
GENDERS: Mapping[str, str] = {
    "03": "male",
    "08": "female",
    "09": "female",
    "10": "male",
    "11": "male",
    "12": "male",
    "13": "female",
    "14": "female",
    "15": "male",
    "16": "female",
}
N_UTTERANCES = 535

_NAME = re.compile(
    rf"(?P<speaker>{'|'.join(GENDERS)})(?P<sentence>{'|'.join(SENTENCES)})"
    rf"(?P<emotion>[{''.join(EMOTIONS)}])[a-z]?\.(?:wav|flac)\Z"
)


def parse(name: str) -> Named | Skipped | None:
    """What a file name says.

    >>> said = parse("03a01Fa.wav")
    >>> said.speaker, said.gender, said.label_raw, said.text
    ('03', 'male', 'happiness', 'Der Lappen liegt auf dem Eisschrank.')
    """
    match = _NAME.match(name)
    if match is None:
        return None
    return Named(
        utterance_id=name.rpartition(".")[0],
        speaker=match["speaker"],
        gender=GENDERS[match["speaker"]],
        text=SENTENCES[match["sentence"]],
        label_raw=EMOTIONS[match["emotion"]],
    )


def read(root: Path, settings: CorpusSettings) -> Manifest:
    """Read EmoDB; the raw labels are the seven emotions' English names.

    Raises:
        UserError: where root holds no such file, or the label settings make no sense.
    """
    names = tuple(EMOTIONS.values())
    labels = choose_labels(settings, {name: name for name in names}, names, names)
    manifest = read_named("emodb", root, settings, labels, parse, "03a01Fa.wav")
    n = len(manifest.utterances)
    if n == N_UTTERANCES or settings.label_map is not None or settings.classes is not None:
        return manifest
    differs = fault(
        "count-differs",
        ".",
        f"{n} utterances; published are {N_UTTERANCES}",
        "compare with the corpus' distribution (its second edition has more)",
        severity="warn",
    )
    return replace(manifest, faults=(*manifest.faults, differs))
