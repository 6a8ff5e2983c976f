"""The report's page: it is well formed, complete, quiet, and obeys nobody's text."""

from __future__ import annotations

import base64
import re
from itertools import pairwise
from pathlib import Path
from xml.etree import ElementTree

import pytest
from markupsafe import escape

from distill.report import collect, figures, pages, summarise, words
from distill.report.data import Report, Study
from distill.report.figures import Drawing
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
def drawings(report: Report) -> dict[str, Drawing]:
    return figures.draw(report.studies[0])


@pytest.fixture(scope="module")
def text(report: Report, drawings: dict[str, Drawing]) -> str:
    return pages.html(report, [drawings])


@pytest.fixture(scope="module")
def parsed(text: str) -> Page:
    return Page(text)


def rendered(report: Report) -> Page:
    """Pages about words need not wait for drawings."""
    return Page(pages.html(report, [{} for _ in report.studies]))


def test_elements_close_in_turn_and_mean_something(parsed: Page) -> None:
    assert parsed.declaration == "DOCTYPE html"
    assert parsed.all("html") == [{"lang": "en"}]
    assert len(parsed.all("main")) == len(parsed.all("h1")) == len(parsed.all("nav")) == 1
    levels = [int(name[1]) for name, _ in parsed.elements if re.fullmatch(r"h[1-6]", name)]
    assert levels[0] == 1
    assert all(after - before <= 1 for before, after in pairwise(levels))
    assert all(table.caption for table in parsed.tables)
    assert all(cell.get("scope") in ("row", "col") for cell in parsed.all("th"))
    assert len(parsed.all("figure")) == len(parsed.all("figcaption")) > 5
    assert all(image["alt"] for image in parsed.all("img"))


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
    assert names.isdisjoint({"script", "svg", "iframe", "object", "embed", "link", "base"})
    for name, attributes in parsed.elements:
        for key, value in attributes.items():
            assert not key.startswith("on"), (name, key)
            assert key != "style", name
            if key in ("href", "src", "action", "srcset"):
                inside = "data:image/svg+xml;base64," if name == "img" else "#"
                assert str(value).startswith(inside), (name, value)
    assert "://" not in text
    assert "url(" not in text
    assert "@import" not in text


