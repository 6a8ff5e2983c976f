"""From what lies on disk to a manifest: files that may be opened, words, labels, rows, faults.

Every adapter reads through this file. A corpus comes from somebody else, so a pipe, a device, a
link out of the folder or a Git LFS pointer is a fault with a remedy and not something to open, and
every name or text that is shown is made safe for a terminal.
"""

from __future__ import annotations

import codecs
import errno
import os
import re
import stat
from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal, NamedTuple

from featstore.core.config import CorpusSettings
from featstore.core.os_errors import remedy as remedy_of
from featstore.core.schema import COLUMNS, Fault, Manifest, Severity, UserError, listed, printable

if TYPE_CHECKING:
    import pandas as pd

AGAIN = "copy it again from the corpus' distribution"

FAULTS: Mapping[str, tuple[Severity, str]] = {
    "bad-id": ("exclude", "expected such as Ses01F_impro01_M003 or Ses05M_script01_1b_F012"),
    "bad-times": ("exclude", "give start and end in seconds within the file"),
    "conflicting-id": ("stop", "give each row its own utterance_id"),
    "conflicting-label": ("stop", "find out which is right and remove the other"),
    "control-characters": ("warn", "remove them there"),
    "count-differs": ("warn", "compare with the corpus' distribution"),
    "duplicate-id": ("warn", "remove one of the two"),
    "duplicate-transcript": ("warn", "keep one of the two lines"),
    "empty-class": ("stop", "leave it out of corpus.classes, or mend the faults above"),
    "empty-labels": ("warn", "copy it again from the release, or remove it"),
    "empty-text": ("warn", "nothing to do where nothing is said, else fill them in"),
    "identical-audio": (
        "warn",
        "find out who speaks and remove the other one; a copy in training gives a test away",
    ),
    "malformed-line": ("exclude", "expected [start - end]<tab>utterance<tab>label<tab>[v, a, d]"),
    "malformed-row": ("exclude", "put text that holds the delimiter into double quotes"),
    "missing-label": ("exclude", "fill in the column label"),
    "missing-speaker": ("exclude", "fill in the column speaker"),
    "missing-transcript": ("exclude", "copy the file again from the release"),
    "no-text": ("warn", "a linguistic teacher needs it"),
    "odd-gender": ("warn", "it is kept as unknown"),
    "odd-kind": ("warn", "it is kept as unknown"),
    "oversized-text": (
        "exclude",
        "give this utterance its own words; a line end or a quotation mark may be missing",
    ),
    "silent-speaker": (
        "stop",
        "mend the faults above or complete the corpus; else widen corpus.kind, or take the speaker "
        "out of it",
    ),
    "skipped": ("warn", "nothing to do"),
    "unlabelled-dialogue": ("exclude", "copy its label file again from the release"),
    "unlabelled-turn": ("exclude", "copy the file again from the release"),
    "unused-label": ("warn", "check their spelling"),
}
"""Reason -> what it does and what mends it, where one answer fits every case."""


def fault(
    reason: str,
    file: str,
    message: str,
    remedy: str = "",
    line: int | None = None,
    utterance_id: str = "",
    severity: Severity | None = None,
) -> Fault:
    """A fault whose every text is safe on a terminal.

    Args:
        reason: a short key; :data:`FAULTS` has the severity and the remedy of most.
        file: relative to the corpus root.
        message: the fact, with its values.
        remedy: what mends it; needed where :data:`FAULTS` has no such reason.
        line: where in the file.
        utterance_id: whom it concerns.
        severity: another one than usual.
    """
    usual, advice = FAULTS.get(reason, ("exclude", ""))
    where = (line, printable(utterance_id), severity or usual)
    remedy = printable(remedy or advice)
    return Fault(printable(reason), printable(file), printable(message), remedy, *where)


@dataclass(eq=False)
class Unusable(Exception):
    """A file or a row that cannot be used: why, in a word and in a line, and how to mend it."""

    reason: str
    message: str
    remedy: str = ""

    def fault(
        self, noun: str, file: str, utterance_id: str = "", severity: Severity = "exclude"
    ) -> Fault:
        """This as a fault of ``file``, counted under ``<reason>-<noun>``, e.g. missing-audio."""
        what = (self.message, self.remedy, None, utterance_id, severity)
        return fault(f"{self.reason}-{noun}", file, *what)


# ------------------------------------------------------------------------------------------ files

FileKind = Literal["file", "folder", "special", "dangling", "outside", "missing", "unreadable"]

AUDIO_SUFFIXES = frozenset({".wav", ".flac", ".ogg", ".mp3", ".aif", ".aiff"})
MAX_TEXT_BYTES = 64 * 1024**2
_LFS_POINTER = b"version https://git-lfs.github.com/spec/"

