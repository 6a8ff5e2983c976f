"""Sections of the page about training: curves, loss terms, cost and settings."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from distill.report import wording
from distill.report.blocks import Cell, Section, Table
from distill.report.data import Student, Study
from distill.report.page_scores import MISSING, Figures, shown
from distill.report.results import LossTerm
from distill.report.wording import NONE, percent


def curves(study: Study, figures: Figures) -> Section | None:
    """Learning curves."""
    blocks = shown(figures, "curves")
    return Section("learning", "Learning curves", blocks) if blocks else None


def losses(study: Study, figures: Figures) -> Section | None:
    """Loss terms, and how much of the gradient each accounts for."""
    students = [student for student in study.students if student.terms]
    names = list(dict.fromkeys(term.name for student in students for term in student.terms))
    if not names:
        return None
    tables = [
        Table(
            "Loss terms, unweighted, mean over the runs: all epochs / last epoch",
            ["", *names],
            [_terms(student, names, _loss) for student in students],
            note="ce: cross-entropy with the label; kl and cos: eqs. 1-5, one term each teacher; "
            "total: their weighted sum.",
        )
    ]
    shares = [s for s in students if any(t.share_mean is not None for t in s.terms)]
    weighted = [name for name in names if name != "total"]
    if shares:
        tables.append(
            Table(
                "Share of each weighted term in the gradient, percent: all epochs / last epoch",
                ["", *weighted],
                [_terms(student, weighted, _share) for student in shares],
                note=wording.TERMS,
            )
        )
    return Section("losses", "Loss terms and gradients", [*tables, *shown(figures, "gradients")])


def _terms(
    student: Student, names: Sequence[str], show: Callable[[LossTerm], str | Cell]
) -> list[str | Cell]:
    known = {term.name: term for term in student.terms}
    return [student.label, *(show(known[n]) if n in known else MISSING for n in names)]


def _loss(term: LossTerm) -> str | Cell:
    return f"{term.mean:.4g} / {term.last:.4g}"


def _share(term: LossTerm) -> str | Cell:
    if term.share_mean is None:
        return MISSING
    return f"{percent(term.share_mean, 1)} / {percent(term.share_last, 1)}"


def cost(study: Study) -> Section:
    """Training time; nothing is said of what was not measured."""
    rows: list[list[str | Cell]] = []
    for s in study.students:
        each = s.seconds_per_run
        per_run = NONE if each is None else f"{each.mean:,.1f}"
        if each is not None and each.std is not None:
            per_run += f" ± {each.std:,.1f}"
        rows.append([
            s.label,
            NONE if s.parameters is None else f"{s.parameters:,}",
            str(len(s.runs)),
            per_run,
            NONE if s.seconds is None else f"{s.seconds / 60:,.1f}",
        ])  # fmt: skip
    table = Table(
        "Training of the students",
        ("", "parameters", "runs", "seconds a run", "minutes, all runs"),
        rows,
        note=f"Seconds a run: mean ± sample standard deviation over the runs. {wording.COST}",
    )
    return Section("cost", "Cost", [table])


def settings(study: Study) -> Section | None:
    """Settings that are not the same for all students, and the teachers' temperatures."""
    columns = dict(wording.differing(study.students))
    for name in sorted({name for student in study.students for name in student.temperatures}):
        columns[f"tau of the {name} teacher"] = tuple(
            ", ".join(f"{tau:g}" for tau in student.temperatures.get(name, ())) or NONE
            for student in study.students
        )
    if not columns:
        return None
    labels = [student.label for student in study.students]
    caption = "Settings that are not the same for all students, and temperatures"
    if len(columns) < len(labels):  # the narrower way round
        turned = zip(labels, *columns.values(), strict=True)
        rows = [list(cells) for cells in turned]
        table = Table(caption, ["", *columns], rows)
    else:
        table = Table(caption, ["", *labels], [[key, *values] for key, values in columns.items()])
    return Section("settings", "Settings", [table])
