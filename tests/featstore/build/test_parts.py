"""A unit made in parts has the bytes of one made at once, whatever happened on the way."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from featstore.build import build_tasks, part_works, parts
from featstore.build import units as steps
from featstore.build.build_tasks import Resources, audio_tasks, lld_tasks
from featstore.build.plan import make_plan
from featstore.build.units import source_sums
from featstore.core.schema import TaskFailed
from featstore.store.store import Store
from featstore.store.unit import Identity

Build = Callable[[Any], Any]
Change = Callable[..., Any]
WHOLE = Identity("lld", {}, {})


def part(store: Path, number: int = 1, **made: str) -> parts.Part:
    return parts.Part(store, WHOLE, range(2), number, 2, made)


def write(one: parts.Part, text: str = "x") -> None:
    with one.writing() as staging:
        (staging.folder / "file").write_text(text)


@pytest.fixture
def shared(changed: Change, small_store: Path, tmp_path: Path) -> Any:
    """Requests without a teacher: the shared units alone, in four parts."""
    base = changed(store=tmp_path / "new", shards=4)
    return replace(base, settings=base.settings.model_copy(update={"teachers": {}}))


def shared_content(store: Path, *units: str) -> dict[str, Any]:
    return {unit: Store.open(store).unit(unit).files for unit in units}


class TestPart:
    def test_is_there_when_it_is_committed_for_the_same_unit_and_versions(
        self, tmp_path: Path
    ) -> None:
        one = part(tmp_path, opensmile="1")
        assert not one.is_there()
        write(one)
        assert one.is_there()
        assert one.place == tmp_path / ".parts" / one.place.parent.name / "001-of-002"
        assert not part(tmp_path, opensmile="2").is_there()
        assert not replace(one, rows=range(3)).is_there()
        assert not replace(one, whole=Identity("lld", {"other": 1}, {})).is_there()
        (one.place / "file").write_text("longer")
        assert not one.is_there()

    def test_of_other_versions_is_swapped_out(self, tmp_path: Path) -> None:
        write(part(tmp_path, opensmile="1"), "old")
        new = part(tmp_path, opensmile="2")
        write(new, "new")
        assert new.is_there()
        assert (new.place / "file").read_text() == "new"

    def test_damaged_is_removed_and_named(self, tmp_path: Path) -> None:
        one = part(tmp_path)
        write(one)
        (one.place / "file").write_text("y")
        with pytest.raises(
            TaskFailed, match=r"lld/part-001-of-002: damaged, and removed"
        ) as caught:
            one.read()
        assert "run the same command again" in caught.value.hint
        assert not one.place.exists()

    def test_those_of_a_unit_go_and_others_stay(self, tmp_path: Path) -> None:
        other = replace(part(tmp_path), whole=Identity("audio", {}, {}))
        for one in (part(tmp_path), part(tmp_path, 2), other):
            write(one)
        parts.keep_parts(tmp_path, [WHOLE, other.whole])
        assert part(tmp_path).is_there()
        parts.remove_parts(tmp_path, WHOLE)
        assert not part(tmp_path).place.parent.exists()
        assert other.is_there()
        parts.keep_parts(tmp_path, [])
        assert not (tmp_path / parts.FOLDER).exists()

    def test_a_link_in_their_place_is_left_alone(self, tmp_path: Path) -> None:
        outside = tmp_path / "outside"
        write(part(outside))
        (tmp_path / "store").mkdir()
        (tmp_path / "store" / parts.FOLDER).symlink_to(outside / parts.FOLDER)
        parts.keep_parts(tmp_path / "store", [])
        assert part(outside).is_there()

    def test_none_where_one_would_do(self, tmp_path: Path) -> None:
        assert parts.parted(tmp_path, WHOLE, [1.0, 2.0], 1, {}) == []
        assert parts.parted(tmp_path, WHOLE, [1.0], 8, {}) == []
        assert len(parts.parted(tmp_path, WHOLE, [1.0] * 3, 8, {})) == 3


class TestBuild:
    def test_in_parts_is_the_same_to_the_byte(
        self, build_here: Build, shared: Any, small_store: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        assert build_here(shared).built == ["audio", "corpus", "splits", "lld"]
        units = ("audio", "corpus", "splits", "lld")
        assert shared_content(shared.store, *units) == shared_content(small_store, *units)
        assert sorted(path.name for path in shared.store.iterdir()) == [
            "audio", "corpus", "lld", "splits", "zarr.json",
        ]  # fmt: skip
        told = capsys.readouterr().err
        assert "audio in parts: 4/4 parts" in told
        assert "LLDs in parts: 4/4 parts" in told

    def test_killed_it_goes_on_with_the_parts_that_are_there(
        self, build_here: Build, shared: Any, small_store: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        class Killed(BaseException):
            pass

        made: list[int] = []
        lld_part = part_works.lld_part

        def third_dies(one: parts.Part, *rest: Any) -> None:
            made.append(one.number)
            if len(made) == 3:
                raise Killed
            lld_part(one, *rest)

        monkeypatch.setattr(build_tasks, "lld_part", third_dies)
        with pytest.raises(Killed):
            build_here(shared)
        assert made == [1, 2, 3]
        assert len(list((shared.store / ".parts").glob("lld-*/*"))) == 2
        assert build_here(shared).built == ["lld"]
        assert made == [1, 2, 3, 3, 4]
        assert shared_content(shared.store, "lld") == shared_content(small_store, "lld")
        assert not (shared.store / ".parts").exists()

    def test_a_part_that_fails_stops_the_build_as_it_would_whole(
        self, build_here: Build, shared: Any, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def fails(*_: Any) -> None:
            raise TaskFailed("no room", "free some")

        monkeypatch.setattr(build_tasks, "audio_part", fails)
        with pytest.raises(TaskFailed, match="no room"):
            build_here(shared)

    def test_signals_kept_outside_and_what_cannot_be_used(
        self, build_here: Build, shared: Any, corpus_copy: Path, tmp_path: Path
    ) -> None:
        """The first file is damaged: its row is missing in parts as it is at once."""
        manifest = replace(shared.manifest, root=corpus_copy)
        settings = shared.settings
        audio = settings.audio.model_copy(update={"embed_audio": False})
        request = replace(
            shared, manifest=manifest, settings=settings.model_copy(update={"audio": audio})
        )
        (corpus_copy / manifest.utterances["file"][0]).write_bytes(b"RIFF")
        whole = replace(request, store=tmp_path / "whole", shards=None)
        build_here(request)
        build_here(whole)
        units = ("audio", "corpus", "splits", "lld")
        assert shared_content(request.store, *units) == shared_content(whole.store, *units)
        (excluded,) = Store(request.store).unit("audio").facts["excluded"]
        assert excluded["reason"] == "unreadable"
        assert len(Store(request.store).lengths) == len(manifest.utterances) - 1

    def test_llds_of_unchanged_signals_are_taken_over_in_parts_too(
        self, build_here: Build, shared: Any, store_copy: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        shutil.rmtree(store_copy / "folds")
        request = replace(shared, store=store_copy, rebuild=True)
        table = request.manifest.utterances.iloc[1:].reset_index(drop=True)
        request = replace(request, manifest=replace(request.manifest, utterances=table))
        build_here(request)
        assert f"LLDs of {len(table)} utterance(s)" in capsys.readouterr().err


class TestTasks:
    def test_of_a_cluster_know_what_comes_first(self, shared: Any) -> None:
        sums = source_sums(shared.manifest)
        plan = make_plan(shared, sums)
        cluster = Resources(cluster=True)
        audio, lld = audio_tasks(plan, shared, sums, cluster), lld_tasks(plan, shared, cluster)
        assert [task.key for task in audio][-2:] == ["audio/part-004-of-004", "audio"]
        assert audio[-1].needs == tuple(task.key for task in audio[:-1])
        assert {task.needs for task in lld[:-1]} == {("audio",)}
        assert lld[-1].needs == ("audio", *(task.key for task in lld[:-1]))
        assert not any(task.is_done() for task in [*audio, *lld])

    def test_a_cluster_makes_as_many_parts_as_there_are_hours(self, shared: Any) -> None:
        request = replace(shared, shards=None)
        plan = make_plan(request, source_sums(request.manifest))
        long = replace(plan, table=plan.table.assign(duration_s=3600.0))  # 80 hours
        count = build_tasks.n_parts
        assert count(long, request, 2.0, Resources(cluster=True)) == 40
        assert count(plan, request, 2.0, Resources(cluster=True)) == 1
        assert count(long, request, 2.0, Resources()) == 1
        assert count(long, shared, 2.0, Resources(cluster=True)) == 4

    def test_on_a_cluster_all_that_was_heard_must_be_decoded(
        self, shared: Any, corpus_copy: Path
    ) -> None:
        manifest = replace(shared.manifest, root=corpus_copy)
        request, store = replace(shared, manifest=manifest, shards=None), shared.store
        sums = source_sums(manifest)
        plan = make_plan(request, sums)
        Store.create(store)
        (corpus_copy / manifest.utterances["file"][0]).unlink()
        (task,) = audio_tasks(plan, request, sums, Resources(cluster=True))
        with pytest.raises(TaskFailed, match="1 utterance") as caught:
            task.work()
        assert "do all nodes see" in caught.value.hint
        assert Store(store).units() == []

    def test_to_replace_is_done_when_another_stands_there(
        self, changed: Change, store_copy: Path
    ) -> None:
        damaged = store_copy / "lld" / "offsets" / "c" / "0"
        raw = bytearray(damaged.read_bytes())
        raw[8] ^= 1
        damaged.write_bytes(raw)
        request = changed(store=store_copy, repair=True)
        plan = make_plan(request, source_sums(request.manifest))
        (task,) = lld_tasks(plan, request, Resources())
        assert steps.stands(Store(store_copy), plan.step("lld").identity)
        assert not task.is_done()
        task.work()
        assert task.is_done()
