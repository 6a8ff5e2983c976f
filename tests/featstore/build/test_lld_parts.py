"""LLDs in parts: kept when a build is interrupted, taken over where a signal is the same."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from featstore.build import units
from featstore.build.run import lld_parts, tasks_of
from featstore.build.units import LldPart, commit_llds, extract_part
from featstore.core.schema import TaskFailed
from featstore.features import lld
from featstore.jobs import executor_settings
from featstore.store.store import Store
from tests.featstore.build.helpers import Build, Change, planned


@pytest.fixture
def shared(changed: Change, small_store: Path, tmp_path: Path) -> Any:
    """Requests without a teacher: the shared units alone, their LLDs in four parts."""
    base = changed(store=tmp_path / "new", shards=4)
    return replace(base, settings=base.settings.model_copy(update={"teachers": {}}))


@pytest.fixture
def extracted(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The lengths of the signals that went to the extractor."""
    lengths: list[int] = []
    extract = lld.extract

    def counted(samples: Any, feature_set: str = "eGeMAPSv02") -> Any:
        lengths.append(len(samples))
        return extract(samples, feature_set)

    monkeypatch.setattr(lld, "extract", counted)
    return lengths


def content(store: Path, *names: str) -> dict[str, Any]:
    return {name: Store.open(store).unit(name).files for name in names}


def parts_of(request: Any) -> list[LldPart]:
    return lld_parts(planned(request), request)


