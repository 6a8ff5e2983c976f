"""What a change of each setting rebuilds, as declared here; and what changes nothing at all."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

from distill.config import RunSettings, run_key
from featstore.build.plan import Request, make_plan
from featstore.build.units import source_sums
from featstore.core.config import BuildSettings, LinguisticSettings, ProsodicSettings
from featstore.core.schema import UserError
from featstore.core.settings import Settings, overrides, resolve
from tests.reliability.at_once import build_now, keys_of, models_in, request_of, run_settings, tree
from tests.reliability.harness import build_arguments, call

pytestmark = [pytest.mark.reliability]

LINGUISTIC = frozenset({"folds/01/linguistic", "folds/02/linguistic"})
PROSODIC = frozenset({"folds/01/prosodic", "folds/02/prosodic"})
SPLITS = frozenset({"splits"}) | LINGUISTIC | PROSODIC
CORPUS = frozenset({"corpus"}) | SPLITS
LLD = frozenset({"lld"}) | PROSODIC
AUDIO = frozenset({"audio"}) | LLD
ALL = AUDIO | CORPUS

_OPTIM = {
    "lr": "2e-3", "epochs": "3", "batch_size": "4", "weight_decay": "0.02", "schedule": "linear",
    "warmup": "0.2", "clip_norm": "2.0", "selection": "last", "class_weights": "true",
    "label_smoothing": "0.1",
}  # fmt: skip
OPTIM: dict[str, str | None] = {f"optim.{key}": value for key, value in _OPTIM.items()}
"""Both teachers' and the student's."""

SHARED: dict[str, tuple[str | None, frozenset[str]]] = {
    "corpus.name": ("emodb", CORPUS),
    "corpus.kind": ("scripted", CORPUS),
    "corpus.classes": ('["low", "high"]', CORPUS),
    "corpus.label_map": ('{high = "low", low = "high"}', CORPUS),
    "corpus.embed_text": ("false", CORPUS),
    "audio.sampling_rate": (None, AUDIO),
    "audio.min_duration_s": ("0.2", AUDIO),
    "audio.max_duration_s": ("30", AUDIO),
    "audio.embed_audio": ("false", AUDIO),
    "lld.feature_set": ("GeMAPSv01b", LLD),
    "folds.scheme": ("groups", SPLITS),
    "folds.groups": ("4", SPLITS),
    "folds.validation": ("none", SPLITS),
    "folds.script_disjoint": ("true", SPLITS),
    "folds.seed": ("7", SPLITS),
}
"""Key -> another value (None where there is no other), and the units made anew for it."""
COMPANIONS: Mapping[str, tuple[str, ...]] = {
    "folds.scheme": ("folds.groups=4",),
    "stream.augment.codec_share": ('stream.augment.codecs=["mulaw"]',),
}
"""What must be set besides, before and after, for the key to take its other value here."""
TEACHERS: dict[str, dict[str, str | None]] = {
    "linguistic": {
        "kind": None, "model": "some/other-encoder", "pooling": "mean", "max_tokens": "64",
        "vocabulary": "150", "dropout": "0.2", "seed": "43", **OPTIM,
    },
    "prosodic": {
        "kind": None, "channels": "[4, 4, 8, 16]", "time_stride": "4", "max_frames": "60",
        "normalisation": "speaker", "dropout": "0.1", "time_crop": "0.7", "time_masks": "2",
        "seed": "43", **OPTIM,
    },
}  # fmt: skip
"""A teacher's own keys rebuild that teacher, and nothing beside it."""
RUN: Mapping[str, str | None] = {
    "student.backbone": "hubert-base", "student.trainable": "all", "student.pooling": "attention",
    "student.projection": "linear_gelu", "student.projection_width": "8",
    "student.head_width": "8", "student.head_dropout": "0.2", "student.dropout.hidden": "0.2",
    "student.dropout.attention": "0.2", "student.dropout.activation": "0.2",
    "student.dropout.projection": "0.2", "losses.alpha": "2.0", "losses.beta": "2.0",
    "losses.gamma": "1.0", "losses.kl": "student_teacher", "losses.tau_squared": "true",
    "losses.teachers.linguistic.tau": "4.0", "losses.teachers.linguistic.weight": "0.5",
    "losses.teachers.prosodic.tau": "4.0", "losses.teachers.prosodic.weight": "0.5",
    "optim.encoder_lr": "1e-5", "stream.max_batch_s": "10", "stream.pool": "1",
    "student.context": "window", "student.layerdrop": "0.1",
    "student.gradient_checkpointing": "true", "student.spec_augment.time_ratio": "0.1",
    "student.spec_augment.time_length": "5", "student.spec_augment.feature_ratio": "0.1",
    "student.spec_augment.feature_length": "5", "stream.augment.noise_snr_db": "[10, 20]",
    "stream.augment.gain_db": "[-6, 6]", "stream.augment.codecs": '["mulaw"]',
    "stream.augment.codec_share": "0.3",
    "precision": "bf16", "seed": "43", **OPTIM,
    "targets.cross_fit": "4", "targets.shuffle": "any", "targets.tau": "validation",
}  # fmt: skip
"""All name another run but for three."""
SAME_RUN = {"seed", "student.gradient_checkpointing", "stream.max_batch_s"}
"""Seeds have a folder each below the same name; the others compute the same but for last bits."""


