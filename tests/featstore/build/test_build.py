from __future__ import annotations

import json
import os
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import soundfile

from featstore.build import run as module
from featstore.build.run import result_dict
from featstore.build.units import refuse
from featstore.core.schema import Corrupt, Fault, TaskFailed, UserError
from featstore.store.store import Store
from featstore.store.verify import verify
from tests.featstore.build.helpers import SHARED, TEACHERS, Build, Change, files, plan

WORDS = ["folds/01/linguistic", "folds/02/linguistic"]
VOICE = ["folds/01/prosodic", "folds/02/prosodic"]


def units(request: Any, status: str) -> list[str]:
    return [unit for unit, (found, _) in plan(request).items() if found == status]


def inodes(root: Path, names: list[str]) -> dict[str, int]:
    """Tells a folder that was replaced, even by the same bytes."""
    return {name: (root / name).stat().st_ino for name in names}


@pytest.fixture(scope="module")
def content(small_store: Path) -> str:
    return Store.open(small_store).content_hash()


class TestPlan:
    def test_of_nothing_is_everything_and_touches_nothing(
        self, changed: Change, tmp_path: Path
    ) -> None:
        request = changed(store=tmp_path / "store")
        assert units(request, "build") == SHARED + TEACHERS
        assert {why for _, why in plan(request).values()} == {"not there yet"}
        assert not list(tmp_path.iterdir())

    def test_of_what_is_done_says_why(self, changed: Change, small_store: Path) -> None:
        assert set(plan(changed(store=small_store)).values()) == {("done", "same fingerprint")}

    def test_counts_only_the_folds_asked_for(self, changed: Change, tmp_path: Path) -> None:
        request = changed(store=tmp_path, folds="2,9..10")
        assert units(request, "build")[len(SHARED) :: 2] == [
            "folds/02/linguistic", "folds/09/linguistic", "folds/10/linguistic",
        ]  # fmt: skip
        with pytest.raises(UserError, match=r"within 1\.\.10"):
            plan(changed(store=tmp_path, folds="11"))

    @pytest.mark.parametrize(
        ("pair", "conflicts", "why"),
        [
            ("teachers.prosodic.dropout=0.3", VOICE, "teacher.dropout: 0.2 -> 0.3"),
            ("teachers.linguistic.optim.lr=0.002", WORDS, "teacher.optim.lr: 0.001 -> 0.002"),
            ("lld.feature_set=GeMAPSv01b", ["lld", *VOICE], "another lld"),
            ("folds.validation=random", ["splits", *TEACHERS], "another splits"),
            ("corpus.embed_text=false", ["corpus"], "corpus.embed_text: true -> false"),
            ("audio.embed_audio=false", ["audio"], "audio.embed_audio: true -> false"),
        ],
    )
    def test_names_exactly_what_a_setting_invalidates(
        self, changed: Change, small_store: Path, pair: str, conflicts: list[str], why: str
    ) -> None:
        request = changed(pair, store=small_store)
        assert units(request, "conflict") == conflicts
        assert why in plan(request)[conflicts[-1]][1]
        assert units(replace(request, rebuild=True), "replace") == conflicts

    @pytest.mark.parametrize("pair", ["folds.seed=43", "folds.groups=4"])
    def test_a_setting_that_is_not_used_invalidates_nothing(
        self, changed: Change, small_store: Path, pair: str
    ) -> None:
        assert units(changed(pair, store=small_store), "done") == SHARED + TEACHERS

    def test_nor_do_default_classes_that_are_spelled_out(
        self, changed: Change, small_store: Path
    ) -> None:
        classes = list(changed().manifest.classes)
        request = changed(f"corpus.classes={json.dumps(classes)}", store=small_store)
        assert units(request, "done") == SHARED + TEACHERS

    def test_renamed_audio_files_are_written_anew_and_nothing_else(
        self, build_here: Build, changed: Change, store_copy: Path, corpus_copy: Path
    ) -> None:
        request = changed(store=store_copy)
        table = request.manifest.utterances.copy()
        old = corpus_copy / table["file"][0]
        old.rename(old.with_name("renamed.wav"))
        table.loc[0, "file"] = old.with_name("renamed.wav").relative_to(corpus_copy).as_posix()
        manifest = replace(request.manifest, root=corpus_copy, utterances=table)
        request = replace(request, manifest=manifest)
        assert units(request, "replace") == ["corpus"]
        before = inodes(store_copy, [*SHARED[2:], *TEACHERS, "audio"])
        assert build_here(request).built == ["corpus"]
        assert inodes(store_copy, list(before)) == before
        assert Store.open(store_copy).utterances["file"][0] == table["file"][0]
        assert verify(Store.open(store_copy)).exit_code == 0
        assert units(request, "done") == SHARED + TEACHERS

    def test_teacher_of_another_name_stands_beside(
        self, changed: Change, small_store: Path
    ) -> None:
        request = changed("teachers.voice2.kind=prosodic", store=small_store)
        assert units(request, "build") == ["folds/01/voice2", "folds/02/voice2"]
        assert units(request, "conflict") == []

    def test_other_audio_is_another_corpus(
        self, changed: Change, small_store: Path, corpus_copy: Path
    ) -> None:
        request = changed(store=small_store)
        manifest = replace(request.manifest, root=corpus_copy)
        request = replace(request, manifest=manifest)
        assert units(request, "done") == SHARED + TEACHERS  # the same bytes in another place
        path = corpus_copy / manifest.utterances["file"][0]
        soundfile.write(path, soundfile.read(path, dtype="int16")[0][::-1], 16_000)
        assert units(request, "conflict") == ["audio", "lld", *VOICE]

    def test_as_plain_data(self, changed: Change, small_store: Path) -> None:
        request = changed("teachers.prosodic.dropout=0.3", store=small_store)
        found = module.dry_run(request)
        assert json.loads(json.dumps(found)) == found
        assert (found["utterances"], found["folds"], found["fits"]) == (80, 10, 2)
        assert found["settings"]["teachers"]["prosodic"]["dropout"] == 0.3
        assert found["steps"][0]["bytes"] > 5_000_000


