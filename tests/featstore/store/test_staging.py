from __future__ import annotations

import os
import shutil
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest

from featstore.core.files import try_lock, write_file
from featstore.core.schema import Refused, UserError
from featstore.store import staging
from featstore.store import unit as units
from featstore.store.staging import PREFIX, staged, sweep
from featstore.store.unit import RECORD, SCHEMA, Identity, read_unit
from tests.featstore.store.kept_store import IDENTITY, commit


@pytest.fixture
def place(tmp_path: Path) -> Path:
    return commit(tmp_path / "lld")


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


class TestCommit:
    def test_reads_back_what_was_written(self, place: Path) -> None:
        unit = read_unit(place, "lld", deep=True)
        assert (unit.unit, unit.fingerprint) == ("lld", IDENTITY.fingerprint)
        assert (unit.settings, unit.parents) == (IDENTITY.settings, IDENTITY.parents)
        assert (unit.facts, unit.provenance) == ({"n_frames": 1.5}, {"python": "3"})
        assert {name: size for name, (size, _) in unit.files.items()} == {
            "values/c": 6, "offsets": 2,
        }  # fmt: skip
        assert unit.n_bytes == 8

    def test_leaves_only_the_unit(self, place: Path) -> None:
        assert names(place.parent) == ["lld"]

    def test_of_a_body_that_fails_leaves_nothing(self, tmp_path: Path) -> None:
        with pytest.raises(ZeroDivisionError), staged(tmp_path / "lld", IDENTITY) as staging:
            _ = (staging.folder / "half").write_bytes(b"half") // len(staging.facts)
        assert names(tmp_path) == []

    def test_is_not_seen_before_the_body_ends(self, tmp_path: Path) -> None:
        with staged(tmp_path / "lld", IDENTITY) as staging:
            (staging.folder / "values").write_bytes(b"v")
            with pytest.raises(UserError, match="not complete") as caught:
                read_unit(tmp_path / "lld", "lld")
            assert caught.value.exit_code == 2
        read_unit(tmp_path / "lld", "lld", deep=True)

    def test_first_of_two_writers_wins_and_both_return(self, tmp_path: Path) -> None:
        barrier = threading.Barrier(2)
        order: list[str] = []

        def write(content: str, wait_for_other: bool) -> None:
            with staged(tmp_path / "lld", IDENTITY) as staging:
                (staging.folder / "values").write_text(content)
                barrier.wait(10)
                if wait_for_other:
                    first.join(10)
            order.append(content)

        first = threading.Thread(target=write, args=("first", False))
        second = threading.Thread(target=write, args=("second", True))
        for thread in (first, second):
            thread.start()
        for thread in (first, second):
            thread.join(20)
        assert order == ["first", "second"]
        assert (tmp_path / "lld" / "values").read_text() == "first"
        read_unit(tmp_path / "lld", "lld", deep=True)
        assert names(tmp_path) == ["lld"]

    def test_replaces_only_when_asked(self, place: Path) -> None:
        commit(place, b"second")
        assert (place / "values" / "c").read_bytes() == b"frames"
        commit(place, b"third!", replace=True)
        assert (place / "values" / "c").read_bytes() == b"third!"
        read_unit(place, "lld", deep=True)
        assert names(place.parent) == ["lld"]

    def test_replaces_where_the_kernel_cannot_swap(
        self, place: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(staging, "_exchange", lambda a, b: False)
        commit(place, b"third!", replace=True)
        assert (place / "values" / "c").read_bytes() == b"third!"
        assert names(place.parent) == ["lld"]

    def test_fsyncs_every_file_and_folder_before_the_rename(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        events: list[str] = []
        fsync, rename = os.fsync, Path.rename

        def spy(handle: int) -> None:
            events.append(Path(f"/proc/self/fd/{handle}").readlink().name)
            fsync(handle)

        def spy_rename(self: Path, target: Path) -> Path:
            events.append(f"rename to {target.name}")
            return rename(self, target)

        monkeypatch.setattr(os, "fsync", spy)
        monkeypatch.setattr(Path, "rename", spy_rename)
        commit(tmp_path / "lld")
        at = events.index("rename to lld")
        assert {"c", "offsets", "values", "unit"} <= set(events[:at])
        assert any(name.startswith(f".{RECORD}.") for name in events[:at])
        assert events[at + 1 :] == [tmp_path.name]

    def test_refuses_to_commit_a_link(self, tmp_path: Path) -> None:
        with (
            pytest.raises(Refused, match=r"values: not a regular file"),
            staged(tmp_path / "lld", IDENTITY) as staging,
        ):
            (staging.folder / "values").symlink_to("/dev/null")
        assert names(tmp_path) == []


class TestSweep:
    def test_takes_what_a_killed_writer_left(self, tmp_path: Path) -> None:
        """The writer is a process, and gone by SIGKILL: no ``finally`` of its own cleans up."""
        script = (
            "import os, signal, sys\nfrom pathlib import Path\n"
            "from featstore.store.staging import staged\n"
            "from featstore.store.unit import Identity\n"
            "with staged(Path(sys.argv[1]) / 'lld', Identity('lld', {}, {})) as staging:\n"
            "    (staging.folder / 'values').write_bytes(b'half')\n"
            "    os.kill(os.getpid(), signal.SIGKILL)\n"
        )
        done = subprocess.run([sys.executable, "-c", script, str(tmp_path)], check=False)
        assert done.returncode == -9
        [left] = tmp_path.iterdir()
        assert left.name.startswith(PREFIX)
        commit(tmp_path / "lld")
        assert names(tmp_path) == ["lld"]

    def test_spares_a_live_writer(self, tmp_path: Path) -> None:
        with staged(tmp_path / "lld", IDENTITY) as staging:
            (staging.folder / "values").write_bytes(b"v")
            sweep(tmp_path)
            assert staging.folder.is_dir()
        assert (tmp_path / "lld" / "values").read_bytes() == b"v"

    def test_takes_an_empty_folder_without_a_lock(self, tmp_path: Path) -> None:
        (tmp_path / f"{PREFIX}lld-{1:016x}").mkdir()
        sweep(tmp_path)
        assert names(tmp_path) == []

    def test_removes_the_lock_last(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """Killed while it cleans up, a writer leaves something that is still swept."""
        wrapper = tmp_path / f"{PREFIX}lld-{1:016x}"
        (wrapper / "unit" / "values").mkdir(parents=True)
        (wrapper / "lock").touch()
        left: list[list[str]] = []
        rmtree = shutil.rmtree

        def spy(path: Path, **options: Any) -> None:
            left.append(names(wrapper))
            rmtree(path, **options)

        monkeypatch.setattr(shutil, "rmtree", spy)
        sweep(tmp_path)
        assert left == [["lock", "unit"], ["lock"]]
        assert names(tmp_path) == []

    def test_lock_is_free_once_its_holder_closes_it(self, tmp_path: Path) -> None:
        lock = try_lock(tmp_path / "lock", create=True)
        assert lock is not None
        assert try_lock(tmp_path / "lock") is None
        os.close(lock)
        again = try_lock(tmp_path / "lock")
        assert again is not None
        os.close(again)


class TestFingerprint:
    def test_takes_in_settings_parents_and_name(self) -> None:
        others = [
            Identity("audio", IDENTITY.settings, IDENTITY.parents),
            Identity("lld", {}, IDENTITY.parents),
            Identity("lld", IDENTITY.settings, {}),
            Identity("lld", IDENTITY.settings, {"audio": "1" * 64}),
        ]
        prints = {one.fingerprint for one in [IDENTITY, *others]}
        assert len(prints) == 5

    def test_does_not_depend_on_the_order_of_keys(self) -> None:
        one = Identity("lld", {"a": 1, "b": {"c": 2, "d": 3}}, {})
        other = Identity("lld", {"b": {"d": 3, "c": 2}, "a": 1}, {})
        assert one.fingerprint == other.fingerprint

    def test_takes_in_the_schema(self, monkeypatch: pytest.MonkeyPatch) -> None:
        before = IDENTITY.fingerprint
        monkeypatch.setattr(units, "SCHEMA", SCHEMA + 1)
        assert IDENTITY.fingerprint != before


class TestWriteFile:
    def test_replaces_whole_or_not_at_all(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        path = tmp_path / "file"
        write_file(path, b"old")
        monkeypatch.setattr(os, "fsync", lambda handle: (_ for _ in ()).throw(OSError("full")))
        with pytest.raises(OSError, match="full"):
            write_file(path, b"new")
        assert path.read_bytes() == b"old"
        assert names(tmp_path) == ["file"]
