"""What a report looks like: Markdown, JSON, figures and terminal."""

from __future__ import annotations

import dataclasses
import json
import re
import subprocess
from pathlib import Path

import numpy as np
import pytest
from markdown_it import MarkdownIt
from PIL import Image
from rich.cells import cell_len

from distill.report import collect, document, figures, summarise, write
from distill.report.data import Report, Study
from distill.report.words import first_lines
from distill.runs.folder import RunFolder
from distill.runs.read import RunSet
from featstore.core.schema import UserError, printable
from tests.broken import without_torchaudio
from tests.distill.report.experiment_runs import printed, row
from tests.distill.report.fake_runs import facts, write_record, write_run, write_study
from tests.reliability.harness import command

FIGURES = ["confusion", "curves", "differences", "gradients", "recall", "reliability", "scores"]
HOSTILE = ["a|b<img src=x>", "$x$ *c*", "\u202egnirts", "neu\x1b[31m", "`d`", "[e](http://f)"]


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = write_study(tmp_path_factory.mktemp("study") / "runs")
    write_run(root, facts(4, 42, variant="ce-only", key="0f9e8d7c6b5a"), done=False, epochs=3)
    return root


@pytest.fixture(scope="module")
def report(root: Path) -> Report:
    return summarise(collect([root]))


