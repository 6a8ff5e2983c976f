"""JSON and Parquet from somebody who means harm: in a store's units, and in finished runs."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from pyarrow import parquet

from featstore.core.settings import digest
from featstore.store.tables import SOURCES, UTTERANCES
from featstore.store.unit import RECORD
from tests.reliability import forgery
from tests.reliability.attacks import BAD, Case, Damage, attack, fifo, finished_run, text
from tests.reliability.forgery import DENSE, DOCUMENTS, pickles, sparse
from tests.reliability.sandbox import Sandbox, Tally, shared

pytestmark = [pytest.mark.reliability, pytest.mark.timeout(300)]


@pytest.fixture
def sandbox() -> Sandbox:
    return shared()


@pytest.fixture(scope="module")
def finished(undisturbed: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run of one epoch; never written into."""
    return finished_run(undisturbed, tmp_path_factory.mktemp("runs"))


@pytest.fixture
def marker(tmp_path: Path) -> Iterator[Path]:
    """What a payload makes; it never may."""
    yield tmp_path / "marker"
    assert not (tmp_path / "marker").exists()


@pytest.mark.parametrize("path", ["zarr.json", f"corpus/{RECORD}", "corpus/label/zarr.json"])
def test_json(sandbox: Sandbox, undisturbed: Path, tmp_path: Path, path: str) -> None:
    """Documents that are none, or that grow thirtyfold when they are read."""
    sealed = path.endswith("label/zarr.json")
    cases = {
        name: Case(text(path, content), met_by=("verify",), codes=BAD, sealed=sealed)
        for name, content in DOCUMENTS.items()
    }
    cases |= {
        name: Case(text(path, content), met_by=("read", "verify"), codes=BAD, sealed=sealed)
        for name, content in DENSE.items()
    }
    cases["a pipe"] = Case(fifo(path), met_by=("read", "verify"), sealed=False)
    attack(sandbox, undisturbed, tmp_path, cases, f"JSON, {path}")


TABLE = "corpus/utterances.parquet"
SUMS = "audio/sources.parquet"


def columns(n: int) -> Damage:
    """A table of so many columns."""
    table = pa.table({f"c{column}": pa.array([""] * 24) for column in range(n)})
    return lambda store: parquet.write_table(table, store / TABLE)


def replaced(**values: Any) -> Damage:
    """The table with other columns."""
    return lambda store: forgery.table_of(store / TABLE, **values)


def texts(path: str, *, dictionary: bool) -> Damage:
    return lambda store: forgery.long_texts(store / path, dictionary=dictionary, compression="zstd")


TABLES: dict[str, Case] = {
    "10^9 rows of one column": Case(lambda s: forgery.billion_rows(s / TABLE)),
    "10^7 rows": Case(lambda s: forgery.many_rows(s / TABLE, 10**7, [*UTTERANCES])),
    "10^7 sources": Case(lambda s: forgery.many_rows(s / SUMS, 10**7, [*SOURCES]), unit="audio"),
    "2 GB of text in a dictionary": Case(texts(TABLE, dictionary=True)),
    "2 GB of text": Case(texts(TABLE, dictionary=False)),
    "2 GB of sums in a dictionary": Case(texts(SUMS, dictionary=True), unit="audio"),
    "a column less": Case(replaced(text=None)),
    "a column more": Case(replaced(more=["x"] * 24)),
    "ids are numbers": Case(replaced(utterance_id=[*range(24)])),
    "text is lists": Case(replaced(text=[["a"]] * 24)),
    "a gap": Case(replaced(text=[None] * 24)),
    "10,000 columns": Case(columns(10_000)),
    "nothing": Case(text(TABLE, lambda _: b"")),
    "the frame alone": Case(text(TABLE, lambda _: b"PAR1\xff\xff\xff\x7fPAR1")),
    "noise": Case(text(TABLE, lambda _: b"PAR1" + bytes(range(256)) * 9)),
    "1 TiB": Case(lambda s: sparse(s / TABLE, 2**40, b"PAR1")),
}


def test_parquet(sandbox: Sandbox, undisturbed: Path, tmp_path: Path) -> None:
    """Tables of a few kilobytes that would fill the memory, and others that are none."""
    attack(sandbox, undisturbed, tmp_path, TABLES, "tables")


def test_parquet_that_unpickles(sandbox: Sandbox, undisturbed: Path, tmp_path: Path) -> None:
    """A bare pickle, and the extension type that pyarrow once unpickled with the schema."""
    marker = tmp_path / "marker"

    def with_extension(store: Path) -> None:
        table = parquet.read_table(store / TABLE)
        at = table.column_names.index("text")
        field, column = forgery.pickled_extension(marker), table.column("text").cast(pa.string())
        parquet.write_table(table.set_column(at, field, column), store / TABLE)

    cases = {name: Case(text(TABLE, lambda _, content=content: content))
             for name, content in pickles(marker)}  # fmt: skip
    cases["extension type"] = Case(with_extension, codes=(0, 3, 4))
    attack(sandbox, undisturbed, tmp_path, cases, "pickles for tables")
    assert not marker.exists()


def test_reports(sandbox: Sandbox, finished: Path, marker: Path, tmp_path: Path) -> None:
    """Run folders of somebody else, whose ``DONE`` lists the sums of whatever they hold."""
    tally = Tally()
    tally.add("sound", sandbox("distill", "report", finished), (0,))

    def report(name: str, write: Callable[[Path], object]) -> None:
        run = Path(shutil.copytree(finished, tmp_path / "runs" / finished.name))
        write(run)
        if not name.startswith("DONE"):
            resum(run)
        tally.add(name, sandbox("distill", "report", run), (1, *BAD))
        shutil.rmtree(run)

    for name, content in {**DOCUMENTS, **DENSE}.items():
        for file in ("run.json", "DONE") if name in DOCUMENTS else ("run.json",):
            report(f"{file}: {name}", lambda run, file=file, content=content: (
                run / file).write_bytes(content((run / file).read_bytes())))  # fmt: skip
    table = "predictions.parquet"
    report("10^9 rows", lambda run: forgery.billion_rows(run / table))
    report("10^7 rows", lambda run: forgery.many_rows(run / table, 10**7, PREDICTED))
    report("2 GB of text", lambda run: forgery.long_texts(
        run / table, dictionary=True, compression="zstd"))  # fmt: skip
    report("1 TiB", lambda run: forgery.sparse(run / table, 2**40))
    for name, content in pickles(marker):
        report(name, lambda run, content=content: (run / table).write_bytes(content))
    report("deep TOML", lambda run: (run / "config.toml").write_text("a = " + "[" * 100_000))
    tally.close("reports")


PREDICTED = ["utterance_id", "speaker", "fold_s", "role", "truth", "prediction", "logit_high_s"]


def resum(run: Path) -> None:
    """Let ``DONE`` list what there is."""
    record = json.loads((run / "DONE").read_bytes())
    files = [name for name in record if (run / name).is_file()]
    small = [name for name in files if (run / name).stat().st_size < 2**30]
    record |= {name: hashlib.sha256((run / name).read_bytes()).hexdigest() for name in small}
    if record.pop("sha256", None):
        record["sha256"] = digest(record)
    (run / "DONE").write_text(json.dumps(record))
