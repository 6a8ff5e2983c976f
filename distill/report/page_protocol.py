"""Sections of the page about how it was measured, and what the paper printed."""

from __future__ import annotations

from distill.report import published, wording
from distill.report.blocks import Block, Cell, Facts, Section, Table, Words
from distill.report.data import FoldSplit, Study
from distill.report.page_scores import MISSING
from distill.report.wording import NONE, published_pair

SCHEMES = {
    "speaker": "each fold leaves one speaker out",
    "session": "each fold leaves one session out",
    "groups": "each fold leaves a group of speakers out",
}


VALIDATION = {
    "partner": "the test speaker's partner in the session; the best epoch is chosen on it",
    "none": "none: every speaker but the tested is trained on, for all epochs",
}
KINDS = {"all": "scripted and improvised together"}


def protocol(study: Study) -> Section:
    """All that decides what the numbers mean."""
    facts = study.protocol
    seeds = sorted({seed for student in study.students for seed in student.seeds})
    versions = [f"{name} {' and '.join(seen)}" for name, seen in study.versions.items()]
    pairs = [
        ("corpus", study.dataset + (", full release" if study.full_release else "")),
        ("classes", ", ".join(study.classes)),
        ("labels", _labels(study)),
        ("folds", f"{study.n_folds}; {SCHEMES.get(facts.scheme, facts.scheme)}"),
        ("validation", VALIDATION.get(facts.validation, facts.validation)),
        ("utterances", KINDS.get(facts.kind, facts.kind)),
        ("texts", "the test speaker's texts are dropped from training" if facts.script_disjoint
         else "the test speaker's texts may be in training, spoken by others"),
        ("text overlap", _overlap(study)),
        ("speakers", _audit(study)),
        ("seeds", ", ".join(map(str, seeds)) or NONE),
        ("store fingerprints", ", ".join(sorted({row.store for row in study.rows}))),
        ("versions", ", ".join(versions) or NONE),
        ("paper", wording.paper_line(study)),
    ]  # fmt: skip
    blocks: list[Block] = [Facts(pairs), *_splits(study), _runs(study)]
    return Section("protocol", "Protocol in full", blocks)


def _labels(study: Study) -> str:
    if study.label_map is None:
        return "the runs do not tell which of the corpus' labels each class stands for"
    pairs = ", ".join(f"{raw} → {name}" for raw, name in study.label_map.items())
    return f"{pairs or NONE}; utterances of all other labels are left out"


def _overlap(study: Study) -> str:
    known = [fold for fold in study.folds if fold.n_shared_texts is not None]
    if not known:
        return "the runs do not tell how many test utterances share their words with training"
    shared = sum(fold.n_shared_texts or 0 for fold in known)
    total = sum(fold.n_test for fold in known)
    return f"{shared:,} of {total:,} test utterances have their exact words in training, too"


def _audit(study: Study) -> str:
    """The speaker audit: that no fold tests whom it trained or validated on."""
    mixed = [fold for fold in study.folds if set(fold.test) & {*fold.validation, *fold.train}]
    if mixed:
        return f"{len(mixed)} fold(s) test a speaker that they trained or validated on"
    tested = {speaker for fold in study.folds for speaker in fold.test}
    return (
        f"{len(tested)} tested; in none of {len(study.folds)} folds is a test speaker among those "
        "trained or validated on"
    )


def _splits(study: Study) -> list[Block]:
    stores = list(dict.fromkeys(fold.store for fold in study.folds))
    return [
        Table(
            "Who is tested, validated and trained on"
            + (f", store {store[:12]}" if len(stores) > 1 else ""),
            ("fold", "test", "validation", "training", "test utterances", "shared texts"),
            [_split(fold) for fold in study.folds if fold.store == store],
            left=4,
        )
        for store in stores
    ]


def _split(fold: FoldSplit) -> list[str | Cell]:
    shared = MISSING if fold.n_shared_texts is None else f"{fold.n_shared_texts:,}"
    return [
        str(fold.fold), ", ".join(fold.test), ", ".join(fold.validation) or "none",
        ", ".join(fold.train), f"{fold.n_test:,}", shared,
    ]  # fmt: skip


def _runs(study: Study) -> Table:
    return Table(
        "Where each student's numbers come from",
        ("student", "runs", "store", "seeds"),
        [
            (s.label, f"{s.experiment}/{s.key}", s.store[:12], ", ".join(map(str, s.seeds)))
            for s in study.students
        ],
        left=4,
    )


def paper(study: Study) -> Section | None:
    """What the paper printed, where it may be compared with."""
    if study.incomparable:
        return None
    printed = published.load()
    one = [
        (m.method + (f" [{m.reference}]" if m.reference else ""), m.backbone, m.modality,
         *published_pair(m).split(" / "))
        for m in printed.table1
    ]  # fmt: skip
    two = [(row.printed, *published_pair(row).split(" / ")) for row in printed.table2]
    return Section(
        "paper",
        "What the paper printed",
        [
            Table("Table 1", ("method", "backbone", "modality", "WA", "UA"), one, left=3),
            Table("Table 2, HuBERT-base", ("", "WA", "UA"), two),
            Words(" ".join(printed.source.note.split())),
        ],
    )
