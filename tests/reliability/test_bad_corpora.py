"""A bad corpus: every fault is named with its place and remedy, counted, and nothing else hurt."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest

from featstore.build.plan import Request
from featstore.build.run import build
from featstore.core.schema import Fault, Manifest, UserError
from featstore.corpora import load
from featstore.features import lld
from featstore.inspection.overview import excluded
from featstore.store.store import Store
from tests.inline import InlineExecutor
from tests.reliability.corpus_damage import DAMAGES, HOSTILE_WORDS, LATIN1, Damage
from tests.reliability.corpus_layouts import Layout, copy_of, make_iemocap, make_table
from tests.reliability.corpus_runs import (
    STEERING,
    Kept,
    built,
    checked,
    contents,
    read,
    settings_of,
)
from tests.reliability.harness import call, document, environment

pytestmark = [pytest.mark.reliability, pytest.mark.timeout(60)]

SINGLE = [(dataset, name) for dataset, damages in DAMAGES.items() for name in damages]


class Clean(NamedTuple):
    """A corpus as it should be, what is said of it, and what is built from it."""

    layout: Layout
    faults: Counter[str]
    kept: Mapping[str, Kept]

    def victim(self, name: str) -> str:
        """Whom a damage befalls; each another one, but for the last ones, which take no victim."""
        victims = self.layout.victims()
        return victims[list(DAMAGES[self.layout.dataset]).index(name) % len(victims)]


@pytest.fixture(scope="module", autouse=True)
def _in_this_process() -> Iterator[None]:
    """LLDs are extracted by plain calls: no worker starts, and what is patched is seen."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("featstore.jobs.local.ProcessPoolExecutor", InlineExecutor)
        yield


@pytest.fixture(scope="module")
def clean(tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, Clean]:
    made = {}
    for make in (make_table, make_iemocap):
        layout = make(tmp_path_factory.mktemp("sound") / "corpus")
        manifest = read(layout)
        faults = Counter(fault.reason for fault in checked(manifest))
        store = built(manifest, layout.root.with_name("store"))
        made[layout.dataset] = Clean(layout, faults, contents(store))
    return made


@pytest.fixture
def _known_llds(clean: Mapping[str, Clean], monkeypatch: pytest.MonkeyPatch) -> None:
    """LLDs of known samples are not extracted again: they are a function of the samples alone."""
    known = {one.samples: one.lld for corpus in clean.values() for one in corpus.kept.values()}
    extract = lld.extract

    def remembered(samples: Any, feature_set: str = "eGeMAPSv02") -> Any:
        found = known.get(samples.tobytes())
        if found is None:
            return extract(samples, feature_set)
        return np.frombuffer(found, dtype=np.float32).reshape(-1, 25).copy()

    monkeypatch.setattr(lld, "extract", remembered)


@pytest.fixture(scope="module")
def tally() -> Iterator[Counter[str]]:
    began, counts = time.monotonic(), Counter[str]()
    yield counts
    print(
        f"\nbad corpora, one fault each: {counts['tried']} tried, {counts['named']} named, "
        f"{counts['tried'] - counts['named']} lost, {counts['false']} false alarms; "
        f"{counts['right']} oddities used and right; {counts['compared']} unhurt utterances "
        f"bit-identical; {time.monotonic() - began:.1f} s"
    )


@pytest.mark.usefixtures("_known_llds")
@pytest.mark.parametrize(("dataset", "name"), SINGLE, ids=[f"{d}: {n}" for d, n in SINGLE])
def test_one_fault(
    dataset: str,
    name: str,
    clean: Mapping[str, Clean],
    tmp_path: Path,
    tally: Counter[str],
    capsys: pytest.CaptureFixture[str],
) -> None:
    before, damage = clean[dataset], DAMAGES[dataset][name]
    victim = before.victim(name)
    hurt = copy_of(before.layout, tmp_path / "corpus")
    damage.make(hurt, victim)
    tally["tried"] += 1
    manifest = read(hurt)

    faults = checked(manifest)
    told = Counter(fault.reason for fault in faults) - before.faults
    tally["false"] += (told - Counter(damage.reasons)).total()
    assert told == Counter(damage.reasons)
    for fault in faults:
        if fault.reason in damage.reasons:
            judge(fault, damage)
    tally["named"] += 1

    store = tmp_path / "store"
    if damage.effect == "stop":
        with pytest.raises(UserError) as stopped:
            built(manifest, store)
        assert (stopped.value.exit_code, bool(stopped.value.hint)) == (2, True)
        assert not (store / "audio").exists()
    else:
        found = contents(built(manifest, store))
        tally["compared"] += compare(found, before, damage, victim)
        if name in RIGHT:
            tally["right"] += 1
            assert RIGHT[name](found[victim], before.kept[victim], before.kept[hurt.sound()])
        excludes = damage.effect == "exclude"
        assert excluded(Store.open(store)) == (damage.reasons if excludes else {})
        strictly(manifest, tmp_path / "strict", stops=excludes)
    out = capsys.readouterr()
    assert STEERING.findall(out.out + out.err) == []
    assert all(fault.message in out.out for fault in faults)


