"""The report's page: it is well formed, complete, quiet, and obeys nobody's text."""

from __future__ import annotations

import dataclasses
import re
from itertools import pairwise
from pathlib import Path
from xml.etree import ElementTree

import pytest
from markupsafe import escape

from distill.report import collect, figures, page, summarise, verdicts, wording
from distill.report.data import Report
from distill.report.panels import Plot
from distill.report.wording import bracketed, p_value, percent, plus_minus, with_interval
from featstore.core.schema import printable
from tests.distill.report.fake_runs import facts, write_run
from tests.distill.report.full_study import write_full
from tests.distill.report.html_page import Page

VARIANTS = ("full", "no-linguistic", "ce-only")
SWEPT = {"no-linguistic": (0.1, 0.5, 2.0)}
HOSTILE = ["</script><img src=x onerror=alert(1)>", "<b>&amp;", "\u202egnirts", "a\x1b[31m\"'"]


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Report:
    root = tmp_path_factory.mktemp("page")
    return summarise(collect([write_full(root, range(1, 6), VARIANTS, SWEPT, n_folds=5)]))


@pytest.fixture(scope="module")
def plots(report: Report) -> list[Plot]:
    return figures.plots(report.studies[0])


@pytest.fixture(scope="module")
def text(report: Report, plots: list[Plot]) -> str:
    return page.render(report, [plots])


@pytest.fixture(scope="module")
def parsed(text: str) -> Page:
    return Page(text)


