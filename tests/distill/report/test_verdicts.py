"""What a report says in words of its tables."""

from __future__ import annotations

import json
from pathlib import Path

from distill.report import collect, document, summarise
from distill.report.words import significance
from tests.distill.report.experiment_runs import only, printed, row, run
from tests.distill.report.fake_runs import write_record


def test_verdicts_in_words(tmp_path: Path) -> None:
    for key, hit in (("a", 0.95), ("b", 0.5), ("c", 0.94)):
        for fold in range(1, 9):
            run(tmp_path, key, fold, hit=hit, variant=key, n_folds=8)
    ua, wa = significance(only(tmp_path, row("a"), row("b", "b"), row("c", "c")).comparisons)
    assert ua.startswith("UA, 5 % level after Holm's correction: significantly different from a: b")
    assert "not significantly different: c (" in ua
    assert wa.startswith("WA, 5 % level")
    assert "cannot show more" not in ua


def test_what_few_folds_cannot_show_is_said(tmp_path: Path) -> None:
    for key in ("a", "b", "c"):
        for fold in range(1, 7):
            run(tmp_path, key, fold, hit=0.9 if key == "a" else 0.4, variant=key, n_folds=6)
    pair, three = [row("a"), row("b", "b")], [row("a"), row("b", "b"), row("c", "c")]
    assert "significantly different from a: b" in significance(only(tmp_path, *pair).comparisons)[0]
    said = significance(only(tmp_path, *three).comparisons)[
        0
    ]  # 2/64 is twice too large for two rows
    assert "not significantly different: b" in said
    assert "the smallest p that they allow is 0.0312, times 2 rows 0.0625" in said


def test_one_fold_alone_is_reported_without_any_statistic(tmp_path: Path) -> None:
    run(tmp_path, "a")
    run(tmp_path, "b", variant="ce-only")
    write_record(tmp_path, "mine", [row("a"), row("b", "ce-only")])
    report = summarise(collect([tmp_path]))
    (compared,) = report.studies[0].experiments[0].comparisons
    assert (compared.ua_sign_flip.p, compared.ua_interval, compared.ua_spread.std) == (
        None,
        None,
        None,
    )
    student = report.studies[0].students[0]
    assert student.results.no_interval == "too few speakers to resample: 1, fewer than 3"
    assert "not tested, for want of a second fold: b" in significance((compared,))[0]
    json.dumps(document(report), allow_nan=False)
    assert "too few speakers" in printed(report)