def run_keys() -> set[str]:
    """Every key of a run; losses of a teacher by the names that the paper's two have."""
    losses = RunSettings.model_fields["losses"].annotation
    assert losses is not None
    (term,) = models_in(losses.model_fields["teachers"].annotation)
    terms = {f"losses.teachers.{name}.{key}" for name in TEACHERS for key in keys_of(term)}
    return (set(keys_of(RunSettings)) - {"losses.teachers.*"}) | terms


def test_every_key_has_its_row() -> None:
    """A key that is added without saying here what it rebuilds fails."""
    assert set(keys_of(BuildSettings)) == set(SHARED) | {"teachers.*"}
    kinds = models_in(BuildSettings.model_fields["teachers"].annotation)
    assert kinds == [LinguisticSettings, ProsodicSettings]
    assert set(keys_of(LinguisticSettings)) == set(TEACHERS["linguistic"])
    assert set(keys_of(ProsodicSettings)) == set(TEACHERS["prosodic"])
    assert run_keys() - set(RUN) == set()


@pytest.fixture(scope="module")
def asked(tone_corpus: Path, undisturbed: Path) -> Request:
    """The build of the undisturbed store, asked for again."""
    return request_of(tone_corpus, undisturbed, folds="1..2")


@pytest.fixture(scope="module")
def sums(asked: Request) -> dict[str, str]:
    return source_sums(asked.manifest)


def anew(before: Request, after: Request, sums: dict[str, str]) -> frozenset[str]:
    """Units that one request wants made from something else than the other.

    Where the store holds what ``before`` asks for, these are the ones in the way of ``after``.
    """
    plans = [make_plan(request, sums).steps for request in (before, after)]
    pairs = list(zip(*plans, strict=True))
    assert all(one.unit == two.unit for one, two in pairs)
    found = frozenset(o.unit for o, t in pairs if o.identity.fingerprint != t.identity.fingerprint)
    if all(one.status == "done" for one, _ in pairs):
        assert stale(after, sums) == found
    return found


def stale(request: Request, sums: dict[str, str]) -> frozenset[str]:
    """Units that are there, and that the request wants made anew."""
    steps = make_plan(request, sums).steps
    assert {step.status for step in steps} <= {"done", "conflict"}
    assert all(step.why for step in steps)
    return frozenset(step.unit for step in steps if step.status == "conflict")


def changed(request: Request, *pairs: str) -> Request:
    """The same corpus asked for with other settings."""
    given = request.settings.model_dump(mode="json", exclude_none=True)
    return replace(request, settings=resolve(BuildSettings, given, overrides(pairs)))