def judge(fault: Fault, damage: Damage) -> None:
    """One line with its place, and a remedy."""
    is_first = fault.reason == next(iter(damage.reasons))
    assert fault.severity == (damage.effect if is_first else "exclude")
    line = fault.place + fault.message + fault.remedy
    assert fault.remedy
    assert "\n" not in line
    assert len(line) < 600
    if fault.file.endswith((".csv", ".txt")):  # what is not there has no line
        absent = ("missing-transcript", "unlabelled-turn", "unlabelled-dialogue")
        assert (fault.line is None) == (fault.reason in absent)
    if fault.utterance_id:
        assert fault.line is not None or fault.utterance_id in fault.file + fault.message


def compare(found: Mapping[str, Kept], before: Clean, damage: Damage, victim: str) -> int:
    """What is lost is what should be, and all others are as they were, to the bit."""
    lost = damage.loses(before.layout, victim)
    assert set(before.kept) - set(found) == lost
    unhurt = set(before.kept) - lost - {victim}
    assert {name: found[name] for name in unhurt} == {name: before.kept[name] for name in unhurt}
    return len(unhurt)


def strictly(manifest: Manifest, store: Path, *, stops: bool) -> None:
    if not stops:
        built(manifest, store, strict=True)
        return
    with pytest.raises(UserError, match="stop the build") as stopped:
        built(manifest, store, strict=True)
    assert stopped.value.exit_code == 2
    assert not (store / "audio").exists()


def as_it_was(found: Kept, was: Kept, other: Kept) -> bool:
    return found == was


def about_as_it_was(found: Kept, was: Kept, other: Kept) -> bool:
    a, b = found.signal, was.signal
    n = min(len(a), len(b))
    return abs(len(a) - len(b)) <= 1 and bool(np.corrcoef(a[:n], b[:n])[0, 1] > 0.95)


def saying(words: str) -> Callable[[Kept, Kept, Kept], bool]:
    return lambda found, was, other: found == was._replace(text=words)


RIGHT: Mapping[str, Callable[[Kept, Kept, Kept], bool]] = {
    "8 kHz": about_as_it_was,
    "stereo": as_it_was,
    "FLAC named .wav": as_it_was,
    "CRLF and BOM": as_it_was,
    "folders in a loop": as_it_was,
    "the same id twice": as_it_was,
    "another speaker's audio": lambda found, was, other: found.samples == other.samples,
    "no words": saying(""),
    "Latin-1": saying(LATIN1),
    "invalid bytes": saying("so ÿþ what"),
    "escapes in the text": saying(HOSTILE_WORDS),
}
"""What is usable although odd is used, and is what it should be."""


def test_all_that_is_odd_and_used_is_judged() -> None:
    used = {
        name
        for damages in DAMAGES.values()
        for name, one in damages.items()
        if one.effect in ("use", "warn")
    }
    assert used == set(RIGHT)


def test_build_alone_loses_no_speaker(clean: Mapping[str, Clean], tmp_path: Path) -> None:
    """What only decoding tells stops it, too."""
    hurt = copy_of(clean["table"].layout, tmp_path / "corpus")
    DAMAGES["table"]["speaker silent by ear"].make(hurt, "")
    settings = settings_of("table")
    manifest = load("table", hurt.root, settings.corpus)
    with pytest.raises(UserError, match=r"speaker cy has no usable turn") as stopped:
        build(Request(manifest, settings, tmp_path / "store", jobs=1, device="cpu"))
    assert stopped.value.exit_code == 2
    assert not (tmp_path / "store" / "audio").exists()


WARNED = ("empty-text", "control-characters", "identical-audio", "duplicate-id")

