"""One fold, one variant, one seed: from cached targets to ``predictions.parquet``."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from distill.config import portable
from distill.data.augment import augmentation
from distill.data.controls import shuffled
from distill.data.stream import Signals, evaluation_batches, open_signals, plan_steps, stream
from distill.data.stream import training_steps as steps_of_epoch
from distill.data.targets import FoldTargets, load_targets, rows_of
from distill.data.temperature import calibrated
from distill.metrics import from_predictions
from distill.model.student import build_student
from distill.runs.attendance import epoch_note, noted
from distill.runs.folder import RunFolder, predictions_table, teachers_table
from distill.runs.request import Outcome, RunRequest, key_of, require_teachers
from distill.training.describe import run_facts
from distill.training.parallel import ALONE, Team
from distill.training.standing import Position, load_standing, save_standing
from distill.training.step import Stepper, StepReport, steps_an_epoch
from distill.training.tracking import log_epoch, refuse_without_tensorboard
from featstore.core.console import say
from featstore.core.metrics import ua, wa
from featstore.core.schema import SAMPLING_RATE, TaskFailed
from featstore.core.settings import to_toml
from featstore.core.training import class_weights, generator, pick_device, seed_all
from featstore.jobs.task import Tell
from featstore.store import open_store
from featstore.store.store import Store

CHECKPOINT_EVERY_S = 600.0
"""A long epoch is checkpointed in between; when, changes no byte of the result."""

Floats = npt.NDArray[np.float32]
Rows = dict[str, npt.NDArray[np.int64]]
OnEpoch = Callable[[str, int, dict[str, Any]], None]
"""``on_epoch(label, n_epochs, entry)`` after each epoch, with its line of ``metrics.jsonl``."""


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
        return _run_fold(request, on_epoch, team)


def _run_fold(request: RunRequest, on_epoch: OnEpoch | None, team: Team) -> Outcome:
    if request.threads:
        torch.set_num_threads(request.threads)
    if request.tensorboard:
        refuse_without_tensorboard()
    store = open_store(request.store)
    key = key_of(store, request.fold, request.settings, request.weights, request.device)
    losses, cross_fit = request.settings.losses, request.settings.targets.cross_fit
    terms = losses.for_teachers(store.teacher_names(request.fold, cross_fit))
    require_teachers(store, request.fold, losses, cross_fit)
    run = RunFolder.of(request.runs, request.experiment, key, request.fold, request.settings.seed)
    if team.any(team.leads and run.done):
        return skipped(request.fold, run, store.classes, "finished before")
    with run.held() if team.leads else nullcontext():
        if team.any(team.leads and run.done):
            return skipped(request.fold, run, store.classes, "finished meanwhile")
        with noted(request, run, leads=team.leads) as tell:
            device = team.device or pick_device(request.device)
            matched = [name for name, term in terms.items() if losses.beta * term.weight > 0]
            targets = load_targets(
                store, request.fold, device, matched=matched, cross_fit=cross_fit
            )
            store.check_parents(store.unit("audio", deep=True))
            store.check_parents(store.record("lld", deep=True))  # its values are for the teachers
            trainer = _Trainer(request, store, targets, run, key, device, team)
            return trainer.run(on_epoch, tell)


def skipped(fold: int, run: RunFolder, classes: tuple[str, ...], why: str) -> Outcome:
    """A run that was finished, with the scores that its predictions tell."""
    run.tidy()
    found = from_predictions(run.read_predictions(), classes)
    return Outcome(fold, "skipped", run.path, why, found.wa, found.ua)


class _Trainer:
    """A run in progress: the student, its position, and the data that it is fed."""

    def __init__(
        self,
        request: RunRequest,
        store: Store,
        targets: FoldTargets,
        run: RunFolder,
        key: str,
        device: torch.device,
        team: Team,
    ) -> None:
        self.request, self.store, self.run_folder = request, store, run
        self.settings, self.key, self.device, self.team = request.settings, key, device, team
        if self.settings.targets.tau == "validation":
            fitted = calibrated(self.settings.losses, targets)
            self.settings = self.settings.model_copy(update={"losses": fitted})
        targets = shuffled(targets, self.settings.targets.shuffle, self.settings.seed)
        self.targets = targets
        self.signals: Signals = open_signals(store, request.root, check=False)
        self.lengths = store.lengths
        self.rows: Rows = rows_of(targets)
        self.labels = targets.labels.cpu().numpy()
        self.budget = round(self.settings.stream.max_batch_s * SAMPLING_RATE)
        self.student = build_student(
            self.settings.student, targets.classes, targets.widths, request.weights,
            self.settings.seed,
        ).to(device)  # fmt: skip
        team.align(self.student)
        seed_all(_seed(self.settings.seed, team.rank))
        optim = self.settings.optim
        train = self.rows["train"]
        weights = (
            class_weights(self.labels[train], len(targets.classes)).to(device)
            if optim.class_weights
            else None
        )
        self.n_steps = steps_an_epoch(len(train), optim.batch_size)
        self.stepper = Stepper(
            self.student, self.settings, targets, self.n_steps * optim.epochs, device, weights,
            utterance_ids=store.utterances["utterance_id"].tolist(), team=team,
        )  # fmt: skip
        self.position = Position()
        self.best: dict[str, torch.Tensor] = {}

    def run(self, on_epoch: OnEpoch | None, tell: Tell) -> Outcome:
        """From wherever the run stands to its end."""
        self._resume()
        n_epochs = self.settings.optim.epochs
        tell(self.position.epoch - 1, n_epochs)
        if self.team.leads:
            self._describe()
        began = time.monotonic() - self.position.seconds
        while self.position.epoch <= n_epochs:
            if not self._epoch(began):
                self.position.seconds = time.monotonic() - began
                self._checkpoint()
                return Outcome(
                    self.request.fold, "stopped", self.run_folder.path,
                    f"stopped after {self.position.total} optimiser step(s), as asked",
                )  # fmt: skip
            entry = self._close_epoch(began)
            tell(entry["epoch"], n_epochs, epoch_note(entry))
            if on_epoch is not None:
                on_epoch(self.request.label, n_epochs, entry)
            self._checkpoint()
        return self._finish(time.monotonic() - began)

    def _epoch(self, began: float) -> bool:
        """Train to the end of the epoch; False where ``max_steps`` ends it before."""
        optim, position = self.settings.optim, self.position
        if self._stops():
            return False
        steps = steps_of_epoch(
            self.rows["train"], self.lengths, optim.batch_size, self.settings.stream.pool,
            self.settings.seed, position.epoch,
        )  # fmt: skip
        plans = plan_steps(steps[position.step :], self.lengths, self.budget, self.team)
        augment = augmentation(self.settings.stream.augment, self.settings.seed, position.epoch)
        self.student.train()
        saved = time.monotonic()
        for batch in stream(
            self.signals, plans, self.lengths, pin=self.device.type == "cuda", augment=augment
        ):
            self.stepper.micro(batch)
            if not batch.ends_step:
                continue
            position.step += 1
            position.total += 1
            if self._stops():
                return False
            due = self.team.leads and time.monotonic() - saved > CHECKPOINT_EVERY_S
            if self.team.any(due) and position.step < self.n_steps:
                position.seconds = time.monotonic() - began
                self._checkpoint()
                saved = time.monotonic()
        return True

    def _stops(self) -> bool:
        limit = self.request.max_steps
        return limit is not None and self.position.total >= limit

    def _close_epoch(self, began: float) -> dict[str, Any]:
        """Score the validation speaker, keep the best weights, and log the epoch."""
        position = self.position
        terms, gradients = StepReport.of(self.team.gather(self.stepper.report)).means()
        self.stepper.report = StepReport()
        entry: dict[str, Any] = {
            "epoch": position.epoch,
            "train": terms,
            "gradients": gradients,
            "lr": self.stepper.schedule.get_last_lr()[-1],
        }
        if len(self.rows["validation"]):
            entry["validation"] = self._validate()
            score = (entry["validation"]["ua"], -entry["validation"]["loss"])
            selects = self.settings.optim.selection == "validation_ua"
            if selects and (score > position.best_score or not position.best_epoch):
                position.best_epoch, position.best_score = position.epoch, score
                self.best = {k: v.detach().clone() for k, v in self.student.state_dict().items()}
        position.seconds = time.monotonic() - began
        entry["seconds"] = round(position.seconds, 3)
        position.history.append(entry)
        position.epoch, position.step = position.epoch + 1, 0
        if self.team.leads:
            self.run_folder.write_metrics(position.history)
        if self.team.leads and self.request.tensorboard:
            log_epoch(self.run_folder.path, entry)
        return entry

    def _validate(self) -> dict[str, float]:
        rows = self.rows["validation"]
        logits, truth = self._evaluate("validation"), self.labels[rows]
        loss = torch.nn.functional.cross_entropy(torch.from_numpy(logits), torch.from_numpy(truth))
        prediction = logits.argmax(1)
        return {
            "wa": wa(truth, prediction),
            "ua": ua(truth, prediction, len(self.targets.classes)),
            "loss": float(loss),
        }

    def _evaluate(self, role: str) -> Floats:
        """Logits of a role's rows, in order: ``[rows, C]``; each process computes its share."""
        rows = self.team.share(self.rows[role], self.lengths)
        plans = list(evaluation_batches(rows, self.lengths, self.budget))
        own = np.zeros((0, len(self.targets.classes)), dtype=np.float32)
        if plans:
            own = self.stepper.evaluate(self.signals, plans, self.lengths)
        shares = self.team.gather((np.sort(rows), own))
        order = np.argsort(np.concatenate([share for share, _ in shares]))
        logits: Floats = np.concatenate([part for _, part in shares])[order]
        if not np.isfinite(logits).all():
            raise TaskFailed(
                f"the student's {role} logits are not finite in epoch {self.position.epoch}",
                "lower optim.lr, or use precision = fp32",
            )
        return logits

    def _checkpoint(self) -> None:
        save_standing(self.run_folder.path / "checkpoint", self.position, self.stepper, self.best)

    def _resume(self) -> None:
        found = load_standing(self.run_folder.path / "checkpoint", self.stepper)
        if found is None:
            return
        self.position, self.best = found
        say(
            f"{self.request.label}: resumed at epoch {self.position.epoch}, "
            f"step {self.position.step}"
        )

    def _finish(self, seconds: float) -> Outcome:
        """Best weights back, test speaker once, and everything written."""
        if self.best:
            self.student.load_state_dict(self.best)
        else:
            self.position.best_epoch = self.settings.optim.epochs
        roles = {role: self.rows[role] for role in ("test", "validation") if len(self.rows[role])}
        logits = {role: self._evaluate(role) for role in roles}
        if self.team.leads:
            self._write(roles, logits, seconds)
        truth, prediction = self.labels[roles["test"]], logits["test"].argmax(1)
        return Outcome(
            self.request.fold, "done", self.run_folder.path, "",
            wa(truth, prediction), ua(truth, prediction, len(self.targets.classes)), seconds,
        )  # fmt: skip

    def _write(self, roles: Rows, logits: dict[str, Floats], seconds: float) -> None:
        """All that a finished run leaves, its mark last."""
        table = predictions_table(
            self.store.utterances, roles, logits, self.labels, self.targets.classes,
            self.request.fold,
        )  # fmt: skip
        said = {name: output.logits for name, output in self.targets.outputs.items()}
        teachers = teachers_table(
            self.store.utterances, self.rows, said, self.labels, self.targets.classes,
            self.request.fold,
        )  # fmt: skip
        self.student.save_pretrained(self.run_folder.path / "student")
        self.run_folder.write_predictions(table)
        self.run_folder.write_teachers(teachers)
        self._describe(best_epoch=self.position.best_epoch, seconds=round(seconds, 1))
        self.run_folder.finish()
        shutil.rmtree(self.run_folder.path / "checkpoint", ignore_errors=True)

    def _describe(self, **outcome: Any) -> None:
        """``config.toml`` and ``run.json``: what this run is, and later how it ended."""
        request = self.request
        facts = run_facts(
            self.store, self.targets, self.student, self.settings, self.key, request.experiment,
            request.variant, processes=self.team.size, **outcome,
        )  # fmt: skip
        self.run_folder.write_text("config.toml", to_toml(portable(request.settings)))
        self.run_folder.write_json("run.json", facts.model_dump(mode="json", by_alias=True))


def _seed(seed: int, rank: int) -> int:
    """Of a process' dropout: the run's own seed alone, else masks that no other process draws."""
    return int(generator(seed, rank).integers(2**63)) if rank else seed