_OTHERWISE: Mapping[FileKind, tuple[str, str, str]] = {
    "file": ("irregular", "a file where a folder should be", "put the folder here"),
    "folder": ("irregular", "a folder where a file should be", "put the file itself here"),
    "missing": ("missing", "no such file", AGAIN),
    "special": (
        "irregular",
        "a pipe, socket or device, which is never opened",
        "put a regular file here",
    ),
    "dangling": (
        "irregular",
        "a link to nothing, or to itself",
        "copy the file that it should lead to (cp -L, or git annex get)",
    ),
    "outside": (
        "irregular",
        "leads out of the corpus folder and is not followed",
        "copy the file into the corpus folder, or give --root the folder that holds it",
    ),
    "unreadable": ("unreadable", "cannot be looked at", "check its permissions and its name"),
}


def unusable(kind: FileKind) -> Unusable:
    """Why something of this kind is not what is needed in its place."""
    return Unusable(*_OTHERWISE[kind])


def kind_of(path: Path, root: Path) -> FileKind:
    """What ``path`` is, links followed only as long as they stay below ``root``."""
    try:
        mode = path.stat().st_mode
        real, base = Path(os.path.realpath(path)), Path(os.path.realpath(root))
    except (FileNotFoundError, NotADirectoryError):
        return "dangling" if path.is_symlink() else "missing"
    except (OSError, ValueError) as error:
        return "dangling" if getattr(error, "errno", None) == errno.ELOOP else "unreadable"
    if not real.is_relative_to(base):
        return "outside"
    return "file" if stat.S_ISREG(mode) else "folder" if stat.S_ISDIR(mode) else "special"


def require(path: Path, root: Path, needed: FileKind = "file") -> None:
    """Pass where ``path`` is what is needed.

    Raises:
        Unusable: with what is there instead.
    """
    kind = kind_of(path, root)
    if kind != needed:
        raise unusable(kind)


def entries(folder: Path, root: Path) -> list[Path]:
    """What lies in a folder, sorted; names that start with a dot are left out.

    Raises:
        Unusable: where it is no folder below ``root``.
    """
    require(folder, root, "folder")
    try:
        return sorted(path for path in folder.iterdir() if path.name[0] != ".")
    except OSError as error:
        message = f"cannot be listed ({error.strerror})"
        raise Unusable("unreadable", message, remedy_of(error)) from error


def regular_files(folder: Path, root: Path) -> set[str]:
    """Names in a folder below ``root`` that need no second look: files that are no links."""
    with suppress(Unusable, OSError):
        require(folder, root, "folder")
        with os.scandir(folder) as found:
            return {entry.name for entry in found if entry.is_file(follow_symlinks=False)}
    return set()


def walk(root: Path, depth: int) -> Iterator[tuple[Path, Unusable | None]]:
    """All that is not a folder below ``root``, at most ``depth`` folders down, shallow first.

    What is no regular file, and a folder that cannot be listed, come with the reason.
    """
    level = [root]
    for _ in range(depth + 1):
        deeper: list[Path] = []
        for folder in level:
            try:
                paths = entries(folder, root)
            except Unusable as bad:
                yield folder, bad
                continue
            for path in paths:
                kind = kind_of(path, root)
                if kind == "folder":
                    deeper.append(path)
                else:
                    yield path, None if kind == "file" else unusable(kind)
        level = deeper


def read_text(path: Path, root: Path, max_bytes: int = MAX_TEXT_BYTES) -> str:
    """A text file below ``root``, decoded by :func:`decode`.

    Raises:
        Unusable: missing, no regular file, empty, too large, unreadable or a Git LFS pointer.
    """
    require(path, root)
    try:
        size = path.stat().st_size
        if size > max_bytes:
            message = f"{size} bytes where at most {max_bytes} are read"
            raise Unusable("oversized", message, "check that it is the file that it should be")
        data = path.read_bytes()
    except OSError as error:
        raise Unusable("unreadable", f"{error.strerror}", remedy_of(error)) from error
    if not data.strip():
        raise Unusable("empty", "holds nothing", AGAIN)
    _refuse_pointer(data)
    return decode(data)


def decode(data: bytes) -> str:
    r"""UTF-8 (with or without a byte-order mark), else Latin-1; every line end becomes LF.

    >>> decode(b"\xef\xbb\xbfna\xc3\xafve\r\n"), decode(b"na\xefve\r")
    ('naïve\n', 'naïve\n')
    """
    data = data.removeprefix(codecs.BOM_UTF8)
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError:
        text = data.decode("latin-1")
    return text.replace("\r\n", "\n").replace("\r", "\n")


