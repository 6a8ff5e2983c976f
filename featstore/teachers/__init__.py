"""Teachers: fine-tuned on one fold's training speakers, frozen, and run once over the corpus.

Arrays go in, logits and embeddings come out; a teacher knows no store. A new kind is a settings
model, a module that is a :class:`Teacher`, and a row of :data:`KINDS`. A plan asks only what a
teacher is made from, so nothing here imports torch before a teacher is fitted.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, cast

import numpy as np
import numpy.typing as npt

from featstore.core.config import TINY, TeacherSettings
from featstore.core.files import folder_digest
from featstore.folds import TRAIN

if TYPE_CHECKING:
    from featstore.teachers.finetune import Prepared

Floats = npt.NDArray[np.float32]
OnEpoch = Callable[[dict[str, float]], None]


@dataclass(frozen=True)
class FoldData:
    """A corpus as one fold sees it.

    Attributes:
        texts: the transcript of every utterance.
        speakers: the speaker of every utterance.
        labels: class index of every utterance, ``[N]``.
        roles: what each utterance is in this fold, ``[N]``.
        n_classes: number of classes.
        llds: of every utterance, ``[frames, D]``; empty where the teacher reads none.
        lld_names: their columns.
    """

    texts: Sequence[str]
    speakers: Sequence[str]
    labels: npt.NDArray[np.int16]
    roles: npt.NDArray[np.int8]
    n_classes: int
    llds: Sequence[Floats] = ()
    lld_names: tuple[str, ...] = ()

    def rows(self, role: int) -> npt.NDArray[np.int64]:
        """The rows of a role, in order."""
        return np.flatnonzero(self.roles == role)

    @property
    def train_rows(self) -> npt.NDArray[np.int64]:
        """The only rows that anything may be fitted on."""
        return self.rows(TRAIN)


class Teacher(Protocol):
    """What the module of a kind offers."""

    def prepare(self, data: FoldData, settings: Any) -> Prepared:
        """A fold's teacher, not yet fitted."""

    def check(self, model: str) -> None:
        """Make sure that pretrained weights are to be had.

        Raises:
            UserError: with the remedy.
        """


@dataclass(frozen=True)
class Kind:
    """What is known of a kind of teacher without importing it.

    Attributes:
        module: its :class:`Teacher`.
        reads: the units that it is made from.
        pretrained: whether ``settings.model`` names weights: a Hugging Face name or a folder.
    """

    module: str
    reads: tuple[str, ...]
    pretrained: bool = False

    def load(self) -> Teacher:
        """Import it."""
        return cast("Teacher", import_module(self.module))


KINDS: Mapping[str, Kind] = {
    "linguistic": Kind("featstore.teachers.linguistic", ("corpus", "splits"), pretrained=True),
    "prosodic": Kind("featstore.teachers.prosodic", ("corpus", "splits", "lld")),
}


def prepare(data: FoldData, settings: TeacherSettings) -> Prepared:
    """A fold's teacher, not yet fitted."""
    return KINDS[settings.kind].load().prepare(data, settings)


def fit(
    data: FoldData,
    settings: TeacherSettings,
    groups: Sequence[Sequence[str]] = (),
    device: str = "auto",
    on_epoch: OnEpoch = lambda entry: None,
) -> tuple[Floats, Floats, dict[str, Any]]:
    """Fit a fold's teacher and run it once over all utterances.

    Args:
        data: the corpus as the fold sees it.
        settings: of the teacher.
        groups: of training speakers, where the targets are to be cross-fitted: each group's by a
            teacher that is fitted on the other groups.
        device: where to compute; on the CPU in one thread.
        on_epoch: called with each epoch's ``loss``, and ``validation_ua`` where there is one.

    Returns:
        Raw logits ``[N, C]``, embeddings ``[N, D]``, and the facts of the fit.

    Raises:
        TaskFailed: the loss or the outputs are not finite.
    """
    import torch

    from featstore.core.training import pick_device

    chosen = pick_device(device)
    if chosen.type == "cpu":
        torch.set_num_threads(1)
    if groups:
        from featstore.teachers.cross_fit import fit_parts

        return fit_parts(data, groups, settings, chosen, on_epoch)
    from featstore.teachers.finetune import fit_whole

    return fit_whole(data, settings, chosen, on_epoch)


def check(settings: TeacherSettings) -> None:
    """Make sure before anything is built that the teacher's weights are to be had.

    Raises:
        UserError: with the remedy.
    """
    if model := _pretrained(settings):
        KINDS[settings.kind].load().check(model)


def portable(settings: TeacherSettings) -> tuple[TeacherSettings, Mapping[str, str]]:
    """The settings as a store records them, and what else tells the weights apart.

    A local folder's path says nothing to anyone else, so the digest of the files that the model is
    loaded from takes its place. What only ``tiny`` uses is left at its default elsewhere.
    """
    model = _pretrained(settings)
    if not model:
        return settings, {}
    update = {"vocabulary": type(settings).model_fields["vocabulary"].default}
    if not Path(model).is_dir():
        return settings.model_copy(update=update), {}
    update["model"] = folder_digest(Path(model))
    return settings.model_copy(update=update), {"model_name": Path(model).name}


def _pretrained(settings: TeacherSettings) -> str:
    """The name or folder of pretrained weights; '' where there are none."""
    model = getattr(settings, "model", TINY) if KINDS[settings.kind].pretrained else TINY
    return "" if model == TINY else str(model)
