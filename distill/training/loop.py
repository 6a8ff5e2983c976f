"""One run, a fold, a variant and a seed: from cached targets to ``predictions.parquet``.

:func:`run_fold` checks, skips and writes; :func:`fit` trains.
"""

from __future__ import annotations

import math
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing, nullcontext
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import nn
from torch.amp.grad_scaler import GradScaler

from distill.config import RunSettings, model_folder, portable, precision_in_use
from distill.data import (
    FoldTargets,
    MicroBatch,
    Pair,
    Signals,
    augmentation,
    calibrated,
    evaluation_batches,
    load_targets,
    open_signals,
    plan_steps,
    rows_of,
    shuffled,
    stream,
    training_steps,
)
from distill.losses import LossParts, total_loss
from distill.model.student import Student, build_student
from distill.runs.folder import (
    Keys,
    Outcome,
    RunFolder,
    RunRequest,
    epoch_note,
    predictions_table,
    require_teachers,
    teachers_table,
)
from distill.runs.read import PREDICTIONS, TEACHERS
from distill.runs.records import RunFacts
from distill.training import checkpoint
from distill.training.checkpoint import Progress, Report, Tensors
from distill.training.half_precision import require_bfloat16
from distill.training.team import ALONE, Team
from featstore.core.console import say
from featstore.core.metrics import ua, wa
from featstore.core.schema import SAMPLING_RATE, TaskFailed, UserError, listed, printable
from featstore.core.settings import to_toml
from featstore.core.training import (
    Indices,
    class_weights,
    count_parameters,
    make_schedule,
    parameter_groups,
    pick_device,
    seed_all,
)
from featstore.jobs.task import Tell, unheard
from featstore.store import open_store
from featstore.store.provenance import versions
from featstore.store.store import Store

CHECKPOINT_EVERY_S = 600.0
"""A long epoch is checkpointed in between; when, changes no byte of the result."""

GRADIENTS_EVERY = 10
"""Steps between two measurements of the terms' gradients; each report has one at least."""

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}

Floats = npt.NDArray[np.float32]
OnEpoch = Callable[[str, int, dict[str, Any]], None]
"""``on_epoch(label, n_epochs, entry)`` after each epoch, with its line of ``metrics.jsonl``."""


class Objective(nn.Module):
    """Student and losses as one module, which several processes call as one.

    Args:
        student: what is trained.
        settings: of the run.
        dtype: of the backbone under autocast; float32 means none.
        weights: class weights of the cross entropy, ``[C]``.
    """

    def __init__(
        self,
        student: Student,
        settings: RunSettings,
        dtype: torch.dtype = torch.float32,
        weights: torch.Tensor | None = None,
    ) -> None:
        super().__init__()
        self.student, self.settings, self.dtype, self.weights = student, settings, dtype, weights

    def forward(
        self, batch: MicroBatch, labels: torch.Tensor, teachers: Mapping[str, Pair], measure: bool
    ) -> tuple[LossParts, dict[str, torch.Tensor]]:
        """Losses of a micro-batch, and the norm of each term's gradient where it is measured."""
        kind, settings = batch.signals.device.type, self.settings
        with torch.autocast(kind, self.dtype, enabled=self.dtype != torch.float32):
            output = self.student(batch.signals, batch.lengths)
        smoothing = settings.optim.label_smoothing
        parts = total_loss(output, teachers, labels, settings.losses, self.weights, smoothing)
        norms: dict[str, torch.Tensor] = {}
        if measure and output.pooled.requires_grad:
            for name, value in parts.weighted.items():  # the heads' backward pass alone
                norms[name] = torch.zeros(())
                if value.requires_grad:
                    (grad,) = torch.autograd.grad(value, output.pooled, retain_graph=True)
                    norms[name] = grad.float().norm()
        return parts, norms


