"""What would a step cost with both teachers in the loop, in place of their cached outputs?

As published code does it: the frozen teachers run on every batch, on transcripts and LLDs. The
LLDs are (a) in memory, normalised, or (b) extracted from each batch's signals. Everything else,
the store's reads included, is the same code.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, cast

import numpy as np
import numpy.typing as npt
import torch

from benchmarks import stores
from benchmarks.common import Answer, Bench, Row, Times, judged, told
from benchmarks.students import CPU, Case, cases, learner_of, train, with_widths
from distill.data import FoldTargets, Pair, load_targets, open_signals
from featstore.core.config import LinguisticSettings, ProsodicSettings
from featstore.features import lld
from featstore.store.store import Store
from featstore.teachers import FoldData, linguistic, prosodic
from featstore.teachers.finetune import Batch

Rows = npt.NDArray[np.int64]
Images = Callable[[Rows], Batch]
Speak = Callable[[Rows], Pair]
ROUNDS = 5
GOALS: Mapping[tuple[str, str], float] = {("tiny", "a"): 1.3, ("tiny", "b"): 8.0}


@dataclass(frozen=True)
class Live:
    """Stands where :class:`FoldTargets` does, and asks the teachers instead."""

    cached: FoldTargets
    teachers: Mapping[str, Speak]

    def rows(self, role: int) -> Rows:
        """See :meth:`FoldTargets.rows`."""
        return self.cached.rows(role)

    def batch(self, rows: torch.Tensor) -> tuple[torch.Tensor, dict[str, Pair]]:
        """See :meth:`FoldTargets.batch`."""
        wanted = rows.numpy()
        return self.cached.labels[rows], {
            name: speak(wanted) for name, speak in self.teachers.items()
        }


def measure(bench: Bench) -> Answer:
    """The tiny student with tiny teachers, HuBERT-base with the paper's."""
    store = stores.store(bench, bench.pick(stores.SIZES[0], 80))
    rows: list[Row] = []
    notes = [
        "Random weights everywhere: BERT-base and ResNet 64-128-256-512 beside HuBERT-base, BERT "
        "2 x 128 and ResNet 16-32-64-128 beside the tiny student. LLDs are extracted by the "
        "training process itself, one core.",
    ]
    measured: dict[str, Sequence[float]] = {}
    for case in cases(bench, store):
        times = _time(bench, case, store)
        for variant, what in (("a", "LLDs in memory"), ("b", "LLDs extracted in the loop")):
            rows.append(_row(case, times, variant, what))
        notes.append(f"{case.told}.")
        measured |= {f"{case.name}: {name}, s": s for name, s in times.wall_s.items()}
    return Answer(rows, notes, measured)


def _row(case: Case, times: Times, variant: str, what: str) -> Row:
    tiny = "tiny" if case.name.startswith("tiny") else ""
    cpu = told(times.ratio(variant, "cached", cpu=True), "x")
    return judged(
        f"step with cached targets, store reads counted: {case.name}",
        f"both teachers in the loop, ({variant}) {what}",
        times.ratio(variant, "cached"),
        at_least=GOALS.get((tiny, variant)),
        unit="x",
        reason=f"by CPU time it is {cpu}; the teachers are that small beside this student",
    )


def _time(bench: Bench, case: Case, store: Store) -> Times:
    speakers = _teachers(bench, store, tiny=case.name.startswith("tiny"))
    one = np.array([0], dtype=np.int64)
    widths = {name: speak(one)[1].shape[1] for name, speak in speakers["a"].items()}
    targets = with_widths(load_targets(store, 1, CPU), widths)
    learner = learner_of(bench, case, targets)
    targets = learner.targets
    signals, lengths = open_signals(store, None, check=False), store.lengths

    def step(with_targets: Any) -> None:
        learner.targets = cast("FoldTargets", with_targets)
        train(learner, case, signals, lengths)

    live = {name: Live(targets, speak) for name, speak in speakers.items()}
    variants = {"cached": targets, **live}
    return bench.time({name: partial(step, value) for name, value in variants.items()}, ROUNDS)


def _teachers(bench: Bench, store: Store, tiny: bool) -> dict[str, dict[str, Speak]]:
    """Both variants' teachers; they differ in where the LLDs come from."""
    columns, table = tuple(store.unit("lld").facts["names"]), store.utterances
    data = FoldData(
        tuple(table["text"]), tuple(table["speaker"]), store.labels, store.roles[0],
        len(store.classes), list(store.lld.in_order()), columns,
    )  # fmt: skip
    words = _tiny_bert(data) if tiny else _bert_base(data, bench.pick(12, 1))
    small = ProsodicSettings(channels=(16, 32, 64, 128), time_stride=8)
    voice = small if tiny else ProsodicSettings()
    task = prosodic.prepare(data, voice)
    normaliser = lld.Normaliser.fit((store.lld.read(row) for row in data.train_rows), columns)

    def extracted(rows: Rows) -> Batch:
        images = [normaliser.apply(lld.extract(store.audio.read(row))) for row in rows.tolist()]
        return prosodic.collate(images, voice, np.arange(len(images)), None)

    model = task.model.eval()
    return {
        "a": {"linguistic": words, "prosodic": partial(_ask, model, _evaluating(task.collate))},
        "b": {"linguistic": words, "prosodic": partial(_ask, model, extracted)},
    }


def _tiny_bert(data: FoldData) -> Speak:
    task = linguistic.prepare(data, LinguisticSettings(model="tiny"))
    return partial(_ask, task.model.eval(), _evaluating(task.collate))


def _bert_base(data: FoldData, layers: int) -> Speak:
    """BERT-base's architecture with drawn weights, on as many tokens as the transcripts have."""
    from transformers import BertConfig, BertModel

    config = BertConfig(num_hidden_layers=layers)
    rng = np.random.default_rng(0)
    tokens = [rng.integers(999, config.vocab_size, 2 + len(t.split())).tolist() for t in data.texts]
    encoder = BertModel(config, add_pooling_layer=False)
    model = linguistic.LinguisticTeacher(
        encoder, config.hidden_size, LinguisticSettings(), data.n_classes
    )
    collate = partial(linguistic.collate, tokens, 0)
    return partial(_ask, model.eval(), _evaluating(collate))


def _evaluating(collate: Callable[..., Batch]) -> Images:
    return lambda rows: collate(rows, None)


def _ask(model: torch.nn.Module, images: Images, rows: Rows) -> Pair:
    with torch.no_grad():
        logits, embeddings = model(**images(rows))
    return logits, embeddings
