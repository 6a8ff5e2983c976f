"""The order in which a build and a run write: what is in its place survives a power cut whole."""

from __future__ import annotations

import re
import shutil
import time
from functools import partial
from pathlib import Path

import pytest

from distill.runs.folder import SUMMED
from featstore.store.store import Store
from tests.reliability.durability import CALLS, Disk, replay, without_fsync
from tests.reliability.harness import build_arguments, run_arguments
from tests.reliability.warm import call

pytestmark = [
    pytest.mark.reliability,
    pytest.mark.timeout(600),
    pytest.mark.skipif(shutil.which("strace") is None, reason="needs strace"),
]

UNITS = ["audio", "corpus", "lld", "splits"]
UNITS += [
    f"folds/{fold}/{teacher}" for fold in ("01", "02") for teacher in ("linguistic", "prosodic")
]
GROUPS = ["zarr.json", "folds/zarr.json", "folds/01/zarr.json", "folds/02/zarr.json"]


def traced(app: str, arguments: list[str], folder: Path, skip: str = "") -> Path:
    """Run a command under strace; the trace."""
    folder.mkdir(exist_ok=True)
    before = partial(without_fsync, skip) if skip else None
    options = ["-y", "-o", str(folder / "trace"), "-e", f"trace={','.join(CALLS)}"]
    done = call(app, arguments, folder, strace=options, before=before)
    assert done.returncode == 0, done.stderr
    return folder / "trace"


def build_replayed(corpus: Path, config: Path, folder: Path, skip: str = "") -> Disk:
    root = folder / "disk"
    root.mkdir()
    arguments = build_arguments(corpus, config, root / "new" / "store")
    return replay(traced("featstore", arguments, folder / "out", skip), root)


def test_a_build_survives_a_power_cut(tone_corpus: Path, tone_config: Path, tmp_path: Path) -> None:
    """Every file of a unit and each folder before the rename, the folder above after it."""
    began = time.monotonic()
    disk = build_replayed(tone_corpus, tone_config, tmp_path)
    assert not disk.faults
    assert sorted(f"new/store/{name}" for name in UNITS + GROUPS) == sorted(disk.commits)
    store = Store.open(tmp_path / "disk" / "new" / "store")
    files = [store.path / unit / name for unit in UNITS for name in store.unit(unit).files]
    records = [store.path / unit / "unit.json" for unit in UNITS]
    groups = [store.path / name for name in GROUPS]
    for path in [*files, *records, *groups]:
        assert not disk.lost([str(path)])
    print(f"\npower cut in a build: {len(disk.commits)} renames into place, "
          f"{len(disk.nodes)} files and folders, lost 0, "
          f"{time.monotonic() - began:.0f} s")  # fmt: skip


def rebuild_replayed(corpus: Path, config: Path, whole: Path, folder: Path, skip: str = "") -> Disk:
    store = Path(shutil.copytree(whole, folder / "disk" / "store"))
    there = [store.parent, store, *store.rglob("*")]
    more = ("--set", "teachers.prosodic.seed=7", "--rebuild")
    trace = traced("featstore", build_arguments(corpus, config, store, *more), folder / "out", skip)
    return replay(trace, folder / "disk", there=there)


def test_a_rebuild_survives_a_power_cut(
    undisturbed: Path, tone_corpus: Path, tone_config: Path, tmp_path: Path
) -> None:
    """The old unit goes when the new one is safe in its place."""
    disk = rebuild_replayed(tone_corpus, tone_config, undisturbed, tmp_path)
    assert not disk.faults
    replaced = [f"store/folds/{fold}/prosodic" for fold in ("01", "02")]
    assert [name for name in disk.commits if not name.endswith(".json")] == replaced


def test_a_rebuild_that_forgets_a_fsync_is_found_out(
    undisturbed: Path, tone_corpus: Path, tone_config: Path, tmp_path: Path
) -> None:
    disk = rebuild_replayed(tone_corpus, tone_config, undisturbed, tmp_path, r"/folds/02$")
    check(disk, r"removed too early: store/folds/02/prosodic: its folder")


def run_replayed(store: Path, folder: Path, skip: str = "") -> Disk:
    """A run; whatever ``DONE`` vouches for must be safe when ``DONE`` is put into place."""
    root = folder / "disk"
    root.mkdir()

    def vouched(disk: Disk, name: str) -> None:
        if name.endswith("/DONE"):
            run = root / Path(name).parent
            paths = [str(run / one) for one in (*SUMMED, "student/model.safetensors")]
            disk.faults += [f"DONE too early: {one}" for one in disk.lost(paths)]

    trace = traced("distill", run_arguments(store, root / "runs"), folder / "out", skip)
    return replay(trace, root, vouched)


def test_a_run_survives_a_power_cut(undisturbed: Path, tmp_path: Path) -> None:
    """Its checkpoints, its student and every file of it; ``DONE`` last."""
    began = time.monotonic()
    disk = run_replayed(undisturbed, tmp_path)
    assert not disk.faults
    names = ["/".join(name.split("/")[4:]) for name in disk.commits]
    assert [name for name in names if name.startswith("checkpoint/")] == [
        "checkpoint/00000002", "checkpoint/00000004"
    ]  # fmt: skip
    assert set(names) >= {"student", "predictions.parquet", "run.json", "config.toml"}
    assert names[-1] == "DONE"
    print(f"\npower cut in a run: {len(disk.commits)} renames into place, lost 0, "
          f"{time.monotonic() - began:.0f} s")  # fmt: skip


@pytest.mark.parametrize(
    ("skip", "lost"),
    [
        (r"audio-.*/unit/values/c/0$", r"renamed to new/store/audio: .*/values/c/0: not"),
        (r"linguistic-.*/unit/logits$", r"renamed to .*/linguistic: .*/logits"),
        (r"/\.unit\.json\.", r"renamed to .*unit\.json"),
        (r"/store/\.zarr\.json\.", r"renamed to new/store/zarr\.json"),
        (r"/store$", r"at the end: new/store"),
        (r"/folds/01$", r"at the end: new/store/folds/01"),
        (r"/folds$", r"at the end: new/store/folds"),
    ],
)
def test_a_build_that_forgets_a_fsync_is_found_out(
    skip: str, lost: str, tone_corpus: Path, tone_config: Path, tmp_path: Path
) -> None:
    check(build_replayed(tone_corpus, tone_config, tmp_path, skip), lost)


@pytest.mark.parametrize(
    ("skip", "lost"),
    [
        (r"tensors\.safetensors$", r"renamed to .*checkpoint/00000002: .*tensors"),
        (r"\.state\.json\.", r"renamed to .*state\.json"),
        (r"/checkpoint$", r"removed too early: .*checkpoint/00000004: its folder"),
        (r"model\.safetensors$", r"renamed to .*student: .*model"),
        (r"/fold01-seed42$", r"DONE too early: .*predictions"),
        (r"\.predictions\.parquet\.", r"renamed to .*predictions"),
        (r"\.DONE\.", r"renamed to .*DONE"),
        (r"/runs$", r"at the end: runs/"),
    ],
)
def test_a_run_that_forgets_a_fsync_is_found_out(
    skip: str, lost: str, undisturbed: Path, tmp_path: Path
) -> None:
    check(run_replayed(undisturbed, tmp_path, skip), lost)


def check(disk: Disk, lost: str) -> None:
    assert any(re.search(lost, fault) for fault in disk.faults), disk.faults
