"""The units of a store: what each is made from, and how it is written.

``corpus``, ``audio``, ``lld`` and ``splits`` are shared by all folds; ``folds/NN/<teacher>`` is
what one teacher gives for one fold.
"""

from __future__ import annotations

import hashlib
import shutil
import stat
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np

from featstore import teachers
from featstore.core.config import (
    AudioSettings,
    BuildSettings,
    FoldSettings,
    TeacherSettings,
    cross_fitted,
)
from featstore.core.console import say
from featstore.core.files import sha256_of
from featstore.core.schema import (
    Corrupt,
    Fault,
    Manifest,
    Refused,
    TaskFailed,
    UserError,
    listed,
)
from featstore.core.settings import digest
from featstore.corpora.audio_check import (
    Source,
    in_threads,
    progress_of,
    read,
    sources,
    with_verdicts,
)
from featstore.features import lld
from featstore.features.audio import MAX_FILE_BYTES, Samples, load_signal, resample, to_samples
from featstore.features.lld import Lld
from featstore.folds import Fold, Roles, text_overlap
from featstore.jobs.task import attended
from featstore.store.arrays import RaggedWriter, read_array, write_array, write_group
from featstore.store.provenance import versions
from featstore.store.ragged import Ragged
from featstore.store.staging import Staging, staged
from featstore.store.store import TEACHER_UNIT, Store, unit_name
from featstore.store.unit import Identity, Unit, folder_version, read_unit

if TYPE_CHECKING:
    import pandas as pd

AUDIO_ROWS = 2 * 1024 * 1024
"""Samples a chunk: 4 MiB; seven hours make 200 files."""
LLD_ROWS = 40 * 1024
"""Rows a chunk: about 4 MiB."""
SUMS = "signal_sha256"
"""Beside the LLDs, of the signal of each: one edited recording costs one extraction."""
PARTS = ".parts"
"""Where LLDs wait until all of them are there."""

_STORED = ("utterance_id", "file", "start_s", "speaker", "session", "gender", "text", "kind",
           "label", "label_raw")  # fmt: skip
_PLACES = ("file", "start_s")
"""Where an utterance's audio lies, of which no teacher learns."""
_FILES_AT_A_TIME = 64
_TELL_EVERY = 50

Status = Literal["done", "build", "replace", "conflict"]


@dataclass(frozen=True)
class Step:
    """One unit of a plan: what it is made from, what is to happen to it, and why.

    Attributes:
        identity: what it is made from.
        status: what is to happen to it.
        why: the reason.
        n_bytes: about how large it is, or will be.
        before: the version of the folder that it is to replace.
    """

    identity: Identity
    status: Status
    why: str
    n_bytes: int = 0
    before: tuple[int, int] | None = None

    @property
    def unit(self) -> str:
        """The unit's name."""
        return self.identity.unit


def refuse(manifest: Manifest, faults: Sequence[Fault], *, strict: bool) -> None:
    """Stop where the corpus would falsify the protocol.

    Args:
        manifest: the corpus.
        faults: of it.
        strict: stop where an utterance would be excluded, too.

    Raises:
        UserError: with every such fault, where it is and how to mend it.
    """
    grave = ("stop", "exclude") if strict else ("stop",)
    if stops := [fault for fault in faults if fault.severity in grave]:
        lines = [f"{fault.place}: {fault.message} ({fault.remedy})" for fault in stops]
        raise UserError(
            f"{manifest.root}: {len(lines)} fault(s) stop the build:\n{listed(lines)}",
            f"`featstore check --dataset {manifest.name}` lists everything",
        )


# --- what the units are made from ---


def source_sums(manifest: Manifest) -> dict[str, str]:
    """SHA-256 of each audio file by its name, '' where it cannot be read."""
    files = sorted(set(manifest.utterances["file"]))

    def one(name: str) -> str:
        path = manifest.root / name
        try:
            facts = path.stat()
            usual = stat.S_ISREG(facts.st_mode) and 0 < facts.st_size <= MAX_FILE_BYTES
            return sha256_of(path) if usual else ""
        except OSError:
            return ""

    some = [files[at : at + _FILES_AT_A_TIME] for at in range(0, len(files), _FILES_AT_A_TIME)]
    with ThreadPoolExecutor(4) as pool:
        sums = pool.map(lambda names: [one(name) for name in names], some)
        return dict(zip(files, (sum_ for part in sums for sum_ in part), strict=True))


