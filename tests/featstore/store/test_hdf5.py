"""A store, exported and imported: the same bytes; and the file in between, opened by h5py."""

from __future__ import annotations

import io
import json
import resource
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from featstore.core.schema import Corrupt, Refused, TaskFailed, UserError
from featstore.store import hdf5
from featstore.store.arrays import RaggedWriter
from featstore.store.export import export
from featstore.store.hdf5 import import_hdf5
from featstore.store.ragged import Ragged
from featstore.store.staging import PREFIX
from featstore.store.store import Store
from featstore.store.verify import verify
from tests.featstore.store.kept_store import KEPT, contents, copied
from tests.reliability.forgery import reseal


@pytest.fixture
def exported(tmp_path: Path) -> Path:
    export(Store.open(KEPT), tmp_path / "kept.h5")
    return tmp_path / "kept.h5"


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def without_layout(folder: Path) -> dict[str, Any]:
    """Every file below; of records what they say, for a forged one has other blanks."""
    return {
        name: json.loads(content) if name.endswith("/unit.json") else content
        for name, content in contents(folder).items()
    }


def round_trip(store: Path, tmp_path: Path) -> dict[str, Any]:
    """Out and in again; everything that must hold of every store."""
    export(Store.open(store), tmp_path / "trip.h5")
    told = import_hdf5(tmp_path / "trip.h5", tmp_path / "again")
    again = Store.open(tmp_path / "again")
    assert told["content"] == again.content_hash() == Store.open(store).content_hash()
    assert verify(again).faults == ()
    assert without_layout(tmp_path / "again") == without_layout(store)
    return told