class TestPart:
    @pytest.fixture
    def part(self, shared: Any, store_copy: Path) -> LldPart:
        """The first of a store that lost its LLDs."""
        shutil.rmtree(store_copy / "lld")
        first = parts_of(replace(shared, store=store_copy, shards=40))[0]
        assert len(first.rows) < 4
        return first

    def test_is_there_when_it_is_committed_for_the_same_unit_and_versions(
        self, part: LldPart, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        assert not part.is_there()
        extract_part(part)
        assert part.is_there()
        assert part.place.parent.parent == part.store / ".parts"
        assert not replace(part, rows=range(7)).is_there()
        with monkeypatch.context() as patch:
            patch.setattr(units, "versions", lambda: {"opensmile": "9"})
            assert not part.is_there()
        (part.place / "signal_sha256" / "zarr.json").write_text("longer")
        assert not part.is_there()

    def test_damaged_is_removed_and_named(self, part: LldPart) -> None:
        extract_part(part)
        chunk = part.place / "signal_sha256" / "c" / "0" / "0"
        raw = bytearray(chunk.read_bytes())
        raw[3] ^= 1
        chunk.write_bytes(raw)
        with pytest.raises(TaskFailed, match=r"lld/part-001-of-040: damaged, and removed") as told:
            part.read()
        assert "run the same command again" in told.value.hint
        assert not part.place.exists()

    def test_those_of_another_unit_go(self, part: LldPart, tmp_path: Path) -> None:
        extract_part(part)
        units.remove_parts(part.store, [part])
        assert part.is_there()
        units.remove_parts(part.store, [])
        assert not (part.store / units.PARTS).exists()
        outside = tmp_path / "outside"
        outside.mkdir()
        (outside / "mine").mkdir()
        (part.store / units.PARTS).symlink_to(outside)
        units.remove_parts(part.store, [])
        assert (outside / "mine").exists()


class TestBuild:
    def test_killed_it_goes_on_with_the_parts_that_are_there(
        self,
        build_here: Build,
        shared: Any,
        small_store: Path,
        monkeypatch: pytest.MonkeyPatch,
        extracted: list[int],
    ) -> None:
        class Killed(BaseException):
            pass

        extract = lld.extract

        def killed_at_50(samples: Any, feature_set: str = "eGeMAPSv02") -> Any:
            if len(extracted) == 50:
                raise Killed
            return extract(samples, feature_set)

        with monkeypatch.context() as patch:
            patch.setattr(lld, "extract", killed_at_50)
            with pytest.raises(Killed):
                build_here(shared)
        (folder,) = (shared.store / ".parts").iterdir()
        there = sum(len(part.rows) for part in parts_of(shared) if part.is_there())
        assert 25 < there < 50
        assert len(list(folder.iterdir())) == 2
        extracted.clear()
        assert build_here(shared).built == ["lld"]
        assert len(extracted) == 80 - there
        assert content(shared.store, "lld") == content(small_store, "lld")
        assert not (shared.store / ".parts").exists()

    def test_a_part_that_fails_fails_what_needs_it_and_nothing_else(
        self, build_here: Build, shared: Any, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def fails(samples: Any, feature_set: str = "") -> Any:
            raise TaskFailed("no room", "free some")

        monkeypatch.setattr(lld, "extract", fails)
        with pytest.raises(TaskFailed, match=r"5 task\(s\) failed") as caught:
            build_here(shared)
        assert "lld/part-001-of-004: no room (free some)" in caught.value.message
        assert "lld: needs lld/part-001-of-004" in caught.value.message
        assert Store(shared.store).units() == ["corpus", "audio", "splits"]

    def test_of_signals_that_are_kept_outside_the_store(
        self, build_here: Build, shared: Any, small_store: Path
    ) -> None:
        audio = shared.settings.audio.model_copy(update={"embed_audio": False})
        settings = shared.settings.model_copy(update={"audio": audio})
        build_here(replace(shared, settings=settings))
        assert content(shared.store, "lld") == content(small_store, "lld")


class TestTakenOver:
    @pytest.fixture
    def request_(self, shared: Any, store_copy: Path) -> Any:
        """The small store asked for again without its first utterance."""
        shutil.rmtree(store_copy / "folds")
        table = shared.manifest.utterances.iloc[1:].reset_index(drop=True)
        manifest = replace(shared.manifest, utterances=table)
        return replace(shared, manifest=manifest, store=store_copy, rebuild=True)

    def test_only_other_signals_are_extracted(
        self,
        build_here: Build,
        request_: Any,
        extracted: list[int],
        capsys: pytest.CaptureFixture[str],
    ) -> None:
        before = [Store.open(request_.store).lld.read(row) for row in range(80)]
        build_here(request_)
        assert extracted == []
        assert "LLDs of 79 utterance(s)" in capsys.readouterr().err
        after = Store.open(request_.store).lld
        assert all((after.read(row) == before[row + 1]).all() for row in range(79))

    def test_nothing_of_other_descriptors_or_another_extractor(
        self, build_here: Build, request_: Any, extracted: list[int]
    ) -> None:
        other = request_.settings.lld.model_copy(update={"feature_set": "GeMAPSv01b"})
        settings = request_.settings.model_copy(update={"lld": other})
        build_here(replace(request_, settings=settings))
        assert len(extracted) == 79

    def test_nothing_of_a_damaged_chunk(
        self, build_here: Build, request_: Any, extracted: list[int]
    ) -> None:
        path = request_.store / "lld/values/c/0/0"
        raw = bytearray(path.read_bytes())
        raw[40] ^= 1
        path.write_bytes(raw)
        build_here(request_)
        assert len(extracted) == 79  # all of them lie in it


class TestTasks:
    def test_know_what_comes_first(self, changed: Change, tmp_path: Path) -> None:
        request = changed(store=tmp_path / "new", shards=4, folds="1")
        tasks = tasks_of(planned(request), request)
        *parts, unit, words, voice = tasks
        assert [part.key for part in parts][-1] == "lld/part-004-of-004"
        assert unit.needs == tuple(part.key for part in parts)
        assert (words.needs, voice.needs) == ((), ("lld",))
        assert not any(task.is_done() for task in tasks)

    def test_a_cluster_makes_fewer_parts(self, shared: Any) -> None:
        table = shared.manifest.utterances.assign(duration_s=3600.0)  # 80 hours
        request = replace(
            shared, shards=None, manifest=replace(shared.manifest, utterances=table)
        )  # fmt: skip
        plan = planned(request)
        slurm = executor_settings("slurm")
        assert len(lld_parts(plan, request, slurm)) == 40
        assert len(lld_parts(plan, request)) == 80  # never more than utterances
        assert len(lld_parts(plan, replace(request, shards=4), slurm)) == 4

    def test_to_replace_is_done_when_another_stands_there(
        self, changed: Change, store_copy: Path
    ) -> None:
        damaged = store_copy / "lld" / "offsets" / "c" / "0"
        raw = bytearray(damaged.read_bytes())
        raw[8] ^= 1
        damaged.write_bytes(raw)
        request = changed(store=store_copy, repair=True)
        plan = planned(request)
        *_, unit = tasks_of(plan, request)
        assert (
            Store.open(store_copy).unit("lld").fingerprint == plan.step("lld").identity.fingerprint
        )
        assert not unit.is_done()
        parts = lld_parts(plan, request)
        for part in parts:
            assert not part.is_done()
            extract_part(part)
        commit_llds(parts)
        assert unit.is_done()
