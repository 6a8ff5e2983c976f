"""Teachers: fine-tuned on one fold's training speakers, frozen, and run once over the corpus.

Two kinds so far; ``prepare`` of each turns a fold into a model and a function that makes batches.
A plan asks only what a teacher is made from, so that it must not wait for torch.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from featstore.core.config import TINY, LinguisticSettings, ProsodicSettings, TeacherSettings
from featstore.core.files import folder_digest

if TYPE_CHECKING:
    from featstore.teachers.data import FoldData, Task


def prepare(data: FoldData, settings: TeacherSettings, model: str) -> Task:
    """A fold's teacher, not yet fitted.

    Args:
        data: the corpus and the fold's roles.
        settings: which kind, and its settings.
        model: where a linguistic teacher's weights come from, a name or a local folder.
    """
    from featstore.teachers import linguistic, prosodic

    if isinstance(settings, LinguisticSettings):
        return linguistic.prepare(data, settings, model)
    return prosodic.prepare(data, settings)


def check(settings: TeacherSettings) -> None:
    """Make sure before anything is built that the teacher's weights are to be had.

    Raises:
        UserError: with the remedy.
    """
    if isinstance(settings, LinguisticSettings) and settings.model != TINY:
        from featstore.teachers import linguistic

        linguistic.check(settings.model)


def parents(settings: TeacherSettings) -> tuple[str, ...]:
    """The units that a teacher is made from."""
    if isinstance(settings, ProsodicSettings):
        return ("corpus", "splits", "lld")
    return ("corpus", "splits")


def portable(settings: TeacherSettings) -> tuple[TeacherSettings, Mapping[str, str]]:
    """The settings as a store records them, and what else tells the weights apart.

    A local folder's path says nothing to anyone else, so its content's digest takes its place.
    """
    if (
        isinstance(settings, LinguisticSettings)
        and settings.model != TINY
        and Path(settings.model).is_dir()
    ):
        name = folder_digest(Path(settings.model))
        return settings.model_copy(update={"model": name}), {
            "model_name": Path(settings.model).name
        }
    return settings, {}
