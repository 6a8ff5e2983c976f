"""The shipped experiments are the paper's; a file of one's own may be wrong in many ways."""

import shlex
from importlib import resources

import pytest
from typer.testing import CliRunner

import cli
from distill.config import RunSettings
from distill.experiments.grid import load_grid, shipped
from distill.report import published
from featstore.core.schema import UserError
from featstore.core.settings import resolve

PLAIN = '[[rows]]\nlabel = "a"\n'


def test_table_2_has_the_rows_that_the_paper_prints():
    rows = load_grid("table2").cells()
    printed = published.load().table2
    assert [(row.label, row.teacher) for row in rows] == [(p.printed, p.teacher) for p in printed]
    students = [(r.variant, p.variant) for r, p in zip(rows, printed, strict=True) if not p.teacher]
    assert all(ours == theirs for ours, theirs in students)


def test_figure_2_has_the_temperatures_that_the_paper_sweeps():
    cells = load_grid("figure2").cells()
    for sweep in published.load().figure2:
        mine = [cell for cell in cells if cell.variant == sweep.variant]
        assert tuple(cell.point.value for cell in mine) == sweep.tau
        assert {cell.point.axis for cell in mine} == {f"tau of the {sweep.teacher} teacher"}
        for cell in mine:
            losses = resolve(RunSettings, cell.delta).losses
            assert losses.teachers[sweep.teacher].tau == cell.point.value
            [other] = set(losses.teachers) - {sweep.teacher}
            assert losses.teachers[other].weight == 0


def test_table_1_has_the_papers_two_students():
    rows = [row for row in published.load().table1 if row.student]
    assert list(load_grid("table1").students) == [row.student for row in rows]


@pytest.mark.parametrize("name", shipped())
def test_a_shipped_file_resolves_and_begins_with_its_command(name, small_store, tmp_path):
    for cell in load_grid(name).cells():
        resolve(RunSettings, cell.delta)
    text = resources.files("distill.experiments").joinpath("grids", f"{name}.toml").read_text()
    command = shlex.split(text.splitlines()[0].removeprefix("#"))
    assert command[:3] == ["distill", "experiment", name]
    command[command.index("--store") + 1] = str(small_store)
    if "--student" in command:
        command[command.index("--student") + 1] = "tiny"
    extra = ["--fold", "1", "--runs", str(tmp_path), "--dry-run"]
    extra += [] if "--student" in command else ["--student", "tiny"]
    found = CliRunner().invoke(cli.distill, [*command[1:], *extra])
    # the small store has no cross-fitted targets, and it is said which command makes them
    assert found.exit_code == (2 if name == "crossfit" else 0), found.output
    assert ("cross-fitted by 4 parts" in found.output) == (name == "crossfit")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "neither rows nor sweeps"),
        (PLAIN + PLAIN, "two rows are called a"),
        (PLAIN + 'variant = "half"\n', "variant half: not one of full"),
        (PLAIN + 'teacher = "prosodic"\nset.seed = 1\n', "neither variant nor settings"),
        (PLAIN + "colour = 1\n", "colour"),
        ('name = "../x"\n' + PLAIN, "no name for an experiment"),
        ('name = "table2"\n' + PLAIN, "the name of a shipped experiment"),
        ('[[sweeps]]\nsetting = "seed"\nvalues = [1, 1]\n', "a value is given twice"),
        ("students = []\n" + PLAIN, "students"),
        ("rows = 3", "rows: Input should be a list"),
        ('title = "x"', r"mine\.toml: 1 setting\(s\) not accepted:\nneither rows nor sweeps$"),
        (PLAIN + "set.seed = 1\n", "a: seed is not for a row to set, but for --seed and --seeds"),
        ('[[sweeps]]\nsetting = "seed"\nvalues = [1, 2]\n', "seed is not for a row to set"),
        (PLAIN + 'set.student.backbone = "tiny"\n', "backbone is not for a row to set, but for st"),
    ],
)  # fmt: skip
def test_a_file_that_is_no_experiment(text, message, tmp_path):
    path = tmp_path / "mine.toml"
    path.write_text(text)
    with pytest.raises(UserError, match=message) as caught:
        load_grid(str(path))
    assert caught.value.exit_code == 2


def test_a_file_of_ones_own(tmp_path):
    path = tmp_path / "mine.toml"
    path.write_text('[[sweeps]]\nsetting = "losses.beta"\nvalues = [1, 2.5]\n' + PLAIN)
    grid = load_grid(str(path))
    assert (grid.name, grid.title, grid.students) == ("mine", "mine", ("hubert-base",))
    assert [cell.label for cell in grid.cells()] == [
        "a",
        "losses.beta = 1",
        "losses.beta = 2.5",
    ]
    assert grid.cells()[2].delta == {"losses": {"beta": 2.5}}


def test_an_unknown_name_lists_those_there_are(tmp_path):
    with pytest.raises(UserError, match="tabel2: not known") as caught:
        load_grid("tabel2")
    assert all(name in caught.value.hint for name in shipped())
    with pytest.raises(UserError, match=r"none\.toml: no such file") as caught:
        load_grid(str(tmp_path / "none.toml"))
    assert "table2" in caught.value.hint
