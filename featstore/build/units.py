"""The units that all folds share: what each is made from, and how each is written."""

from __future__ import annotations

import socket
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, TypeVar

import numpy as np

from featstore.core.config import AudioSettings, CorpusSettings, FoldSettings
from featstore.core.console import progress
from featstore.core.files import sha256_of
from featstore.core.schema import Manifest, TaskFailed, UserError, listed, printable
from featstore.core.settings import digest
from featstore.features.audio import BadAudio, Samples, check_file, load_signal, to_samples
from featstore.folds import Fold, text_overlap
from featstore.store.arrays import RaggedWriter, write_array, write_group
from featstore.store.provenance import versions
from featstore.store.staging import staged
from featstore.store.store import Store
from featstore.store.unit import Identity

if TYPE_CHECKING:
    import pandas as pd
    from numpy.typing import NDArray

AUDIO_ROWS = 2 * 1024 * 1024
"""Samples a chunk: 4 MiB; seven hours make 200 files."""

_STORED = ["utterance_id", "file", "start_s", "speaker", "session", "gender", "text", "kind",
           "label", "label_raw"]  # fmt: skip
_MEANING = [name for name in _STORED if name not in ("file", "start_s")]
"""What of a row a teacher may learn from; where its audio lies is the audio unit's business."""

_AT_A_TIME = 64
"""Files of an utterance each are that soon read that handing out single ones would cost more."""

T = TypeVar("T")
R = TypeVar("R")


class Source(NamedTuple):
    """Where an utterance's audio lies."""

    utterance_id: str
    file: str
    start_s: float
    duration_s: float

    def samples(self, root: Path, settings: AudioSettings) -> Samples:
        """Its signal, as the store holds it."""
        return to_samples(load_signal(root / self.file, self.start_s, self.duration_s, settings))


def sources(table: pd.DataFrame) -> list[Source]:
    """Where the audio of each row of a manifest lies."""
    columns = (table[name].tolist() for name in Source._fields)
    return [Source(*row) for row in zip(*columns, strict=True)]


def source_sums(manifest: Manifest) -> dict[str, str]:
    """SHA-256 of each audio file by its name, '' where it cannot be read."""
    files = sorted(set(manifest.utterances["file"]))

    def one(name: str) -> str:
        path = manifest.root / name
        try:
            check_file(path)
            return sha256_of(path)
        except (BadAudio, OSError):
            return ""

    batches = [files[at : at + _AT_A_TIME] for at in range(0, len(files), _AT_A_TIME)]
    with ThreadPoolExecutor(4) as pool:
        sums = pool.map(lambda names: [one(name) for name in names], batches)
        return dict(zip(files, chain.from_iterable(sums), strict=True))


def audio_identity(manifest: Manifest, settings: AudioSettings, sums: dict[str, str]) -> Identity:
    """The audio unit: which stretch of which bytes is whose utterance."""
    stretches = [
        [source.utterance_id, sums[source.file], source.start_s, source.duration_s]
        for source in sources(manifest.utterances)
    ]
    record = {"audio": settings.model_dump(mode="json"), "sources": digest(stretches)}
    return Identity("audio", record, {})


def stands(store: Store, identity: Identity) -> bool:
    """Whether the store holds this very unit."""
    try:
        return store.unit(identity.unit).fingerprint == identity.fingerprint
    except UserError:
        return False


def write_audio(
    store: Store,
    identity: Identity,
    manifest: Manifest,
    settings: AudioSettings,
    sums: dict[str, str],
    jobs: int,
    *,
    replace: bool = False,
    n_bytes: int | None = None,
    decoded: Iterable[Samples | BadAudio] | None = None,
    complete: bool = False,
) -> None:
    """Decode every utterance; those that fail are left out and listed in the unit's facts.

    Args:
        store: where to.
        identity: of the unit.
        manifest: whose audio.
        settings: of the audio.
        sums: SHA-256 of the audio files.
        jobs: threads.
        replace: swap out the unit that stands there.
        n_bytes: about how large it will be.
        decoded: what was decoded before, in parts.
        complete: fail where an utterance would be left out: others count on it already.

    Raises:
        UserError: nothing of a speaker is left.
        TaskFailed: an utterance cannot be used, and all are to be.
    """
    import pandas as pd

    rows = sources(manifest.utterances)
    excluded: list[dict[str, str]] = []
    kept: list[tuple[str, str, float]] = []
    if decoded is None:
        decoded = decode(rows, manifest.root, settings, jobs)
    with staged(store.path / "audio", identity, replace=replace, n_bytes=n_bytes) as staging:
        write_group(staging.folder)
        writer = RaggedWriter(
            staging.folder, "int16", (), AUDIO_ROWS, "sample", embed=settings.embed_audio
        )
        with progress("audio", len(rows), unit="utterances") as advance:
            for row, result in zip(rows, decoded, strict=True):
                if isinstance(result, BadAudio):
                    excluded.append(
                        {"utterance_id": row.utterance_id, "file": row.file,
                         "reason": result.reason}
                    )  # fmt: skip
                else:
                    writer.append(result)
                    kept.append((row.utterance_id, sums[row.file], row.duration_s))
                advance()
        if complete and excluded:
            _refuse_excluded(manifest, excluded)
        if not kept:
            raise UserError(
                f"{manifest.root}: not one usable utterance", "run `featstore check` for the faults"
            )
        _refuse_silence(manifest, {name for name, _, _ in kept})
        n_samples = writer.close()
        pd.DataFrame(kept, columns=["utterance_id", "sha256", "duration_s"]).to_parquet(
            staging.folder / "sources.parquet", index=False
        )
        staging.facts.update(n_samples=n_samples, n_utterances=len(kept), excluded=excluded)
        staging.provenance.update(versions())