@dataclass
class Learner:
    """A student with its optimiser: everything that changes while it learns.

    Attributes:
        student: what is trained.
        net: its :class:`Objective`, as the processes of a team call it.
        settings: of the run, its temperatures those in use.
        targets: the fold's.
        optimiser: AdamW, one learning rate for the backbone and one for the rest.
        schedule: of the learning rates.
        scaler: of float16's gradients; idle otherwise.
        device: where it computes.
        utterance_ids: of the store's rows, for messages; without them rows are numbered.
        team: the processes that train it together.
        progress: how far it has come.
        report: sums since the last epoch's end.
        best: the weights of the best epoch.
    """

    student: Student
    net: nn.Module
    settings: RunSettings
    targets: FoldTargets
    optimiser: torch.optim.AdamW
    schedule: torch.optim.lr_scheduler.LRScheduler
    scaler: GradScaler
    device: torch.device
    utterance_ids: Sequence[str] = ()
    team: Team = ALONE
    progress: Progress = field(default_factory=Progress)
    report: Report = field(default_factory=Report)
    best: Tensors = field(default_factory=dict)

    @property
    def trainable(self) -> list[nn.Parameter]:
        """The parameters that the optimiser changes."""
        return [p for group in self.optimiser.param_groups for p in group["params"]]


def make_learner(
    student: Student,
    settings: RunSettings,
    targets: FoldTargets,
    n_steps: int,
    device: torch.device,
    utterance_ids: Sequence[str] = (),
    team: Team = ALONE,
) -> Learner:
    """A student that is about to learn.

    Args:
        student: on the device.
        settings: of the run.
        targets: the fold's, on the device.
        n_steps: optimiser steps of the whole run, which the schedule spans.
        device: where to compute.
        utterance_ids: of the store's rows, for messages.
        team: the processes that train it together.

    Raises:
        UserError: the device cannot compute in the precision of the settings, or not rightly.
    """
    optim = settings.optim
    dtype = DTYPES[precision_in_use(settings, device.type)]
    if dtype is torch.bfloat16 and device.type == "cpu":
        require_bfloat16(student.backbone)
    weights = None
    if optim.class_weights:
        labels = targets.labels.cpu().numpy()[rows_of(targets)["train"]]
        weights = class_weights(labels, len(targets.classes)).to(device)
    encoder = student.backbone.named_parameters()
    heads = [item for item in student.named_parameters() if not item[0].startswith("backbone.")]
    optimiser = torch.optim.AdamW(
        parameter_groups(encoder, optim, optim.encoder_lr) + parameter_groups(heads, optim)
    )
    return Learner(
        student=student,
        net=team.wrap(Objective(student, settings, dtype, weights)),
        settings=settings,
        targets=targets,
        optimiser=optimiser,
        schedule=make_schedule(optimiser, optim, n_steps),
        scaler=GradScaler(device.type, enabled=dtype is torch.float16),
        device=device,
        utterance_ids=utterance_ids,
        team=team,
    )


def evaluate(learner: Learner, signals: Signals, lengths: Indices, rows: Indices) -> Floats:
    """Raw logits in evaluation mode and float32, as ``distill predict`` computes them.

    Args:
        learner: its student is left in evaluation mode.
        signals: of the store.
        lengths: samples of every utterance of the store.
        rows: which; each process of a team computes its share.

    Returns:
        ``[rows, C]``, in ascending order of the rows.
    """
    own = learner.team.share(rows, lengths)
    plans = evaluation_batches(own, lengths, _budget(learner.settings))
    learner.student.eval()
    logits: dict[int, Floats] = {}
    with torch.inference_mode():
        for batch in stream(signals, plans, lengths, pin=learner.device.type == "cuda"):
            output = learner.student(batch.to(learner.device).signals, batch.lengths)
            values = output.logits.float().cpu().numpy()
            logits.update(zip(batch.rows.tolist(), values, strict=True))
    for part in learner.team.gather(logits):
        logits.update(part)
    return np.stack([logits[row] for row in sorted(logits)])