@pytest.fixture
def no_figures(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pages about words need not wait for drawings."""
    monkeypatch.setattr(page, "alone", lambda plot, prefix: [])


def rendered(report: Report) -> Page:
    return Page(page.render(report, [[] for _ in report.studies]))


def test_elements_close_in_turn_and_mean_something(parsed: Page) -> None:
    assert parsed.declaration == "DOCTYPE html"
    assert parsed.all("html") == [{"lang": "en"}]
    assert len(parsed.all("main")) == len(parsed.all("h1")) == len(parsed.all("nav")) == 1
    levels = [int(name[1]) for name, _ in parsed.elements if re.fullmatch(r"h[1-6]", name)]
    assert levels[0] == 1
    assert all(after - before <= 1 for before, after in pairwise(levels))
    assert all(table.caption for table in parsed.tables)
    assert all(cell.get("scope") in ("row", "col", "colgroup") for cell in parsed.all("th"))
    assert len(parsed.all("figure")) == len(parsed.all("figcaption")) > 5
    for svg in parsed.all("svg"):
        assert svg["role"] == "img"
        assert svg["aria-label"]


def test_every_row_of_a_table_has_all_columns(parsed: Page) -> None:
    for table in parsed.tables:
        widths = {len(row) for row in table.rows[-3:]}
        assert len(widths) == 1, table.caption


def test_a_settings_name_may_break_so_that_its_table_fits_on_paper(text: str) -> None:
    """Chromium shrinks the whole print to what does not fit."""
    names = re.findall(r'<th scope="col"[^>]*>(losses\..*?)</th>', text)
    assert names
    assert all(name.count(".") == name.count(".<wbr>") for name in names)


def test_links_lead_to_what_is_there_and_ids_are_unique(parsed: Page) -> None:
    ids = [a["id"] for _, a in parsed.elements if a.get("id")]
    assert len(set(ids)) == len(ids)
    links = {a["href"] for a in parsed.all("a")}
    assert {link[1:] for link in links} <= set(ids)
    sections = {f"#{a['id']}" for a in parsed.all("section")}
    assert sections <= links
    assert {"#scores", "#folds", "#classes", "#calibration", "#teachers", "#learning", "#losses",
            "#cost", "#settings", "#protocol", "#left-out"} <= sections  # fmt: skip


def test_nothing_is_fetched_and_nothing_runs(text: str, parsed: Page) -> None:
    names = {name for name, _ in parsed.elements}
    assert names.isdisjoint({"script", "img", "iframe", "object", "embed", "link", "image", "base"})
    for name, attributes in parsed.elements:
        for key, value in attributes.items():
            assert not key.startswith("on"), (name, key)
            assert key != "style", name
            if key in ("href", "src", "action", "xlink:href"):
                assert value is not None
                assert value.startswith("#"), (name, value)
    assert "://" not in text
    assert set(re.findall(r"url\((.)", text)) == {"#"}
    assert "@import" not in text


def test_the_policy_allows_its_own_style_and_nothing_else(text: str, parsed: Page) -> None:
    (policy,) = [m["content"] for m in parsed.all("meta") if "http-equiv" in m]
    style = text.split("<style>", 1)[1].split("</style>", 1)[0]
    assert policy == (
        f"default-src 'none'; style-src '{page.style_hash(style)}'; base-uri 'none'; "
        "form-action 'none'"
    )
    assert text.count("<style") == 1


def test_both_themes_paper_and_phone_have_their_style(text: str) -> None:
    for condition in ("(prefers-color-scheme: dark)", "print", "(max-width: 40rem)"):
        assert re.search(rf"@media [^{{]*{re.escape(condition)}", text), condition
    style = text.split("<style>", 1)[1].split("</style>", 1)[0]
    root, dark, paper = (style.split(":root {")[place].split("}")[0] for place in (1, 2, 3))
    for variable in re.findall(r"--[\w-]+", dark):
        assert f"{variable}:" in root
        assert f"{variable}:" in paper, f"{variable} would be a dark theme's on paper"
    # every ink of the figures follows the theme
    for kind, colour in set(re.findall(r'(fill|stroke)="(#[0-9a-f]{6})"', text)):
        assert f'\n[{kind}="{colour}"] {{ {kind}: var(--' in style, (kind, colour)


def test_figures_are_xml_and_have_all_panels(text: str, plots: list[Plot]) -> None:
    found = re.findall(r"<svg.*?</svg>", text, re.DOTALL)
    assert len(found) == sum(len(plot.panels) for plot in plots)
    for svg in found:
        ElementTree.fromstring(svg)
    names = [plot.name for plot in plots]
    assert names == ["scores", "recall", "confusion", "differences", "reliability", "curves",
                     "gradients", "sweep-2"]  # fmt: skip


def test_significance_stands_before_the_first_table(report: Report, text: str) -> None:
    table2 = next(e for e in report.studies[0].experiments if e.name == "table2")
    sentences = verdicts.significance(table2.comparisons)
    assert len(sentences) == 2
    for sentence in sentences:
        assert 0 < text.find(str(escape(sentence))) < text.find("<table")


def test_the_first_line_says_that_it_is_synthetic(
    report: Report, parsed: Page, no_figures: None
) -> None:
    body = [text for where, text in parsed.texts if where not in ("title", "style")]
    assert body[:2] == ["Skip to the report", *wording.first_lines(report)]
    natural = dataclasses.replace(report.studies[0], dataset="emodb")
    other = rendered(Report((natural,), ()))
    assert not any("ynthes" in text for _, text in other.texts)


def test_scores_are_the_reports(report: Report, parsed: Page) -> None:
    (study,) = report.studies
    table = parsed.table("Scores on the test speakers")
    for row in study.rows:
        r = row.results
        assert r.pooled is not None
        assert table.column("WA", 0)[row.label] == plus_minus(r.wa)
        assert table.column("UA", 0)[row.label] == plus_minus(r.ua)
        assert table.column("WA", 1)[row.label] == with_interval(r.pooled.wa, r.wa_interval)
        assert table.column("UA", 1)[row.label] == with_interval(r.pooled.ua, r.ua_interval)
        recall = parsed.table("Recall of each class")
        for name in study.classes:
            assert recall.column(name)[wording.named(row)] == percent(r.pooled.recall[name])
        for metric in ("wa", "ua"):
            each = parsed.table(f"{metric.upper()} of each fold")
            shown = {n: each.column(str(n))[row.label] for n in range(1, 6)}
            known = {fold.fold: percent(getattr(fold, metric)) for fold in r.folds}
            assert shown == {n: known.get(n, "-") for n in range(1, 6)}
    matrices = "".join(text for where, text in parsed.texts if where == "text")
    pooled = study.students[0].results.pooled
    assert pooled is not None
    assert all(str(count) in matrices for row in pooled.confusion for count in row)


def test_experiments_are_the_reports(report: Report, parsed: Page) -> None:
    table2 = next(e for e in report.studies[0].experiments if e.name == "table2")
    table = parsed.table("Table 2: ablations")
    for row in table2.rows:
        assert row.results is not None
        assert table.column("WA")[row.label] == plus_minus(row.results.wa)
        assert table.column("UA")[row.label] == plus_minus(row.results.ua)
    common = parsed.table("Table 2: ablations: the 3 runs (folds 1..3)")
    assert common.column("UA") == {r.label: plus_minus(r.common_ua) for r in table2.rows}
    assert table2.comparisons
    for metric in ("wa", "ua"):
        differences = parsed.table(f"{metric.upper()}: difference from Ours")
        for c in table2.comparisons:
            test = getattr(c, f"{metric}_test")
            cells = {name: differences.column(name)[c.label] for name in differences.rows[0][1:]}
            assert cells == {
                "folds": str(len(c.folds)),
                "mean ± std": plus_minus(getattr(c, f"{metric}_spread"), signed=True),
                "95 % interval": bracketed(getattr(c, f"{metric}_interval"), signed=True),
                "p": p_value(test.p),
                "p (Holm)": p_value(test.p_holm),
                "significant": "yes" if test.significant else "no",
            }


def test_what_is_missing_is_said_with_the_reason(parsed: Page) -> None:
    figure2 = parsed.table("Figure 2: temperatures")
    assert figure2.column("folds x seeds")["no-linguistic, tau 2"] == "not run"
    assert figure2.column("UA")["no-linguistic, tau 2"] == "-"
    items = [text for where, text in parsed.texts if where == "li"]
    assert "w/o both teachers: fold 4, seed 42: not run" in items
    assert any("fold 5, seed 42: unfinished (no DONE file" in text for text in items)
    (left_out,) = (t for t in parsed.tables if t.rows[0] == ["run", "state", "reason"])
    assert [row[1] for row in left_out.rows[1:]] == ["unfinished"]


def test_teachers_losses_and_cost_are_the_reports(report: Report, parsed: Page) -> None:
    (study,) = report.studies
    assert len(study.agreements) > 3
    agreed = parsed.table("Agreement on the test speakers")
    assert [row[3] for row in agreed.rows[1:]] == [percent(a.share) for a in study.agreements]
    losses, shares = parsed.table("Loss terms"), parsed.table("Share of each weighted term")
    cost = parsed.table("Training of the students")
    for student in study.students:
        assert len(student.terms) == 6
        for term in student.terms:
            shown = losses.column(term.name)[student.label]
            assert shown == f"{term.mean:.4g} / {term.last:.4g}"
            if term.share_mean is not None:
                shown = shares.column(term.name)[student.label]
                assert shown == f"{percent(term.share_mean, 1)} / {percent(term.share_last, 1)}"
        assert cost.column("parameters")[student.label] == f"{student.parameters:,}"
        assert student.seconds is not None
        assert cost.column("minutes, all runs")[student.label] == f"{student.seconds / 60:,.1f}"
    quality = parsed.table("UA of each teacher")
    for teacher in study.teachers:
        assert quality.column("training speakers")[teacher.label] == plus_minus(teacher.train_ua)
    rows = [(wording.named(row), c.role) for row in study.rows for c in row.calibration]
    calibration = parsed.table("Calibration")
    assert [(row[0], row[1]) for row in calibration.rows[1:]] == rows


def test_the_protocol_is_there_in_full(report: Report, parsed: Page) -> None:
    (study,) = report.studies
    facts_shown = [text for where, text in parsed.texts if where == "dd"]
    for part in ("each fold leaves one speaker out", "5f" * 32, "torch 2.11.0", "excited → hap",
                 "155 of 400 test utterances", "in none of 5 folds is a test speaker"):  # fmt: skip
        assert any(part in shown for shown in facts_shown), part
    folds = parsed.table("Who is tested")
    assert folds.column("test") == {str(f.fold): ", ".join(f.test) for f in study.folds}
    assert folds.column("training") == {str(f.fold): ", ".join(f.train) for f in study.folds}


def test_the_paper_is_beside_a_comparable_study_and_no_other(
    report: Report, parsed: Page, no_figures: None, tmp_path: Path
) -> None:
    assert "paper" not in {cell for table in parsed.tables for row in table.rows for cell in row}
    student = {"backbone": "hubert-base", "parameters": 94_371_712}
    over = {"dataset": "iemocap", "full_release": True, "student": student}
    write_full(tmp_path, (1, 2, 3), ("full",), SWEPT, **over)
    comparable = summarise(collect([tmp_path]))
    beside = rendered(comparable)
    table = beside.table("Table 2: ablations")
    (rows,) = (e.rows for e in comparable.studies[0].experiments if e.name == "table2")
    assert rows[0].wa_difference is not None
    assert table.column("paper", 0)["Ours"] == "75.16"
    assert table.column("paper", 1)["Ours"] == "76.12"
    assert table.column("difference", 0)["Ours"] == f"{100 * rows[0].wa_difference:+.2f}"
    assert beside.table("Table 1").column("WA")["EmoDistill"] == "77.49"


def test_text_of_others_is_shown_and_not_obeyed(tmp_path: Path) -> None:
    for variant in ("full", HOSTILE[0]):
        record = facts(1, 42, variant=variant, key=f"k{len(variant)}", classes=HOSTILE)
        record |= {"teachers": {}, "dataset": HOSTILE[0], "versions": {HOSTILE[1]: HOSTILE[2]}}
        write_run(tmp_path, record)
    lost = write_run(tmp_path, facts(2, 42, experiment=HOSTILE[1]), done=False)
    assert HOSTILE[1] in str(lost)
    report = summarise(collect([tmp_path]))
    text = page.render(report, [figures.plots(report.studies[0])])
    parsed = Page(text)
    assert {name for name, _ in parsed.elements}.isdisjoint({"script", "img"})
    assert not re.search("[\x00-\x09\x0b-\x1f\u202e]", text)
    cells = {cell for table in parsed.tables for row in table.rows for cell in row}
    assert {printable(name) for name in HOSTILE} <= cells
    drawn = {text for where, text in parsed.texts if where == "text"}
    assert printable(HOSTILE[0])[:9] + "…" in drawn
    for svg in re.findall(r"<svg.*?</svg>", text, re.DOTALL):
        kinds = {element.tag for element in ElementTree.fromstring(svg).iter()}
        assert kinds <= {"svg", "g", "defs", "path", "use", "text", "clipPath", "rect", "pattern"}
    for drawing in figures.draw(report.studies[0], figures.plots(report.studies[0])[:1]).values():
        ElementTree.fromstring(drawing["svg"])
        assert b"<img" not in drawing["svg"]


def test_several_studies_are_chapters_with_ids_of_their_own(
    report: Report, no_figures: None
) -> None:
    (study,) = report.studies
    natural = dataclasses.replace(study, dataset="emodb")
    parsed = rendered(Report((natural, study), report.left_out))
    ids = [a["id"] for _, a in parsed.elements if a.get("id")]
    assert len(set(ids)) == len(ids)
    assert {"s1-scores", "s2-scores"} <= set(ids)
    levels = [name for name, _ in parsed.elements if re.fullmatch(r"h[1-6]", name)]
    assert levels.count("h1") == 1
    assert "h3" in levels
    assert any("One corpus below is synthetic" in text for _, text in parsed.texts)


def test_nothing_measured_is_still_a_page() -> None:
    parsed = rendered(Report((), ()))
    assert any("No run is finished" in text for _, text in parsed.texts)


def test_a_fold_without_much_to_tell_has_a_page(tmp_path: Path, no_figures: None) -> None:
    record = facts(1, 42, teachers={}, best_epoch=None, seconds=None, versions={})
    write_run(tmp_path, record | {"student": {"backbone": "tiny"}}, epochs=0)
    parsed = rendered(summarise(collect([tmp_path])))
    ids = {a.get("id") for a in parsed.all("section")}
    assert "protocol" in ids
    assert ids.isdisjoint({"teachers", "learning", "comparisons"})
    assert any("so no difference is tested" in text for _, text in parsed.texts)
