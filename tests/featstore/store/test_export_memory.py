"""Hours of signals pass through an export and an import a MiB at a time."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from featstore.build.units import AUDIO_ROWS
from featstore.store.arrays import RaggedWriter
from featstore.store.store import Store
from tests.featstore.store.kept_store import KEPT, copied
from tests.reliability import forgery

N_BYTES = 8 * 24 * 1024**2

PEAKS = """
import sys
from pathlib import Path
from featstore.store.export import export
from featstore.store.hdf5 import import_hdf5
from featstore.store.store import Store

def peak():
    [line] = [l for l in Path("/proc/self/status").read_text().splitlines() if "VmHWM" in l]
    return int(line.split()[1]) * 1024

def there_and_back(store, place):
    export(Store.open(store), Path(f"{place}.h5"))
    out = peak()
    import_hdf5(Path(f"{place}.h5"), Path(place))
    return out, peak()

_, before = there_and_back(sys.argv[1], sys.argv[3] + "/small")
out, back = there_and_back(sys.argv[2], sys.argv[3] + "/large")
print(out - before, back - before)
"""


@pytest.mark.slow
def test_memory_does_not_grow_with_the_signals(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = copied(tmp_path / "store")
    for name in ("values", "offsets"):
        shutil.rmtree(store / "audio" / name)
    writer = RaggedWriter(store / "audio", "int16", (), AUDIO_ROWS, "sample")
    rng = np.random.default_rng(3)
    for _ in range(8):
        writer.append(rng.integers(-9000, 9000, N_BYTES // 16, dtype=np.int16))
    writer.close()
    monkeypatch.setattr(forgery, "HASHED_UP_TO", 2 * N_BYTES)
    forgery.reseal(store / "audio")
    done = subprocess.run(
        [sys.executable, "-c", PEAKS, str(KEPT), str(store), str(tmp_path)],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    print(done.stdout)
    out, back = map(int, done.stdout.split())
    assert out < N_BYTES / 8
    assert (
        back < N_BYTES
    )  # the verification at the end maps the signals, whose pages are the file's
    again = Store.open(tmp_path / "large")
    assert again.content_hash() == Store.open(store).content_hash()
