from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd
import pytest

import cli
from featstore.core import console
from featstore.core.files import sha256_of
from featstore.core.settings import digest, to_toml
from featstore.store import store as stores
from featstore.store import verify as verification
from featstore.store.unit import RECORD
from tests import ROOT

ID = "Ses01F_impro01_F000"
UNITS = ["corpus", "audio", "lld", "splits", "folds/01/linguistic", "folds/01/prosodic",
         "folds/02/linguistic", "folds/02/prosodic"]  # fmt: skip


class Done(NamedTuple):
    code: int
    out: str
    err: str


Command = Callable[..., Done]


@pytest.fixture
def featstore(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Iterator[Command]:
    """``featstore("inspect", STORE)`` in this process: its exit code, stdout and stderr."""
    handlers = [(number, signal.getsignal(number)) for number in (signal.SIGINT, signal.SIGTERM)]

    def run(*arguments: Any) -> Done:
        capsys.readouterr()
        monkeypatch.setattr(sys, "argv", ["featstore", *map(str, arguments)])
        with pytest.raises(SystemExit) as ended:
            cli.featstore_main()
        out, err = capsys.readouterr()
        return Done(int(ended.value.code or 0), out, err)

    yield run
    for number, handler in handlers:
        signal.signal(number, handler)
    console.set_verbose(False)


def error(done: Done, code: int) -> str:
    """The one ``error:`` line of a command that failed as it should, and its ``hint:`` line."""
    assert done.code == code, done
    assert done.out == ""
    lines = done.err.splitlines()
    assert lines[-1].startswith("hint: ")
    assert len(lines[-1]) > len("hint: ")
    assert sum(line.startswith("error: ") for line in lines) == 1
    assert "Traceback" not in done.err
    return "\n".join(lines[[line.startswith("error: ") for line in lines].index(True) :])


class TestCheck:
    def test_prints_counts(self, featstore: Command, small_corpus: Path) -> None:
        done = featstore("check", "--dataset", "synthetic", "--root", small_corpus)
        assert (done.code, done.err) == (0, "")
        for words in ("synthetic: 80 usable utterances", "Ses05M", "no fault found", "Folds"):
            assert words in done.out
        assert "\x1b" not in done.out  # no colours without a terminal

    def test_as_json(self, featstore: Command, small_corpus: Path) -> None:
        done = featstore("check", "--dataset", "synthetic", "--root", small_corpus, "--json")
        facts = json.loads(done.out)
        assert (done.code, facts["n_utterances"], facts["buildable"]) == (0, 80, True)
        assert len(facts["folds"]) == 10

    def test_of_real_speech(self, featstore: Command, standin: Path) -> None:
        done = featstore("check", "--root", standin, "--json")
        facts = json.loads(done.out)
        assert (done.code, facts["n_utterances"]) == (0, 280)
        assert {speaker["n"] for speaker in facts["speakers"].values()} == {28}

    def test_exclusion_is_told_and_fails_only_where_asked(
        self, featstore: Command, corpus_copy: Path
    ) -> None:
        path = next(corpus_copy.glob("Session1/sentences/wav/Ses01F_impro01/*F000.wav"))
        path.unlink()
        call = ("check", "--dataset", "synthetic", "--root", corpus_copy)
        done = featstore(*call)
        assert done.code == 0
        assert "missing-audio 1" in done.out
        assert path.relative_to(corpus_copy).as_posix() in done.out.replace("\n", "")
        assert featstore(*call, "--strict").code == 1

    def test_stop_is_a_failure(self, featstore: Command, corpus_copy: Path) -> None:
        (corpus_copy / "Session3").rename(corpus_copy / "Session9")
        done = featstore("check", "--dataset", "synthetic", "--root", corpus_copy, "--json")
        assert (done.code, json.loads(done.out)["buildable"]) == (1, False)

    def test_unknown_names(self, featstore: Command, tmp_path: Path) -> None:
        told = error(featstore("check", "--dataset", "iemocapp"), 2)
        assert "iemocapp" in told
        assert "ravdess" in told
        told = error(featstore("check", "--root", tmp_path / "gone"), 2)
        assert f"{tmp_path}/gone: no iemocap corpus there" in told


class TestBuild:
    @pytest.fixture
    def call(self, small_request: Any, tmp_path: Path) -> tuple[Any, ...]:
        """The small store's own build."""
        (tmp_path / "fast.toml").write_text(to_toml(small_request.settings))
        return ("build", "--dataset", "synthetic", "--root", small_request.manifest.root,
                "--config", tmp_path / "fast.toml", "--fold", "1..2",
                "--device", "cpu")  # fmt: skip

    def test_dry_run_prints_the_plan_and_makes_nothing(
        self, featstore: Command, call: tuple[Any, ...], tmp_path: Path
    ) -> None:
        done = featstore(*call, "--store", tmp_path / "new", "--dry-run")
        assert (done.code, done.err) == (0, "")
        assert "not there yet" in done.out
        assert "80 utterances, 10 folds, 4 fit(s) to do" in done.out
        assert not (tmp_path / "new").exists()
        done = featstore(*call, "--store", tmp_path / "new", "--dry-run", "--json")
        plan = json.loads(done.out)
        assert {step["unit"] for step in plan["steps"]} == set(UNITS)
        assert {step["status"] for step in plan["steps"]} == {"build"}
        assert plan["tasks"] == {
            "lld/part-*": 1, "lld": 1, "folds/*/linguistic": 2, "folds/*/prosodic": 2,
        }  # fmt: skip

    def test_dry_run_for_a_cluster_needs_none(
        self, featstore: Command, call: tuple[Any, ...], tmp_path: Path
    ) -> None:
        more = ("--store", tmp_path / "new", "--dry-run", "--executor", "slurm", "--shards", "3")
        done = featstore(*call, *more, "--json")
        assert json.loads(done.out)["tasks"]["lld/part-*"] == 3
        assert "3 lld/part-*" in featstore(*call, *more).out
        assert not (tmp_path / "new").exists()

    def test_nothing_to_do_needs_no_cluster(
        self, featstore: Command, call: tuple[Any, ...], small_store: Path
    ) -> None:
        for more in ((), ("--attach",), ("--no-wait",)):
            done = featstore(*call, "--store", small_store, "--executor", "slurm", *more)
            assert done.code == 0, done.err
            assert "skipped 8 unit(s)" in done.out

    def test_done_is_skipped(
        self, featstore: Command, call: tuple[Any, ...], small_store: Path
    ) -> None:
        done = featstore(*call, "--store", small_store)
        assert done.code == 0
        assert "skipped 8 unit(s), done before with the same fingerprint" in done.out
        assert "built" not in done.out
        told = json.loads(featstore(*call, "--store", small_store, "--json").out)
        assert (told["built"], set(told["done_before"])) == ([], set(UNITS))

    def test_nothing_to_do_loads_nothing_slow(
        self, call: tuple[Any, ...], small_store: Path
    ) -> None:
        script = (
            "import sys, cli\n"
            "try:\n    cli.featstore_main()\n"
            "finally:\n    print(*sys.modules, file=sys.stderr)\n"
        )
        args = [str(part) for part in (*call, "--store", small_store)]
        root = str(ROOT)
        done = subprocess.run(
            [sys.executable, "-c", script, *args], env=os.environ | {"PYTHONPATH": root},
            capture_output=True, text=True, check=True,
        )  # fmt: skip
        loaded = set(done.stderr.split())
        assert "featstore.build.plan" in loaded
        assert not loaded & {"torch", "transformers", "opensmile", "zarr", "scipy", "sklearn"}

    @pytest.mark.parametrize(
        ("more", "words"),
        [
            (("--fold", "11"), "11 is not within 1..10"),
            (("--fold", "2..1"), "runs backwards"),
            (("--preset", "huge"), "--preset huge: not known"),
            (("--set", "folds.sed=1"), "did you mean seed?"),
            (("--set", "tau_linguistic=5"), "tau_linguistic: unknown key"),
            (("--set", "seed"), "expected key=value"),
            (("--config", "/nowhere/x.toml"), "/nowhere/x.toml: no such settings file"),
            (("--executor", "condor"), "--executor condor: not known"),
            (("--partition", "gpu"), "flags of a cluster, and no cluster"),
            (("--executor", "slurm", "--slurm", "/nowhere/c.toml"), "/nowhere/c.toml: no such"),
            (("--device", "cuda:99"), "--device cuda:99: not usable"),
            (("--set", "teachers.prosodic.dropout=0.3"),
             "folds/01/prosodic: teacher.dropout: 0.2 -> 0.3"),
            (("--no-embed-audio",), "audio.embed_audio: true -> false"),
            (("--no-embed-text",), "corpus.embed_text: true -> false"),
        ],
    )  # fmt: skip
    def test_mistakes_are_one_error_and_one_hint(
        self, featstore: Command, call: tuple[Any, ...], store_copy: Path, more: tuple[str, ...],
        words: str,
    ) -> None:  # fmt: skip
        if more[0] == "--device":  # needs a teacher that is still to be fitted
            (store_copy / "folds" / "02" / "prosodic").rename(store_copy / ".away")
        before = stores.Store.open(store_copy).content_hash()
        assert words in error(featstore(*call, "--store", store_copy, *more), 2)
        assert stores.Store.open(store_copy).content_hash() == before

    def test_store_that_is_something_else(
        self, featstore: Command, call: tuple[Any, ...], tmp_path: Path
    ) -> None:
        (tmp_path / "mine").mkdir()
        (tmp_path / "mine" / "thesis.tex").touch()
        told = error(featstore(*call, "--store", tmp_path / "mine"), 2)
        assert "mine: not empty (holds thesis.tex)" in told
        told = error(featstore(*call, "--store", tmp_path / "mine" / "thesis.tex"), 2)
        assert "not a folder" in told

    def test_stop_fault_stops_it(
        self, featstore: Command, corpus_copy: Path, tmp_path: Path
    ) -> None:
        (corpus_copy / "Session3").rename(corpus_copy / "Session9")
        call = ("build", "--dataset", "synthetic", "--root", corpus_copy)
        told = error(featstore(*call, "--store", tmp_path / "store"), 2)
        assert "stop the build" in told
        assert "Session3" in told
        assert not (tmp_path / "store").exists()

    def test_teacher_that_fails(
        self, featstore: Command, call: tuple[Any, ...], store_copy: Path,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:  # fmt: skip
        """In this process, so that nothing need start; the pool itself is build's own affair."""
        from concurrent.futures import ThreadPoolExecutor

        from featstore.jobs import local

        monkeypatch.setattr(local, "ProcessPoolExecutor", lambda n, **_: ThreadPoolExecutor(1))
        (store_copy / "folds" / "02" / "linguistic").rename(store_copy / ".away")
        more = ("--rebuild", "--set", "teachers.linguistic.optim.lr=1e30", "--fold", "2")
        told = error(featstore(*call, "--store", store_copy, *more), 1)
        assert "folds/02/linguistic: the teacher's loss is not finite" in told


class TestInspect:
    def test_prints_everything(self, featstore: Command, small_store: Path) -> None:
        done = featstore("inspect", small_store)
        assert (done.code, done.err) == (0, "")
        for words in ("synthetic, 80 utterances", "Folds", "Teacher linguistic", "test UA",
                      "Teacher prosodic", "folds/02/prosodic", "torchaudio 2.",
                      "none yet"):  # fmt: skip
            assert words in done.out
        assert "\x1b" not in done.out

    def test_as_json(self, featstore: Command, small_store: Path) -> None:
        done = featstore("inspect", small_store, "--json")
        assert [unit["unit"] for unit in json.loads(done.out)["units"]] == UNITS

    def test_one_utterance(self, featstore: Command, small_store: Path) -> None:
        call = ("inspect", small_store, "--fold", "1", "--utterance", ID, "--tau", "2")
        done = featstore(*call)
        assert (done.code, done.err) == (0, "")
        facts = json.loads(featstore(*call, "--json").out)
        for words in (ID, "fold 1: test", facts["text"], "LLDs: ", "tau 2", "linguistic predicts",
                      f"{facts['teachers']['prosodic']['probabilities'][0][0]:.4f}"):  # fmt: skip
            assert words in done.out
        assert "tau 0.5" not in done.out
        assert list(facts["teachers"]) == ["linguistic", "prosodic"]
        one = json.loads(featstore(*call, "--teacher", "prosodic", "--json").out)
        assert one["teachers"] == {"prosodic": facts["teachers"]["prosodic"]}
        assert all(f"tau {tau}" in featstore(*call[:-2]).out for tau in ("0.5", "1", "5"))

    def test_lists_verdicts_and_tables(self, featstore: Command, small_store: Path) -> None:
        found = featstore("inspect", small_store, "--wrong", "--sort", "p_truth", "--limit", "3")
        assert (found.code, found.err) == (0, "")
        assert "Fold 1: 3 of" in found.out
        call = ("inspect", small_store, "--disagree", "--csv", "--limit", "1000")
        header, *rows = featstore(*call).out.splitlines()
        assert header.startswith("row,utterance_id,speaker")
        listed = json.loads(featstore(*call[:2], "--disagree", "--json").out)
        assert len(rows) == listed["n_found"]
        told = featstore("inspect", small_store, "--fitness").out
        assert " fit, " in told
        assert "Teacher prosodic" in featstore("inspect", small_store, "--teachers").out
        nothing = featstore(*call, "--text", "no such words", "--label", "ang")
        assert (nothing.code, nothing.out) == (0, f"{header}\n")
        for more in (("--fitness", "--teachers"), ("--csv",), ("--label", "joy")):
            assert error(featstore("inspect", small_store, *more), 2)

    @pytest.mark.parametrize(
        ("more", "words"),
        [
            (("--utterance", "Ses99"), "Ses99: no such utterance"),
            (("--utterance", ID, "--fold", "11"), "fold 11: the store has folds 1..10"),
            (("--utterance", ID, "--fold", "3"), "fold 3: no teacher"),
            (("--utterance", ID, "--tau", "0"), "--tau 0.0"),
            (("--utterance", ID, "--tau", "inf", "--json"), "--tau inf"),
            (("--utterance", "\x1b[31mx\u202e"), "\\x1b[31mx\\u202e: no such utterance"),
            (("--utterance", ID, "--teacher", "nix"), "fold 1: no teacher nix"),
            (("--teachers", "--tau", "0"), "--tau 0.0: a temperature is finite and above 0"),
            (("--teachers", "--tau", "nan"), "--tau nan: a temperature is finite and above 0"),
            (("--fitness", "--teacher", "nix"), "no teacher nix in"),
            (("--fold", "99"), "--fold: of what?"),
            (("--tau", "2", "--teacher", "nix"), "--tau, --teacher: of what?"),
        ],
    )
    def test_mistakes(
        self, featstore: Command, small_store: Path, more: tuple[str, ...], words: str
    ) -> None:
        assert words in error(featstore("inspect", small_store, *more), 2)

    def test_no_store(self, featstore: Command, tmp_path: Path) -> None:
        assert f"{tmp_path}: no store there" in error(featstore("inspect", tmp_path), 2)

    def test_hostile_text_is_shown_and_not_obeyed(
        self, featstore: Command, store_copy: Path
    ) -> None:
        """Escapes, bidi overrides, Rich markup, emoji codes and a last backslash, all as text."""
        hostile = "a\x1b[31mred\x07 \u202egnp [bold]b[/bold] [/] [link=x]y :smile: \u2028z\\"
        path = store_copy / "corpus" / "utterances.parquet"
        table = pd.read_parquet(path)
        row = table.index[table["utterance_id"] == ID][0]
        for column in ("text", "label_raw", "kind", "speaker"):
            table.loc[row, column] = hostile
        table.to_parquet(path, index=False)
        reseal(store_copy / "corpus")
        done = featstore("inspect", store_copy, "--utterance", ID)
        assert done.code == 0, done.err
        shown = done.out.replace("\n", " ")
        assert not {"\x1b", "\x07", "\u202e", "\u2028"} & set(done.out)
        escaped = "a\\x1b[31mred\\x07 \\u202egnp [bold]b[/bold] [/] [link=x]y :smile: \\u2028z\\"
        assert shown.count(escaped) >= 1
        assert shown.replace(" ", "").count(escaped.replace(" ", "")) == 4
        told = featstore("inspect", store_copy, "--utterance", ID, "--json").out
        assert not {"\x1b", "\x07", "\u202e", "\u2028"} & set(told)
        assert json.loads(told)["text"] == hostile


def reseal(place: Path) -> None:
    """The record of a unit whose table was changed by hand."""
    record = json.loads((place / RECORD).read_bytes())
    record.pop("sha256")
    path = place / "utterances.parquet"
    record["files"][path.name] = [path.stat().st_size, sha256_of(path)]
    (place / RECORD).write_text(json.dumps({**record, "sha256": digest(record)}))


class TestStatus:
    def test_of_a_finished_store(self, featstore: Command, small_store: Path) -> None:
        done = featstore("status", small_store)
        assert (done.code, done.err) == (0, "")
        assert "8 done" in done.out
        assert json.loads(featstore("status", small_store, "--json").out)["tasks"] == []

    def test_of_none(self, featstore: Command, tmp_path: Path) -> None:
        assert featstore("status", tmp_path).code == 2


class TestVerify:
    def test_sound(self, featstore: Command, small_store: Path) -> None:
        done = featstore("verify", small_store)
        assert (done.code, done.err) == (0, "")
        assert "8 unit(s) sound" in done.out
        facts = json.loads(featstore("verify", small_store, "--json").out)
        assert (facts["sound"], facts["faults"]) == (UNITS, [])
        assert facts["content"] in done.out

    def test_flipped_byte_is_named_with_its_array(
        self, featstore: Command, store_copy: Path
    ) -> None:
        path = store_copy / "folds" / "02" / "prosodic" / "embeddings" / "c" / "0" / "0"
        content = bytearray(path.read_bytes())
        content[100] ^= 1
        path.write_bytes(content)
        done = featstore("verify", store_copy)
        assert done.code == 3
        name = "folds/02/prosodic/embeddings/c/0/0: content differs (array embeddings)"
        assert name in done.out.replace("\n", " ")
        assert "--repair" in done.out
        assert "7 unit(s) sound" in done.out
        done = featstore("verify", store_copy, "--json")
        assert done.code == 3
        [fault] = json.loads(done.out)["faults"]
        assert name in fault["message"]

    def test_damaged_root_is_3_and_a_newer_one_4(
        self, featstore: Command, store_copy: Path
    ) -> None:
        root = store_copy / "zarr.json"
        whole = root.read_text()
        root.write_text(whole[:-5])
        assert "zarr.json: not valid JSON" in error(featstore("verify", store_copy), 3)
        root.write_text(whole.replace('"schema": 3', '"schema": 4'))
        assert "schema 4, this version reads 3" in error(featstore("verify", store_copy), 4)


class TestEnds:
    def test_traceback_only_where_asked(
        self, featstore: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        error(featstore("inspect", tmp_path), 2)
        done = featstore("-v", "inspect", tmp_path)
        assert done.code == 2
        assert "Traceback" in done.err
        assert "error: " in done.err

    def test_error_of_our_own_is_no_wall_of_frames(
        self, featstore: Command, small_store: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(verification, "verify", lambda store: 1 / 0)
        told = error(featstore("verify", small_store), 1)
        assert "ZeroDivisionError: division by zero" in told
        assert "featstore -v" in told

    def test_disk_trouble_is_an_error_line(
        self, featstore: Command, small_store: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def full(*_: Any) -> Any:
            raise OSError(28, "No space left on device", "/somewhere")

        monkeypatch.setattr(verification, "verify", full)
        assert "no space left on device" in error(featstore("verify", small_store), 1)

    @pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
    def test_interrupted(
        self, featstore: Command, small_store: Path, monkeypatch: pytest.MonkeyPatch,
        number: signal.Signals,
    ) -> None:  # fmt: skip
        monkeypatch.setattr(verification, "verify", lambda store: os.kill(os.getpid(), number))
        done = featstore("verify", small_store)
        assert (done.code, done.out) == (130, "")
        assert "interrupted: what is done is kept" in done.err

    def test_wrong_use(self, featstore: Command) -> None:
        assert featstore("inspect").code == 2
        assert featstore("build", "--jobs", "0").code == 2
        assert featstore("rebuild").code == 2


THIRD_PARTY = {"typer", "click", "rich", "shellingham", "annotated_doc", "typing_extensions",
               "markdown_it", "mdurl", "pygments", "colorama"}  # fmt: skip
"""What ``--help`` may import: typer, and what typer takes."""
OF_A_COMMAND = {"pydantic", "pydantic_core", "annotated_types", "typing_inspection"}
"""What typer itself imports for the help of a command."""


@pytest.mark.parametrize(
    ("command", "arguments"),
    [("featstore", ["--help"]), ("featstore", ["build", "--help"]),
     ("featstore", ["inspect", "--help"]), ("distill", ["--help"]), ("distill", ["run", "--help"]),
     ("distill", ["experiment", "--help"])],
)  # fmt: skip
def test_help_imports_typer_and_nothing_else(command: str, arguments: list[str]) -> None:
    script = (
        "import sys\n"
        "before = set(sys.modules)\n"
        "import cli\n"
        f"sys.argv = {[command, *arguments]}\n"
        f"try:\n    cli.{command}_main()\n"
        "finally:\n    print(*sorted(set(sys.modules) - before), file=sys.stderr)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert "Usage" in done.stdout
    modules = done.stderr.split()
    packages = {name.partition(".")[0] for name in modules if not name.startswith("_")}
    allowed = THIRD_PARTY if arguments == ["--help"] else THIRD_PARTY | OF_A_COMMAND
    assert packages - sys.stdlib_module_names - allowed == {"cli", "featstore"}
    ours = {name for name in modules if name.startswith("featstore.")}
    assert {name for name in ours if not name.startswith("featstore.core")} == set()


@pytest.mark.parametrize("command", ["featstore", "distill"])
def test_help_cuts_no_summary_short(command: str) -> None:
    script = f"import sys, cli; sys.argv = ['{command}', '--help']; cli.{command}_main()"
    root = str(ROOT)
    done = subprocess.run(
        [sys.executable, "-c", script],
        env=os.environ | {"PYTHONPATH": root, "COLUMNS": "80"},
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    summaries = done.stdout.partition("Commands:\n")[2].splitlines()
    assert len(summaries) >= 4
    assert all(line.endswith(".") and not line.endswith("...") for line in summaries)