def audio_identity(
    manifest: Manifest, settings: AudioSettings, sums: Mapping[str, str]
) -> Identity:
    """The audio: which stretch of which bytes is whose utterance."""
    stretches = [
        [source.utterance_id, sums[source.file], source.start_s, source.duration_s]
        for source in sources(manifest.utterances)
    ]
    record = {"audio": settings.model_dump(mode="json"), "sources": digest(stretches)}
    return Identity("audio", record, {})


def corpus_identity(manifest: Manifest, settings: BuildSettings) -> Identity:
    """The corpus: who says what with which label, and under which names the audio lies."""
    table = manifest.utterances
    meaning = [name for name in _STORED if name not in _PLACES]
    # How classes and labels were asked for shows in ``classes`` and ``rows``.
    spelled = settings.corpus.model_copy(update={"classes": None, "label_map": None})
    record = {
        "corpus": spelled.model_dump(mode="json"),
        "classes": list(manifest.classes),
        "rows": digest(table[meaning].to_numpy().tolist()),
        "files": digest(table[list(_PLACES)].to_numpy().tolist()),
    }
    return Identity("corpus", record, {})


def splits_identity(settings: FoldSettings, corpus: Identity) -> Identity:
    """The splits: who is held out when, by the settings that are used.

    Args:
        settings: with ``validation`` made explicit.
        corpus: what is split.
    """
    defaults = FoldSettings()
    update: dict[str, int] = {}
    if settings.scheme != "groups":
        update["groups"] = defaults.groups
        if settings.validation != "random":
            update["seed"] = defaults.seed
    record = {"folds": settings.model_copy(update=update).model_dump(mode="json")}
    return Identity("splits", record, {"corpus": corpus.content})


def lld_identity(settings: BuildSettings, audio: Identity) -> Identity:
    """The LLDs: a pure function of the samples."""
    return Identity("lld", {"lld": settings.lld.model_dump(mode="json")}, {"audio": audio.content})


def teacher_identity(
    fold: Fold,
    name: str,
    settings: TeacherSettings,
    shared: Mapping[str, Identity],
    groups: Sequence[Sequence[str]] = (),
) -> Identity:
    """A fold's teacher.

    Args:
        fold: which it is fitted for.
        name: the teacher's.
        settings: as the store records them, see :func:`featstore.teachers.portable`.
        shared: the units that it may be made from.
        groups: of training speakers, where its targets are cross-fitted.

    Raises:
        UserError: the name of cross-fitted targets is too long.
    """
    unit = unit_name(fold.number, cross_fitted(name, len(groups)))
    if not TEACHER_UNIT.match(unit):
        raise UserError(f"--cross-fit: {unit} is too long a name", "name that teacher shorter")
    record = {"fold": fold.number, "teacher": settings.model_dump(mode="json")}
    if groups:
        record |= {"cross_fit": len(groups), "groups": digest([list(group) for group in groups])}
    reads = teachers.KINDS[settings.kind].reads
    return Identity(unit, record, {parent: shared[parent].content for parent in reads})


def is_done(store: Path, step: Step) -> bool:
    """Whether the store holds this very unit, and no more the one that it is to replace."""
    if step.before is not None and folder_version(store / step.unit) == step.before:
        return False
    with suppress(UserError):
        return Store(store).unit(step.unit).fingerprint == step.identity.fingerprint
    return False


# --- how they are written ---


@contextmanager
def _writing(store: Path, step: Step) -> Iterator[Staging]:
    """A unit being written, which is committed at the end."""
    for above in reversed(Path(step.unit).parents[:-1]):  # groups, so that any Zarr reader descends
        write_group(store / above)
    place, anew = store / step.unit, step.status == "replace"
    with staged(place, step.identity, replace=anew, n_bytes=step.n_bytes) as staging:
        write_group(staging.folder)
        yield staging
        staging.provenance.update(versions())