@pytest.fixture(scope="module")
def out(report: Report, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("out")
    write(report, folder)
    return folder


@pytest.fixture
def hostile(tmp_path: Path) -> Report:
    for variant in ("full", "my [red]variant[/red]"):
        record = facts(1, 42, variant=variant, key=variant[:2], classes=HOSTILE, teachers={})
        write_run(tmp_path, record | {"dataset": "<b>corpus</b>"})
    failed = write_run(tmp_path, facts(2, 42, key="b"), done=False)
    (failed / "FAILED").write_bytes(b"<b>\x1b[31m\xff|\n")
    rows = [row("fu", label="=cmd|' /C calc'!A0"), row("b", "ce-only", "<script>[red]x\u202e")]
    write_record(tmp_path, "mine", rows, title="<img src=x>")
    return summarise(collect([tmp_path]))


def test_a_smaller_report_leaves_nothing_of_the_larger_one(hostile: Report, tmp_path: Path) -> None:
    again = tmp_path / "again"
    again.mkdir()
    (again / "experiments.csv").write_text("mine")  # no report was here: nobody's to remove
    written = {path.name for path in write(hostile, again)}
    assert {path.name for path in again.iterdir()} == written | {"experiments.csv"}

    mine = {"notes.txt", "my-scores.png", "photo.png"}
    for name in mine | {"2-ravdess-curves-2.svg", "sweep-12.png"}:
        (again / name).write_text("older")
    assert {path.name for path in write(hostile, again)} == written
    assert {path.name for path in again.iterdir()} == written | mine


def drawing(content: str) -> figures.Drawing:
    return figures.Drawing("title", "key", content.encode(), b"<svg/>", 1, 1)


def rows_of(markdown: str, heading: str) -> list[list[str]]:
    """Cells of the first table below a heading."""
    table = markdown.split(heading, 1)[1].split("\n\n")[1]
    return [re.split(r" (?<!\\)\| ", line.strip("| ")) for line in table.splitlines()]


def test_all_files_are_written_and_nothing_else(out: Path, report: Report) -> None:
    names = sorted(path.name for path in out.iterdir())
    figures = [f"{name}.{kind}" for name in FIGURES for kind in ("png", "svg")]
    tables = [f"{table['name']}.csv" for table in document(report)["studies"][0]["tables"]]
    assert {"scores.csv", "runs.csv", "differences.csv", "settings.csv"} < set(tables)
    texts = ["report.html", "report.json", "report.md"]
    assert names == sorted(figures + tables + texts)
    assert json.loads((out / "report.json").read_text()) == json.loads(json.dumps(document(report)))


def test_writing_again_gives_the_same_bytes(report: Report, out: Path, tmp_path: Path) -> None:
    files = write(report, tmp_path / "again")
    assert [file.name for file in files[:2]] == ["report.html", "report.md"]
    for file in files:
        assert file.read_bytes() == (out / file.name).read_bytes()


def test_figures_have_150_dpi_and_ink(out: Path) -> None:
    for path in out.glob("*.png"):
        with Image.open(path) as image:
            assert image.info["dpi"] == pytest.approx((150, 150), abs=0.1)
            assert min(image.size) > 300
            assert 0.005 < float((np.asarray(image.convert("L")) < 128).mean()) < 0.5


def test_every_figure_of_the_page_exists(out: Path) -> None:
    linked = re.findall(r"!\[[^\]]+\]\(([^)]+)\)", (out / "report.md").read_text())
    assert sorted(linked) == [f"{name}.png" for name in FIGURES]


def test_markdown_and_terminal_show_the_numbers(report: Report, out: Path) -> None:
    full, ce_only = report.studies[0].students
    page = (out / "report.md").read_text()
    rows = {row[0]: row for row in rows_of(page, "Scores on the test speakers, percent**")}
    for student, folds in ((full, "10/10"), (ce_only, "3/10")):
        results = student.results
        mean = f"{100 * results.ua.mean:.2f} ± {100 * results.ua.std:.2f}"
        assert rows[student.label][1] == folds
        assert rows[student.label][4] == mean
        assert rows[student.label][6] == f"{100 * results.pooled.ua:.2f}"
        assert mean in printed(report)
    assert printed(report).count("ce-only · tiny, 3/10 folds") >= 4
    assert "main/0f9e8d7c6b5a/fold04-seed42" in page
    assert "main/0f9e8d7c6b5a/fold04-seed42" in printed(report)


def test_settings_that_differ_are_shown_and_others_not(out: Path) -> None:
    rows = rows_of((out / "report.md").read_text(), "**Settings that are not the same")
    assert rows[2:] == [["losses.alpha", "1.0", "0.0"], ["losses.beta", "10.0", "0.0"]]


def test_the_first_line_of_synthetic_results_says_so(out: Path, report: Report) -> None:
    for text in ((out / "report.md").read_text(), printed(report)):
        first = text.splitlines()[0]
        assert "Synthetic corpus" in first
        assert "paper's figures are not shown" in text
    natural = Study(report.studies[0], dataset="emodb")
    assert printed(dataclasses.replace(report, studies=(natural,))).startswith("emodb, leaving")
    mixed = dataclasses.replace(report, studies=(natural, report.studies[0]))
    assert first_lines(mixed)[0].startswith("One corpus below is synthetic")


@pytest.mark.parametrize("width", [80, 100, 220])
def test_no_line_is_wider_than_the_terminal_or_100_columns(report: Report, width: int) -> None:
    lines = printed(report, width).splitlines()
    assert max(map(cell_len, lines)) <= min(width, 100)
    # nothing is cut off: every number of the widest table is still there
    assert re.search(r"UA\s+pooled", printed(report, width)) or width == 80
    assert "…" not in printed(report, width)


def test_text_of_others_is_shown_and_not_obeyed(hostile: Report, tmp_path: Path) -> None:
    files = write(hostile, tmp_path / "out")
    page = (tmp_path / "out" / "report.md").read_text()
    terminal = printed(hostile)
    table = (tmp_path / "out" / "experiment-1.csv").read_text()
    for text in (page, terminal, table):
        assert "\x1b" not in text
        assert "\u202e" not in text
    assert "[red]variant[/red]" in terminal
    assert "[red]x" in terminal
    assert "\n=cmd|' /C calc'!A0," in table  # text as it is
    kinds, texts = set(), set()
    for token in MarkdownIt("commonmark", {"html": True}).enable("table").parse(page):
        for part in token.children or []:
            kinds.add(part.type)
        kinds.add(token.type)
        if token.type == "inline" and token.children:
            texts.add("".join(part.content for part in token.children))
    assert kinds.isdisjoint(
        {"html_block", "html_inline", "link_open", "em_open", "code_inline", "fence"}
    )
    assert {printable(name) for name in HOSTILE} <= texts
    assert "://" not in page  # some renderers make a link of a bare address
    assert sum(file.suffix == ".png" for file in files) == len(FIGURES)


def test_a_study_has_files_of_its_own_where_there_are_several(
    report: Report, hostile: Report, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(figures, "draw", lambda study: {"scores": drawing(study.dataset)})
    both = Report(report.studies + hostile.studies, ())
    files = {path.name: path.read_bytes() for path in write(both, tmp_path / "both")}
    assert files["1-synthetic-scores.png"] == b"synthetic"
    assert files["2-_b_corpus__b_-scores.png"] == b"<b>corpus</b>"
    assert {"1-synthetic-scores.csv", "2-_b_corpus__b_-scores.csv"} < set(files)
    others = [name for name in files if not re.match("1-synthetic-|2-_b_corpus__b_-", name)]
    assert sorted(others) == ["report.html", "report.json", "report.md"]
    assert b"](2-_b_corpus__b_-scores.png)" in files["report.md"]


def test_more_rows_than_a_figure_takes_are_left_to_the_tables(report: Report) -> None:
    (study,) = report.studies
    many = Study(study, students=study.students * 100)
    figure = figures.scores(many)
    assert figure is not None
    assert figure.get_figheight() < 40


def test_a_student_without_validation_has_no_curve(tmp_path: Path) -> None:
    folder = write_run(tmp_path, facts(1, 42, best_epoch=None))
    log = [json.dumps({"epoch": epoch, "validation": None}) for epoch in (1, 2)]
    (folder / "metrics.jsonl").write_text("\n".join(log))
    RunFolder(folder).finish()
    report = summarise(collect([tmp_path]))
    assert report.studies[0].students[0].curves[0].points == [(1, None), (2, None)]
    assert figures.curves(report.studies[0]) is None


def test_nothing_finished_is_said_and_still_written(tmp_path: Path) -> None:
    write_run(tmp_path / "runs", facts(1, 42), done=False)
    report = summarise(collect([tmp_path / "runs"]))
    files = write(report, tmp_path / "out")
    assert [file.name for file in files] == ["report.html", "report.md", "report.json"]
    assert "No run is finished" in files[0].read_text()
    assert "No run is finished" in printed(report)


def test_a_place_that_cannot_be_written_to_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot be written") as caught:
        write(summarise(RunSet(())), tmp_path / "file")
    assert "--out" in caught.value.hint


def test_it_needs_no_torchaudio(root: Path, tmp_path: Path) -> None:
    arguments = command("distill", "report", root, "--out", tmp_path / "out")
    done = subprocess.run(
        arguments, env=without_torchaudio(tmp_path / "broken"), capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "out" / "report.html").is_file()
