"""Sections of the page about the teachers, and about how sure everyone is."""

from __future__ import annotations

from distill.report import wording
from distill.report.blocks import Block, Items, Section, Table
from distill.report.data import Study, Teacher
from distill.report.page_scores import MISSING, Figures, shown
from distill.report.wording import percent, plus_minus


def teachers(study: Study) -> Section | None:
    """Teachers on what they saw and what they did not, and how far they agree."""
    if not study.teachers:
        return None
    rows = [
        (wording.named(t), plus_minus(t.train_ua), plus_minus(t.validation_ua),
         plus_minus(t.results.ua))
        for t in study.teachers
    ]  # fmt: skip
    header = ("", "training speakers", "validation speaker", "test speaker")
    blocks: list[Block] = [
        Table("UA of each teacher, percent, by what it saw", header, rows,
              note=wording.TEACHERS_FROM)
    ]  # fmt: skip
    if study.agreements:
        blocks.append(_agreements(study))
    return Section("teachers", "Teachers", blocks)


def _agreements(study: Study) -> Table:
    rows = [
        [a.first, a.second, f"{a.n:,}", percent(a.share),
         MISSING if a.kappa is None else f"{a.kappa:.3f}",
         percent(a.both_right), percent(a.first_right), percent(a.second_right)]
        for a in study.agreements
    ]  # fmt: skip
    header = ("first", "second", "utterances", "same answer", "kappa", "both", "first", "second")
    return Table(
        "How far they agree on the test speakers, percent of utterances",
        header,
        rows,
        left=2,
        spans=(("", 5), ("right: both, or one alone", 3)),
        note="Kappa: Cohen's, agreement beyond chance. Two that are right on different utterances "
        "know different things.",
    )


def calibration(study: Study, figures: Figures) -> Section | None:
    """Whether stated confidence is borne out."""
    rows = [
        (row.label, c.role, f"{c.n:,}", percent(c.confidence), percent(c.accuracy),
         percent(c.ece), f"{c.nll:.3f}")
        for row in study.rows
        for c in row.calibration
    ]  # fmt: skip
    why = [
        f"{row.label}: {row.no_calibration}"
        for row in study.rows
        if isinstance(row, Teacher) and row.no_calibration
    ]
    if not rows and not why:
        return None
    header = ("", "speakers", "answers", "confidence", "accuracy", "ECE", "NLL")
    blocks: list[Block] = []
    if rows:
        table = Table(
            "Calibration, percent; NLL in nats",
            header,
            rows,
            left=2,
            note="Softmax of raw logits at temperature 1. Confidence: mean probability of the "
            "answer. ECE: expected calibration error, the gap between confidence and accuracy "
            "averaged over 15 bins. NLL: mean negative log-likelihood of the truth.",
        )
        blocks = [table, *shown(figures, "reliability")]
    return Section("calibration", "Calibration", [*blocks, *([Items(why)] if why else [])])