def write_audio(
    store: Path,
    step: Step,
    manifest: Manifest,
    settings: AudioSettings,
    sums: Mapping[str, str],
    threads: int,
    *,
    strict: bool = False,
) -> Manifest:
    """Decode every utterance, and exclude the ones that cannot be used.

    This is the one place where audio is excluded: the folds follow from what is left.

    Args:
        store: the store's folder.
        step: of the unit.
        manifest: whose audio.
        settings: of the audio.
        sums: SHA-256 of the audio files.
        threads: how many decode.
        strict: stop rather than exclude one.

    Returns:
        The manifest of what is left, with a fault for each excluded utterance.

    Raises:
        UserError: a speaker or a class is lost; nothing is written.
    """
    import pandas as pd

    def decode(source: Source) -> tuple[bytes, Samples] | Fault:
        result = read(manifest.root, source, settings)
        if isinstance(result, Fault):
            return result
        sha256, signal, rate = result
        return sha256, to_samples(resample(signal, rate, settings.sampling_rate))

    rows = sources(manifest.utterances)
    digests: dict[str, bytes] = {}
    faults: list[Fault] = []
    kept: list[tuple[str, str, float]] = []
    with _writing(store, step) as staging:
        writer = RaggedWriter(
            staging.folder, "int16", (), AUDIO_ROWS, "sample", embed=settings.embed_audio
        )
        with progress_of("audio", rows) as advance:
            for row, result in zip(rows, in_threads(decode, rows, threads), strict=True):
                if isinstance(result, Fault):
                    faults.append(result)
                else:
                    digests[row.utterance_id] = result[0]
                    writer.append(result[1])
                    kept.append((row.utterance_id, sums[row.file], row.duration_s))
                advance()
        left = with_verdicts(manifest, digests, faults)
        refuse(manifest, left.faults[len(manifest.faults) :], strict=strict)
        n_samples = writer.close()
        pd.DataFrame(kept, columns=["utterance_id", "sha256", "duration_s"]).to_parquet(
            staging.folder / "sources.parquet", index=False
        )
        excluded = [
            {"utterance_id": one.utterance_id, "file": one.file, "reason": one.reason}
            for one in faults
        ]
        staging.facts.update(n_samples=n_samples, n_utterances=len(kept), excluded=excluded)
    return left


def write_corpus(store: Path, step: Step, manifest: Manifest, settings: BuildSettings) -> None:
    """Strings as Parquet, codes as Zarr; without transcripts where they are to be kept out."""
    table = manifest.utterances[list(_STORED)].copy()
    names = {
        "label": list(manifest.classes),
        "speaker": sorted(set(table["speaker"])),
        "session": sorted(set(table["session"])),
    }
    warnings = [fault.reason for fault in manifest.faults if fault.severity == "warn"]
    with _writing(store, step) as staging:
        for column, values in names.items():
            codes = np.array([values.index(value) for value in table[column]], dtype=np.int16)
            write_array(staging.folder, column, codes, ("utterance",))
        if not settings.corpus.embed_text:
            table["text"] = ""
        table.to_parquet(staging.folder / "utterances.parquet", index=False)
        staging.facts.update(
            name=manifest.name,
            classes=names["label"],
            speakers=names["speaker"],
            sessions=names["session"],
            excluded=manifest.excluded,
            other_labels=dict(manifest.other_labels or {}),
            warnings={reason: warnings.count(reason) for reason in sorted(set(warnings))},
            full_release=manifest.full_release,
        )


def write_splits(
    store: Path, step: Step, table: pd.DataFrame, folds: Sequence[Fold], roles: Roles
) -> None:
    """The role of every utterance in every fold, and whom each fold tests and validates on.

    It trains on all other speakers of the corpus; listing them would make the record grow with
    speakers times folds.
    """
    overlap = text_overlap(table, roles)
    with _writing(store, step) as staging:
        write_array(staging.folder, "role", roles, ("fold", "utterance"))
        staging.facts.update(
            folds=[
                {
                    "number": fold.number,
                    "test": list(fold.test),
                    "validation": list(fold.validation),
                }
                for fold in folds
            ],
            text_overlap=overlap.astype(object).where(overlap.notna(), None).to_dict("records"),
        )


# --- LLDs, in parts ---