def decode(
    rows: Iterable[Source], root: Path, settings: AudioSettings, jobs: int
) -> Iterator[Samples | BadAudio]:
    """Each utterance's samples, or what is wrong with its audio."""

    def one(row: Source) -> Samples | BadAudio:
        try:
            return row.samples(root, settings)
        except BadAudio as error:
            return error

    return in_threads(one, rows, jobs)


def _refuse_excluded(manifest: Manifest, excluded: Sequence[dict[str, str]]) -> None:
    lines = listed(printable(f"{item['file']}: {item['reason']}") for item in excluded)
    raise TaskFailed(
        f"{len(excluded)} utterance(s) that could be heard before can not be decoded on "
        f"{socket.gethostname()}:\n{lines}",
        f"do all nodes see {printable(str(manifest.root))}? Then run the same command again",
    )


def _refuse_silence(manifest: Manifest, kept: set[str]) -> None:
    """No speaker is lost with their last audio: the folds would silently be fewer."""
    table = manifest.utterances
    heard = set(table["speaker"][table["utterance_id"].isin(kept)])
    if lost := sorted(set(table["speaker"]) - heard):
        raise UserError(
            f"{manifest.root}: no usable audio of speaker(s) {', '.join(lost)}",
            "`featstore check` names each file and its remedy",
        )


def without_excluded(manifest: Manifest, store: Store) -> pd.DataFrame:
    """The manifest's rows that the audio unit has."""
    gone = {item["utterance_id"] for item in store.unit("audio").facts["excluded"]}
    table = manifest.utterances
    return table[~table["utterance_id"].isin(gone)].reset_index(drop=True)


def corpus_identity(table: pd.DataFrame, manifest: Manifest, settings: CorpusSettings) -> Identity:
    """The corpus unit: who says what with which label."""
    rows = digest(table[_MEANING].to_numpy().tolist())
    record = {
        "corpus": settings.model_dump(mode="json"),
        "classes": list(manifest.classes),
        "rows": rows,
    }
    return Identity("corpus", record, {})


def write_corpus(
    store: Store,
    identity: Identity,
    table: pd.DataFrame,
    manifest: Manifest,
    settings: CorpusSettings,
    *,
    replace: bool = False,
    n_bytes: int | None = None,
) -> None:
    """Strings as Parquet, codes as Zarr; without transcripts where they are to be kept out."""
    stored = table[_STORED].copy()
    if not settings.embed_text:
        stored["text"] = ""
    speakers = sorted(set(table["speaker"]))
    sessions = sorted(set(table["session"]))
    codes = {
        "label": [manifest.classes.index(label) for label in table["label"]],
        "speaker": [speakers.index(speaker) for speaker in table["speaker"]],
        "session": [sessions.index(session) for session in table["session"]],
    }
    with staged(store.path / "corpus", identity, replace=replace, n_bytes=n_bytes) as staging:
        write_group(staging.folder)
        for name, values in codes.items():
            write_array(staging.folder, name, np.array(values, dtype=np.int16), ("utterance",))
        stored.to_parquet(staging.folder / "utterances.parquet", index=False)
        staging.facts.update(
            name=manifest.name,
            classes=list(manifest.classes),
            speakers=speakers,
            sessions=sessions,
            excluded=manifest.excluded,
            other_labels=dict(manifest.other_labels or {}),
            warnings=_warnings(manifest),
            full_release=manifest.full_release,
        )
        staging.provenance.update(versions())


def splits_identity(settings: FoldSettings, corpus: Identity) -> Identity:
    """The splits: who is held out when."""
    record = {"folds": settings.model_dump(mode="json")}
    return Identity("splits", record, {"corpus": corpus.fingerprint})


def write_splits(
    store: Store,
    identity: Identity,
    table: pd.DataFrame,
    folds: Iterable[Fold],
    roles: NDArray[np.int8],
    *,
    replace: bool = False,
    n_bytes: int | None = None,
) -> None:
    """The role of every utterance in every fold, and whom each fold tests and validates on.

    It trains on all other speakers of the corpus; listing them would make the record grow with
    speakers times folds.
    """
    overlap = text_overlap(table, roles)
    with staged(store.path / "splits", identity, replace=replace, n_bytes=n_bytes) as staging:
        write_group(staging.folder)
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
        staging.provenance.update(versions())


def signals(
    store: Store,
    rows: range,
    found: Sequence[Source],
    root: Path,
    settings: AudioSettings,
    jobs: int,
) -> Iterator[Samples]:
    """Some utterances' signals: the store's, or the corpus' own where it does not hold them.

    Args:
        store: with its audio unit.
        rows: which of its utterances.
        found: where their audio lies in the corpus.
        root: the corpus' folder.
        settings: of the audio.
        jobs: threads.
    """
    if settings.embed_audio:
        return store.audio.in_order(rows)
    return in_threads(lambda row: row.samples(root, settings), found, jobs)


def in_threads(function: Callable[[T], R], items: Iterable[T], jobs: int) -> Iterator[R]:
    """Map in order by ``jobs`` threads, with only a few results waiting at a time."""
    with ThreadPoolExecutor(max(jobs, 1)) as pool:
        pending: deque[Future[R]] = deque()
        for item in items:
            pending.append(pool.submit(function, item))
            if len(pending) >= 4 * max(jobs, 1):
                yield pending.popleft().result()
        while pending:
            yield pending.popleft().result()


def _warnings(manifest: Manifest) -> dict[str, int]:
    counts: dict[str, int] = {}
    for fault in manifest.faults:
        if fault.severity == "warn":
            counts[fault.reason] = counts.get(fault.reason, 0) + 1
    return counts
