from __future__ import annotations

import pytest

from distill.config import VARIANTS
from distill.report.published import load

PRINTED = load()


def test_table_1_is_whole_and_its_claimed_gains_add_up() -> None:
    rows = {(row.method, row.backbone): row for row in PRINTED.table1}
    assert len(PRINTED.table1) == len(rows) == 13
    best_before, ours = rows["Ye et al. 2023", "TIM-Net"], rows["EmoDistill", "HuBERT-large"]
    assert ours.wa - best_before.wa == pytest.approx(4.99)
    assert ours.ua - best_before.ua == pytest.approx(7.26)
    # the one dash of the table
    assert [row.method for row in PRINTED.table1 if row.wa is None] == [
        "Triantafyllopoulos et al. 2023"
    ]
    assert max(row.ua for row in PRINTED.table1 if row.method != "EmoDistill") == 74.33


def test_table_2_has_the_drops_that_the_paper_prints_beside_it() -> None:
    full, *others = PRINTED.table2
    drops = [(full.wa - row.wa, full.ua - row.ua) for row in others]
    printed = [
        (1.22, 2.10), (1.28, 2.11), (1.07, 3.30), (9.15, 8.85), (5.24, 5.95), (25.74, 26.04),
        (4.07, 4.29),
    ]  # fmt: skip
    for drop, expected in zip(drops, printed, strict=True):
        assert drop == pytest.approx(expected, abs=1e-9)


def test_the_two_tables_agree_on_hubert_base() -> None:
    (base,) = [row for row in PRINTED.table1 if row.student == "hubert-base"]
    assert (base.wa, base.ua) == (PRINTED.table2[0].wa, PRINTED.table2[0].ua)


def test_every_variant_of_the_paper_is_one_that_we_train() -> None:
    printed = {row.variant for row in PRINTED.table2 if row.variant}
    assert printed | {sweep.variant for sweep in PRINTED.figure2} == printed == set(VARIANTS)


def test_figure_2_sweeps_the_remaining_teacher() -> None:
    left, right = PRINTED.figure2
    assert (left.variant, left.teacher, left.tau, left.best) == (
        "no-linguistic", "prosodic", (0.1, 0.5, 2, 4), 0.5
    )  # fmt: skip
    assert (right.variant, right.teacher, right.tau, right.best) == (
        "no-prosodic", "linguistic", (0.5, 2, 4, 10), 4
    )  # fmt: skip


@pytest.mark.parametrize(
    ("variant", "backbone", "expected"),
    [
        ("full", "hubert-base", (75.16, 76.12)),
        ("full", "hf:facebook/hubert-base-ls960", (75.16, 76.12)),
        ("full", "hubert-large", (77.49, 78.91)),
        ("no-logits", "hubert-base", (73.94, 74.02)),
        ("no-embeddings", "hubert-base", (73.88, 74.01)),
        ("no-prosodic", "hubert-base", (74.09, 72.82)),
        ("no-linguistic", "hubert-base", (66.01, 67.27)),
        ("ce-only", "hubert-base", (69.92, 70.17)),
        ("ce-only", "hubert-large", None),
        ("full", "tiny", None),
        ("shuffled", "hubert-base", None),
    ],
)
def test_which_student_has_which_figure(
    variant: str, backbone: str, expected: tuple[float, float] | None
) -> None:
    figures = PRINTED.student(variant, backbone)
    assert (figures and (figures.wa, figures.ua)) == expected


def test_which_teacher_has_which_figure() -> None:
    assert all((row.variant is None) != (row.teacher is None) for row in PRINTED.table2)
    assert PRINTED.teacher("linguistic").wa == 71.09
    assert PRINTED.teacher("prosodic").wa == 49.42
    assert PRINTED.teacher("second-text-encoder") is None
