"""HDF5 files that a stranger made to be imported: each is refused before it does anything."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from featstore.core.schema import Corrupt, Refused, UserError
from featstore.core.settings import digest
from featstore.store import hdf5
from featstore.store.export import export
from featstore.store.hdf5 import import_hdf5
from featstore.store.store import Store
from tests.featstore.store.kept_store import KEPT, contents

LOGITS = "folds/01/linguistic/logits"
METADATA = f"_files/{LOGITS}/zarr.json"
TABLE = "_files/corpus/utterances.parquet"


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    path = tmp_path_factory.mktemp("exported") / "kept.h5"
    export(Store.open(KEPT), path)
    return path.read_bytes()


@pytest.fixture
def file(exported: bytes, tmp_path: Path) -> Path:
    """A copy to forge; ``secret`` beside it is nobody's to read."""
    (tmp_path / "secret").write_bytes(b"root:x:0:0" * 100)
    path = tmp_path / "forged.h5"
    path.write_bytes(exported)
    return path


def forged(path: Path, edit: Callable[[Any], None]) -> None:
    with h5py.File(path, "r+") as file:
        edit(file)


def put(file: Any, name: str, **how: Any) -> Any:
    """Another data set in place of one."""
    if name in file:
        del file[name]
    return file.create_dataset(name, **how)


def record(file: Any, unit: str, edit: Callable[[dict[str, Any]], Any]) -> None:
    """A unit's record changed, with all sums made to fit."""
    raw = json.loads(file[f"{unit}/unit.json"][()])
    edit(raw)
    raw["fingerprint"] = digest({k: raw[k] for k in ("schema", "unit", "settings", "parents")})
    raw.pop("sha256")
    raw["sha256"] = digest(raw)
    put(file, f"{unit}/unit.json", data=np.bytes_(json.dumps(raw).encode()))
    seal(file)


def seal(file: Any) -> None:
    """The content hash that fits the records."""
    units = Store.open(KEPT).units()
    files = {unit: json.loads(file[f"{unit}/unit.json"][()])["files"] for unit in units}
    file.attrs["content"] = np.bytes_(digest(files).encode())


def without(name: str) -> Callable[[Any], None]:
    return lambda file: file.__delitem__(name)


def more(name: str) -> Callable[[Any], None]:
    return lambda file: file.create_dataset(name, data=[1])


def replaced(name: str, **how: Any) -> Callable[[Any], None]:
    return lambda file: put(file, name, **how)


def about(key: str, value: Any) -> Callable[[Any], None]:
    """Another attribute of the root."""
    return lambda file: file.attrs.__setitem__(key, value)


def linked(name: str, link: Any) -> Callable[[Any], None]:
    def edit(file: Any) -> None:
        if name in file:
            del file[name]
        file[name] = link

    return edit


def overwritten(name: str, old: bytes, new: bytes) -> Callable[[Any], None]:
    """Other bytes of the same number in a file of a unit."""

    def edit(file: Any) -> None:
        content = file[name][:].tobytes().replace(old, new)
        file[name].write_direct(np.frombuffer(content, "u1"))

    return edit


def external_storage(file: Any) -> None:
    size = file[TABLE].shape
    put(file, TABLE, shape=size, dtype="u1", external=[("secret", 0, size[0])])


def virtual(file: Any) -> None:
    del file[LOGITS]
    layout = h5py.VirtualLayout((8, 2), "f4")
    layout[:] = h5py.VirtualSource("secret", "logits", (8, 2))
    file.create_virtual_dataset(LOGITS, layout)


def references(file: Any) -> None:
    data = put(file, LOGITS, shape=(8, 2), dtype=h5py.ref_dtype)
    data[0, 0] = file.ref


def heap(file: Any) -> None:
    data = put(file, LOGITS, shape=(8, 2), dtype=h5py.vlen_dtype(np.float32))
    data[0, 0] = np.ones(3, np.float32)