@dataclass(frozen=True)
class LldPart:
    """A stretch of the corpus whose LLDs one process extracts; an interrupted build keeps it.

    ::

        STORE/.parts/lld-0f3a52c19d7e4b68/003-of-008/    values, offsets, signal_sha256, unit.json

    It is staged, listed with its SHA-256 and renamed into place like a unit.

    Attributes:
        store: the store's folder.
        step: of the LLD unit.
        number: from 1.
        count: how many parts there are.
        rows: which of the store's utterances.
        sources: where their audio lies in the corpus.
        root: the corpus' folder.
        settings: of the build.
    """

    store: Path
    step: Step
    number: int
    count: int
    rows: range
    sources: tuple[Source, ...]
    root: Path
    settings: BuildSettings

    @property
    def key(self) -> str:
        """What its task is called."""
        return f"lld/part-{self.number:03d}-of-{self.count:03d}"

    @property
    def identity(self) -> Identity:
        """What it is made from; extracted by other versions, it is another part."""
        made = {"rows": [self.rows.start, self.rows.stop], "versions": versions()}
        return Identity(self.key, made, {"lld": self.step.identity.fingerprint})

    @property
    def place(self) -> Path:
        """Where it lies."""
        folder = f"lld-{digest([self.step.identity.fingerprint, versions()])[:16]}"
        return self.store / PARTS / folder / f"{self.number:03d}-of-{self.count:03d}"

    def is_there(self) -> bool:
        """Whether it is committed, for this very unit."""
        with suppress(UserError, OSError):
            return read_unit(self.place, self.key).fingerprint == self.identity.fingerprint
        return False

    def is_done(self) -> bool:
        """Whether it is there, or needed no more."""
        return self.is_there() or is_done(self.store, self.step)

    def read(self) -> tuple[Unit, Ragged]:
        """Its record and its values, every byte compared.

        Raises:
            TaskFailed: it is damaged, and is now removed.
        """
        try:
            unit = read_unit(self.place, self.key, deep=True)
            return unit, Ragged(unit.path, check=False)
        except (Corrupt, Refused) as error:
            shutil.rmtree(self.place, ignore_errors=True)
            raise TaskFailed(
                f"{self.key}: damaged, and removed ({error.message})",
                "run the same command again: that part alone is made anew",
            ) from error


def extract_part(part: LldPart) -> None:
    """Extract the LLDs of a stretch of the corpus, but for signals whose LLDs are there."""
    old, sums, taken = _old_llds(part.store, part.step), [], 0
    with (
        attended(part.store, part.key) as tell,
        staged(part.place, part.identity) as staging,
    ):
        writer = _lld_writer(staging.folder, part.settings)
        for at, samples in enumerate(_signals(part)):
            sums.append(hashlib.sha256(samples.tobytes()).digest())
            values = old(sums[-1])
            taken += values is not None
            feature_set = part.settings.lld.feature_set
            writer.append(lld.extract(samples, feature_set) if values is None else values)
            if at % _TELL_EVERY == 0:
                tell(at, len(part.rows))
        writer.close()
        table = np.frombuffer(b"".join(sums), dtype=np.int8).reshape(-1, 32)
        write_array(staging.folder, SUMS, table, ("utterance", "byte"))
        staging.facts.update(taken=taken)
        staging.provenance.update(versions())


def commit_llds(parts: Sequence[LldPart]) -> None:
    """Read all parts in order and commit the unit; the parts go."""
    first = parts[0]
    taken, sums = 0, []
    with _writing(first.store, first.step) as staging:
        writer = _lld_writer(staging.folder, first.settings)
        for part in parts:
            unit, values = part.read()
            taken += int(unit.facts["taken"])
            sums.append(read_array(unit.path / SUMS))
            for rows in values.in_order():
                writer.append(rows)
        n_frames = writer.close()
        table = np.concatenate(sums)
        write_array(staging.folder, SUMS, table, ("utterance", "byte"))
        staging.facts.update(
            names=list(lld.names(first.settings.lld.feature_set)), n_frames=n_frames,
            hop_ms=lld.HOP_MS, n_utterances=len(table),
        )  # fmt: skip
    if taken:
        say(f"LLDs of {taken} utterance(s) with unchanged signals were taken over")
    shutil.rmtree(first.place.parent, ignore_errors=True)
    with suppress(OSError):
        (first.store / PARTS).rmdir()


def remove_parts(store: Path, keep: Sequence[LldPart]) -> None:
    """Remove the parts of all LLD units but the one that is still to be committed."""
    folder, kept = store / PARTS, {part.place.parent.name for part in keep}
    if folder.is_symlink() or not folder.is_dir():
        return
    for item in folder.iterdir():
        if item.name not in kept and not item.is_symlink():
            shutil.rmtree(item, ignore_errors=True)
    with suppress(OSError):
        folder.rmdir()


def _lld_writer(folder: Path, settings: BuildSettings) -> RaggedWriter:
    write_group(folder)
    width = len(lld.names(settings.lld.feature_set))
    return RaggedWriter(folder, "float32", (width,), LLD_ROWS, "frame", ("descriptor",))


