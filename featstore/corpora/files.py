"""What lies on disk below a corpus root: regular files only, and never a path out of the root.

A corpus comes from somebody else, so a pipe, a device, a link out of the folder or a Git LFS
pointer is a fault with a remedy and not something that is opened.
"""

from __future__ import annotations

import codecs
import errno
import os
import stat
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Literal, NamedTuple

from featstore.core.schema import Fault, Severity, printable

FileKind = Literal["file", "folder", "special", "dangling", "outside", "missing", "unreadable"]

AUDIO_SUFFIXES = frozenset({".wav", ".flac", ".ogg", ".mp3", ".aif", ".aiff"})
MAX_TEXT_BYTES = 64 * 1024**2
_LFS_POINTER = b"version https://git-lfs.github.com/spec/"
_WAV_HEADER = struct.Struct("<4s4x8s8xI20x")
"""RIFF, WAVE and fmt, and the rate; 48 bytes, as many as the pointer's beginning needs."""

_KINDS: dict[FileKind, tuple[str, str, str]] = {
    "missing": ("missing", "no such file", "copy it again from the corpus' distribution"),
    "folder": ("irregular", "a folder where a file should be", "put the file itself here"),
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


def fault(
    reason: str,
    file: str,
    message: str,
    remedy: str,
    *,
    line: int | None = None,
    utterance_id: str = "",
    severity: Severity = "exclude",
) -> Fault:
    """A fault whose every text is safe on a terminal: corpora hold names from strangers."""
    return Fault(
        reason,
        printable(file),
        printable(message),
        printable(remedy),
        line,
        printable(utterance_id),
        severity,
    )


class BadFile(Exception):
    """A file that cannot be used: why, in a word and in a line, and how to mend it."""

    def __init__(self, reason: str, message: str, remedy: str) -> None:
        super().__init__(message)
        self.reason = reason
        self.message = message
        self.remedy = remedy

    def fault(
        self, noun: str, file: str, utterance_id: str = "", severity: Severity = "exclude"
    ) -> Fault:
        """This as a fault of ``file``, counted under ``<reason>-<noun>``, e.g. missing-audio."""
        return fault(
            f"{self.reason}-{noun}",
            file,
            self.message,
            self.remedy,
            utterance_id=utterance_id,
            severity=severity,
        )


class Header(NamedTuple):
    """What a sound file says of itself."""

    n_frames: int
    sampling_rate: int

    @property
    def duration_s(self) -> float:
        """Length in seconds."""
        return self.n_frames / self.sampling_rate


def kind_of(path: Path, root: Path) -> FileKind:
    """What ``path`` is, links followed only as long as they stay below ``root``."""
    try:
        mode = path.lstat().st_mode
        if stat.S_ISLNK(mode):
            mode = path.stat().st_mode
        real, base = os.path.realpath(path), os.path.realpath(root)
    except (FileNotFoundError, NotADirectoryError):
        return "dangling" if path.is_symlink() else "missing"
    except (OSError, ValueError) as error:
        return "dangling" if getattr(error, "errno", None) == errno.ELOOP else "unreadable"
    if real != base and not real.startswith(base.rstrip(os.sep) + os.sep):
        return "outside"
    return "file" if stat.S_ISREG(mode) else "folder" if stat.S_ISDIR(mode) else "special"


def is_plain(path: Path) -> bool:
    """Whether ``path`` itself is a regular file and no link: in a folder below the root it needs
    none of what :func:`kind_of` looks up.
    """
    try:
        return stat.S_ISREG(path.lstat().st_mode)
    except (OSError, ValueError):
        return False


def require(kind: FileKind, wanted: FileKind = "file") -> None:
    """Nothing where ``kind`` is the wanted one.

    Raises:
        BadFile: with what is there instead.
    """
    if kind == wanted:
        return
    if kind == "file":
        raise BadFile("irregular", "a file where a folder should be", "put the folder here")
    raise BadFile(*_KINDS[kind])


def scan(folder: Path, root: Path) -> dict[str, FileKind]:
    """The entries of a folder by name, sorted; names that start with a dot are left out.

    Raises:
        BadFile: where it is no folder below ``root``.
    """
    require(kind_of(folder, root), "folder")
    found: dict[str, FileKind] = {}
    try:
        with os.scandir(folder) as entries:
            for entry in entries:
                if entry.name.startswith("."):
                    continue
                if entry.is_symlink():
                    found[entry.name] = kind_of(Path(entry.path), root)
                elif entry.is_file(follow_symlinks=False):
                    found[entry.name] = "file"
                else:
                    found[entry.name] = "folder" if entry.is_dir() else "special"
    except OSError as error:
        raise BadFile(
            "unreadable", f"cannot be listed ({error.strerror})", "check its permissions"
        ) from error
    return dict(sorted(found.items()))


def walk(root: Path, depth: int) -> Iterator[tuple[Path, FileKind]]:
    """All that is not a folder below ``root``, at most ``depth`` folders down, shallow first.

    A folder that cannot be entered is yielded with its kind, so that it can be reported.
    """
    level = [root]
    for _ in range(depth + 1):
        deeper: list[Path] = []
        for folder in level:
            try:
                entries = scan(folder, root)
            except BadFile:
                yield folder, "unreadable"
                continue
            for name, kind in entries.items():
                if kind == "folder":
                    deeper.append(folder / name)
                else:
                    yield folder / name, kind
        level = deeper


def read_text(path: Path, root: Path, max_bytes: int = MAX_TEXT_BYTES) -> str:
    """A text file below ``root``, decoded by :func:`decode`.

    Raises:
        BadFile: missing, no regular file, empty, too large, unreadable or a Git LFS pointer.
    """
    require(kind_of(path, root))
    try:
        size = path.stat().st_size
        if size > max_bytes:
            raise BadFile(
                "oversized",
                f"{size} bytes where at most {max_bytes} are read",
                "check that it is the file that it should be",
            )
        data = path.read_bytes()
    except OSError as error:
        raise BadFile("unreadable", f"{error.strerror}", "check its permissions") from error
    if not data.strip():
        raise BadFile("empty", "holds nothing", "copy it again from the corpus' distribution")
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


def read_header(path: Path) -> Header:
    """Length and rate of a sound file, from its header alone (about 30 microseconds a file).

    The caller has made sure by :func:`scan` or :func:`kind_of` that it is a regular file.

    Raises:
        BadFile: empty, a Git LFS pointer, no audio, or without samples.
    """
    import soundfile

    try:
        with soundfile.SoundFile(os.fsencode(path)) as sound:
            header = Header(sound.frames, sound.samplerate)
    except (RuntimeError, TypeError, ValueError, OSError):
        # libsndfile says "unknown format" of all of these; users need to be told which it is.
        raise _why_no_audio(path) from None
    if header.n_frames <= 0 or header.sampling_rate <= 0:
        raise BadFile(
            "empty",
            f"{header.n_frames} samples at {header.sampling_rate} Hz",
            "copy it again from the corpus' distribution",
        )
    return header


def _why_no_audio(path: Path) -> BadFile:
    try:
        with path.open("rb") as file:
            head = file.read(_WAV_HEADER.size)
        _refuse_pointer(head)
    except OSError as error:
        return BadFile("unreadable", f"{error.strerror}", "check its permissions")
    except BadFile as bad:
        return bad
    if not head:
        return BadFile("empty", "zero bytes", "copy it again from the corpus' distribution")
    if len(head) == _WAV_HEADER.size:
        riff, wave, rate_hz = _WAV_HEADER.unpack(head)
        if (riff, wave) == (b"RIFF", b"WAVEfmt ") and not 0 < rate_hz < 2**31:
            message = f"its header gives a sampling rate of {rate_hz} Hz"
            return BadFile("unreadable", message, "copy it again, or mend its header")
    return BadFile(
        "unreadable",
        "not audio that libsndfile reads",
        "copy it again, or convert it to 16-bit PCM WAV",
    )


def _refuse_pointer(data: bytes) -> None:
    if data.startswith(_LFS_POINTER):
        raise BadFile(
            "pointer",
            "a Git LFS pointer, not the file itself",
            "fetch the files with: git lfs pull",
        )