def fit(
    learner: Learner,
    signals: Signals,
    lengths: Indices,
    save: Callable[[], None],
    after_epoch: Callable[[dict[str, Any]], None],
    max_steps: int | None = None,
) -> bool:
    """Train from wherever the learner stands to the end of the run's last epoch.

    Args:
        learner: a new one, or as a checkpoint left it.
        signals: of the store.
        lengths: samples of every utterance of the store.
        save: called to commit a checkpoint, by all processes of a team after the same step.
        after_epoch: called with each epoch's line of ``metrics.jsonl``.
        max_steps: end after so many optimiser steps of the run; what is done so far is saved.

    Returns:
        False where ``max_steps`` ended it before.

    Raises:
        TaskFailed: the loss, or a logit of the validation speaker, is not finite; names the
            utterances. The step that they belong to has changed no weight.
    """
    settings, targets, progress = learner.settings, learner.targets, learner.progress
    optim, rows, team, device = settings.optim, rows_of(targets), learner.team, learner.device
    optimiser, schedule, scaler = learner.optimiser, learner.schedule, learner.scaler
    n_steps = steps_an_epoch(targets, settings)
    total = n_steps * optim.epochs
    limit = min(max_steps or total, total)
    began = time.monotonic() - progress.seconds

    def commit() -> None:
        progress.seconds = time.monotonic() - began
        save()

    while progress.epoch <= optim.epochs:
        if progress.total >= limit < total:
            return False
        # What is left of the epoch's steps, in the order that seed and epoch decide
        pool, seed, epoch = settings.stream.pool, settings.seed, progress.epoch
        steps = training_steps(rows["train"], lengths, optim.batch_size, pool, seed, epoch)
        steps = steps[progress.step :][: limit - progress.total]
        own = [team.share(step, lengths) for step in steps]
        plans = plan_steps(steps, lengths, _budget(settings), own)
        augment = augmentation(settings.stream.augment, seed, epoch)
        pin, saved = device.type == "cuda", time.monotonic()
        losses: list[tuple[MicroBatch, LossParts]] = []
        learner.student.train()
        with closing(stream(signals, plans, lengths, pin=pin, augment=augment)) as batches:
            for item in batches:
                # A micro-batch: forward, losses and backward
                batch = item.to(device)
                labels, teachers = targets.batch(batch.rows)
                if batch.ends_step:  # the rest needs all processes, so all must be well
                    due = team.any(team.leads and time.monotonic() - saved > CHECKPOINT_EVERY_S)
                now_and_then = schedule.last_epoch % GRADIENTS_EVERY == 0
                measure = batch.ends_step and (now_and_then or not learner.report.n_gradients)
                with team.exchanging(learner.net, batch.ends_step):
                    parts, norms = learner.net(batch, labels, teachers, measure)
                    # The mean over processes that follows makes the sum over all micro-batches.
                    share = parts.total * (batch.share * team.size)
                    scaler.scale(share).backward()
                losses.append((batch, parts))
                if not batch.ends_step:
                    continue

                # The optimiser step
                _add_losses(learner, losses, norms)
                losses = []
                scaler.unscale_(optimiser)
                nn.utils.clip_grad_norm_(learner.trainable, optim.clip_norm)
                scale = scaler.get_scale()
                scaler.step(optimiser)
                scaler.update()
                optimiser.zero_grad(set_to_none=True)
                if scaler.get_scale() >= scale:  # else float16 overflowed and no step was taken
                    schedule.step()
                progress.step, progress.total = progress.step + 1, progress.total + 1
                if due and progress.step < n_steps:
                    commit()
                    saved = time.monotonic()
        if progress.total >= limit < total:
            commit()
            return False

        # Validation, and selection of the best epoch
        report = Report()
        for part in team.gather(learner.report):
            report.add(part)
        learner.report = Report()
        entry: dict[str, Any] = {"epoch": progress.epoch, **report.means()}
        entry["lr"] = schedule.get_last_lr()[-1]
        if len(rows["validation"]):
            logits = evaluate(learner, signals, lengths, rows["validation"])
            entry["validation"] = scores(learner, logits, "validation")
            score = (entry["validation"]["ua"], -entry["validation"]["loss"])
            selects = optim.selection == "validation_ua"
            if selects and (score > progress.best_score or not progress.best_epoch):
                progress.best_epoch, progress.best_score = progress.epoch, score
                weights = learner.student.state_dict()
                learner.best = {name: value.detach().clone() for name, value in weights.items()}

        # The epoch's line, and a checkpoint
        entry["seconds"] = round(time.monotonic() - began, 3)
        progress.history.append(entry)
        progress.epoch, progress.step = progress.epoch + 1, 0
        after_epoch(entry)
        commit()

    if learner.best:
        learner.student.load_state_dict(learner.best)
    progress.best_epoch = progress.best_epoch or optim.epochs
    progress.seconds = time.monotonic() - began
    return True