MEASURED = """\
import sys
from pathlib import Path
from tests.reliability.corpus_layouts import Iemocap, Table
from tests.reliability.corpus_runs import built, checked, read
layout = {"table": Table, "iemocap": Iemocap}[sys.argv[1]](Path(sys.argv[2]))
manifest = read(layout)
checked(manifest)
built(manifest, Path(sys.argv[3]))
status = Path("/proc/self/status").read_text()
print("peak KiB", status.partition("VmHWM:")[2].split()[0])
"""
# getrusage would tell of the process that started this one, too: its peak survives exec.


def all_at_once(clean: Clean, root: Path, *, stops: bool) -> tuple[Layout, Counter[str], set[str]]:
    """Every damage in one corpus: its faults, and what the store is to lose."""
    hurt = copy_of(clean.layout, root)
    damages = DAMAGES[hurt.dataset]
    reasons: Counter[str] = Counter()
    lost: set[str] = set()
    # What makes whole files large or foreign comes last, for it makes the others slow.
    for name in sorted(damages, key=lambda name: name.startswith(("10 MB", "CRLF"))):
        damage, victim = damages[name], clean.victim(name)
        if damage.undoes or (damage.effect == "stop" and not stops):
            continue
        damage.make(hurt, victim)
        reasons.update(damage.reasons)
        lost |= damage.loses(hurt, victim)
    return hurt, reasons, lost


@pytest.mark.parametrize("dataset", DAMAGES)
def test_all_that_excludes_at_once(
    dataset: str, clean: Mapping[str, Clean], tmp_path: Path
) -> None:
    began, before = time.monotonic(), clean[dataset]
    hurt, reasons, lost = all_at_once(before, tmp_path / "corpus", stops=False)
    store = tmp_path / "store"
    where = ("--dataset", dataset, "--root", hurt.root, "--store", store)
    strict = call("featstore", "build", *where, "--strict")
    assert (strict.returncode, store.exists()) == (2, False)
    assert "fault(s) stop the build" in strict.stderr
    done = subprocess.run(
        [sys.executable, "-c", MEASURED, dataset, hurt.root, store], capture_output=True, text=True,
        env=environment(PYTHONPATH=os.pathsep.join(sys.path)), timeout=60, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert STEERING.findall(strict.stdout + strict.stderr + done.stdout + done.stderr) == []
    peak_mib = int(done.stdout.rpartition("peak KiB")[2]) / 1024
    assert peak_mib < 1024
    counted = {reason: n for reason, n in reasons.items() if reason not in WARNED}
    assert excluded(Store.open(store)) == counted
    found = contents(Store.open(store))
    assert set(before.kept) - set(found) == lost
    unhurt = set(before.kept) - lost - {before.victim(name) for name in DAMAGES[dataset]}
    assert {name: found[name] for name in unhurt} == {name: before.kept[name] for name in unhurt}
    print(
        f"bad corpora, all at once ({dataset}): {reasons.total()} faults, all named and counted, "
        f"{len(unhurt)} unhurt utterances bit-identical, peak {peak_mib:.0f} MiB, "
        f"{time.monotonic() - began:.1f} s"
    )


@pytest.mark.parametrize("dataset", DAMAGES)
def test_all_at_once_by_command(dataset: str, clean: Mapping[str, Clean], tmp_path: Path) -> None:
    began = time.monotonic()
    hurt, reasons, _ = all_at_once(clean[dataset], tmp_path / "corpus", stops=True)
    where, store = ("--dataset", dataset, "--root", hurt.root), tmp_path / "store"
    check = call("featstore", "check", *where, "--json")
    done = call("featstore", "build", *where, "--store", store)
    assert (check.returncode, done.returncode) == (1, 2)
    told = Counter(fault["reason"] for fault in document(check)["faults"])
    assert told >= reasons
    assert set(told - reasons - clean[dataset].faults) <= {"folds"}  # fewer speakers, fewer folds
    stops = [fault for fault in document(check)["faults"] if fault["severity"] == "stop"]
    assert all(printed(fault) in done.stderr for fault in stops if fault["reason"] != "folds")
    assert not store.exists()
    assert STEERING.findall(check.stdout + check.stderr + done.stdout + done.stderr) == []
    print(
        f"bad corpora, by command ({dataset}): {reasons.total()} faults named in one pass, "
        f"{len(stops)} of them stop, {time.monotonic() - began:.1f} s"
    )


def printed(fault: Mapping[str, Any]) -> str:
    line = "" if fault["line"] is None else f":{fault['line']}"
    return f"{fault['file']}{line}: {fault['message']} ({fault['remedy']})"
