"""Units whose sums are right and which still are none: what they say, and whether they fit."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from featstore.core.schema import Corrupt, Refused, UserError
from featstore.store.store import Store
from featstore.store.verify import verify
from tests.reliability.forgery import reseal, rewritten


def messages(store: Path) -> str:
    return "\n".join(fault.message for fault in verify(Store.open(store)).faults)


def fact(unit: str, key: str, value: Any) -> Callable[[Path], None]:
    def do(store: Path) -> None:
        reseal(store / unit, lambda raw: raw["facts"].__setitem__(key, value))

    return do


def array(unit: str, name: str, change: Callable[[Any], Any]) -> Callable[[Path], None]:
    return lambda store: rewritten(store / unit, name, change)


def nan_in_front(values: Any) -> Any:
    values[0, 0] = np.nan
    return values


def one_past(values: Any) -> Any:
    values[0] = 99
    return values


TEACHER = "folds/01/prosodic"
NONSENSE = {
    "no folds": (fact("splits", "folds", []), "role: (10, 80) instead of (0, 80)"),
    "folds of another kind": (fact("splits", "folds", "all"), "facts.folds"),
    "role 9": (
        array("splits", "role", lambda v: np.where(v == 1, 9, v).astype(v.dtype)),
        "values 0 to",
    ),
    "a role too few": (array("splits", "role", lambda v: v[:-1]), "role: (9, 80) instead of"),
    "no speaker": (fact("corpus", "speakers", []), "speaker: codes beyond the 0 speakers"),
    "another speaker": (array("corpus", "speaker", lambda v: v[::-1]), "speaker: not those of"),
    "a class beyond the classes": (array("corpus", "label", one_past), "label: codes beyond"),
    "a label too few": (array("corpus", "label", lambda v: v[:-1]), "label: (79,) for 80"),
    "scores beyond 1": (fact(TEACHER, "scores", {"test": {"wa": 7}}), "facts.scores.test"),
    "no score of the test speaker": (fact(TEACHER, "scores", {}), "facts.scores"),
    "a teacher of both kinds": (fact(TEACHER, "fitted_on", "everybody"), "facts.fitted_on"),
    "a temperature": (fact(TEACHER, "temperature", 4.0), "facts.temperature"),
    "a teacher for fold 2": (fact(TEACHER, "fold", 2), "fitted for fold 2"),
    "logits too few": (array(TEACHER, "logits", lambda v: v[:-1]), "logits: (79, 4) instead of"),
    "embeddings too few": (array(TEACHER, "embeddings", lambda v: v[1:]), "embeddings: (79, "),
    "a logit that is none": (array(TEACHER, "logits", nan_in_front), "logits: not finite"),
    "an utterance too few": (array("audio", "offsets", lambda v: np.delete(v, 1)), "79 utter"),
    "backwards": (array("lld", "offsets", lambda v: v[::-1]), "offsets: do not fit values"),
    "names for other columns": (fact("lld", "names", ["f0"]), "values: (25,) for 1 names"),
}


@pytest.mark.parametrize("name", NONSENSE)
def test_nonsense_with_the_right_sums_is_named(name: str, store_copy: Path) -> None:
    forge, told = NONSENSE[name]
    forge(store_copy)
    assert told in messages(store_copy)


def test_settings_that_no_version_had(store_copy: Path) -> None:
    reseal(store_copy / "audio", lambda raw: raw["settings"]["audio"].update(rate=8000))
    with pytest.raises(Corrupt, match=r"settings\.audio\.rate: Extra inputs") as caught:
        _ = Store.open(store_copy).audio
    assert "--repair" in caught.value.hint


class TestTables:
    @staticmethod
    def replaced(store: Path, table: pd.DataFrame) -> Store:
        table.to_parquet(store / "corpus/utterances.parquet", index=False)
        reseal(store / "corpus")
        return Store.open(store)

    def test_other_columns(self, store_copy: Path) -> None:
        table = Store.open(store_copy).utterances
        for wrong in (table.drop(columns="text"), table.assign(more=1), table.iloc[:, ::-1],
                      table.assign(text=1), table.assign(start_s="0")):  # fmt: skip
            with pytest.raises(Refused, match=r"utterances\.parquet: 80 rows of"):
                _ = self.replaced(store_copy, wrong).utterances

    def test_gaps(self, store_copy: Path) -> None:
        table = Store.open(store_copy).utterances
        table.loc[3, "text"] = None
        with pytest.raises(Corrupt, match="has gaps"):
            _ = self.replaced(store_copy, table).utterances

    def test_no_parquet(self, store_copy: Path) -> None:
        (store_copy / "corpus/utterances.parquet").write_bytes(b"PAR1 and then nothing PAR1")
        reseal(store_copy / "corpus")
        with pytest.raises(Corrupt, match="no Parquet table"):
            _ = Store.open(store_copy).utterances

    def test_text_that_would_not_fit_into_memory(self, store_copy: Path) -> None:
        table = Store.open(store_copy).utterances.loc[[0] * 20_000].assign(text="x" * 50_000)
        with pytest.raises(Refused, match="bytes of text"):
            _ = self.replaced(store_copy, table).utterances


class TestBetweenTheUnits:
    def test_links_are_refused_by_readers_too(self, store_copy: Path, tmp_path: Path) -> None:
        (store_copy / "folds").rename(tmp_path / "elsewhere")
        (store_copy / "folds").symlink_to(tmp_path / "elsewhere")
        assert "folds: a link" in messages(store_copy)
        with pytest.raises(Refused, match="folds: a link"):
            Store.open(store_copy).fold(1)

    @pytest.mark.parametrize("name", ["notes", "folds/03x/a", "folds/01/.hidden", "weights"])
    def test_strays(self, store_copy: Path, name: str) -> None:
        (store_copy / name).parent.mkdir(exist_ok=True)
        (store_copy / name).write_text("")
        stray = not name.endswith(".hidden")
        assert bool(messages(store_copy)) == stray

    def test_a_store_half_built_is_sound(self, store_copy: Path) -> None:
        for unit in ("corpus", "splits", "lld", "folds"):
            shutil.rmtree(store_copy / unit)
        found = verify(Store.open(store_copy))
        assert found.faults == ()
        assert [unit.unit for unit in found.sound] == ["audio"]


def test_damage_in_the_signals_names_utterances(store_copy: Path) -> None:
    store = Store.open(store_copy)
    path = store_copy / "lld/values/c/0/0"
    content = bytearray(path.read_bytes())
    content[int(store.lld.offsets[79]) * 100 + 5] ^= 16
    path.write_bytes(content)
    told = messages(store_copy)
    assert "lld/values/c/0/0: content differs (array values)" in told
    assert "utterances: Ses0" in told
    for row in (0, 79):  # both lie in the one chunk
        with pytest.raises(UserError, match="content differs"):
            Store.open(store_copy).lld.read(row)