def test_each_key_rebuilds_what_is_declared_and_nothing_else(
    asked: Request, sums: dict[str, str]
) -> None:
    began = time.monotonic()
    rows = dict(SHARED)
    for teacher, units in (("linguistic", LINGUISTIC), ("prosodic", PROSODIC)):
        rows |= {f"teachers.{teacher}.{k}": (v, units) for k, v in TEACHERS[teacher].items()}
    wrong, fixed = {}, []
    for key, (value, units) in rows.items():
        if value is None:
            fixed.append(key)
            continue
        before = changed(asked, *COMPANIONS.get(key, ()))
        found = anew(before, changed(before, f"{key}={value}"), sums)
        if found != units or (key not in COMPANIONS and stale(before, sums)):
            wrong[key] = sorted(found)
    assert wrong == {}
    assert fixed == ["audio.sampling_rate", "teachers.linguistic.kind", "teachers.prosodic.kind"]
    print(f"{len(rows)} keys, {len(rows) - len(fixed)} changed one by one, units as declared, "
          f"{time.monotonic() - began:.1f} s")  # fmt: skip


def test_a_key_of_one_value_takes_no_other() -> None:
    for pair in ("audio.sampling_rate=8000", "teachers.prosodic.kind=visual"):
        with pytest.raises(UserError, match=pair.partition("=")[0].replace(".kind", "")):
            resolve(BuildSettings, overrides([pair]))


def test_a_teacher_of_another_kind_or_name(asked: Request, sums: dict[str, str]) -> None:
    """Another kind under the same name is that teacher anew; another name stands beside it."""
    teachers = dict(asked.settings.teachers)
    other = {**teachers, "prosodic": teachers["linguistic"]}
    settings = asked.settings.model_copy(update={"teachers": other})
    assert stale(replace(asked, settings=settings), sums) == PROSODIC
    beside = changed(asked, "teachers.voice.kind=prosodic")
    steps = make_plan(beside, sums).steps
    assert {s.unit for s in steps if s.status == "build"} == {"folds/01/voice", "folds/02/voice"}
    assert {s.status for s in steps if not s.unit.endswith("voice")} == {"done"}
    for gone in teachers:
        settings = asked.settings.model_copy(update={"teachers": {gone: teachers[gone]}})
        assert stale(replace(asked, settings=settings), sums) == frozenset()


def test_what_decides_no_byte_rebuilds_nothing(
    asked: Request, sums: dict[str, str], tone_corpus: Path, tmp_path: Path
) -> None:
    """Jobs, device and the folds asked for; times, modes and place of the corpus' files."""
    for fields in ({"jobs": 7}, {"device": "auto"}, {"folds": "2"}, {"rebuild": True}):
        assert stale(replace(asked, **fields), sums) == frozenset(), fields
    corpus = Path(shutil.copytree(tone_corpus, tmp_path / "elsewhere"))
    for number, path in enumerate(sorted(corpus.rglob("*"))):
        os.utime(path, (number, 2_000_000_000 + number))
        path.chmod(0o555 if path.is_dir() else 0o444)
    moved = request_of(corpus, asked.store, folds="1..2")
    assert stale(moved, source_sums(moved.manifest)) == frozenset()


def test_one_edited_recording(tone_corpus: Path, tone_store: Path, tmp_path: Path) -> None:
    """Its LLDs and the prosodic teachers; the words, the labels and what knows only those stay."""
    corpus = Path(shutil.copytree(tone_corpus, tmp_path / "corpus"))
    path = corpus / "audio" / "bo3.wav"
    samples, rate = soundfile.read(path, dtype="int16")
    samples[1000:1100] = np.arange(100)
    soundfile.write(path, samples, rate, subtype="PCM_16")
    request = request_of(corpus, tone_store, folds="1..2")
    assert stale(request, source_sums(request.manifest)) == AUDIO
    before = tree(tone_store)
    build_now(replace(request, rebuild=True))
    after = tree(tone_store)
    touched = {name for name in before | after if before.get(name) != after.get(name)}
    assert {next(unit for unit in ALL if name.startswith(f"{unit}/")) for name in touched} == AUDIO
    print(f"one edited recording: {len(touched)} of {len(after)} files, in {len(AUDIO)} units")


