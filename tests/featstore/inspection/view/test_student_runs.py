from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from featstore.core.schema import Corrupt, UserError
from featstore.inspection.view.runs import find, logits
from featstore.store.store import Store
from tests.featstore.inspection.view.view_helpers import write_run


@pytest.fixture
def store(view_store: Path) -> Store:
    return Store.open(view_store)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "runs" / "tiny-full" / "abc" / "fold03-seed7"


def seal(folder: Path) -> None:
    content = (folder / "predictions.parquet").read_bytes()
    done = {"predictions.parquet": hashlib.sha256(content).hexdigest()}
    (folder / "DONE").write_text(json.dumps(done))


def test_logits_lie_in_the_store_s_order(store: Store, folder: Path) -> None:
    wanted = write_run(folder, store, 3, 7)
    [run], left_out = find(folder.parents[2], store)
    assert left_out == []
    assert (run.fold, run.seed, run.backbone, run.place) == (
        3,
        7,
        "tiny",
        "tiny-full/abc/fold03-seed7",
    )
    np.testing.assert_array_equal(logits(run, store), wanted)
    assert find(folder, store)[0][0].place == "fold03-seed7"


def test_folders_that_are_none(store: Store, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no such folder"):
        find(tmp_path / "gone", store)
    with pytest.raises(UserError, match="no run folder found"):
        find(tmp_path, store)


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"store": {"fingerprint": "0" * 64}}, "of another store"),
        ({"classes": ["ang", "hap"]}, "of another store"),
        ({"schema": 2}, "run.json"), ({"fold": 0}, "run.json"), ({"seed": -1}, "run.json"),
        ({"student": {"backbone": "x" * 300}}, "run.json"), ({"experiment": ["x"]}, "run.json"),
    ],
)  # fmt: skip
def test_left_out_with_the_reason(
    store: Store, folder: Path, changes: dict[str, Any], why: str
) -> None:
    write_run(folder, store, 3, 7, changes)
    runs, [told] = find(folder.parents[2], store)
    assert runs == []
    assert told.startswith("tiny-full/abc/fold03-seed7: ")
    assert why in told


@pytest.mark.parametrize("content", [b"", b"[]", b"{", b"\xff", b"[" * 100_000, b'{"a":1,"a":2}'])
def test_damaged_facts(store: Store, folder: Path, content: bytes) -> None:
    write_run(folder, store, 3, 7)
    (folder / "run.json").write_bytes(content)
    runs, told = find(folder.parents[2], store)
    assert (runs, len(told)) == ([], 1)


def test_a_place_is_shown_not_obeyed(store: Store, tmp_path: Path) -> None:
    write_run(tmp_path / "red\x1b[31m" / "abc" / "fold01-seed1", store, 1, changes={"schema": 9})
    _, [told] = find(tmp_path, store)
    assert "red\\x1b[31m" in told


def test_links_are_not_followed(store: Store, folder: Path, tmp_path: Path) -> None:
    write_run(folder, store, 3, 7)
    away = tmp_path / "away"
    away.mkdir()
    (away / "link").symlink_to(folder.parents[2])
    with pytest.raises(UserError, match="no run folder found"):
        find(away, store)
    [run], _ = find(folder.parents[2], store)
    (tmp_path / "elsewhere").write_bytes((folder / "predictions.parquet").read_bytes())
    (folder / "predictions.parquet").unlink()
    (folder / "predictions.parquet").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(Corrupt, match="not a regular file"):
        logits(run, store)


def changed(frame: pd.DataFrame, how: str) -> pd.DataFrame:
    if how == "twice":
        return pd.concat([frame, frame.iloc[:1]])
    if how == "foreign":
        return frame.assign(utterance_id=[f"x{i}" for i in range(len(frame))])
    if how == "lacking":
        return frame.drop(columns="logit_ang")
    if how == "text":
        return frame.assign(logit_ang="much")
    if how == "gap":
        return frame.assign(utterance_id=[None, *frame["utterance_id"][1:]])
    return frame.assign(logit_ang=np.where(np.arange(len(frame)) == 0, np.nan, 1.0).astype("f4"))


@pytest.mark.parametrize("how", ["twice", "foreign", "lacking", "text", "gap", "nan"])
def test_tables_that_do_not_fit(store: Store, folder: Path, how: str) -> None:
    write_run(folder, store, 3, 7)
    path = folder / "predictions.parquet"
    changed(pd.read_parquet(path), how).to_parquet(path, index=False)
    seal(folder)
    [run], _ = find(folder.parents[2], store)
    with pytest.raises(Corrupt, match=r"fold03-seed7/predictions\.parquet"):
        logits(run, store)


def test_tables_that_are_none(store: Store, folder: Path) -> None:
    write_run(folder, store, 3, 7)
    path = folder / "predictions.parquet"
    [run], _ = find(folder.parents[2], store)
    content = path.read_bytes()
    path.write_bytes(content[:-1] + b"X")
    with pytest.raises(Corrupt, match="changed since the run finished"):
        logits(run, store)
    for junk in (b"", b"PAR1", content[:100] + content[-100:]):
        path.write_bytes(junk)
        seal(folder)
        with pytest.raises(Corrupt, match="no readable Parquet file"):
            logits(run, store)
    path.unlink()
    with pytest.raises(Corrupt, match="No such file"):
        logits(run, store)
    os.mkfifo(path)
    with pytest.raises(Corrupt, match="not a regular file"):
        logits(run, store)


def test_one_that_grows_when_unpacked(store: Store, folder: Path) -> None:
    write_run(folder, store, 3, 7)
    path = folder / "predictions.parquet"
    pd.read_parquet(path).to_parquet(path, index=False, compression="zstd")
    seal(folder)
    [run], _ = find(folder.parents[2], store)
    with pytest.raises(Corrupt, match="larger inside"):
        logits(run, store)