def read_duration(path: Path) -> float:
    """The length of a regular sound file in seconds, from its header alone (30 microseconds).

    Raises:
        Unusable: empty, a Git LFS pointer, no audio, or without samples.
    """
    import soundfile

    try:
        with soundfile.SoundFile(os.fsencode(path)) as sound:
            n_frames, rate_hz = sound.frames, sound.samplerate
    except (RuntimeError, TypeError, ValueError, OSError):
        # libsndfile says "unknown format" of all of these; users need to be told which it is.
        raise _why_no_audio(path) from None
    if n_frames <= 0 or rate_hz <= 0:
        raise Unusable("empty", f"{n_frames} samples at {rate_hz} Hz", AGAIN)
    return float(n_frames / rate_hz)


def _why_no_audio(path: Path) -> Unusable:
    try:
        with path.open("rb") as file:
            head = file.read(64)
        _refuse_pointer(head)
    except OSError as error:
        return Unusable("unreadable", f"{error.strerror}", remedy_of(error))
    except Unusable as bad:
        return bad
    if not head:
        return Unusable("empty", "zero bytes", AGAIN)
    rate_hz = int.from_bytes(head[24:28], "little")
    has_rate = len(head) >= 28 and head[:4] + head[8:16] == b"RIFFWAVEfmt "
    if has_rate and not 0 < rate_hz < 2**31:
        message = f"its header gives a sampling rate of {rate_hz} Hz"
        return Unusable("unreadable", message, "copy it again, or mend its header")
    remedy = "copy it again, or convert it to 16-bit PCM WAV"
    return Unusable("unreadable", "not audio that libsndfile reads", remedy)


def _refuse_pointer(data: bytes) -> None:
    if data.startswith(_LFS_POINTER):
        remedy = "fetch the files with: git lfs pull"
        raise Unusable("pointer", "a Git LFS pointer, not the file itself", remedy)


# ------------------------------------------------------------------------------------------ words

MAX_CHARACTERS = 100_000
"""More than any utterance says: ten minutes of fast talk are some 15,000 characters."""

_NO_WORDS = re.compile("[\x00-\x08\x0e-\x1b\x7f-\x84\x86-\x9f\u202a-\u202e\u2066-\u2069]")
"""Control characters that are no white space, and the overrides of writing direction. The joiners
and direction marks that Persian, Hindi or Arabic are written with are left alone."""


def has_controls(text: str) -> bool:
    r"""Whether a text holds characters that steer a terminal instead of being read.

    >>> has_controls("red\x1b[31m"), has_controls("two\nlines")
    (True, False)
    """
    return _NO_WORDS.search(text) is not None


def words_of(text: str) -> tuple[str, str, str]:
    r"""The words of a transcript, white space collapsed, and what is wrong with it.

    Returns:
        The words, the reason of a fault (empty where there is none; :data:`FAULTS` says whether
        it excludes), and its message.

    >>> words_of(" Excuse   me. ")
    ('Excuse me.', '', '')
    >>> words_of("nul\0l")
    ('null', 'control-characters', 'control characters in the text, which are left out')
    """
    if len(text) > MAX_CHARACTERS:
        message = f"{len(text)} characters of text, more than {MAX_CHARACTERS}"
        return "", "oversized-text", message
    words = " ".join(_NO_WORDS.sub("", text).split())
    if not words:
        return "", "empty-text", "no words; it is kept, with empty text"
    if has_controls(text):
        return words, "control-characters", "control characters in the text, which are left out"
    return words, "", ""


# ------------------------------------------------------------------------------- labels and rows


class Row(NamedTuple):
    """One utterance; the fields are :data:`featstore.core.schema.COLUMNS`, in order."""

    utterance_id: str
    file: str
    start_s: float
    duration_s: float
    speaker: str
    session: str
    gender: str
    text: str
    kind: str
    label: str
    label_raw: str


Place = tuple[str, int | None]
"""A file, and the line in it where that is known."""


