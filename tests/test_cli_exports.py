"""``featstore export``, ``import`` and ``diff`` as a user types them."""

from __future__ import annotations

import json
import shutil
import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest

import cli
from featstore.core import console
from featstore.store.store import Store
from tests import ROOT

KEPT = ROOT / "tests" / "data" / "store-v3"


class Done(NamedTuple):
    code: int
    out: str
    err: str


@pytest.fixture
def featstore(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Iterator[Callable[..., Done]]:
    """``featstore("diff", A, B)`` in this process: its exit code, stdout and stderr."""
    handlers = [(number, signal.getsignal(number)) for number in (signal.SIGINT, signal.SIGTERM)]

    def run(*arguments: Any) -> Done:
        capsys.readouterr()
        monkeypatch.setattr(sys, "argv", ["featstore", *map(str, arguments)])
        with pytest.raises(SystemExit) as ended:
            cli.featstore_main()
        return Done(int(ended.value.code or 0), *capsys.readouterr())

    yield run
    for number, handler in handlers:
        signal.signal(number, handler)
    console.set_verbose(False)


def test_out_and_in_again(featstore: Callable[..., Done], tmp_path: Path) -> None:
    out = featstore("export", KEPT, "--to", tmp_path / "a.h5")
    content = Store.open(KEPT).content_hash()
    assert (out.code, "HDF5" in out.out, content in out.out) == (0, True, True)
    back = featstore("import", tmp_path / "a.h5", "--store", tmp_path / "new")
    assert (back.code, content in back.out) == (0, True)
    assert "restored 8 unit(s)" in back.out
    assert featstore("verify", tmp_path / "new").code == 0
    same = featstore("diff", KEPT, tmp_path / "new")
    assert (same.code, same.err) == (0, "")
    assert "the same content, to the byte" in same.out
    again = featstore("import", tmp_path / "a.h5", "--store", tmp_path / "new", "--json")
    facts = json.loads(again.out)
    assert (facts["restored"], facts["content"]) == ([], content)


def test_formats(featstore: Callable[..., Done], tmp_path: Path) -> None:
    table = featstore("export", KEPT, "--to", tmp_path / "a.parquet", "--fold", "1")
    assert (table.code, table.err) == (0, "")
    assert "16 rows x 18 columns" in table.out
    teacher = ("--teacher", "prosodic", "--json")
    arrays = featstore("export", KEPT, "--to", tmp_path / "a.npz", *teacher)
    names = json.loads(arrays.out)["arrays"]
    with np.load(tmp_path / "a.npz", allow_pickle=False) as found:
        assert found.files == names


@pytest.mark.parametrize(
    ("line", "code", "message"),
    [
        ("export KEPT --to a.zip", 2, "no format is known by '.zip'"),
        ("export KEPT --to a", 2, "no format is known by 'no ending'"),
        ("export KEPT --to .h5x", 2, "no format is known by 'no ending'"),
        ("export KEPT --to gone/a.h5", 2, "gone: no such folder"),
        ("export KEPT --to a.h5 --fold 1", 2, "HDF5 takes the whole store"),
        ("export KEPT --to a.h5 --teacher prosodic", 2, "HDF5 takes the whole store"),
        ("export KEPT --to a.h5 --embeddings", 2, "HDF5 takes the whole store"),
        ("export KEPT --to a.npz --embeddings", 2, "NumPy always has them"),
        ("export KEPT --to a.npz --no-text", 2, "NumPy never has the transcripts"),
        ("export KEPT --to a.parquet --no-audio", 2, "Parquet never has the signals"),
        ("export KEPT --to a.npz --teacher lyrical", 2, "--teacher lyrical: not among"),
        ("export KEPT --to a.npz --fold 9", 2, "--fold 9: 9 is not within"),
        ("export KEPT --to a.npz --fold 3", 2, "no teacher in fold 3"),
        ("export gone --to a.h5", 2, "no store there"),
        ("import a.h5 --store new", 2, "a.h5: no such file"),
        ("import KEPT --store new", 4, "not a regular file"),
        ("import KEPT/zarr.json --store new", 3, "no HDF5 file"),
        ("diff KEPT", 2, "nothing to compare"),
        ("diff KEPT gone", 2, "no store there"),
    ],
)
def test_mistakes(
    featstore: Callable[..., Done],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    line: str,
    code: int,
    message: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    done = featstore(*(word.replace("KEPT", str(KEPT)) for word in line.split()))
    assert (done.code, done.out) == (code, "")
    first, hint = done.err.splitlines()
    assert first.startswith("error: ")
    assert message in first
    assert len(hint) > len("hint: ")
    assert list(tmp_path.iterdir()) == []


def test_without_signals(featstore: Callable[..., Done], tmp_path: Path) -> None:
    out = featstore("export", KEPT, "--to", tmp_path / "a.h5", "--no-audio", "--no-text")
    assert "without audio and text: no store can be made of it again" in out.out
    back = featstore("import", tmp_path / "a.h5", "--store", tmp_path / "new")
    assert back.code == 4
    assert "exported without audio text" in back.err


def test_force(featstore: Callable[..., Done], tmp_path: Path) -> None:
    (tmp_path / "a.npz").write_text("mine")
    refused = featstore("export", KEPT, "--to", tmp_path / "a.npz")
    assert (refused.code, "--force" in refused.err) == (2, True)
    assert (tmp_path / "a.npz").read_text() == "mine"
    assert featstore("export", KEPT, "--to", tmp_path / "a.npz", "--force").code == 0


def test_diff_of_two_teachers(featstore: Callable[..., Done]) -> None:
    pair = ("diff", KEPT, "--teacher", "linguistic", "--with", "prosodic", "--fold", "2")
    facts = json.loads(featstore(*pair, "--json").out)
    assert [row["fold"] for row in facts["drift"]] == [2]
    lines = featstore(*pair, "--csv").out.splitlines()
    assert len(lines) == 2
    assert lines[0].startswith("fold,teacher,with,utterances,other_role,mean_abs_logit,")
    assert lines[0].endswith("cka,agreement_training,agreement_validation,agreement_test")
    assert lines[1].startswith("2,linguistic,prosodic,8,")


def test_diff_of_a_damaged_store(featstore: Callable[..., Done], tmp_path: Path) -> None:
    store = Path(shutil.copytree(KEPT, tmp_path / "store"))
    (store / "folds/01/prosodic/logits/c/0/0").write_bytes(bytes(68))
    done = featstore("diff", KEPT, store)
    assert done.code == 3
    assert "folds/01/prosodic/logits/c/0/0: content differs" in done.err
