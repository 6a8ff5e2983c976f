"""A store against a plain dictionary: build, crash, resume, corrupt, repair, rebuild, read.

Hypothesis invents the histories. A crash is a true one: a forked process that ends by ``_exit`` in
the middle of a write, so that no ``finally`` of it runs.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pandas as pd
import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from featstore.core.config import (
    AudioSettings,
    CorpusSettings,
    FoldSettings,
    LldSettings,
    ProsodicSettings,
)
from featstore.core.schema import UserError
from featstore.core.settings import Settings, digest
from featstore.store import staging
from featstore.store.arrays import RaggedWriter, write_array, write_group
from featstore.store.staging import staged
from featstore.store.store import Store
from featstore.store.unit import Identity
from featstore.store.verify import verify

pytestmark = [pytest.mark.reliability, pytest.mark.timeout(900)]

EXAMPLES, STEPS = 200, 30

N = 4
SPEAKERS = ["ada", "bo"]
PARENTS = {
    "audio": (),
    "corpus": (),
    "splits": ("corpus",),
    "lld": ("audio",),
    "folds/01/prosodic": ("corpus", "splits", "lld"),
    "folds/02/prosodic": ("corpus", "splits", "lld"),
}
UNITS = tuple(PARENTS)
SHA = "0" * 64


def made_from(unit: str, version: int) -> dict[str, Any]:
    """Settings that the real thing could have; the version decides the fingerprint."""

    def plain(model: Settings) -> dict[str, Any]:
        return model.model_dump(mode="json")

    sha = f"{version:064x}"
    if unit == "corpus":
        return {"corpus": plain(CorpusSettings()), "classes": ["a", "b"], "rows": sha}
    if unit == "audio":
        return {"audio": plain(AudioSettings()), "sources": sha}
    if unit == "splits":
        return {"folds": plain(FoldSettings(seed=version))}
    if unit == "lld":
        return {"lld": plain(LldSettings(feature_set=("eGeMAPSv02", "GeMAPSv01b")[version]))}
    return {"fold": int(unit[6:8]), "teacher": plain(ProsodicSettings(seed=version))}


def facts_of(unit: str) -> dict[str, Any]:
    if unit == "corpus":
        counts: dict[str, Any] = {"excluded": {}, "other_labels": {}, "warnings": {}}
        names = {"name": "table", "classes": ["a", "b"], "speakers": SPEAKERS, "sessions": [""]}
        return {**names, **counts, "full_release": False}
    if unit == "audio":
        return {"n_samples": 40, "n_utterances": N, "excluded": []}
    if unit == "splits":
        ada, bo = ([name] for name in SPEAKERS)
        folds = [
            {"number": 1, "test": ada, "validation": []},
            {"number": 2, "test": bo, "validation": []},
        ]
        return {"folds": folds, "text_overlap": []}
    if unit == "lld":
        return {"names": ["x", "y"], "n_frames": 12, "n_utterances": N, "hop_ms": 10.0}
    fold = int(unit[6:8])
    score = {"wa": 0.5, "ua": 0.5, "n": 2, "confusion": [[1, 0], [1, 0]]}
    seen, held = SPEAKERS[2 - fold], SPEAKERS[fold - 1]
    return {"fold": fold, "kind": "prosodic", "fitted_on": [seen], "selected_on": [],
            "held_out": [held], "temperature": None, "parameters": 1, "embedding_width": 3,
            "scores": {"test": score}, "best_epoch": 1, "history": []}  # fmt: skip


@cache
def payload(unit: str, version: int) -> Path:
    """The unit's files, written once by the real writers."""
    folder = Path(tempfile.mkdtemp(prefix="payload-", dir=_CACHE.name)) / "unit"
    write_group(folder)
    rng = np.random.default_rng([len(unit), version, ord(unit[7]) if len(unit) > 7 else 0])
    if unit == "corpus":
        codes = {"label": [0, 1, version, 1 - version], "speaker": [0, 0, 1, 1], "session": [0] * N}
        for name, values in codes.items():
            write_array(folder, name, np.array(values, dtype=np.int16), ("utterance",))
        names = [f"u{row}" for row in range(N)]
        pd.DataFrame(
            {"utterance_id": names, "file": names, "start_s": [0.0] * N,
             "speaker": ["ada", "ada", "bo", "bo"], "session": [""] * N, "gender": [""] * N,
             "text": names, "kind": ["unknown"] * N,
             "label": ["ab"[code] for code in codes["label"]], "label_raw": names}
        ).to_parquet(folder / "utterances.parquet", index=False)  # fmt: skip
    elif unit in ("audio", "lld"):
        dtype, columns = ("int16", ()) if unit == "audio" else ("float32", ("descriptor",))
        shape = () if unit == "audio" else (2,)
        writer = RaggedWriter(folder, dtype, shape, 8, "row", columns)
        for row in range(N):
            rows = (10 if unit == "audio" else 3,)
            writer.append((rng.normal(0, 1000, (*rows, *shape)) + row).astype(dtype))
        writer.close()
        if unit == "audio":
            ids = [f"u{row}" for row in range(N)]
            table = {"utterance_id": ids, "sha256": [SHA] * N, "duration_s": [1.0] * N}
            pd.DataFrame(table).to_parquet(folder / "sources.parquet", index=False)
        else:
            sums = np.zeros((N, 32), dtype=np.int8)
            write_array(folder, "signal_sha256", sums, ("utterance", "byte"))
    elif unit == "splits":
        role = np.array([[3, 3, 1, 1], [1, 1, 3, 3]], dtype=np.int8)
        write_array(folder, "role", role, ("fold", "utterance"))
    else:
        for name, width in (("logits", 2), ("embeddings", 3)):
            values = rng.normal(0, 1, (N, width)).astype(np.float32)
            write_array(folder, name, values, ("utterance", name))
    return folder