def test_the_policy_allows_its_own_style_and_nothing_else(text: str, parsed: Page) -> None:
    (policy,) = [m["content"] for m in parsed.all("meta") if "http-equiv" in m]
    style = text.split("<style>", 1)[1].split("</style>", 1)[0]
    assert policy == (
        f"default-src 'none'; img-src data:; style-src '{pages.style_hash(style)}'; "
        "base-uri 'none'; form-action 'none'"
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


def test_figures_are_images_that_xml_readers_read(
    report: Report, parsed: Page, drawings: dict[str, Drawing]
) -> None:
    assert list(drawings) == ["scores", "recall", "confusion", "differences", "reliability",
                              "curves", "gradients", "sweep-2"]  # fmt: skip
    shown = [base64.b64decode(str(a["src"]).split(",", 1)[1]) for a in parsed.all("img")]
    assert sorted(shown) == sorted(drawing.svg for drawing in drawings.values())
    for svg in shown:
        kinds = {element.tag.split("}")[1] for element in ElementTree.fromstring(svg).iter()}
        assert kinds.isdisjoint({"script", "image", "foreignObject", "a"})
    counts = ElementTree.fromstring(drawings["confusion"].svg).itertext()
    matrix = [str(n) for n in report.studies[0].students[0].results.pooled.confusion[0]]
    assert set(matrix) <= {text.strip() for text in counts}


def test_significance_stands_before_the_first_table(report: Report, text: str) -> None:
    table2 = next(e for e in report.studies[0].experiments if e.name == "table2")
    sentences = words.significance(table2.comparisons)
    assert len(sentences) == 2
    for sentence in sentences:
        assert 0 < text.find(str(escape(sentence))) < text.find("<table")


def test_the_first_line_says_that_it_is_synthetic(report: Report, parsed: Page) -> None:
    body = [text for where, text in parsed.texts if where not in ("title", "style")]
    assert body[:2] == ["Skip to the report", *words.first_lines(report)]
    natural = Study(report.studies[0], dataset="emodb")
    other = rendered(Report((natural,), ()))
    assert not any("ynthes" in text for _, text in other.texts)


def test_what_is_missing_is_said_with_the_reason(parsed: Page) -> None:
    figure2 = parsed.table("Figure 2: temperatures")
    assert figure2.column("folds x seeds")["no-linguistic, tau 2"] == "not run"
    assert figure2.column("UA")["no-linguistic, tau 2"] == "-"
    items = [text for where, text in parsed.texts if where == "p"]
    assert "Missing: w/o both teachers: fold 4, seed 42: not run." in items
    assert any("fold 5, seed 42: unfinished (no DONE file" in text for text in items)
    (left_out,) = (t for t in parsed.tables if t.rows[0] == ["run", "state", "reason"])
    assert [row[1] for row in left_out.rows[1:]] == ["unfinished"]


def test_the_protocol_is_there_in_full(report: Report, parsed: Page) -> None:
    (study,) = report.studies
    shown = parsed.table("What the numbers mean").column("how").values()
    for part in ("each leaves one speaker out", "5f" * 32, "torch 2.11.0", "excited → hap",
                 "155 of 400 test utterances", "in none of 5 folds is a test speaker"):  # fmt: skip
        assert any(part in text for text in shown), part
    folds = parsed.table("Who is tested")
    assert folds.column("test") == {str(f.fold): ", ".join(f.test) for f in study.folds}
    assert folds.column("training") == {str(f.fold): ", ".join(f.train) for f in study.folds}


def test_the_paper_is_beside_a_comparable_study_and_no_other(
    report: Report, parsed: Page, tmp_path: Path
) -> None:
    cells = {cell for table in parsed.tables for row in table.rows for cell in row}
    assert cells.isdisjoint({"paper WA", "75.16"})
    student = {"backbone": "hubert-base", "parameters": 94_371_712}
    over = {"dataset": "iemocap", "full_release": True, "student": student}
    write_full(tmp_path, (1, 2, 3), ("full",), SWEPT, **over)
    comparable = summarise(collect([tmp_path]))
    beside = rendered(comparable)
    table = beside.table("Table 2: ablations")
    (rows,) = (e.rows for e in comparable.studies[0].experiments if e.name == "table2")
    assert rows[0].wa_difference is not None
    assert table.column("paper WA")["Ours"] == "75.16"
    assert table.column("paper UA")["Ours"] == "76.12"
    assert table.column("WA minus paper")["Ours"] == f"{100 * rows[0].wa_difference:+.2f}"
    scores = beside.table("Scores on the test speakers")
    assert scores.column("paper UA")["full · hubert-base"] == "76.12"
    assert scores.column("paper WA")["prosodic teacher"] == "49.42"
    assert beside.table("Table 1").column("WA")["EmoDistill"] == "77.49"
    assert any("other way round" in text for _, text in beside.texts)


def test_text_of_others_is_shown_and_not_obeyed(tmp_path: Path) -> None:
    for variant in ("full", HOSTILE[0]):
        record = facts(1, 42, variant=variant, key=f"k{len(variant)}", classes=HOSTILE)
        record |= {"teachers": {}, "dataset": HOSTILE[0], "versions": {HOSTILE[1]: HOSTILE[2]}}
        write_run(tmp_path, record)
    lost = write_run(tmp_path, facts(2, 42, experiment=HOSTILE[1]), done=False)
    assert HOSTILE[1] in str(lost)
    report = summarise(collect([tmp_path]))
    drawings = figures.draw(report.studies[0])
    text = pages.html(report, [drawings])
    parsed = Page(text)
    assert not parsed.all("script")
    assert len(parsed.all("img")) == len(drawings)
    assert not re.search("[\x00-\x09\x0b-\x1f\u202e]", text)
    cells = {cell for table in parsed.tables for row in table.rows for cell in row}
    assert {printable(name) for name in HOSTILE} <= cells
    for drawing in drawings.values():
        image = ElementTree.fromstring(drawing.svg)
        kinds = {element.tag.split("}")[1] for element in image.iter()}
        assert kinds.isdisjoint({"script", "img", "image", "foreignObject", "a"})
        assert not re.search("[\x00-\x09\x0b-\x1f\u202e]", "".join(image.itertext()))
    texts = [*ElementTree.fromstring(drawings["recall"].svg).itertext()]
    assert printable(HOSTILE[0])[:9] in "".join(texts)


def test_several_studies_are_chapters_with_ids_of_their_own(report: Report) -> None:
    (study,) = report.studies
    natural = Study(study, dataset="emodb")
    parsed = rendered(Report((natural, study), report.left_out))
    ids = [a["id"] for _, a in parsed.elements if a.get("id")]
    assert len(set(ids)) == len(ids)
    assert {"s1-scores", "s2-scores"} <= set(ids)
    levels = [name for name, _ in parsed.elements if re.fullmatch(r"h[1-6]", name)]
    assert levels.count("h1") == 1
    assert "h3" in levels
    assert any("One corpus below is synthetic" in text for _, text in parsed.texts)


def test_a_fold_without_much_to_tell_has_a_page(tmp_path: Path) -> None:
    record = facts(1, 42, teachers={}, best_epoch=None, seconds=None, versions={})
    write_run(tmp_path, record | {"student": {"backbone": "tiny"}}, epochs=0)
    parsed = rendered(summarise(collect([tmp_path])))
    ids = {a.get("id") for a in parsed.all("section")}
    assert "protocol" in ids
    assert ids.isdisjoint({"teachers", "learning", "comparisons"})
    assert any("so no difference is tested" in text for _, text in parsed.texts)
