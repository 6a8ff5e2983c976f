"""A student on disk: ``student.json`` and ``model.safetensors``, checked, and nothing executable.

The folder is all that prediction needs: the backbone is rebuilt from its architecture, never from
the hub or from the weights that the student started with. The card holds the SHA-256 of the
weights and of itself, so whoever vouches for the card vouches for the whole student.
"""

from __future__ import annotations

import json
import os
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import torch
from pydantic import Field, ValidationError

from distill.config import HUGGING_FACE, StudentSettings
from distill.model.backbones import build_backbone
from distill.model.encoder import Architecture
from featstore.core.files import fsync_folder, read_small, sha256_of, strict_json, write_file
from featstore.core.os_errors import io_failure
from featstore.core.schema import UTTERANCE_ID, Corrupt, OtherVersion, UserError, listed
from featstore.core.schema import printable as shown
from featstore.core.settings import Settings, digest
from featstore.core.weights import read_tensors, save_tensors
from featstore.store.staging import beside

if TYPE_CHECKING:
    from distill.model.student import Student

CARD, WEIGHTS = "student.json", "model.safetensors"
FORMAT = 2
"""Raised when a reader of an older format would misunderstand a newer one."""

_AGAIN = "give the folder that distill run wrote, or fetch it anew"


class WeightsFile(Settings):
    """What ``model.safetensors`` must be."""

    size: int = Field(gt=0)
    sha256: str = Field(pattern=r"^[0-9a-f]{64}$")


class Card(Settings):
    """What ``student.json`` says beside its own SHA-256.

    ``settings`` are those of :class:`~distill.model.student.Student`.
    """

    kind: Literal["emodistill-student"] = "emodistill-student"
    format: Literal[2] = 2
    sampling_rate: Literal[16000] = 16000
    classes: tuple[str, ...] = Field(min_length=2, max_length=1000)
    teachers: dict[str, int]
    settings: dict[str, Any]
    backbone: Architecture
    weights: WeightsFile
    made_with: dict[str, str] = Field(default_factory=dict)


def save(student: Student, folder: Path) -> None:
    """Write a student's folder whole, beside its place, and rename it there.

    A student already at ``folder`` is replaced. A crash leaves the old one or the new one or, in
    the instant between two renames, none; it never leaves parts of either.

    Raises:
        UserError: where ``folder`` is something else than a student.
        TaskFailed: where it cannot be written.
    """
    folder = Path(folder).absolute()
    if (
        folder.exists()
        and not (folder / CARD).is_file()
        and (not folder.is_dir() or any(folder.iterdir()))
    ):
        raise UserError(f"{folder}: exists and is no student", "give another folder")
    try:
        with beside(folder) as wrapper:
            new, old = wrapper / "new", wrapper / "old"
            new.mkdir()
            save_tensors(student.state_dict(), new / WEIGHTS)
            card = _card(student, new / WEIGHTS).model_dump(mode="json")
            card["sha256"] = digest(card)
            write_file(new / CARD, (json.dumps(card, indent=2) + "\n").encode())
            _replace(new, folder, old)
    except OSError as error:
        raise io_failure(error, folder) from error


def _replace(new: Path, folder: Path, old: Path) -> None:
    """Put ``new`` where ``folder`` is, which becomes ``old``; put that back where it fails."""
    stood = folder.exists()
    if stood:
        folder.rename(old)
    try:
        new.rename(folder)
    except OSError:
        if stood:
            old.rename(folder)
        raise
    fsync_folder(folder.parent)


