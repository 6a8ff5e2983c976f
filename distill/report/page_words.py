"""What the page says before any table: what was measured, in one plain paragraph."""

from __future__ import annotations

from distill.report.data import Study


def lead(study: Study) -> str:
    """What was measured, in one plain paragraph."""
    tested = {fold.fold: fold.n_test for fold in study.folds}
    seeds = sorted({seed for student in study.students for seed in student.seeds})
    people = "machine speech" if study.dataset == "synthetic" else f"the corpus {study.dataset}"
    of = f"{len(tested)} of {study.n_folds}" if len(tested) < study.n_folds else f"{len(tested)}"
    held = {"speaker": "the one speaker", "session": "the one session", "groups": "the speakers"}
    teachers = ", ".join(teacher.name for teacher in study.teachers)
    taught = (
        f" They learn from what {_count(len(study.teachers), 'teacher')} ({teachers}) made of the "
        "same utterances; the teachers' own scores stand beside theirs."
        if study.teachers
        else ""
    )
    return (
        f"How well {_count(len(study.students), 'student')} that "
        f"{'hears' if len(study.students) == 1 else 'hear'} speech alone "
        f"{'tells' if len(study.students) == 1 else 'tell'} {len(study.classes)} classes "
        f"({', '.join(study.classes)}) apart in {people}: WA and UA on "
        f"{sum(tested.values()):,} utterances of {held.get(study.protocol.scheme, 'speakers')} "
        f"that each of {of} folds leaves out, {_count(len(seeds), 'seed')}.{taught}"
    )


def _count(n: int, what: str) -> str:
    """A number with its noun.

    >>> _count(1, "seed"), _count(3, "seed")
    ('one seed', '3 seeds')
    """
    return f"one {what}" if n == 1 else f"{n} {what}s"