_CACHE = tempfile.TemporaryDirectory(prefix="state-machine-")


@contextmanager
def dying_after(calls: int) -> Iterator[None]:
    """End this process, without any clean-up, at its ``calls``-th change of the file system."""
    left = calls

    def counted(function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any, **more: Any) -> Any:
            nonlocal left
            left -= 1
            if left <= 0:
                os._exit(9)
            return function(*arguments, **more)

        return call

    for name in ("fsync", "rename", "replace", "mkdir", "unlink", "rmdir", "open"):
        setattr(os, name, counted(getattr(os, name)))
    staging._exchange = counted(counted(staging._exchange))
    yield


@dataclass(frozen=True)
class Stored:
    """What the dictionary knows of a unit."""

    version: int
    fingerprint: str
    content: str
    parents: dict[str, str]


class Histories(RuleBasedStateMachine):
    """Rules do the same to a store and to ``self.model``, and compare."""

    counts: ClassVar[dict[str, int]] = {}

    @initialize()
    def begin(self) -> None:
        place = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
        self.folder = Path(tempfile.mkdtemp(prefix="history-", dir=place))
        self.path = self.folder / "store"
        Store.create(self.path)
        self.model: dict[str, Stored] = {}
        self.damaged: set[str] = set()

    def teardown(self) -> None:
        if hasattr(self, "folder"):
            shutil.rmtree(self.folder)

    def count(self, what: str) -> None:
        self.counts[what] = self.counts.get(what, 0) + 1

    def write(self, identity: Identity, version: int, replace: bool) -> None:
        for above in reversed(Path(identity.unit).parents[:-1]):
            write_group(self.path / above)
        with staged(self.path / identity.unit, identity, replace=replace) as new:
            shutil.copytree(payload(identity.unit, version), new.folder, dirs_exist_ok=True)
            new.facts.update(facts_of(identity.unit))

    def stored(self, identity: Identity, version: int) -> Stored:
        return Stored(version, identity.fingerprint, identity.content, dict(identity.parents))

    def orphaned(self, unit: str) -> bool:
        """Whether one of its parents is another one by now."""
        return any(
            self.model[parent].content != content
            for parent, content in self.model[unit].parents.items()
        )

    def stale(self, unit: str) -> bool:
        """Whether it cannot be told that its parents are still the same."""
        return self.orphaned(unit) or bool(self.damaged & set(self.model[unit].parents))

    def draw(self, data: st.DataObject) -> tuple[str, int, Identity]:
        """A unit whose parents are there, a version of it, and what that is made from."""
        ready = [unit for unit in UNITS if all(parent in self.model for parent in PARENTS[unit])]
        missing = [unit for unit in ready if unit not in self.model]
        unit = data.draw(st.sampled_from(missing + ready))
        version = data.draw(st.integers(0, 1))
        parents = {parent: self.model[parent].content for parent in PARENTS[unit]}
        return unit, version, Identity(unit, made_from(unit, version), parents)

    @rule(data=st.data())
    def build(self, data: st.DataObject) -> None:
        unit, version, identity = self.draw(data)
        before = self.model.get(unit)
        try:
            self.write(identity, version, replace=False)
        except UserError:
            self.count("refused to mix")
            assert before is not None
            assert unit in self.damaged or before.fingerprint != identity.fingerprint
            return
        self.count("built")
        if before is None:
            self.model[unit] = self.stored(identity, version)

    @rule(data=st.data())
    def rebuild(self, data: st.DataObject) -> None:
        unit, version, identity = self.draw(data)
        self.write(identity, version, replace=True)
        self.model[unit] = self.stored(identity, version)
        self.damaged.discard(unit)
        self.count("rebuilt")

    @rule(data=st.data(), calls=st.integers(1, 60), replace=st.booleans())
    def crash(self, data: st.DataObject, calls: int, replace: bool) -> None:
        unit, version, identity = self.draw(data)
        payload(unit, version)
        child = os.fork()
        if child == 0:
            try:
                with dying_after(calls):
                    self.write(identity, version, replace)
            finally:
                os._exit(0)
        _, status = os.waitpid(child, 0)
        self.count("crashed" if os.waitstatus_to_exitcode(status) == 9 else "outlived the crash")
        self.settle(unit, self.stored(identity, version), replace)

    def settle(self, unit: str, new: Stored, replace: bool) -> None:
        """After a crash the unit is the old one or the new one, whole; nothing else will do."""
        before = self.model.get(unit)
        hurt = unit in self.damaged
        try:
            found = Store(self.path).unit(unit, deep=True)
        except UserError as refusal:
            not_there = before is None and refusal.exit_code == 2
            assert not_there or hurt, str(refusal)  # noqa: PT017
            return
        if found.fingerprint == new.fingerprint and (before is None or replace):
            self.model[unit] = new
            self.damaged.discard(unit)
        else:
            assert before is not None
            assert found.fingerprint == before.fingerprint

    @precondition(lambda self: set(self.model) - self.damaged)
    @rule(data=st.data(), how=st.sampled_from(["flip", "cut", "empty", "delete", "add"]))
    def corrupt(self, data: st.DataObject, how: str) -> None:
        unit = data.draw(st.sampled_from(sorted(set(self.model) - self.damaged)))
        place = self.path / unit
        files = sorted(path for path in place.rglob("*") if path.is_file())
        path = data.draw(st.sampled_from(files))
        content = bytearray(path.read_bytes())
        if how == "add":
            (path.parent / "extra").write_bytes(b"x")
        elif how == "delete":
            path.unlink()
        elif how == "flip" and content:
            at, bit = data.draw(st.integers(0, len(content) - 1)), data.draw(st.integers(0, 7))
            content[at] ^= 1 << bit
            path.write_bytes(content)
        elif content:
            path.write_bytes(content[:-1] if how == "cut" else b"")
        else:
            return
        self.damaged.add(unit)
        self.count("corrupted")

    @precondition(lambda self: self.damaged)
    @rule()
    def repair(self) -> None:
        """Every damaged unit anew, from what it was made from."""
        for unit in sorted(self.damaged):
            known = self.model[unit]
            identity = Identity(unit, made_from(unit, known.version), known.parents)
            self.write(identity, known.version, replace=True)
        self.damaged.clear()
        self.count("repaired")

    @rule(data=st.data())
    def read(self, data: st.DataObject) -> None:
        unit = data.draw(st.sampled_from([*UNITS, *self.model, *self.model]))
        store = Store.open(self.path)
        try:
            values = self.values(store, unit)
        except UserError as refusal:
            self.count("read refused")
            reason = unit not in self.model or self.out_of_reach(unit)
            assert reason, str(refusal)  # noqa: PT017
            return
        self.count("read")
        assert unit in self.model
        assert not self.orphaned(unit)
        expected = self.expected(unit)
        assert [one.tobytes() for one in values] == [one.tobytes() for one in expected]

    def out_of_reach(self, unit: str) -> bool:
        """Whether it, or what must be read with it, is damaged, missing or another one."""
        needed = {unit} | ({"corpus"} if unit.startswith("folds") else set())
        return bool(needed & self.damaged) or self.stale(unit)

    @staticmethod
    def values(store: Store, unit: str) -> list[Any]:
        if unit == "corpus":
            return [store.labels, *[np.array([text]) for text in store.utterances["label"]]]
        if unit in ("audio", "lld"):
            ragged = store.audio if unit == "audio" else store.lld
            store.check_parents(store.unit(unit))
            return [ragged.read(row) for row in range(len(ragged))]
        if unit == "splits":
            store.check_parents(store.unit(unit))
            return [store.roles]
        output = store.outputs(unit)
        return [output.logits, output.embeddings]

    def expected(self, unit: str) -> list[Any]:
        """The same read from the pristine files by another reader, zarr-python."""
        import zarr

        files = payload(unit, self.model[unit].version)
        group = zarr.open_group(str(files), mode="r")
        if unit == "corpus":
            labels = np.asarray(group["label"][:])
            return [labels, *[np.array(["ab"[code]]) for code in labels]]
        if unit in ("audio", "lld"):
            values, offsets = group["values"][:], group["offsets"][:]
            return [values[a:b] for a, b in pairwise(offsets)]
        if unit == "splits":
            return [group["role"][:]]
        return [group["logits"][:], group["embeddings"][:]]

    @rule()
    def check_everything(self) -> None:
        found = verify(Store.open(self.path))
        sound = {unit.unit for unit in found.sound}
        assert not sound & self.damaged, sound & self.damaged
        for unit in set(self.model) - self.damaged:
            whole = not self.stale(unit) and not self.damaged
            assert unit in sound or not whole, found.faults
        if self.model and not found.faults:
            files = {unit: Store(self.path).unit(unit).files for unit in Store(self.path).units()}
            assert found.content == digest(files)
            assert set(files) == set(self.model)
        self.count("verified")

    @invariant()
    def nothing_but_the_model_s_units(self) -> None:
        if hasattr(self, "model"):
            assert set(Store(self.path).units()) == set(self.model)


