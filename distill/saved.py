"""A student on disk: ``student.json`` and ``model.safetensors``, checked, and nothing executable.

The folder is all that prediction needs: the backbone is rebuilt from its architecture, never from
the hub or from the weights that the student started with.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import stat
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import torch
from pydantic import Field, ValidationError

from distill.backbones import HUGGING_FACE, build_backbone
from distill.encoder import Architecture
from featstore.schema import UTTERANCE_ID, Corrupt, Refused, UserError, listed
from featstore.schema import printable as shown
from featstore.settings import Settings

if TYPE_CHECKING:
    from distill.student import Student

CARD, WEIGHTS = "student.json", "model.safetensors"
FORMAT = 1
"""Raised when a reader of an older format would misunderstand a newer one."""

_MAX_CARD_BYTES = 1 << 20


class WeightsFile(Settings):
    """What ``model.safetensors`` must be."""

    size: int = Field(gt=0)
    sha256: str = Field(pattern=r"^[0-9a-f]{64}$")


class Card(Settings):
    """What ``student.json`` says. ``settings`` are those of :class:`~distill.student.Student`."""

    kind: Literal["emodistill-student"] = "emodistill-student"
    format: Literal[1] = 1
    sampling_rate: Literal[16000] = 16000
    classes: tuple[str, ...] = Field(min_length=2, max_length=1000)
    teachers: dict[str, int]
    settings: dict[str, Any]
    backbone: Architecture
    weights: WeightsFile
    made_with: dict[str, str] = Field(default_factory=dict)


def save(student: Student, folder: Path) -> None:
    """Write a student's folder whole, beside its place, and rename it there.

    A student already at ``folder`` is replaced. A crash leaves the old one or the new one, or, in
    the instant between two renames, both beside ``folder`` under names that begin with a dot.

    Raises:
        UserError: where ``folder`` is something else than a student, or cannot be written.
    """
    from safetensors.torch import save_file

    folder = Path(folder).absolute()
    if (
        folder.exists()
        and not (folder / CARD).is_file()
        and (not folder.is_dir() or any(folder.iterdir()))
    ):
        raise UserError(f"{folder}: exists and is no student", "give another folder")
    new = folder.with_name(f".{folder.name}.new-{os.getpid()}")
    old = folder.with_name(f".{folder.name}.old-{os.getpid()}")
    try:
        for leftover in (new, old):
            shutil.rmtree(leftover, ignore_errors=True)
        new.mkdir(parents=True)
        state = {k: v.detach().cpu().contiguous() for k, v in student.state_dict().items()}
        save_file(state, new / WEIGHTS)
        text = json.dumps(_card(student, new / WEIGHTS).model_dump(mode="json"), indent=2)
        (new / CARD).write_text(text + "\n", encoding="utf-8")
        for path in (new / WEIGHTS, new / CARD, new):
            _fsync(path)
        if folder.exists():
            folder.rename(old)
        new.rename(folder)
        _fsync(folder.parent)
        shutil.rmtree(old, ignore_errors=True)
    except OSError as error:
        raise UserError(f"{folder}: not written ({error})", "free space or mend rights") from error


def load(folder: Path) -> Student:
    """A saved student in eval mode on the CPU, every byte of its weights checked.

    Raises:
        UserError: where ``folder`` holds no student.
        Corrupt: where card or weights are not what was written.
        Refused: where a newer version wrote it.
    """
    from distill.student import Student, StudentSettings

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
        weights=WeightsFile(size=weights.stat().st_size, sha256=_sha256(weights)),
        made_with={name: version for name in packages if (version := _version(name))},
    )


def _read_card(path: Path) -> Card:
    again = "give the folder that distill run wrote, or fetch it anew"
    try:
        facts = path.stat()
        if not stat.S_ISREG(facts.st_mode) or facts.st_size > _MAX_CARD_BYTES:
            raise Corrupt(f"{path}: no regular file of a card's size", again)
        data = json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError) as error:
        raise UserError(f"{path}: not found, so this is no student", again) from error
    except (OSError, ValueError, RecursionError) as error:
        raise Corrupt(f"{path}: not readable as JSON ({_short(error)})", again) from error
    if not isinstance(data, dict) or data.get("kind") != "emodistill-student":
        raise Corrupt(f"{path}: not the card of an emodistill student", again)
    if isinstance(data.get("format"), int) and data["format"] > FORMAT:
        raise Refused(f"{path}: format {data['format']}, known is {FORMAT}", "update emodistill")
    try:
        card = Card.model_validate(data)
    except ValidationError as error:
        faults = [f"{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in error.errors()]
        raise Corrupt(f"{path}: not a student's card:\n{shown_lines(faults)}", again) from error
    bad = [name for name in card.teachers if not UTTERANCE_ID.match(name)]
    bad += [name for name, width in card.teachers.items() if not 0 < width <= 1 << 16]
    if bad:
        raise Corrupt(f"{path}: not a teacher's name or width:\n{shown_lines(bad)}", again)
    return card


def _read_weights(path: Path, expected: WeightsFile) -> dict[str, torch.Tensor]:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    again = "fetch the folder anew"
    if not path.is_file():
        raise Corrupt(f"{path}: missing", again)
    if path.stat().st_size != expected.size:
        got = path.stat().st_size
        raise Corrupt(f"{path}: {got} bytes, {CARD} says {expected.size}", again)
    found = _sha256(path)
    if found != expected.sha256:
        raise Corrupt(
            f"{path}: SHA-256 {found[:16]}..., {CARD} says {expected.sha256[:16]}...", again
        )
    try:
        return load_file(path)
    except (SafetensorError, OSError, ValueError) as error:
        raise Corrupt(f"{path}: not a safetensors file ({_short(error)})", again) from error


def shown_lines(lines: list[str]) -> str:
    """Untrusted lines for a terminal."""
    return listed(shown(line) for line in lines)


def _portable(backbone: str) -> str:
    """A local model folder by its last name: a student does not tell where it was made."""
    prefix, found, source = backbone.rpartition(HUGGING_FACE)
    local = bool(found) and (source.startswith((".", "/", "~")) or Path(source).is_dir())
    return f"{prefix}{found}{Path(source).name}" if local else backbone


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _fsync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _short(error: Exception) -> str:
    text = error.message if isinstance(error, UserError) else str(error)
    return shown(" ".join(text.split()))[:300]
