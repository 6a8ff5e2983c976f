"""Fit one teacher for one fold and commit what it says: the work of one process."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from featstore.core.config import TeacherSettings
from featstore.folds import Fold
from featstore.jobs.task import Tell, attended
from featstore.store.arrays import write_array, write_group
from featstore.store.provenance import versions
from featstore.store.staging import staged
from featstore.store.store import Store, unit_name
from featstore.store.unit import Identity


@dataclass(frozen=True)
class TeacherJob:
    """All that a process needs to make one ``folds/NN/<teacher>`` unit; it can be pickled.

    Attributes:
        store: the store's folder.
        fold: number and speakers.
        name: the teacher's name in the store.
        settings: of the teacher, with ``model`` as the user gave it.
        identity: of the unit.
        texts: transcripts in the store's row order (the store itself may hold none).
        groups: of training speakers, where the targets are to be cross-fitted: each group's by a
            teacher that is fitted on the other groups.
        keep: also write the fitted teacher, as the unit ``weights/NN/<teacher>``.
        replace: swap out a unit that stands in the way.
        device: where to compute.
    """

    store: Path
    fold: Fold
    name: str
    settings: TeacherSettings
    identity: Identity
    texts: tuple[str, ...]
    provenance: Mapping[str, str]
    groups: tuple[tuple[str, ...], ...] = ()
    keep: bool = False
    replace: bool = False
    device: str = "auto"

    @property
    def unit(self) -> str:
        """The unit that this job makes."""
        return self.identity.unit

    @property
    def n_fits(self) -> int:
        """How many teachers it fits."""
        return max(len(self.groups), 1)

    @property
    def weights(self) -> Identity:
        """The unit that keeps the fitted teacher, where it is to be kept."""
        name = unit_name(self.fold.number, self.name, "weights")
        return Identity(name, {}, {self.unit: self.identity.fingerprint})


def fit(job: TeacherJob) -> dict[str, Any]:
    """Fine-tune, freeze, run once over all utterances, commit; the unit's facts.

    Cross-fitted targets take as many fits as there are groups.

    On the CPU a fit uses one thread, so its bytes do not depend on how many run beside it.
    """
    with attended(job.store, job.unit) as tell:
        return _fit(job, tell)


def _fit(job: TeacherJob, tell: Tell) -> dict[str, Any]:
    import torch

    from featstore.core.training import pick_device
    from featstore.teachers.cross_fit import fit_parts

    device = pick_device(job.device)
    if device.type == "cpu":
        torch.set_num_threads(1)
    data = _fold_data(job)
    on_epoch = _telling(job, tell)
    if job.groups:
        logits, embeddings, outcome = fit_parts(
            data, job.fold, job.groups, job.settings, device, on_epoch
        )
    else:
        logits, embeddings, outcome = _fit_whole(job, data, device, on_epoch)
    facts = {
        "fold": job.fold.number,
        "kind": job.settings.kind,
        "fitted_on": list(job.fold.train),
        "selected_on": list(job.fold.validation),
        "held_out": list(job.fold.test),
        "temperature": None,
        **outcome,
    }
    _write_groups_above(job.store, job.unit)
    place, n_bytes = job.store / job.unit, logits.nbytes + embeddings.nbytes
    with staged(place, job.identity, replace=job.replace, n_bytes=n_bytes) as staging:
        write_group(staging.folder)
        write_array(staging.folder, "logits", logits, ("utterance", "class"))
        write_array(staging.folder, "embeddings", embeddings, ("utterance", "embedding"))
        staging.facts.update(facts)
        staging.provenance.update(versions(), **job.provenance)
    return facts


def _telling(job: TeacherJob, tell: Tell) -> Callable[[dict[str, float]], None]:
    """What tells how many epochs are done, of all the fits of a job."""
    total, done = job.n_fits * job.settings.optim.epochs, 0
    tell(0, total, "preparing")

    def on_epoch(entry: dict[str, float]) -> None:
        nonlocal done
        done += 1
        note = f"loss {entry['loss']:.3f}"
        if "validation_ua" in entry:
            note += f" val UA {100 * entry['validation_ua']:.1f}"
        tell(done, total, note)

    return on_epoch


def _fit_whole(
    job: TeacherJob, data: Any, device: Any, on_epoch: Callable[[dict[str, float]], None]
) -> tuple[Any, Any, dict[str, Any]]:
    """One teacher of all training rows: logits, embeddings, and the facts of its fit."""
    from featstore.core.training import count_parameters
    from featstore.teachers import prepare
    from featstore.teachers.finetune import finetune, run_once, score

    task = prepare(data, job.settings, getattr(job.settings, "model", ""))
    result = finetune(task, data, job.settings.optim, job.settings.seed, device, on_epoch)
    logits, embeddings = run_once(task, data, device)
    if job.keep:
        _keep(job, task.model, task.save)
    facts = {
        "parameters": count_parameters(task.model),
        "embedding_width": int(embeddings.shape[1]),
        "scores": score(logits, data),
        "best_epoch": result.best_epoch,
        "history": list(result.history),
    }
    return logits, embeddings, facts


def _fold_data(job: TeacherJob) -> Any:
    from featstore.teachers.data import FoldData

    store = Store.open(job.store)
    needs_lld = "lld" in job.identity.parents
    return FoldData(
        texts=job.texts,
        speakers=tuple(store.utterances["speaker"]),
        labels=store.labels,
        roles=store.roles[job.fold.number - 1],
        n_classes=len(store.classes),
        lld=store.lld if needs_lld else None,
        lld_names=tuple(store.unit("lld").facts["names"]) if needs_lld else (),
    )


def _write_groups_above(store: Path, unit: str) -> None:
    """The folders on the way to a unit are groups, so that any Zarr reader walks down to it."""
    for above in reversed(Path(unit).parents[:-1]):
        write_group(store / above)


def _keep(job: TeacherJob, model: Any, save: Any) -> None:
    """The fitted teacher as a unit of its own, so that keeping it changes no other unit."""
    from featstore.core.weights import save_tensors

    _write_groups_above(job.store, job.weights.unit)
    # Weights that stand there are this teacher's, or those of one that is no more.
    with staged(job.store / job.weights.unit, job.weights, replace=True) as staging:
        save_tensors(model.state_dict(), staging.folder / "model.safetensors")
        save(staging.folder)
        staging.provenance.update(versions())