def choose_labels(
    settings: CorpusSettings,
    default_map: Mapping[str, str],
    possible: Collection[str] | None = None,
) -> tuple[tuple[str, ...], dict[str, str]]:
    """The classes that the settings ask of a corpus, and which raw label is which class.

    Without a list of classes their order is the corpus' own where that holds all, else the
    alphabet: never the order of ``label_map``, which a fingerprint (JSON with sorted keys) does
    not keep. A list without a map takes raw labels of the same name first, so that
    ``classes = ["exc", ...]`` parts what the default map merges.

    Args:
        settings: ``label_map`` and ``classes`` override the corpus' own.
        default_map: the corpus' own raw label -> class, in the order of its logits.
        possible: every raw label that the corpus can hold; ``None`` where any may occur.

    Returns:
        The classes in logit order, and raw label -> class; other raw labels are left out.

    Raises:
        UserError: a raw label or class that does not exist, fewer than two classes, or doubles.

    >>> choose_labels(CorpusSettings(), {"a": "A", "b": "B", "c": "B"})[0]
    ('A', 'B')
    >>> few = CorpusSettings(classes=("c", "A"))
    >>> choose_labels(few, {"a": "A", "b": "B", "c": "B"}, "abc")[1]
    {'a': 'A', 'c': 'c'}
    """
    to_class = dict(default_map if settings.label_map is None else settings.label_map)
    unknown = [] if possible is None else sorted(set(to_class) - set(possible))
    if unknown:
        message = f"corpus.label_map: no such raw label: {_names(unknown)}"
        raise UserError(message, f"this corpus has {_names(possible or ())}")
    if settings.classes is None:
        reached = set(to_class.values())
        own_order = [name for name in dict.fromkeys(default_map.values()) if name in reached]
        classes = own_order if len(own_order) == len(reached) else sorted(reached)
    else:
        classes = list(settings.classes)
        if settings.label_map is None:
            own = to_class if possible is None else possible
            to_class |= {name: name for name in classes if name in own}
        if unreached := [name for name in classes if name not in to_class.values()]:
            raise UserError(
                f"corpus.classes: no raw label leads to {_names(unreached)}",
                f"reachable are {_names(sorted({*to_class.values()}))}; else set corpus.label_map",
            )
    if len(set(classes)) != len(classes) or not all(classes):
        message = f"corpus.classes: {_names(classes)} holds doubles or an empty name"
        raise UserError(message, "name each class once")
    if reserved := sorted({"file", "label"} & set(classes)):
        raise UserError(
            f"corpus.classes: {_names(reserved)} would collide with a column of the predictions",
            "map it to another name with corpus.label_map",
        )
    if len(classes) < 2:
        raise UserError(
            f"corpus.classes: {len(classes)} class(es) ({_names(classes)}), at least 2 are needed",
            "widen corpus.classes or corpus.label_map",
        )
    return tuple(classes), {raw: name for raw, name in to_class.items() if name in classes}


def _names(names: Iterable[str]) -> str:
    return ", ".join(printable(name) for name in names) or "none"


def to_manifest(
    name: str,
    root: Path,
    rows: Iterable[Row],
    classes: tuple[str, ...],
    faults: Iterable[Fault],
    other_labels: Mapping[str, int],
    speakers: Mapping[str, Place],
) -> Manifest:
    """The manifest of these rows: columns and dtypes of the schema, sorted by utterance id.

    Args:
        name: the corpus' name.
        root: what the rows' files are relative to.
        rows: the usable utterances.
        classes: in the order of the logits.
        faults: found so far; :func:`losses` are added.
        other_labels: how many utterances each label outside the classes accounts for.
        speakers: who is in the corpus, and where that is said.
    """
    import pandas as pd

    ordered = sorted(rows, key=lambda row: row.utterance_id)
    table = pd.DataFrame(ordered, columns=list(COLUMNS)).astype(dict(COLUMNS))
    stops = losses(table, speakers, classes if ordered else ())
    others = dict(sorted(other_labels.items()))
    return Manifest(name, root, table, classes, (*faults, *stops), others)


def losses(
    utterances: pd.DataFrame, speakers: Mapping[str, Place], classes: Iterable[str]
) -> list[Fault]:
    """A fault that stops a build for each speaker and class without a usable utterance.

    Without the speaker the folds would silently be fewer. The class' logit could never be learned,
    and UA would mean over fewer classes than the table says.
    """
    voices, labels = set(utterances["speaker"]), set(utterances["label"])
    silent = {who: place for who, place in speakers.items() if who not in voices}
    absent = (name for name in classes if name not in labels)
    return [
        *(
            fault("silent-speaker", file, f"speaker {who} has no usable turn", line=line)
            for who, (file, line) in silent.items()
        ),
        *(fault("empty-class", ".", f"class {name} has no usable utterance") for name in absent),
    ]


def require_any(manifest: Manifest, where: Path) -> Manifest:
    """The manifest, where it holds an utterance.

    Raises:
        UserError: where a corpus yields no utterance at all, with the first faults.
    """
    if len(manifest.utterances):
        return manifest
    shown = listed((f"{one.place}: {one.message}" for one in manifest.faults), limit=5)
    raise UserError(
        f"{where}: no usable {manifest.name} utterance" + (f"\n{shown}" if shown else ""),
        "check --root, corpus.kind and corpus.label_map",
    )