def test_llds_of_the_other_recordings_are_taken_over(
    tone_corpus: Path, tone_store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from featstore.features import lld

    corpus = Path(shutil.copytree(tone_corpus, tmp_path / "corpus"))
    path = corpus / "audio" / "bo3.wav"
    samples, rate = soundfile.read(path, dtype="int16")
    soundfile.write(path, samples[:-100], rate, subtype="PCM_16")
    extract, seen = lld.extract, []

    def counted(samples: Any, feature_set: str) -> Any:
        seen.append(len(samples))
        return extract(samples, feature_set)

    monkeypatch.setattr(lld, "extract", counted)
    request = request_of(corpus, tone_store, folds="1..2", rebuild=True)
    build_now(replace(request, settings=request.settings.model_copy(update={"teachers": {}})))
    assert seen == [len(samples) - 100]


def test_misspelt_keys_stop_with_the_nearest_known_one() -> None:
    """Every key there is, with its last letter doubled, in ``--set`` and in a file alike."""
    tables: list[tuple[type[Settings], str, Iterator[str]]] = [
        (BuildSettings, "", keys_of(BuildSettings)),
        (BuildSettings, "teachers.linguistic.", keys_of(LinguisticSettings)),
        (BuildSettings, "teachers.prosodic.", keys_of(ProsodicSettings)),
        (RunSettings, "", keys_of(RunSettings)),
    ]
    tried = 0
    for model, prefix, keys in tables:
        for key in keys:
            right = key.removesuffix(".*")
            wrong = f"{prefix}{right}{right[-1]}"
            near = right.rpartition(".")[2]
            with pytest.raises(UserError) as caught:
                resolve(model, overrides([f"{wrong}=1"]))
            assert f"{wrong}: unknown key; did you mean {near}?" in caught.value.message
            tried += 1
    for model in (BuildSettings, RunSettings):
        for section in model.model_fields:
            with pytest.raises(UserError, match=rf"did you mean {section}\?"):
                resolve(model, {f"{section}s": {"x": 1}})
            tried += 1
    print(f"{tried} misspelt keys, all named with the key that was meant")


def test_the_command_stops_before_anything_is_written(
    tone_corpus: Path, tone_config: Path, tmp_path: Path
) -> None:
    config = tmp_path / "misspelt.toml"
    config.write_text(tone_config.read_text().replace("time_stride", "time_strid"))
    arguments = build_arguments(tone_corpus, config, tmp_path / "store", "--set", "folds.sed=1")
    done = call("featstore", *arguments)
    assert done.returncode == 2
    assert "teachers.prosodic.time_strid: unknown key; did you mean time_stride?" in done.stderr
    assert "folds.sed: unknown key; did you mean seed?" in done.stderr
    assert not (tmp_path / "store").exists()


def test_every_setting_of_a_run_names_it_but_for_three() -> None:
    plain = run_settings()
    teachers: list[Mapping[str, Any]] = [{"name": "prosodic"}]
    keys = sorted(run_keys())
    for key in keys:
        before = run_settings(*COMPANIONS.get(key, ()))
        after = run_settings(*COMPANIONS.get(key, ()), f"{key}={RUN[key]}")
        assert after != before, key
        names = [run_key(settings, "store", teachers) for settings in (before, after)]
        assert (names[0] == names[1]) == (key in SAME_RUN), key
    before = run_key(plain, "store", teachers)
    assert run_key(plain, "other", teachers) != before
    assert run_key(plain, "store", [{"name": "linguistic"}]) != before
    assert run_key(plain, "store", teachers, "0" * 64) != before
    print(f"{len(keys)} keys of a run, {len(keys) - len(SAME_RUN)} name another one")