class TestRoundTrip:
    def test_gives_the_same_bytes(self, tmp_path: Path) -> None:
        told = round_trip(KEPT, tmp_path)
        assert contents(tmp_path / "again") == contents(KEPT)
        assert told["restored"] == Store.open(KEPT).units()
        assert told["there_before"] == []

    @pytest.mark.parametrize(("samples", "frames"), [(5000, 7), (512, 1), (10**6, 10**4)])
    def test_of_signals_in_many_chunks(self, tmp_path: Path, samples: int, frames: int) -> None:
        store = copied(tmp_path / "store")
        for unit, chunk_rows, dims in (
            ("audio", samples, ("sample",)),
            ("lld", frames, ("frame", "descriptor")),
        ):
            folder = store / unit
            whole = Ragged(folder)
            utterances = [whole.read(row) for row in range(len(whole))]
            for name in ("values", "offsets"):
                shutil.rmtree(folder / name)
            dtype, row_shape = str(whole.dtype), whole.row_shape
            writer = RaggedWriter(folder, dtype, row_shape, chunk_rows, dims[0], dims[1:])
            for one in utterances:
                writer.append(one)
            writer.close()
            reseal(folder)
            assert len(list((folder / "values/c").iterdir())) == -(-whole.n_rows // chunk_rows)
        round_trip(store, tmp_path)

    def test_of_a_store_without_signals(self, tmp_path: Path) -> None:
        store = copied(tmp_path / "store")
        shutil.rmtree(store / "lld")
        shutil.rmtree(store / "audio/values")
        for fold in ("01", "02"):
            shutil.rmtree(store / "folds" / fold / "prosodic")
        reseal(store / "audio", lambda raw: raw["settings"]["audio"].update(embed_audio=False))
        round_trip(store, tmp_path)

    def test_of_half_a_store(self, tmp_path: Path) -> None:
        store = copied(tmp_path / "store")
        shutil.rmtree(store / "folds")
        assert len(round_trip(store, tmp_path)["restored"]) == 4

    def test_twice_gives_the_same_file(self, exported: Path, tmp_path: Path) -> None:
        export(Store.open(KEPT), tmp_path / "second.h5")
        assert (tmp_path / "second.h5").read_bytes() == exported.read_bytes()


class TestFile:
    def test_arrays_are_data_sets_under_the_store_s_names(self, exported: Path) -> None:
        store = Store.open(KEPT)
        with h5py.File(exported) as file:
            for fold in (1, 2):
                for name, outputs in store.fold(fold).items():
                    found = file[f"folds/{fold:02d}/{name}/logits"]
                    np.testing.assert_array_equal(found[:], outputs.logits)
                    np.testing.assert_array_equal(
                        file[f"folds/{fold:02d}/{name}"]["embeddings"][:], outputs.embeddings
                    )
                    assert found.dtype == np.float32
            start, stop = store.audio.offsets[3:5]
            np.testing.assert_array_equal(file["audio/values"][start:stop], store.audio.read(3))
            np.testing.assert_array_equal(file["audio/offsets"][:], store.audio.offsets)
            np.testing.assert_array_equal(file["splits/role"][:], store.roles)
            assert len(file["lld/values"]) == store.lld.n_rows

    def test_dimensions_have_their_names(self, exported: Path) -> None:
        with h5py.File(exported) as file:
            labels = {
                name: [dim.label for dim in file[name].dims]
                for name in ("folds/01/linguistic/logits", "audio/values", "splits/role")
            }
            assert labels == {
                "folds/01/linguistic/logits": ["utterance", "class"],
                "audio/values": ["sample"],
                "splits/role": ["fold", "utterance"],
            }

    def test_tables_and_records_can_be_read(self, exported: Path) -> None:
        store = Store.open(KEPT)
        with h5py.File(exported) as file:
            for column in store.utterances.columns:
                found = file[f"corpus/utterances/{column}"]
                told = found[:] if column == "start_s" else found.asstr()[:]
                assert list(told) == list(store.utterances[column])
            record = json.loads(file["folds/01/prosodic/unit.json"][()])
            unit = store.unit("folds/01/prosodic")
            assert record["facts"] == dict(unit.facts)
            assert record["provenance"] == dict(unit.provenance)
            assert file.attrs["content"].decode() == store.content_hash()
            assert json.loads(file.attrs["classes"]) == list(store.classes)

    def test_text_that_c_would_cut_short(self, tmp_path: Path) -> None:
        store = copied(tmp_path / "store")
        table = Store.open(store).utterances
        table.loc[2, "text"] = "oh\0 no \N{GREEK SMALL LETTER PI}"
        table.to_parquet(store / "corpus/utterances.parquet", index=False)
        reseal(store / "corpus")
        round_trip(store, tmp_path)
        with h5py.File(tmp_path / "trip.h5") as file:
            assert file["corpus/utterances/text"].asstr()[2] == "oh\ufffd no \u03c0"


class TestLeftOut:
    @pytest.mark.parametrize(
        ("selection", "word", "gone"),
        [
            ({"audio": False}, "audio", ["audio/values"]),
            (
                {"text": False},
                "text",
                ["corpus/utterances/text", "_files/corpus/utterances.parquet"],
            ),
        ],
    )
    def test_import_says_why_not(
        self, tmp_path: Path, selection: Any, word: str, gone: list[str]
    ) -> None:
        told = export(Store.open(KEPT), tmp_path / "a.h5", **selection)
        assert told["left_out"] == [word]
        with h5py.File(tmp_path / "a.h5") as file:
            assert not any(name in file for name in gone)
            assert "folds/01/linguistic/logits" in file
            assert ("audio/values" in file) == (word == "text")
        for text in Store.open(KEPT).utterances["text"]:
            assert (text.encode() in (tmp_path / "a.h5").read_bytes()) == (word == "audio")
        with pytest.raises(Refused, match=f"exported without {word}, so no store"):
            import_hdf5(tmp_path / "a.h5", tmp_path / "new")
        assert not (tmp_path / "new").exists()


class TestPlace:
    def test_never_replaces_a_folder(self, tmp_path: Path) -> None:
        (tmp_path / "a.h5").mkdir()
        with pytest.raises(UserError, match="a folder stands there"):
            export(Store.open(KEPT), tmp_path / "a.h5", force=True)

    def test_never_within_a_store(self, tmp_path: Path) -> None:
        store = copied(tmp_path / "store")
        with pytest.raises(UserError, match="lies in the store"):
            export(Store.open(store), store / "folds" / "a.h5")
        assert verify(Store.open(store)).faults == ()

    def test_a_store_without_units(self, tmp_path: Path) -> None:
        store = Store.create(tmp_path / "store")
        for name in ("a.h5", "a.parquet", "a.npz"):
            with pytest.raises(UserError, match="no unit is complete"):
                export(store, tmp_path / name)


@contextmanager
def files_of_at_most(n_bytes: int) -> Iterator[None]:
    """What a full disk does, without one."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (n_bytes, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


class TestFailure:
    @pytest.mark.parametrize(
        ("file", "told"),
        [
            ("audio/values/c/0", "audio/values/c/0: content differs"),
            ("folds/01/linguistic/logits/c/0/0", "logits/c/0/0: content differs"),
            ("corpus/utterances.parquet", "utterances.parquet: content differs"),
            ("lld/zarr.json", "lld/zarr.json: content differs"),
        ],
    )
    def test_damage_is_named_and_nothing_is_left(
        self, tmp_path: Path, file: str, told: str
    ) -> None:
        store = copied(tmp_path / "store")
        content = bytearray((store / file).read_bytes())
        content[len(content) // 9] ^= 1
        (store / file).write_bytes(content)
        with pytest.raises(Corrupt, match=told):
            export(Store.open(store), tmp_path / "a.h5")
        assert names(tmp_path) == ["store"]

    @pytest.mark.parametrize("limit", [3_000, 60_000, 200_000])
    def test_a_full_disk(self, tmp_path: Path, limit: int) -> None:
        with files_of_at_most(limit), pytest.raises(TaskFailed) as caught:
            export(Store.open(KEPT), tmp_path / "a.h5")
        assert "a.h5: file too large" in caught.value.message
        assert names(tmp_path) == []

    @pytest.mark.parametrize("at", [1, 40, 200])
    def test_an_interrupt_in_the_middle_of_a_write(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, at: int
    ) -> None:
        opened, left = Path.open, iter(range(at))

        class Interrupted(io.FileIO):
            def seek(self, place: int, whence: int = 0) -> int:
                if next(left, None) is None:
                    raise KeyboardInterrupt
                return super().seek(place, whence)

        def interrupted(path: Path, mode: str = "r", **how: Any) -> Any:
            is_export = path.name.startswith(".a.h5.")
            return Interrupted(path, "r+") if is_export else opened(path, mode, **how)

        with monkeypatch.context() as patch:
            patch.setattr(Path, "open", interrupted)
            with pytest.raises(KeyboardInterrupt):
                export(Store.open(KEPT), tmp_path / "a.h5")
        assert next(left, None) is None
        assert names(tmp_path) == []

    def test_what_a_killed_export_left_goes_with_the_next(self, tmp_path: Path) -> None:
        (tmp_path / ".a.h5.0123abcd").write_bytes(b"half")
        (tmp_path / ".b.h5.0123abcd").write_bytes(b"another's")
        export(Store.open(KEPT), tmp_path / "a.h5")
        assert names(tmp_path) == [".b.h5.0123abcd", "a.h5"]


INTERRUPTED = """
import io, sys
import h5py
from featstore.store.hdf5_sink import Sink

class Interrupted(io.FileIO):
    def interrupted(self, *arguments):
        raise KeyboardInterrupt
    write = readinto = seek = tell = truncate = interrupted

sink = Sink(Interrupted(sys.argv[1], "w+"))
with h5py.File(sink, "w"):
    pass
try:
    sink.check()
except KeyboardInterrupt:
    print("interrupted")
"""


def test_a_file_that_failed_from_the_start_lets_the_interpreter_end(tmp_path: Path) -> None:
    arguments = [sys.executable, "-c", INTERRUPTED, str(tmp_path / "a.h5")]
    done = subprocess.run(arguments, stdout=subprocess.PIPE, text=True)
    assert (done.returncode, done.stdout) == (0, "interrupted\n")


KILLED = """
import os, signal, sys
from pathlib import Path
from featstore.store import hdf5
from featstore.store.export import export
from featstore.store.hdf5_sink import Sink
from featstore.store.store import Store

what, store, file, place, left = *sys.argv[1:5], iter(range(int(sys.argv[5])))

def or_killed(do):
    def called(*arguments):
        if next(left, None) is None:
            os.kill(os.getpid(), signal.SIGKILL)
        return do(*arguments)
    return called

if what == "export":
    Sink.write = or_killed(Sink.write)
    export(Store.open(store), Path(file))
else:
    hdf5.write_pieces = or_killed(hdf5.write_pieces)
    hdf5.import_hdf5(Path(file), Path(place))
"""


def killed(what: str, tmp_path: Path, at: int) -> None:
    arguments = [what, str(KEPT), str(tmp_path / "kept.h5"), str(tmp_path / "new"), str(at)]
    done = subprocess.run([sys.executable, "-c", KILLED, *arguments], stderr=subprocess.DEVNULL)
    assert done.returncode == -signal.SIGKILL


def resumes(exported: Path, place: Path) -> None:
    """Some units stand whole, and the same import adds the others."""
    begun = Store.open(place).units()
    assert 0 < len(begun) < 8
    assert verify(Store.open(place)).faults == ()
    assert import_hdf5(exported, place)["there_before"] == sorted(begun)
    assert contents(place) == contents(KEPT)


@pytest.mark.reliability
class TestKilled:
    def test_import_leaves_whole_units_and_resumes(self, exported: Path, tmp_path: Path) -> None:
        killed("import", tmp_path, 30)
        assert any(path.name.startswith(PREFIX) for path in (tmp_path / "new").rglob("*"))
        resumes(exported, tmp_path / "new")

    def test_export_leaves_no_file_of_its_name(self, tmp_path: Path) -> None:
        killed("export", tmp_path, 30)
        [left] = names(tmp_path)
        assert left.startswith(".kept.h5.")
        export(Store.open(KEPT), tmp_path / "kept.h5")
        assert names(tmp_path) == ["kept.h5"]


class TestImport:
    def test_resumes(self, exported: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        write, left = hdf5.write_pieces, iter(range(30))

        def killed(*arguments: Any) -> Any:
            if next(left, None) is None:
                raise KeyboardInterrupt
            return write(*arguments)

        place = tmp_path / "new"
        with monkeypatch.context() as patch:
            patch.setattr(hdf5, "write_pieces", killed)
            with pytest.raises(KeyboardInterrupt):
                import_hdf5(exported, place)
        assert not any(path.name.startswith(PREFIX) for path in place.rglob("*"))
        resumes(exported, place)

    def test_again_does_nothing(self, exported: Path, tmp_path: Path) -> None:
        import_hdf5(exported, tmp_path / "new")
        before = (tmp_path / "new/audio/unit.json").stat().st_mtime_ns
        assert import_hdf5(exported, tmp_path / "new")["restored"] == []
        assert (tmp_path / "new/audio/unit.json").stat().st_mtime_ns == before

    def test_into_another_store(self, exported: Path, tmp_path: Path) -> None:
        store = copied(tmp_path / "store")
        reseal(store / "lld", lambda raw: raw["facts"].update(hop_ms=20.0))
        reseal(store / "folds/01/linguistic", lambda raw: raw["facts"].update(best_epoch=2))
        import_hdf5(exported, store)  # the files are the same
        (store / "folds/01/linguistic/zarr.json").write_text("{}")
        reseal(store / "folds/01/linguistic")
        before = contents(store)
        with pytest.raises(UserError, match=r"holds folds/01/linguistic, which is not"):
            import_hdf5(exported, store)
        assert contents(store) == before

    def test_into_a_folder_in_use(self, exported: Path, tmp_path: Path) -> None:
        (tmp_path / "home").mkdir()
        (tmp_path / "home/thesis.tex").touch()
        with pytest.raises(UserError, match="not empty"):
            import_hdf5(exported, tmp_path / "home")
        assert names(tmp_path / "home") == ["thesis.tex"]

    def test_onto_a_full_disk(self, exported: Path, tmp_path: Path) -> None:
        with files_of_at_most(100_000), pytest.raises(TaskFailed, match="file too large"):
            import_hdf5(exported, tmp_path / "new")
        assert Store.open(tmp_path / "new").units() == ["corpus"]
        import_hdf5(exported, tmp_path / "new")
        assert contents(tmp_path / "new") == contents(KEPT)

    def test_content_that_only_verify_sees_through(self, tmp_path: Path) -> None:
        store = copied(tmp_path / "store")
        reseal(store / "folds/01/linguistic", lambda raw: raw["facts"].update(fold=2))
        export(Store.open(store), tmp_path / "a.h5")
        with pytest.raises(Corrupt, match="fitted for fold 2") as caught:
            import_hdf5(tmp_path / "a.h5", tmp_path / "new")
        assert "remove the store" in caught.value.hint