def _add_losses(
    learner: Learner,
    losses: Sequence[tuple[MicroBatch, LossParts]],
    norms: Mapping[str, torch.Tensor],
) -> None:
    """Add a step's losses and gradients to the report, and refuse a loss that is not finite.

    It waits for the device twice, however many micro-batches a step has.
    """
    rows = [torch.stack([*parts.terms.values(), parts.total]).detach() for _, parts in losses]
    for (batch, parts), values in zip(losses, torch.stack(rows).tolist(), strict=True):
        if not math.isfinite(values[-1]):
            raise _not_finite(learner, batch.rows, parts)
        n = len(batch.rows) if batch.share else 0
        terms = {name: value * n for name, value in zip(parts.terms, values, strict=False)}
        learner.report.add(Report(n, terms | {"total": values[-1] * n}))
    if norms:
        gradients = dict(zip(norms, torch.stack([*norms.values()]).tolist(), strict=True))
        learner.report.add(Report(gradients=gradients, n_gradients=1))


def _not_finite(learner: Learner, rows: torch.Tensor, parts: LossParts) -> TaskFailed:
    """Which utterances of a micro-batch have no finite loss, and which terms are to blame."""
    bad = rows[~torch.isfinite(parts.rows)].tolist() or rows.tolist()
    terms = [name for name, value in parts.terms.items() if not torch.isfinite(value)]
    ids = learner.utterance_ids
    names = [printable(ids[row]) if ids else f"row {row} of the store" for row in bad]
    return TaskFailed(
        f"loss not finite ({', '.join(terms) or 'total'}) for {len(bad)} of the "
        f"{len(rows)} utterance(s) of a micro-batch, at step {learner.schedule.last_epoch + 1}:\n"
        + listed(names),
        "lower optim.lr, or use precision = fp32",
    )


def scores(learner: Learner, logits: Floats, role: str) -> dict[str, float]:
    """WA, UA and cross entropy of a role's logits.

    Raises:
        TaskFailed: a logit is not finite.
    """
    if not np.isfinite(logits).all():
        raise TaskFailed(
            f"the student's {role} logits are not finite in epoch {learner.progress.epoch}",
            "lower optim.lr, or use precision = fp32",
        )
    truth = learner.targets.labels.cpu()[rows_of(learner.targets)[role]]
    loss = nn.functional.cross_entropy(torch.from_numpy(logits), truth)
    labels, prediction = truth.numpy(), logits.argmax(1)
    mean_recall = ua(labels, prediction, len(learner.targets.classes))
    return {"wa": wa(labels, prediction), "ua": mean_recall, "loss": float(loss)}


def steps_an_epoch(targets: FoldTargets, settings: RunSettings) -> int:
    """Optimiser steps an epoch, the last of which may be smaller."""
    return math.ceil(len(rows_of(targets)["train"]) / settings.optim.batch_size)


def _budget(settings: RunSettings) -> int:
    """Samples that a micro-batch may have, padding included."""
    return round(settings.stream.max_batch_s * SAMPLING_RATE)


