"""Every rendering of a report shows the same values, and faults that went unseen once are seen."""

from __future__ import annotations

import html
import re
from pathlib import Path

import pytest

from distill.report import collect, pages, summarise
from distill.report.data import Report
from distill.report.sections import sections
from distill.report.tables import Table, to_json, to_markdown, to_terminal
from tests.distill.report.experiment_runs import printed
from tests.distill.report.fake_runs import facts, write_run
from tests.distill.report.html_page import Page
from tests.distill.report.recompute import Group, comparisons, teacher

KEYS = {"full": 0.74, "ce-only": 0.6}


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("renderings")
    for key, hit in KEYS.items():
        for fold in range(1, 6):
            write_run(root, facts(fold, 1, variant=key, key=key, n_folds=5), hit=hit)
    return root


@pytest.fixture(scope="module")
def report(root: Path) -> Report:
    return summarise(collect([root]))


@pytest.fixture(scope="module")
def page(report: Report) -> Page:
    return Page(pages.html(report, [{}]))


@pytest.fixture(scope="module")
def markdown(report: Report) -> str:
    return pages.markdown(report, [{}], [""])


def tables_of(report: Report) -> list[Table]:
    (study,) = report.studies
    return [table for section in sections(study) for table in section.tables if table.rows]


def cells_of(markdown: str) -> list[list[str]]:
    """A Markdown table's rows as text, without its header."""
    rows = [re.split(r" (?<!\\)\| ", row.strip("| ")) for row in markdown.splitlines()[2:]]
    return [[html.unescape(re.sub(r"\\(.)", r"\1", cell)) for cell in row] for row in rows]


def test_every_rendering_shows_every_cell(report: Report, page: Page, markdown: str) -> None:
    tables = tables_of(report)
    assert len(tables) == len(page.tables) > 10
    for table, shown in zip(tables, page.tables, strict=True):
        assert shown.caption == table.title
        assert shown.rows == [[name for name, _ in table.columns], *table.cells]
        assert cells_of(to_markdown(table)) == table.cells
        assert to_markdown(table) in markdown
        columns = to_terminal(table).columns
        across = zip(*([str(cell) for cell in column.cells] for column in columns), strict=True)
        assert [list(row) for row in across] == table.cells
        assert len(to_json(table)["rows"]) == len(table.rows)


@pytest.mark.parametrize("metric", ["wa", "ua"])
def test_the_interval_of_a_difference_stands_in_its_own_row(
    root: Path, report: Report, page: Page, markdown: str, metric: str
) -> None:
    """WA's interval in UA's row went unseen in the Markdown and the terminal once."""
    (own,) = comparisons(Group(root / "main" / "full"), [Group(root / "main" / "ce-only")])
    assert own["wa_interval"] != own["ua_interval"]
    low, high = (100 * own[f"{metric}_interval"][end] for end in ("low", "high"))
    terminal = printed(report, 120)
    table = page.table("Difference from full")
    (row,) = [row for row in table.rows if row[1] == metric.upper()]
    text = f"[{low:+.2f}, {high:+.2f}]"
    assert text in row
    lines = [*markdown.splitlines(), *terminal.splitlines()]
    shown = [line for line in lines if metric.upper() in line and re.search(r"\[[+-]", line)]
    assert len(shown) == 2
    assert all(text in line.replace("\\", "") for line in shown)


def test_what_a_teacher_saw_stands_under_its_own_heading(
    root: Path, report: Report, page: Page, markdown: str
) -> None:
    """UA on the training speakers was shown as that on the validation speakers once."""
    for name in ("linguistic", "prosodic"):
        own = teacher(name, Group(root / "main" / "full"))
        values = [own["train_ua"], own["validation_ua"], own["results"]["ua"]]
        cells = [f"{100 * value['mean']:.2f} ± {100 * value['std']:.2f}" for value in values]
        assert len(set(cells)) == 3
        row = [f"{name} teacher", *cells]
        assert row in page.table("UA of each teacher").rows
        assert f"| {' | '.join(row)} |" in markdown
        lines = [re.split(r" {2,}", line.strip()) for line in printed(report).splitlines()]
        assert row in lines
        heading = ["training speakers", "validation speaker", "test speaker"]
        assert ["row", *heading] in lines
        assert f"| row | {' | '.join(heading)} |" in markdown