def load(folder: Path) -> Student:
    """A saved student in eval mode on the CPU, every byte of its weights checked.

    Raises:
        UserError: where ``folder`` holds no student.
        Corrupt: where card or weights are not what was written.
        Refused: where a newer version wrote it.
    """
    from distill.model.student import Student

    folder = Path(folder)
    card = _read_card(folder / CARD)
    state = _read_weights(folder / WEIGHTS, card.weights)
    try:
        settings = StudentSettings.model_validate(card.settings)
        backbone = build_backbone(card.backbone, empty=True)
        with torch.device("meta"):
            student = Student(settings, backbone, card.classes, card.teachers)
        student.load_state_dict(state, assign=True)
    except (ValidationError, UserError, RuntimeError, TypeError, ValueError, KeyError) as error:
        made = ", ".join(f"{k} {v}" for k, v in card.made_with.items())
        raise Corrupt(
            f"{folder / CARD} and {WEIGHTS} do not describe one student ({_short(error)})",
            shown(f"fetch the folder anew; it was written with {made or 'unknown versions'}"),
        ) from error
    return student.eval()


def _card(student: Student, weights: Path) -> Card:
    settings = student.settings.model_dump(mode="json")
    settings["backbone"] = _portable(student.settings.backbone)
    packages = ("emodistill", "torch", "torchaudio", "transformers")
    return Card(
        classes=student.classes,
        teachers=student.teachers,
        settings=settings,
        backbone=student.backbone.architecture,
        weights=WeightsFile(size=weights.stat().st_size, sha256=sha256_of(weights)),
        made_with={name: version for name in packages if (version := _version(name))},
    )


def _read_card(path: Path) -> Card:
    try:
        there = Path(os.path.realpath(path))  # a link will do, as in the Hugging Face cache
        data = strict_json(read_small(there), str(path))
    except (FileNotFoundError, NotADirectoryError) as error:
        raise UserError(f"{path}: not found, so this is no student", _AGAIN) from error
    except (OSError, UserError) as error:
        raise Corrupt(f"{path}: not readable as a card ({_short(error)})", _AGAIN) from error
    if data.get("kind") != "emodistill-student":
        raise Corrupt(f"{path}: not the card of an emodistill student", _AGAIN)
    version = data.get("format")
    if type(version) is int and version != FORMAT:
        newer = "update emodistill, or use the version that wrote it"
        older = "use the version that wrote it, or run the same `distill run` again"
        raise OtherVersion(
            f"{path}: format {version}, known is {FORMAT}", newer if version > FORMAT else older
        )
    claimed = data.pop("sha256", None)
    if claimed != digest(data):
        raise Corrupt(f"{path}: not what was written (its SHA-256 differs)", _AGAIN)
    try:
        card = Card.model_validate(data)
    except ValidationError as error:
        faults = [f"{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in error.errors()]
        raise Corrupt(f"{path}: not a student's card:\n{shown_lines(faults)}", _AGAIN) from error
    bad = [name for name in card.teachers if not UTTERANCE_ID.match(name)]
    bad += [name for name, width in card.teachers.items() if not 0 < width <= 1 << 16]
    if bad:
        raise Corrupt(f"{path}: not a teacher's name or width:\n{shown_lines(bad)}", _AGAIN)
    return card


def _read_weights(path: Path, expected: WeightsFile) -> dict[str, torch.Tensor]:
    again = "fetch the folder anew"
    if not path.is_file():
        raise Corrupt(f"{path}: missing", again)
    if path.stat().st_size != expected.size:
        got = path.stat().st_size
        raise Corrupt(f"{path}: {got} bytes, {CARD} says {expected.size}", again)
    found = sha256_of(path)
    if found != expected.sha256:
        raise Corrupt(
            f"{path}: SHA-256 {found[:16]}..., {CARD} says {expected.sha256[:16]}...", again
        )
    return read_tensors(path)


def shown_lines(lines: list[str]) -> str:
    """Untrusted lines for a terminal."""
    return listed(shown(line) for line in lines)


def _portable(backbone: str) -> str:
    """A local model folder by its last name: a student does not tell where it was made."""
    prefix, found, source = backbone.rpartition(HUGGING_FACE)
    local = bool(found) and (source.startswith((".", "/", "~")) or Path(source).is_dir())
    return f"{prefix}{found}{Path(source).name}" if local else backbone


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _short(error: Exception) -> str:
    text = error.message if isinstance(error, UserError) else str(error)
    return shown(" ".join(text.split()))[:300]