def run(machine: type[Histories], examples: int, *, shrink: bool = True) -> None:
    run_state_machine_as_test(
        machine,
        settings=settings(
            max_examples=examples, stateful_step_count=STEPS,
            suppress_health_check=list(HealthCheck), print_blob=False,
            phases=[Phase.generate, *([Phase.shrink] if shrink else [])],
        ),
    )  # fmt: skip


def test_no_history_tells_store_and_dictionary_apart() -> None:
    Histories.counts = {}
    run(Histories, EXAMPLES)
    told = ", ".join(f"{n} {what}" for what, n in sorted(Histories.counts.items()))
    assert Histories.counts["crashed"] > EXAMPLES
    print(f"state machine: {EXAMPLES} histories of {STEPS} steps, no counter-example: {told}")


class TestItFindsPlantedBugs:
    def test_a_unit_renamed_before_it_is_written(self, monkeypatch: pytest.MonkeyPatch) -> None:
        @contextmanager
        def in_place(place: Path, identity: Identity, *, replace: bool = False) -> Iterator[Any]:
            if place.exists():
                shutil.rmtree(place)
            new = staging.Staging(place, {}, {})
            place.mkdir(parents=True)
            yield new
            staging._write_record(new, identity)

        monkeypatch.setitem(globals(), "staged", in_place)
        with pytest.raises(BaseException):  # noqa: B017, PT011 - an assertion, or a group of them
            run(type("Planted", (Histories,), {}), 60, shrink=False)

    def test_a_reader_that_compares_nothing(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("featstore.store.unit.Unit.check", lambda self, part: None)
        monkeypatch.setattr("featstore.store.arrays.check_crc", lambda chunk, name: None)
        monkeypatch.setattr("featstore.store.ragged.check_crc", lambda chunk, name: None)
        monkeypatch.setattr("featstore.store.ragged.Ragged._check", lambda self, chunk: None)
        with pytest.raises(BaseException):  # noqa: B017, PT011
            run(Flipped, 60, shrink=False)


class Flipped(Histories):
    """Only the first value of a signal or of LLDs is ever hurt: what nothing else would notice."""

    @precondition(lambda self: (set(self.model) - self.damaged) & {"audio", "lld"})
    @rule(data=st.data())
    def corrupt(self, data: st.DataObject) -> None:
        hurt = sorted((set(self.model) - self.damaged) & {"audio", "lld"})
        unit = data.draw(st.sampled_from(hurt))
        values = self.path / unit / "values" / "c"
        path = min(one for one in values.rglob("*") if one.is_file())
        content = bytearray(path.read_bytes())
        content[0] ^= 1
        path.write_bytes(content)
        self.damaged.add(unit)
