"""The two commands, ``featstore`` and ``distill``: parse -> settings -> call -> render.

No logic lives here, and nothing slow is imported before a command needs it. Results go to stdout,
progress and errors to stderr. Exit codes: 0 done or nothing to do, 1 a task or check failed, 2
wrong use or input, 3 corrupt store or run, 4 refused, 130 interrupted.
"""

from __future__ import annotations

import io
import json
import os
import signal
import sys
from pathlib import Path
from typing import Annotated, Any, Literal, NoReturn

import typer

from featstore.core import console
from featstore.core.os_errors import io_failure
from featstore.core.places import folder, place
from featstore.core.schema import TaskFailed, UserError, printable

featstore = typer.Typer(
    name="featstore",
    help="Fine-tune the teachers once per fold and keep what they know in a Zarr store.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)
distill = typer.Typer(
    name="distill",
    help="Train speech-only students from a store of cached teacher outputs.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)

_STORE = "The store's folder or URL, e.g. s3://bucket/stores/iemocap."

Dataset = Annotated[
    str, typer.Option(help="iemocap, ravdess, emodb, table, or synthetic (made on the spot).")
]
Root = Annotated[
    Path | None,
    typer.Option(help="The corpus' folder; else FEATSTORE_<NAME>_ROOT, else data/<name>."),
]
Stored = Annotated[Any, typer.Argument(parser=place, metavar="STORE", help=_STORE)]
StoreOption = Annotated[Any, typer.Option("--store", parser=place, metavar="STORE", help=_STORE)]
Config = Annotated[Path | None, typer.Option(help="A settings file; see data/configs.")]
Sets = Annotated[
    list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="One setting, repeatable.")
]
Folds = Annotated[str, typer.Option("--fold", help="1..10, 1,3,5..7 or all.")]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON document.")]
Device = Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:N.")]
Processes = Annotated[
    int, typer.Option(min=1, help="That train each run together, on each node; one a GPU.")
]
Nodes = Annotated[
    int, typer.Option(min=1, help="Machines that train each run together, as SLURM gives them.")
]
Jobs = Annotated[
    int | None, typer.Option(min=1, help="Processes; as many as CPUs, or GPUs, by default.")
]
Executor = Annotated[str, typer.Option(help="local, or slurm: as jobs of a cluster.")]
Slurm = Annotated[
    Path | None, typer.Option(help="Slurm: a TOML file of the cluster's settings; flags win.")
]
Partition = Annotated[str | None, typer.Option(help="Slurm: where jobs run.")]
Account = Annotated[str | None, typer.Option(help="Slurm: who is charged.")]
Hours = Annotated[
    float | None, typer.Option("--time", metavar="HOURS", help="Slurm: a job's limit; it resumes.")
]
ArrayLimit = Annotated[int | None, typer.Option(min=1, help="Slurm: jobs at a time.")]
Wait = Annotated[bool, typer.Option(help="Slurm: stay until all is done.")]
Attach = Annotated[
    bool, typer.Option("--attach", help="Slurm: wait for what was queued before; queue no more.")
]


def _version(wanted: bool) -> None:
    if wanted:
        from importlib.metadata import version

        print(f"emodistill {version('emodistill')}")
        raise typer.Exit


@featstore.callback()
@distill.callback()
def _common(
    verbose: Annotated[bool, typer.Option("-v", "--verbose", help="Tracebacks of errors.")] = False,
    version: Annotated[
        bool,
        typer.Option("--version", callback=_version, is_eager=True, help="Print the version."),
    ] = False,
) -> None:
    console.set_verbose(verbose)


@featstore.command()
def synthesize(
    root: Annotated[Path, typer.Option(help="Where to put it.")] = Path("data/synthetic"),
    utterances: Annotated[int, typer.Option(min=80, help="Utterances in the four classes.")] = 800,
    seed: Annotated[int, typer.Option(min=0)] = 42,
    durations: Annotated[
        Literal["short", "iemocap"], typer.Option(help="iemocap: as long as IEMOCAP's.")
    ] = "short",
    jobs: Jobs = None,
    as_json: Json = False,
) -> None:
    """Make the synthetic corpus: eSpeak NG, laid out as IEMOCAP. Same seed, same bytes."""
    from featstore.corpora.synthetic import ensure

    made = ensure(root, utterances=utterances, seed=seed, durations=durations, jobs=jobs)
    facts = {"root": str(root), "made": made}
    _print(facts, as_json, lambda _: [f"{root}: {'made' if made else 'already there'}"])


@featstore.command()
def check(
    dataset: Dataset = "iemocap",
    root: Root = None,
    config: Config = None,
    sets: Sets = None,
    strict: Annotated[bool, typer.Option(help="Exit 1 where an utterance is excluded.")] = False,
    as_json: Json = False,
) -> None:
    """Counts, durations and folds of a corpus, and all its faults. Builds nothing."""
    from featstore.corpora import load
    from featstore.corpora.audio_check import heard
    from featstore.inspection import render
    from featstore.inspection.corpus import audit

    settings = _build_settings(dataset, "paper", config, sets)
    manifest = heard(load(dataset, root, settings.corpus), settings.audio)
    facts = audit(manifest, settings.folds)
    _print(facts, as_json, render.audit)
    raise typer.Exit(1 if not facts["buildable"] or (strict and facts["excluded"]) else 0)


@featstore.command()
def build(
    dataset: Dataset = "iemocap",
    root: Root = None,
    store: Annotated[
        Any, typer.Option(parser=folder, metavar="PATH", help="Default: stores/<dataset>.")
    ] = None,
    fold: Folds = "all",
    preset: Annotated[str, typer.Option(help="paper, safe or tiny (no weights, CPU).")] = "paper",
    config: Config = None,
    sets: Sets = None,
    jobs: Jobs = None,
    device: Device = "auto",
    embed_audio: Annotated[bool, typer.Option(help="Keep the signals in the store.")] = True,
    embed_text: Annotated[bool, typer.Option(help="Keep the transcripts in the store.")] = True,
    keep_teachers: Annotated[bool, typer.Option(help="Keep the teachers' weights too.")] = False,
    cross_fit: Annotated[
        int | None,
        typer.Option(metavar="K", help="Also targets by K teachers that never saw the speaker."),
    ] = None,
    shards: Annotated[
        int | None,
        typer.Option(min=1, max=1000, help="Make audio and LLDs in N parts, which resume."),
    ] = None,
    executor: Executor = "local",
    slurm: Slurm = None,
    partition: Partition = None,
    account: Account = None,
    hours: Hours = None,
    array_limit: ArrayLimit = None,
    wait: Wait = True,
    attach: Attach = False,
    rebuild: Annotated[
        bool, typer.Option("--rebuild", help="Replace units made from something else.")
    ] = False,
    repair: Annotated[
        bool, typer.Option("--repair", help="Read every byte and make damaged units anew.")
    ] = False,
    strict: Annotated[
        bool, typer.Option(help="Stop where an utterance would be excluded.")
    ] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print the plan and stop.")] = False,
    as_json: Json = False,
) -> None:
    """Corpus -> audio, LLDs, splits, teachers' outputs per fold. Resumes."""
    from featstore.build import plan as plans
    from featstore.build import run as builds
    from featstore.build import units as steps
    from featstore.corpora import load
    from featstore.inspection import render

    where = _executor(executor, slurm, partition, account, hours, array_limit, wait, attach)
    flags: dict[str, Any] = {}
    if not embed_audio:
        flags["audio"] = {"embed_audio": False}
    if not embed_text:
        flags["corpus"] = {"embed_text": False}
    settings = _build_settings(dataset, preset, config, sets, flags)
    manifest = load(dataset, root, settings.corpus)
    request = plans.Request(
        manifest, settings, store or Path("stores") / dataset, fold, jobs, device, rebuild,
        keep_teachers, repair, cross_fit, shards,
    )  # fmt: skip
    sums = steps.source_sums(manifest)
    request = builds.heard_first(request, sums)
    builds.refuse_faults(request.manifest, strict=strict)
    if dry_run:
        _print(builds.dry_run(request, sums, where), as_json, render.plan)
        return
    result = builds.build(request, sums, where)
    _print(builds.result_dict(result, request), as_json, render.built)


@featstore.command()
def inspect(
    store: Stored,
    fold: Annotated[
        int | None, typer.Option(min=1, help="Whose teachers; 1, or all for tables.")
    ] = None,
    utterance: Annotated[str | None, typer.Option(help="Show one utterance in full.")] = None,
    tau: Annotated[
        float | None, typer.Option(help="Temperature; 1, or 0.5, 1 and 5 for one utterance.")
    ] = None,
    teachers: Annotated[
        bool, typer.Option("--teachers", help="Scores, confidence, entropy, agreement.")
    ] = False,
    fitness: Annotated[
        bool, typer.Option("--fitness", help="Is each teacher fit to teach, and why not?")
    ] = False,
    teacher: Annotated[
        list[str] | None, typer.Option(help="Only this teacher; may be repeated.")
    ] = None,
    disagree: Annotated[
        bool, typer.Option("--disagree", help="List utterances that teachers label differently.")
    ] = False,
    wrong: Annotated[
        bool, typer.Option("--wrong", help="List utterances that some teacher gets wrong.")
    ] = False,
    confident: Annotated[
        float | None, typer.Option(help="List those with some confidence of at least this.")
    ] = None,
    label: Annotated[str | None, typer.Option(help="List those of a class.")] = None,
    speaker: Annotated[str | None, typer.Option(help="List those of a speaker.")] = None,
    role: Annotated[
        str | None, typer.Option(help="List training, validation or test utterances.")
    ] = None,
    text: Annotated[str | None, typer.Option(help="List those whose words hold this.")] = None,
    sort: Annotated[
        str | None,
        typer.Option(help="row (default), duration_s, confidence, entropy, p_truth, divergence."),
    ] = None,
    limit: Annotated[
        int | None, typer.Option(min=1, help="List at most so many; 20 by default.")
    ] = None,
    as_json: Json = False,
    as_csv: Annotated[bool, typer.Option("--csv", help="Print tables as CSV.")] = False,
    spreadsheet: Annotated[
        bool, typer.Option("--spreadsheet", help="CSV: a quote before what looks like a formula.")
    ] = False,
) -> None:
    """What a store holds and what its teachers say."""
    from featstore.inspection import query
    from featstore.store import open_store

    filters = {
        "disagree": disagree, "wrong": wrong, "confident": confident, "label": label,
        "speaker": speaker, "role": role, "text": text, "sort": sort, "limit": limit,
    }  # fmt: skip
    answer = query.answer(
        open_store(store), fold=fold, utterance=utterance, tau=tau, teachers=teachers,
        fitness=fitness, only=teacher or (), filters=filters,
    )  # fmt: skip
    if as_csv or spreadsheet:
        print(query.to_csv(answer.table, spreadsheet=spreadsheet), end="")
    else:
        _print(answer.facts, as_json, answer.render)


@featstore.command()
def verify(store: Stored, as_json: Json = False) -> None:
    """Compare every byte of a store with what was written. Exit 3 on damage."""
    from featstore.inspection import render
    from featstore.store import open_store
    from featstore.store.verify import verify as verify_store

    report = verify_store(open_store(store))
    _print(report.to_dict(), as_json, render.verified)
    raise typer.Exit(report.exit_code)


@featstore.command()
def export(
    store: Stored,
    to: Annotated[Path, typer.Option(help="The file: .h5 (all of it), .parquet or .npz.")],
    fold: Folds = "all",
    teacher: Annotated[
        list[str] | None, typer.Option(help="Only this one's targets; may be repeated.")
    ] = None,
    embeddings: Annotated[
        bool, typer.Option("--embeddings", help="Parquet: a column of embeddings too.")
    ] = False,
    audio: Annotated[bool, typer.Option(help="HDF5: the signals; without them no import.")] = True,
    text: Annotated[
        bool, typer.Option(help="The transcripts; HDF5 without them: no import.")
    ] = True,
    force: Annotated[bool, typer.Option("--force", help="Replace a file of that name.")] = False,
    as_json: Json = False,
) -> None:
    """Write a store as HDF5, its targets as Parquet or NumPy."""
    from featstore.inspection import render
    from featstore.store import export as exports
    from featstore.store import open_store

    selection = exports.Selection(fold, tuple(teacher or ()), embeddings, audio, text)
    written = exports.export(open_store(store), to, selection, force=force)
    _print(written, as_json, render.exported)


@featstore.command("import")
def import_store(
    file: Annotated[Path, typer.Argument(help="What `featstore export --to FILE.h5` wrote.")],
    store: Annotated[
        Any, typer.Option(parser=folder, metavar="PATH", help="Where the store goes: a new folder.")
    ],
    as_json: Json = False,
) -> None:
    """Make the store that an HDF5 file was exported from. Resumes."""
    from featstore.inspection import render
    from featstore.store.import_hdf5 import import_hdf5

    _print(import_hdf5(file, store), as_json, render.imported)


@featstore.command("copy")
def copy_store(
    source: Annotated[Any, typer.Argument(parser=place, metavar="SOURCE", help=_STORE)],
    to: Annotated[
        Any, typer.Argument(parser=place, metavar="DEST", help="Where it goes: a folder or URL.")
    ],
    replace: Annotated[
        bool, typer.Option("--replace", help="Put its units in the place of others there.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Publish a store in object storage, or fetch one. Resumes."""
    from featstore.inspection import render
    from featstore.store.remote import copy

    _print(copy(source, to, replace=replace), as_json, render.copied)


@featstore.command()
def diff(
    store: Stored,
    other: Annotated[
        Any,
        typer.Argument(
            parser=place, metavar="OTHER", help="Another; without it, two teachers of the first."
        ),
    ] = None,
    teacher: Annotated[str, typer.Option(help="Only this one's targets.")] = "",
    counterpart: Annotated[
        str, typer.Option("--with", help="The other's teacher to compare it with.")
    ] = "",
    fold: Folds = "all",
    as_csv: Annotated[bool, typer.Option("--csv", help="Print the target drift as CSV.")] = False,
    as_json: Json = False,
) -> None:
    """How two stores or teachers differ: settings and target drift."""
    from featstore.inspection import query, render
    from featstore.inspection.compare import compare
    from featstore.store import open_store

    first = open_store(store)
    second = open_store(other) if other else first
    facts = compare(first, second, teacher=teacher, counterpart=counterpart, folds=fold)
    if as_csv:
        print(query.to_csv(query.flat(facts["drift"], "_")), end="")
    else:
        _print(facts, as_json, render.differences)


@featstore.command()
def view(
    store: Annotated[
        Any, typer.Argument(parser=folder, metavar="STORE", help="The store's folder.")
    ],
    runs: Annotated[
        Path | None, typer.Option(help="Run folders whose students to show, too.")
    ] = None,
    port: Annotated[
        int | None, typer.Option(min=0, max=65535, help="8765, or a free one where that is taken.")
    ] = None,
    host: Annotated[
        str, typer.Option(help="An address others can reach asks for a token.")
    ] = "127.0.0.1",
    token: Annotated[
        str | None,
        typer.Option(
            envvar="FEATSTORE_TOKEN",
            show_envvar=False,
            help="What the link must hold, on this machine as well; see FEATSTORE_TOKEN.",
        ),
    ] = None,
    browser: Annotated[bool, typer.Option(help="Open the page at once.")] = True,
) -> None:
    """A local page: listen, ask the teachers, filter, map. Read only."""
    from distill.runs.read import collect
    from featstore.inspection.view.serve import serve

    serve(store, collect([runs]) if runs else None, host, port, token, browser=browser)


@featstore.command("status")
def store_status(
    store: Annotated[Path, typer.Argument(help="The store's folder.")], as_json: Json = False
) -> None:
    """What is done, running (and how far), queued or failed. From any machine; read only."""
    from featstore.inspection import render
    from featstore.jobs import status

    facts = status.store_status(store)
    _print(facts, as_json, render.status)
    raise typer.Exit(status.exit_code(facts))


@distill.command()
def run(
    store: StoreOption,
    fold: Folds = "all",
    student: Annotated[
        str | None,
        typer.Option(help="tiny, hubert-base (default), hubert-large, or hf:<id or path>."),
    ] = None,
    variant: Annotated[
        str, typer.Option(help="full, ce-only, or another row of the paper's Table 2.")
    ] = "full",
    preset: Annotated[
        str | None, typer.Option(help="paper, safe or tiny; tiny for the tiny student.")
    ] = None,
    config: Config = None,
    sets: Sets = None,
    seed: Annotated[int | None, typer.Option(min=0, max=2**63 - 1)] = None,
    runs: Annotated[Path, typer.Option(help="Where results go.")] = Path("runs"),
    experiment: Annotated[
        str | None, typer.Option(help="Folder below --runs; default <student>-<variant>.")
    ] = None,
    weights: Annotated[
        Path | None, typer.Option(help="The backbone's weights, where not in the cache.")
    ] = None,
    root: Root = None,
    jobs: Jobs = None,
    threads: Annotated[int | None, typer.Option(min=1, help="CPU threads of each fold.")] = None,
    processes: Processes = 1,
    nodes: Nodes = 1,
    executor: Executor = "local",
    slurm: Slurm = None,
    partition: Partition = None,
    account: Account = None,
    time: Hours = None,
    array_limit: ArrayLimit = None,
    wait: Wait = True,
    attach: Attach = False,
    device: Device = "auto",
    max_steps: Annotated[
        int | None, typer.Option(min=1, help="Stop after so many optimiser steps: a trial.")
    ] = None,
    tensorboard: Annotated[bool, typer.Option(help="Also log for TensorBoard.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print the plan and stop.")] = False,
    as_json: Json = False,
) -> None:
    """Train one student per fold from cached targets. Resumes; finished folds are skipped."""
    from distill.experiments import cluster, launch
    from distill.experiments import terminal as render
    from distill.runs.request import RunRequest

    where = _executor(executor, slurm, partition, account, time, array_limit, wait, attach)
    settings = launch.run_settings(student, variant, preset, config, sets or [], seed)
    request = RunRequest(
        store=store, settings=settings, runs=runs, variant=variant, root=root, weights=weights,
        experiment=experiment or launch.experiment_name(settings.student.backbone, variant),
        device=cluster.device_of(device, where), threads=threads, max_steps=max_steps,
        tensorboard=tensorboard,
    )  # fmt: skip
    requests = launch.each_fold(request, fold)
    if dry_run:
        found = launch.plan(requests)
        _print(found, as_json, render.plan)
        raise typer.Exit(launch.plan_exit_code(found))
    done = launch.launch(
        requests, request.experiment, executor=where, jobs=jobs, processes=processes, nodes=nodes
    )
    _print(done.to_dict(), as_json, render.outcomes)
    raise typer.Exit(done.exit_code)


@distill.command()
def experiment(
    grid: Annotated[
        str,
        typer.Argument(help="table1, table2, figure2, controls, crossfit, options, or a file."),
    ],
    store: StoreOption,
    fold: Folds = "all",
    seeds: Annotated[int, typer.Option(min=1, max=1000, help="How many, from --seed on.")] = 1,
    seed: Annotated[int | None, typer.Option(min=0, max=2**62)] = None,
    student: Annotated[
        list[str] | None, typer.Option(help="In place of the experiment's own; may be repeated.")
    ] = None,
    preset: Annotated[
        str | None, typer.Option(help="paper, safe or tiny; tiny for the tiny student.")
    ] = None,
    config: Config = None,
    sets: Sets = None,
    runs: Annotated[Path, typer.Option(help="Where results go.")] = Path("runs"),
    weights: Annotated[
        Path | None, typer.Option(help="The backbone's weights, where not in the cache.")
    ] = None,
    root: Root = None,
    jobs: Jobs = None,
    threads: Annotated[int | None, typer.Option(min=1, help="CPU threads of each run.")] = None,
    processes: Processes = 1,
    nodes: Nodes = 1,
    executor: Executor = "local",
    slurm: Slurm = None,
    partition: Partition = None,
    account: Account = None,
    time: Hours = None,
    array_limit: ArrayLimit = None,
    wait: Wait = True,
    attach: Attach = False,
    device: Device = "auto",
    max_steps: Annotated[
        int | None, typer.Option(min=1, help="Stop each run after so many steps: a trial.")
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print the plan and stop.")] = False,
    as_json: Json = False,
) -> None:
    """Train all rows of a table or figure. Equal runs are run once; it resumes."""
    from distill.experiments import cluster, launch
    from distill.experiments import rows as experiments
    from distill.experiments import terminal as render
    from distill.experiments.grid import load_grid
    from distill.runs.request import RunRequest

    where = _executor(executor, slurm, partition, account, time, array_limit, wait, attach)
    request = RunRequest(
        store=store, runs=runs, device=cluster.device_of(device, where), threads=threads, root=root,
        weights=weights, max_steps=max_steps,
    )  # fmt: skip
    order = experiments.Experiment(
        load_grid(grid), request, fold, seeds, seed, tuple(student or ()), preset, config,
        tuple(sets or ()),
    )  # fmt: skip
    rows = experiments.opened(order)
    if dry_run:
        found = experiments.plan(order, rows)
        _print(found, as_json, render.experiment_plan)
        raise typer.Exit(experiments.plan_exit_code(found))
    experiments.write_rows(order, rows)
    done = launch.launch(
        experiments.runs_of(rows), order.grid.name, executor=where, jobs=jobs,
        processes=processes, nodes=nodes,
    )  # fmt: skip
    _print(experiments.summary(done, rows), as_json, render.experiment)
    raise typer.Exit(done.exit_code)


@distill.command()
def report(
    runs: Annotated[list[Path], typer.Argument(help="Run folders, or folders that hold some.")],
    out: Annotated[
        Path | None, typer.Option(help="Also write the HTML page, Markdown, JSON, CSV and figures.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Scores, intervals and tests, the paper's beside them."""
    from distill import report as reports

    found = reports.summarise(reports.collect(runs))
    written = reports.write(found, out) if out is not None else []
    _print(found.to_dict(), as_json, lambda _: reports.to_tables(found))
    for path in written:
        print(f"wrote {path}", file=sys.stderr)
    if not found.studies:
        raise TaskFailed("no finished run to report on", "the list above says why, run by run")


@distill.command("status")
def runs_status(
    runs: Annotated[Path, typer.Argument(help="What `distill run --runs` was given.")] = Path(
        "runs"
    ),
    as_json: Json = False,
) -> None:
    """What is done, running (and how far), queued or failed. From any machine; read only."""
    from distill.experiments import terminal as render
    from distill.runs import status
    from featstore.jobs.status import exit_code

    found = status.runs_status(runs)
    _print(found, as_json, render.status)
    raise typer.Exit(exit_code(found))


@distill.command()
def predict(
    student: Annotated[Path, typer.Argument(help="A run's student/ folder.")],
    audio: Annotated[list[Path], typer.Argument(help="Audio files, any rate, any channels.")],
    max_duration_s: Annotated[
        float, typer.Option(min=0.06, max=600, help="Longer files are refused: memory grows.")
    ] = 60.0,
    device: Device = "auto",
    as_json: Json = False,
) -> None:
    """Class probabilities from speech alone. No transcript, no LLDs, no teacher."""
    from distill.experiments import terminal as render
    from distill.model.predict import predict_files
    from distill.model.student import Student
    from featstore.core.training import pick_device

    table = predict_files(
        Student.from_pretrained(student), audio, pick_device(device), max_duration_s=max_duration_s
    )
    _print(table.to_dict("records"), as_json, render.predictions)


@distill.command()
def backbones(
    names: Annotated[
        list[str] | None,
        typer.Argument(help="As --student takes them; without any, all that this machine knows."),
    ] = None,
    as_json: Json = False,
) -> None:
    """What a student can be built on, and whose weights are here."""
    from distill.experiments import terminal as render
    from distill.model.weights import catalogue

    _print(catalogue(names or []), as_json, render.backbones)


def _build_settings(
    dataset: str, preset: str, config: Path | None, sets: list[str] | None, flags: Any = None
) -> Any:
    """Defaults of the corpus, preset, file, --set, flags: later ones win."""
    from featstore.core.config import PRESETS, BuildSettings
    from featstore.core.settings import choose, load_toml, overrides, resolve
    from featstore.corpora import corpus

    return resolve(
        BuildSettings,
        corpus(dataset).defaults,
        choose("--preset", preset, PRESETS),
        load_toml(config) if config else {},
        overrides(sets or []),
        {"corpus": {"name": dataset}},
        flags or {},
    )


def _executor(
    name: str,
    file: Path | None,
    partition: str | None,
    account: str | None,
    hours: float | None,
    array_limit: int | None,
    wait: bool,
    attach: bool,
) -> Any:
    """Where the tasks are carried out; loads nothing slow."""
    from featstore.jobs import executor_settings

    return executor_settings(
        name, file, wait=wait, attach=attach,
        partition=partition, account=account, hours=hours, array_limit=array_limit,
    )  # fmt: skip


def _print(value: Any, as_json: bool, render: Any) -> None:
    """One JSON document, or what ``render`` makes of it."""
    if as_json:
        print(json.dumps(value, indent=2, ensure_ascii=True, allow_nan=False))
        return
    from rich.console import Console

    in_terminal = sys.stdout is not None and sys.stdout.isatty()
    console = Console(width=None if in_terminal else 100, emoji=False)
    for part in render(value):
        console.print(part, highlight=False, soft_wrap=isinstance(part, str))


def _fail(error: UserError) -> int:
    """``error:`` and ``hint:`` lines on stderr."""
    print(f"error: {console.printable_lines(error.message)}", file=sys.stderr)
    if error.hint:
        print(f"hint: {printable(error.hint)}", file=sys.stderr)
    return error.exit_code


class _InterruptedError(BaseException):
    """Ctrl-C or SIGTERM; no KeyboardInterrupt, which Typer would turn into exit code 1."""


def _main(app: typer.Typer) -> NoReturn:
    """Run a command, turning what it raises into an exit code."""

    def interrupt(number: int, frame: Any) -> NoReturn:
        for again in (signal.SIGINT, signal.SIGTERM):  # a second one would tear the clean-up
            signal.signal(again, signal.SIG_IGN)
        print("stopping ...", file=sys.stderr, flush=True)
        raise _InterruptedError

    # PyTorch makes this folder with every optimiser, although nothing here is compiled. Its default
    # name is the user's, whom a container may lack; one that exists is not made.
    os.environ.setdefault("TORCHINDUCTOR_CACHE_DIR", sys.prefix)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # any text can be shown, in any locale
            stream.reconfigure(errors="backslashreplace")
    signal.signal(signal.SIGINT, interrupt)
    signal.signal(signal.SIGTERM, interrupt)
    try:
        app()
    except UserError as error:
        console.trace(error)
        sys.exit(_fail(error))
    except _InterruptedError:
        print("interrupted: what is done is kept; the same command resumes", file=sys.stderr)
        sys.exit(130)
    except OSError as error:
        console.trace(error)
        sys.exit(_fail(io_failure(error, Path())))
    except Exception as error:  # ours or a library's: nobody is helped by forty lines of frames
        console.trace(error)
        where = f"`{app.info.name} -v ...` tells where it happened"
        sys.exit(_fail(TaskFailed(f"{type(error).__name__}: {error}", where)))
    sys.exit(0)


def featstore_main() -> NoReturn:
    """Entry point of ``featstore``."""
    _main(featstore)


def distill_main() -> NoReturn:
    """Entry point of ``distill``."""
    _main(distill)


if __name__ == "__main__":
    sys.exit("use the commands featstore and distill, which `pip install -e .` puts on your path")
