from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from featstore.build.lld_unit import lld_identity, write_lld
from featstore.core.config import LldSettings
from featstore.features import lld
from featstore.store.store import Store
from featstore.store.unit import Identity

AUDIO = Identity("audio", {}, {})


@pytest.fixture
def extracted(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The lengths of the signals that went to the extractor."""
    lengths: list[int] = []

    def extract_all(signals: Any, feature_set: str, jobs: int) -> Iterator[Any]:
        ahead = list(signals)  # as a pool would, it reads on before it answers
        for samples in ahead:
            lengths.append(len(samples))
            yield np.full((len(samples) // 160, 25), float(samples[0]), dtype=np.float32)

    monkeypatch.setattr(lld, "extract_all", extract_all)
    return lengths


def write(store: Store, signals: list[Any], settings: LldSettings | None = None) -> int:
    settings = settings or LldSettings()
    identity = lld_identity(settings, AUDIO)
    return write_lld(store, identity, settings, signals, len(signals), 1, replace=True)


def signals(*lengths: int) -> list[Any]:
    return [np.full(length, at + 1, dtype=np.int16) for at, length in enumerate(lengths)]


class TestTakenOver:
    def test_only_other_signals_are_extracted_and_order_is_kept(
        self, store_copy: Path, extracted: list[int]
    ) -> None:
        store = Store.open(store_copy)
        first = signals(1600, 3200, 4800, 6400)
        assert write(store, first) == 0
        assert extracted == [1600, 3200, 4800, 6400]
        changed = np.full(8000, 9, dtype=np.int16)
        second = [first[3], changed, first[0], first[1]]
        assert write(Store.open(store_copy), second) == 3
        assert extracted[4:] == [8000]
        values = Store.open(store_copy).lld
        assert [len(values.read(row)) for row in range(4)] == [40, 50, 10, 20]
        assert [values.read(row)[0, 0] for row in range(4)] == [4, 9, 1, 2]

    def test_taken_over_or_extracted_the_bytes_are_the_same(
        self, store_copy: Path, extracted: list[int]
    ) -> None:
        given = signals(1600, 3200, 1600)
        write(Store.open(store_copy), given)
        once = Store.open(store_copy).unit("lld").files
        assert write(Store.open(store_copy), given) == 3
        assert Store.open(store_copy).unit("lld").files == once

    def test_nothing_of_other_descriptors(self, store_copy: Path, extracted: list[int]) -> None:
        given = signals(1600)
        write(Store.open(store_copy), given)
        other = LldSettings(feature_set="GeMAPSv01b")
        with pytest.raises(ValueError, match="could not broadcast"):  # the fake gives 25 columns
            write(Store.open(store_copy), given, other)
        assert len(extracted) == 2

    def test_nothing_of_a_damaged_unit(self, store_copy: Path, extracted: list[int]) -> None:
        given = signals(1600, 3200)
        write(Store.open(store_copy), given)
        path = store_copy / "lld/values/c/0/0"
        content = bytearray(path.read_bytes())
        content[40] ^= 1
        path.write_bytes(content)
        assert write(Store.open(store_copy), given) == 0
        assert len(extracted) == 4