def claimed(file: Any) -> None:
    """Signals of 256 GiB that were never written."""
    n, rows = 2**37, 2**24
    name = "_files/audio/values/zarr.json"
    about = json.loads(bytes(file[name][:]))
    about["shape"] = [n]
    about["chunk_grid"]["configuration"]["chunk_shape"] = [rows]
    content = json.dumps(about).encode()
    put(file, name, data=np.frombuffer(content, "u1"))
    put(file, "audio/values", shape=(n,), dtype="i2")
    whole = [2 * rows + 4, "0" * 64]

    def sizes(raw: dict[str, Any]) -> None:
        raw["files"]["values/zarr.json"][0] = len(content)
        raw["files"] |= {f"values/c/{number}": whole for number in range(n // rows)}

    record(file, "audio", sizes)


def listing(name: str) -> Callable[[Any], None]:
    """A file of that name in a unit, and a record that lists it."""

    def edit(file: Any) -> None:
        if ".." not in name:  # HDF5 knows no such path
            file[f"_files/corpus/{name.strip('/')}"] = np.zeros(3, "u1")
        record(file, "corpus", lambda raw: raw["files"].update({name: [3, "0" * 64]}))

    return edit


def array_as_file(file: Any) -> None:
    """A file where the labels' array should be, and a record that lists it."""
    without("_files/corpus/label")(file)
    file["_files/corpus/label"] = np.zeros(3, "u1")

    def edit(raw: dict[str, Any]) -> None:
        files = {name: fact for name, fact in raw["files"].items() if name[:6] != "label/"}
        raw["files"] = files | {"label": [3, "0" * 64]}

    record(file, "corpus", edit)


def sized(name: str, n_bytes: int | None) -> Callable[[Any], None]:
    """A record that tells another size of a file, or none."""

    def edit(raw: dict[str, Any]) -> None:
        _, content = raw["files"].pop(name)
        raw["files"] |= {} if n_bytes is None else {name: [n_bytes, content]}

    return lambda file: record(file, "corpus", edit)


def unit_elsewhere(name: str) -> Callable[[Any], None]:
    return lambda file: file.copy(file["folds/01/linguistic"], name)


VALUES = np.ones((8, 2), "f4")
LINK = "is a link to elsewhere"
ELSEWHERE = "takes its values from other files"
STRANGE = "holds what no export does"
FORGERIES: dict[str, tuple[Callable[[Any], None], type[UserError], str]] = {
    "soft link": (linked(LOGITS, h5py.SoftLink("/folds/02/linguistic/logits")), Refused, LINK),
    "link to nothing": (linked("audio/more", h5py.SoftLink("/nowhere")), Refused, LINK),
    "link into another file": (linked("corpus", h5py.ExternalLink("secret", "/")), Refused, LINK),
    "values in another file": (external_storage, Refused, ELSEWHERE),
    "values in another HDF5 file": (virtual, Refused, ELSEWHERE),
    "references": (references, Refused, "of type object and shape (8, 2), not float32"),
    "lists": (heap, Refused, "of type object and shape (8, 2), not float32"),
    "compound": (replaced(LOGITS, data=VALUES.astype([("a", "f4")])), Refused, "'<f4')] and shape"),
    "other byte order": (replaced(LOGITS, data=VALUES.astype(">f4")), Refused, "of type >f4"),
    "float64": (replaced(LOGITS, data=VALUES.astype("f8")), Refused, "of type float64"),
    "another shape": (replaced(LOGITS, data=VALUES[:-1]), Refused, "shape (7, 2), not float32"),
    "no space": (replaced(LOGITS, data=h5py.Empty("f4")), Refused, "shape None, not"),
    "a type of its own": (linked("lld/a", np.dtype("f4")), Refused, "neither group nor data set"),
    "a record in a heap": (replaced("corpus/unit.json", data="{}"), Refused, "no file of a usual"),
    "a record of numbers": (replaced("lld/unit.json", data=[9.0]), Refused, "no file of a usual"),
    "gzip": (replaced(LOGITS, data=VALUES, compression="gzip"), Refused, "lies in chunks"),
    "another filter": (replaced(LOGITS, data=VALUES, compression="lzf"), Refused, "lies in chunks"),
    "a checksum filter": (replaced(LOGITS, data=VALUES, fletcher32=True), Refused, "in chunks"),
    "256 GiB of nothing": (claimed, Corrupt, "claims 274,877,906,944 bytes, has fewer"),
    "values never written": (replaced(LOGITS, shape=(8, 2), dtype="f4"), Corrupt, "claims 64 byte"),
    "another value": (replaced(LOGITS, data=VALUES), Corrupt, "content differs"),
    "another table": (overwritten(TABLE, b"PAR1", b"PAR2"), Corrupt, "content differs"),
    "an array more": (more("lld/more"), Refused, STRANGE),
    "a table more": (more("lld/utterances/a"), Refused, STRANGE),
    "a file more": (more("_files/lld/x.so"), Refused, STRANGE),
    "an array less": (without(LOGITS), Corrupt, "lacks"),
    "a table less": (without(TABLE), Corrupt, "lacks"),
    "metadata that is a group": (
        lambda file: (without(METADATA)(file), file.create_group(METADATA)),
        Refused,
        "no file of a usual size",
    ),
    "metadata that is no JSON": (overwritten(METADATA, b"{", b"["), Corrupt, "not valid JSON"),
    "metadata less": (without(METADATA), Corrupt, "not a sound HDF5 file"),
    "a unit less": (without("lld"), Refused, "made from another 'lld'"),
    "a fold less": (without("folds/02"), Refused, STRANGE),
    "groups that hold themselves": (
        lambda file: linked("folds/01/again", file["folds"])(file),
        Refused,
        "more groups than",
    ),
    "a path upwards": (listing("../evil"), Refused, "lists '../evil'"),
    "a path to the root": (listing("/tmp/evil"), Refused, "lists '/tmp/evil'"),
    "a path in the unit": (listing("label/evil"), Refused, "lists 'label/evil'"),
    "a file in an array's place": (array_as_file, Refused, "lists 'label'"),
    "a library": (listing("evil.so"), Refused, "lists 'evil.so'"),
    "a record in its own list": (listing("unit.json"), Refused, "lists 'unit.json'"),
    "a table of absurd size": (sized("utterances.parquet", 2**40), Refused, "lists 'utterances.p"),
    "a table of negative size": (sized("utterances.parquet", -1), Refused, "lists 'utterances.p"),
    "metadata of absurd size": (sized("label/zarr.json", 2**40), Refused, "lists 'label/zarr.json"),
    "a chunk of another size": (sized("label/c/0", 21), Corrupt, "label/c/0: missing or of anoth"),
    "a chunk less": (sized("label/c/0", None), Corrupt, "label/c/0: missing or of another size"),
    "a unit elsewhere": (unit_elsewhere("etc/cron.d/evil"), Refused, STRANGE),
    "a fold without a number": (unit_elsewhere("folds/x/a"), Refused, STRANGE),
    "another unit's record": (unit_elsewhere("folds/03/a"), Refused, "this is the unit folds/01"),
    "another group": (
        overwritten("_files/lld/zarr.json", b"{}", b"[]"),
        Refused,
        "not a group's of ours",
    ),
    "facts of no teacher": (
        lambda file: record(file, "folds/01/linguistic", lambda raw: raw["facts"].update(kind=7)),
        Corrupt,
        "not the record of a folds unit",
    ),
    "a record that was edited": (
        lambda file: put(
            file, "lld/unit.json", data=np.bytes_(file["lld/unit.json"][()].replace(b"25", b"52"))
        ),
        Corrupt,
        "not what was written",
    ),
    "records of another export": (about("content", np.bytes_(b"0" * 64)), Corrupt, "not those tha"),
    "another format": (about("format", np.bytes_(b"netCDF")), Refused, "no exported store"),
    "no format": (lambda file: file.attrs.__delitem__("format"), Refused, "no exported store"),
    "a format in a heap": (about("format", "emodistill-store-hdf5"), Refused, "no short text"),
    "a format of numbers": (about("format", [1, 2]), Refused, "no short text"),
    "a schema to come": (about("schema", np.bytes_(b"4")), Refused, "schema 4, this version"),
    "nothing": (lambda file: [file.pop(name) for name in list(file)], Refused, "holds no unit"),
}


@pytest.mark.parametrize("name", FORGERIES)
def test_is_refused(name: str, file: Path, tmp_path: Path) -> None:
    edit, error, told = FORGERIES[name]
    forged(file, edit)
    before = contents(tmp_path)
    with pytest.raises(error) as caught:
        import_hdf5(file, tmp_path / "new")
    assert told in caught.value.message
    assert caught.value.hint
    if told.endswith("differs"):  # found on the way: what stands is whole
        assert f"{tmp_path}/new" not in caught.value.message
        for unit in (store := Store.open(tmp_path / "new")).units():
            store.unit(unit, deep=True)
    else:
        assert contents(tmp_path) == before
        assert not (tmp_path / "new").exists()


def test_untouched_it_is_imported(file: Path, tmp_path: Path) -> None:
    forged(file, seal)  # what the forgeries are made with changes nothing by itself
    import_hdf5(file, tmp_path / "new")
    assert contents(tmp_path / "new") == contents(KEPT)


class TestNoHdf5:
    def test_missing(self, tmp_path: Path) -> None:
        with pytest.raises(UserError, match="no such file") as caught:
            import_hdf5(tmp_path / "gone.h5", tmp_path / "new")
        assert caught.value.exit_code == 2

    def test_pipe_and_folder(self, tmp_path: Path) -> None:
        os.mkfifo(tmp_path / "pipe.h5")
        for path in (tmp_path / "pipe.h5", tmp_path):
            with pytest.raises(Refused, match="not a regular file"):
                import_hdf5(path, tmp_path / "new")

    @pytest.mark.parametrize("content", [b"", b"PK\x03\x04", b"\x89HDF\r\n\x1a", b"x" * 4096])
    def test_other_content(self, tmp_path: Path, content: bytes) -> None:
        (tmp_path / "a.h5").write_bytes(content)
        with pytest.raises(Corrupt, match="no HDF5 file"):
            import_hdf5(tmp_path / "a.h5", tmp_path / "new")

    @pytest.mark.parametrize("share", [0.001, 0.1, 0.5, 0.99])
    def test_cut_short(self, file: Path, tmp_path: Path, share: float) -> None:
        os.truncate(file, int(file.stat().st_size * share))
        with pytest.raises(Corrupt, match="not a sound HDF5 file"):
            import_hdf5(file, tmp_path / "new")
        assert not (tmp_path / "new").exists()


def test_too_many_objects(file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hdf5, "MAX_OBJECTS", 50)
    with pytest.raises(Refused, match="over 50 objects"):
        import_hdf5(file, tmp_path / "new")


def test_records_too_large_together(
    file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hdf5, "MAX_RECORDS_BYTES", 5_000)
    with pytest.raises(Refused, match="is no file of a usual size"):
        import_hdf5(file, tmp_path / "new")


FLIPS = """
import os, random, sys
from pathlib import Path
import h5py
from featstore.store.hdf5 import import_hdf5
from featstore.core.schema import UserError

exported, folder, seed, n = Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4])
content = exported.read_bytes()
values = bytearray(len(content))
with h5py.File(exported) as file:
    def note(name, data):
        start = data.id.get_offset() if isinstance(data, h5py.Dataset) else None
        if start is not None:
            size = data.id.get_storage_size()
            values[start:start + size] = bytes([1]) * size
    file.visititems(note)
structure = [at for at, taken in enumerate(values) if not taken]
rng = random.Random(seed)
for number in range(n):
    at, bit = rng.choice(structure), rng.randrange(8)
    forged = bytearray(content)
    forged[at] ^= 1 << bit
    path = folder / f"{number}.h5"
    path.write_bytes(forged)
    child = os.fork()
    if not child:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
        try:
            print(at, bit, "whole", import_hdf5(path, folder / str(number))["content"], flush=True)
        except UserError as error:
            print(at, bit, error.exit_code, flush=True)
        except BaseException as error:
            print(at, bit, "uncaught", type(error).__name__, flush=True)
        os._exit(0)
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    if code:
        print(at, bit, "crash", code, flush=True)
"""


@pytest.mark.reliability
def test_a_bit_of_the_structure_flipped(file: Path, tmp_path: Path) -> None:
    """HDF5's own code reads the structure; each flip is refused, or changes nothing that counts."""
    done = subprocess.run(
        [sys.executable, "-c", FLIPS, str(file), str(tmp_path), "1", "60"],
        stdout=subprocess.PIPE, text=True, check=True,
    )  # fmt: skip
    lines = [line.split()[2:] for line in done.stdout.splitlines()]
    assert len(lines) == 60
    content = Store.open(KEPT).content_hash()
    assert {tuple(line) for line in lines} <= {("whole", content), ("2",), ("3",), ("4",)}
    assert ["3"] in lines