def run_fold(request: RunRequest, on_epoch: OnEpoch | None = None, team: Team = ALONE) -> Outcome:
    """Train, evaluate and write one run; resume it where it was interrupted.

    Args:
        request: what to train, and where.
        on_epoch: called after each epoch.
        team: the processes that train it together, each of which calls this. The store and
            ``runs`` must be on a file system that all of them see.

    Raises:
        UserError: the store lacks the fold, or another process is at this run.
        Corrupt: the store, or a finished run, is damaged.
        Refused: a teacher saw the fold's test speaker.
        TaskFailed: the loss is not finite, or another process of the team has ended.
    """
    with team.together():
        if request.threads:
            torch.set_num_threads(request.threads)
        if request.tensorboard and find_spec("tensorboard") is None:
            raise UserError(
                "--tensorboard: TensorBoard is not installed", "pip install 'emodistill[tracking]'"
            )
        store = open_store(request.store)
        fold, settings = request.fold, request.settings
        losses, cross_fit = settings.losses, settings.targets.cross_fit
        run = Keys(store).folder(request)
        losses.for_teachers(store.teacher_names(fold, cross_fit))
        require_teachers(store, fold, losses, cross_fit)
        if team.any(team.leads and run.finished() is not None):
            return _skipped(run, "finished before")
        with run.held() if team.leads else nullcontext():
            if team.any(team.leads and run.finished() is not None):
                return _skipped(run, "finished meanwhile")
            with run.attended(request.runs) if team.leads else nullcontext(unheard) as tell:
                return _train(request, store, run, team, on_epoch, tell)


def _skipped(run: RunFolder, why: str) -> Outcome:
    """A run that was finished; what a process killed after its end left is removed."""
    run.tidy()
    outcome = run.outcome(why)
    if outcome is None:
        raise TaskFailed(f"{run.path}: removed meanwhile", "run the same command again")
    return outcome


def _train(
    request: RunRequest,
    store: Store,
    run: RunFolder,
    team: Team,
    on_epoch: OnEpoch | None,
    tell: Tell,
) -> Outcome:
    """A run that nobody else is at: read its targets, fit the student, write what it leaves."""
    settings, device = request.settings, team.device or pick_device(request.device)
    losses = settings.losses
    matched = [name for name, term in losses.teachers.items() if losses.beta * term.weight > 0]
    targets = load_targets(
        store, request.fold, device, matched=matched, cross_fit=settings.targets.cross_fit
    )
    store.check_parents(store.unit("audio", deep=True))
    store.check_parents(store.record("lld"))  # of which the teachers were made; not its values
    if settings.targets.tau == "validation":
        settings = settings.model_copy(update={"losses": calibrated(losses, targets)})
    targets = shuffled(targets, settings.targets.shuffle, settings.seed)
    student = build_student(
        settings.student, targets.classes, targets.widths, request.weights, settings.seed
    ).to(device)
    seed_all(team.seed(settings.seed))
    rows, n_epochs, checkpoints = rows_of(targets), settings.optim.epochs, run.path / "checkpoint"
    n_steps = steps_an_epoch(targets, settings) * n_epochs
    ids = store.utterances["utterance_id"].tolist()
    learner = make_learner(student, settings, targets, n_steps, device, ids, team)
    signals, lengths = open_signals(store, request.root, check=False), store.lengths

    def describe(**outcome: Any) -> None:
        """``config.toml`` and ``run.json``: what this run is, and later how it ended."""
        facts = run_facts(store, learner, request, run.key, **outcome)
        run.write_text("config.toml", to_toml(portable(request.settings)))
        run.write_json("run.json", facts.model_dump(mode="json", by_alias=True))

    def after_epoch(entry: dict[str, Any]) -> None:
        if team.leads:
            run.write_metrics(learner.progress.history)
        if team.leads and request.tensorboard:
            _log(run.path, entry)
        tell(entry["epoch"], n_epochs, epoch_note(entry))
        if on_epoch is not None:
            on_epoch(request.label, n_epochs, entry)

    def save() -> None:
        checkpoint.save(checkpoints, learner)

    if checkpoint.load(checkpoints, learner):
        at = learner.progress
        say(f"{request.label}: resumed at epoch {at.epoch}, step {at.step}")
    tell(learner.progress.epoch - 1, n_epochs)
    if team.leads:
        describe()
    if not fit(learner, signals, lengths, save, after_epoch, request.max_steps):
        why = f"stopped after {learner.progress.total} optimiser step(s), as asked"
        return Outcome(request.fold, "stopped", run.path, why)

    held_out = {role: rows[role] for role in ("test", "validation") if len(rows[role])}
    logits = {role: evaluate(learner, signals, lengths, held_out[role]) for role in held_out}
    scored = {role: scores(learner, logits[role], role) for role in held_out}["test"]
    seconds = learner.progress.seconds
    if team.leads:
        labels, about = targets.labels.cpu().numpy(), (targets.classes, request.fold)
        of_teachers = {name: output.logits for name, output in targets.outputs.items()}
        student.save_pretrained(run.path / "student")
        table = predictions_table(store.utterances, held_out, logits, labels, *about)
        run.write_table(PREDICTIONS, table)
        table = teachers_table(store.utterances, rows, of_teachers, labels, *about)
        run.write_table(TEACHERS, table)
        describe(best_epoch=learner.progress.best_epoch, seconds=round(seconds, 1))
        run.finish()
        shutil.rmtree(checkpoints, ignore_errors=True)
    return Outcome(request.fold, "done", run.path, "", scored["wa"], scored["ua"], seconds)