class TestBuild:
    def test_interrupted_anywhere_it_resumes_to_the_same_bytes(
        self,
        build_here: Build,
        changed: Change,
        monkeypatch: pytest.MonkeyPatch,
        tmp_path: Path,
        content: str,
    ) -> None:
        """And the small store was built by two processes, this one by none."""

        class Killed(BaseException):
            pass

        from featstore.features import lld

        request = changed(store=tmp_path / "store", shards=3)
        store = Store(request.store)
        extract, fit = lld.extract, module.fit_teacher
        calls: list[str] = []

        def extract_30(samples: Any, feature_set: str = "eGeMAPSv02") -> Any:
            calls.append("lld")
            if len(calls) > 30:
                raise Killed
            return extract(samples, feature_set)

        def fit_two(job: Any) -> Any:
            calls.append(job.unit)
            if len(calls) > 2:
                raise Killed
            return fit(job)

        with monkeypatch.context() as patch:
            patch.setattr(lld, "extract", extract_30)
            with pytest.raises(Killed):
                build_here(request)
        assert store.units() == ["corpus", "audio", "splits"]
        assert not list(store.path.rglob(".staging-*"))
        assert len(list((store.path / ".parts").glob("lld-*/*"))) == 1  # of three

        calls.clear()
        with monkeypatch.context() as patch:
            patch.setattr(module, "fit_teacher", fit_two)
            with pytest.raises(Killed):
                build_here(request)
        assert store.units() == ["corpus", "audio", "lld", "splits", *TEACHERS[:2]]

        before = inodes(store.path, store.units())
        result = build_here(request)
        assert sorted(result.built) == TEACHERS[2:]
        assert inodes(store.path, list(before)) == before
        assert store.content_hash() == content
        assert result_dict(result, request) == {
            "store": str(request.store), "built": TEACHERS[2:],
            "done_before": SHARED + TEACHERS[:2], "content": content,
        }  # fmt: skip

    def test_done_before_is_not_what_was_just_built(
        self, build_here: Build, changed: Change, store_copy: Path
    ) -> None:
        shutil.rmtree(store_copy / "audio")
        request = changed(store=store_copy)
        found = result_dict(build_here(request), request)
        assert found["built"] == ["audio"]
        assert found["done_before"] == ["corpus", "splits", "lld", *TEACHERS]

    def test_again_does_nothing(
        self, build_here: Build, changed: Change, store_copy: Path, content: str
    ) -> None:
        before = {p: p.stat().st_mtime_ns for p in store_copy.rglob("*")}
        result = build_here(changed(store=store_copy))
        assert result.built == []
        assert {p: p.stat().st_mtime_ns for p in store_copy.rglob("*")} == before

    def test_conflict_stops_it_with_the_difference(
        self, build_here: Build, changed: Change, store_copy: Path
    ) -> None:
        before = files(store_copy)
        with pytest.raises(UserError, match="holds 2 unit") as caught:
            build_here(changed("teachers.prosodic.dropout=0.3", store=store_copy))
        for unit in VOICE:
            assert f"{unit}: teacher.dropout: 0.2 -> 0.3" in caught.value.message
        assert all(way in caught.value.hint for way in ("--rebuild", "--store", "new name"))
        assert caught.value.exit_code == 2
        assert files(store_copy) == before

    def test_rebuild_replaces_only_what_differs(
        self, build_here: Build, changed: Change, store_copy: Path, content: str
    ) -> None:
        kept = [*SHARED, *WORDS]
        before = inodes(store_copy, kept), files(store_copy / VOICE[0])
        request = changed("teachers.prosodic.seed=1", store=store_copy, rebuild=True)
        assert sorted(build_here(request).built) == VOICE
        assert inodes(store_copy, kept) == before[0]
        after = files(store_copy / VOICE[0])
        assert after["logits/c/0/0"] != before[1]["logits/c/0/0"]  # another seed, another teacher
        assert Store.open(store_copy).content_hash() != content
        assert verify(Store.open(store_copy)).exit_code == 0
        assert units(replace(request, rebuild=False), "done") == SHARED + TEACHERS

    @pytest.mark.parametrize("mend", ["rebuild", "repair"])
    def test_damaged_unit_stops_it_until_it_is_mended(
        self, mend: str, build_here: Build, changed: Change, store_copy: Path, content: str
    ) -> None:
        (store_copy / "lld" / "offsets" / "c" / "0").unlink()
        with pytest.raises(Corrupt, match="lld/offsets/c/0: missing") as caught:
            build_here(changed(store=store_copy))
        assert "--repair" in caught.value.hint
        assert build_here(changed(store=store_copy, **{mend: True})).built == ["lld"]
        assert Store.open(store_copy).content_hash() == content

    def test_repair_finds_what_sizes_do_not_tell_and_leaves_the_rest(
        self, build_here: Build, changed: Change, store_copy: Path, content: str
    ) -> None:
        hurt = ["audio/values/c/0", "corpus/utterances.parquet", "folds/02/prosodic/logits/c/0/0"]
        for name in hurt:
            raw = bytearray((store_copy / name).read_bytes())
            raw[len(raw) // 2] ^= 4
            (store_copy / name).write_bytes(raw)
        assert build_here(changed(store=store_copy)).built == []
        untouched = (store_copy / "lld").stat().st_ino
        mended = build_here(changed(store=store_copy, repair=True)).built
        assert sorted(mended) == ["audio", "corpus", "folds/02/prosodic"]
        assert Store.open(store_copy).content_hash() == content
        assert (store_copy / "lld").stat().st_ino == untouched

    def test_repair_tells_what_it_cannot_mend(
        self, build_here: Build, changed: Change, store_copy: Path
    ) -> None:
        (store_copy / "notes.txt").write_text("to do")
        (store_copy / "folds/02/prosodic/logits/c/0/0").write_bytes(b"")
        with pytest.raises(Corrupt, match="2 fault") as caught:
            build_here(changed(store=store_copy, folds="1", repair=True))
        assert "notes.txt: not part of a store" in caught.value.message
        assert "folds/02/prosodic/logits/c/0/0: 0 bytes" in caught.value.message

    def test_one_failing_teacher_does_not_stop_the_others(
        self, build_here: Build, changed: Change, store_copy: Path, content: str
    ) -> None:
        shutil.rmtree(store_copy / "folds")
        with pytest.raises(TaskFailed) as caught:
            build_here(changed("teachers.linguistic.optim.lr=1e30", store=store_copy))
        assert caught.value.exit_code == 1
        for unit in WORDS:
            assert f"{unit}: the teacher's loss is not finite (lower its" in caught.value.message
        assert "2 unit(s) were committed" in caught.value.message
        store = Store.open(store_copy)
        assert store.units() == ["corpus", "audio", "lld", "splits", *VOICE]
        build_here(changed(store=store_copy))
        assert store.content_hash() == content

    def test_whatever_a_teacher_raises(
        self,
        build_here: Build,
        changed: Change,
        store_copy: Path,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        shutil.rmtree(store_copy / "folds" / "01")
        fit = module.fit_teacher

        def odd(job: Any) -> Any:
            return [][1] if job.settings.kind == "linguistic" else fit(job)

        monkeypatch.setattr(module, "fit_teacher", odd)
        with pytest.raises(TaskFailed, match="folds/01/linguistic: IndexError: list index"):
            build_here(changed(store=store_copy))
        assert "folds/01/prosodic" in Store(store_copy).units()

    def test_model_that_is_not_to_be_had_is_told_before_anything_is_built(
        self, build_here: Build, changed: Change, tmp_path: Path
    ) -> None:
        pair = "teachers.linguistic.model=nobody/no-such-bert"
        with pytest.raises(UserError, match="no usable text encoder") as caught:
            build_here(changed(pair, store=tmp_path / "store"))
        assert caught.value.exit_code == 2
        assert "hf download" in caught.value.hint
        assert Store(tmp_path / "store").units() == []


class TestOneDecode:
    @pytest.fixture
    def decoded(self, monkeypatch: pytest.MonkeyPatch) -> list[str]:
        """Names of the files that were decoded."""
        names: list[str] = []
        opened = soundfile.SoundFile

        def counted(name: Any, *rest: Any, **more: Any) -> Any:
            names.append(Path(os.fsdecode(name)).name)
            return opened(name, *rest, **more)

        monkeypatch.setattr(soundfile, "SoundFile", counted)
        return names

    def test_each_file_is_decoded_once_in_a_build_and_never_again(
        self,
        build_here: Build,
        changed: Change,
        corpus_copy: Path,
        decoded: list[str],
        tmp_path: Path,
    ) -> None:
        """With a bad file, too, of which the store knows from then on."""
        request = changed(store=tmp_path / "store")
        settings = request.settings.model_copy(update={"teachers": {}})
        manifest = replace(request.manifest, root=corpus_copy)
        files = [Path(name).name for name in manifest.utterances["file"]]
        soundfile.write(corpus_copy / manifest.utterances["file"][3], [0.0] * 9_000, 16_000)
        request = replace(request, manifest=manifest, settings=settings)
        decoded.clear()
        build_here(request)
        assert sorted(decoded) == sorted(files)
        decoded.clear()
        assert build_here(request).built == []
        assert decoded == []
        with pytest.raises(UserError, match="1 utterance"):
            build_here(replace(request, strict=True))

    def test_strictly_nothing_is_built_where_audio_is_bad(
        self, build_here: Build, changed: Change, corpus_copy: Path, tmp_path: Path
    ) -> None:
        request = changed(store=tmp_path / "store", strict=True)
        manifest = replace(request.manifest, root=corpus_copy)
        (corpus_copy / manifest.utterances["file"][3]).write_bytes(b"no sound")
        with pytest.raises(UserError, match=r"1 fault\(s\) stop the build") as caught:
            build_here(replace(request, manifest=manifest))
        assert manifest.utterances["file"][3] in caught.value.message
        assert Store(request.store).units() == []


class TestFaults:
    FAULTS = (
        Fault("conflicting-label", "a.txt", "two labels", "keep one", line=3, severity="stop"),
        Fault("missing-audio", "b.wav", "no file", "copy it", severity="exclude"),
        Fault("odd", "c.txt", "odd line", "nothing", severity="warn"),
    )

    def test_that_falsify_the_protocol_stop(self, small_request: Any) -> None:
        manifest = replace(small_request.manifest, faults=self.FAULTS)
        with pytest.raises(UserError, match=r"1 fault\(s\) stop the build") as caught:
            refuse(manifest, manifest.faults, strict=False)
        assert "a.txt:3: two labels (keep one)" in caught.value.message
        with pytest.raises(UserError, match=r"2 fault\(s\) stop the build"):
            refuse(manifest, manifest.faults, strict=True)

    def test_that_exclude_are_counted_aloud(
        self,
        build_here: Build,
        changed: Change,
        store_copy: Path,
        capsys: pytest.CaptureFixture[str],
    ) -> None:
        request = changed(store=store_copy)
        manifest = replace(request.manifest, faults=self.FAULTS[1:])
        build_here(replace(request, manifest=manifest))
        told = capsys.readouterr().err
        assert "excluded for a fault: 1 missing-audio" in told
        assert told.startswith("warning: c.txt: odd line; nothing\n")
        with pytest.raises(UserError, match=r"1 fault\(s\) stop the build"):
            build_here(replace(request, manifest=manifest, strict=True))


def test_licence_is_told_once_where_there_is_one(
    build_here: Build, changed: Change, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    request = changed(store=tmp_path / "store")
    settings = request.settings.model_copy(update={"teachers": {}})
    manifest = replace(request.manifest, name="iemocap")
    request = replace(request, manifest=manifest, settings=settings)
    for times in (1, 0):
        build_here(request)
        assert capsys.readouterr().err.count("keep it under the same terms") == times