def _signals(part: LldPart) -> Iterator[Samples]:
    """The part's signals: the store's, or the corpus' own where the store holds none."""
    audio = part.settings.audio
    if audio.embed_audio:
        yield from Store(part.store).audio.in_order(part.rows)
        return
    for one in part.sources:
        yield to_samples(load_signal(part.root / one.file, one.start_s, one.duration_s, audio))


def _old_llds(store: Path, step: Step) -> Callable[[bytes], Lld | None]:
    """What the unit that is to be replaced holds, by the SHA-256 of the signal.

    Only where its values are, to the byte, what would be extracted today.
    """
    rows: dict[bytes, int] = {}
    with suppress(UserError, OSError):  # none is there, or none that can be relied on
        unit = Store(store).unit("lld") if step.status == "replace" else None
        made_by = unit and (unit.settings, unit.provenance.get("opensmile"))
        if unit and made_by == (step.identity.settings, versions().get("opensmile")):
            unit.check(SUMS)
            values = Store(store).lld
            rows = {row.tobytes(): at for at, row in enumerate(read_array(unit.path / SUMS))}

    def old(signal_sha256: bytes) -> Lld | None:
        with suppress(UserError, OSError):  # a damaged stretch is extracted anew
            return values.read(rows[signal_sha256]) if signal_sha256 in rows else None
        return None

    return old


# --- teachers ---


@dataclass(frozen=True)
class TeacherJob:
    """All that a process needs to make one ``folds/NN/<teacher>`` unit; it can be pickled.

    Attributes:
        store: the store's folder.
        step: of the unit.
        fold: number and speakers.
        settings: of the teacher, with ``model`` as the user gave it.
        texts: transcripts in the store's row order (the store itself may hold none).
        provenance: what else tells the teacher's weights apart.
        groups: of training speakers, where the targets are to be cross-fitted: each group's by a
            teacher that is fitted on the other groups.
        device: where to compute.
    """

    store: Path
    step: Step
    fold: Fold
    settings: TeacherSettings
    texts: tuple[str, ...]
    provenance: Mapping[str, str]
    groups: tuple[tuple[str, ...], ...] = ()
    device: str = "auto"

    @property
    def unit(self) -> str:
        """The unit that this job makes."""
        return self.step.unit

    @property
    def n_fits(self) -> int:
        """How many teachers it fits."""
        return max(len(self.groups), 1)


def fit_teacher(job: TeacherJob) -> None:
    """Fine-tune, freeze, run once over all utterances, commit.

    On the CPU a fit uses one thread, so its bytes do not depend on how many run beside it.
    """
    total, done = job.n_fits * job.settings.optim.epochs, 0
    with attended(job.store, job.unit) as tell:
        tell(0, total, "preparing")

        def on_epoch(entry: dict[str, float]) -> None:
            nonlocal done
            done += 1
            note = f"loss {entry['loss']:.3f}"
            if "validation_ua" in entry:
                note += f" val UA {100 * entry['validation_ua']:.1f}"
            tell(done, total, note)

        logits, embeddings, facts = teachers.fit(
            fold_data(job), job.settings, job.groups, job.device, on_epoch
        )
        step = replace(job.step, n_bytes=logits.nbytes + embeddings.nbytes)
        with _writing(job.store, step) as staging:
            write_array(staging.folder, "logits", logits, ("utterance", "class"))
            write_array(staging.folder, "embeddings", embeddings, ("utterance", "embedding"))
            staging.facts.update(
                fold=job.fold.number, kind=job.settings.kind, fitted_on=list(job.fold.train),
                selected_on=list(job.fold.validation), held_out=list(job.fold.test),
                temperature=None, **facts,
            )  # fmt: skip
            staging.provenance.update(job.provenance)


def fold_data(job: TeacherJob) -> teachers.FoldData:
    """The corpus as the job's fold sees it, read from the store."""
    store = Store.open(job.store)
    needs_lld = "lld" in job.step.identity.parents
    return teachers.FoldData(
        texts=job.texts,
        speakers=tuple(store.utterances["speaker"]),
        labels=store.labels,
        roles=store.roles[job.fold.number - 1],
        n_classes=len(store.classes),
        llds=list(store.lld.in_order()) if needs_lld else [],
        lld_names=tuple(store.unit("lld").facts["names"]) if needs_lld else (),
    )