def _log(folder: Path, entry: Mapping[str, Any]) -> None:
    """Add an epoch to the run's event files for TensorBoard (extra ``tracking``)."""
    from torch.utils.tensorboard import SummaryWriter

    with SummaryWriter(str(folder / "tensorboard")) as writer:
        for group in ("train", "gradients", "validation"):
            for name, value in entry.get(group, {}).items():
                writer.add_scalar(f"{group}/{name}", value, entry["epoch"])


def run_facts(
    store: Store, learner: Learner, request: RunRequest, key: str, **outcome: Any
) -> RunFacts:
    """``run.json``: the facts of a run that the report relies on.

    Args:
        store: what it is trained from.
        learner: what is trained, its temperatures those in use.
        request: of the run.
        key: see :func:`distill.config.run_key`.
        outcome: once it is finished, ``best_epoch`` and ``seconds``.
    """
    corpus, splits = store.unit("corpus"), store.unit("splits")
    settings, targets, folds = learner.settings, learner.targets, splits.settings["folds"]
    fold, backbone = targets.fold, settings.student.backbone
    overlaps = {record["fold"]: record for record in splits.facts["text_overlap"]}
    classes = [store.classes[label] for label in store.labels.tolist()]
    if folder := model_folder(backbone):  # a report does not tell where a run was made
        backbone = backbone.removesuffix(folder) + Path(folder).name
    facts: dict[str, Any] = {
        "schema": 1,
        "experiment": request.experiment,
        "key": key,
        "fold": fold.number,
        "seed": settings.seed,
        "variant": request.variant,
        "dataset": corpus.facts["name"],
        "full_release": corpus.facts["full_release"],
        "classes": targets.classes,
        "n_folds": len(store.folds),
        "store": {"fingerprint": store.fingerprint(), "url": store.url},
        "split": {"test": fold.test, "validation": fold.validation, "train": fold.train},
        "protocol": {
            **{name: folds[name] for name in ("scheme", "validation", "script_disjoint")},
            "kind": corpus.settings["corpus"]["kind"],
        },
        "student": {"backbone": backbone, "parameters": count_parameters(learner.student)},
        "teachers": {name: out.unit.facts["scores"] for name, out in targets.outputs.items()},
        "temperatures": {name: settings.losses.teachers[name].tau for name in targets.teachers},
        "label_map": dict(sorted(set(zip(store.utterances["label_raw"], classes, strict=True)))),
        "text_overlap": overlaps.get(fold.number),
        "versions": versions(),
        "processes": learner.team.size,
        "device": learner.device.type,
        "precision": precision_in_use(settings, learner.device.type),
    }
    return RunFacts.model_validate(facts | outcome)
