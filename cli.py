"""The two commands, ``featstore`` and ``distill``: parse -> settings -> call -> render.

No logic lives here, and nothing slow is imported before a command needs it. Results go to stdout,
progress and errors to stderr. Exit codes: 0 done or nothing to do, 1 a task or check failed, 2
wrong use or input, 3 corrupt store or run, 4 refused, 130 interrupted.
"""

from __future__ import annotations

import functools
import inspect as introspection
import io
import json
import os
import signal
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any, Literal, NoReturn

import typer
from typer import Argument, Option

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
    str, Option(help="iemocap, ravdess, emodb, table, or synthetic (made on the spot).")
]
Root = Annotated[
    Path | None, Option(help="The corpus' folder; else FEATSTORE_<NAME>_ROOT, else data/<name>.")
]
Stored = Annotated[Any, Argument(parser=place, metavar="STORE", help=_STORE)]
StoreOption = Annotated[Any, Option("--store", parser=place, metavar="STORE", help=_STORE)]
Config = Annotated[Path | None, Option(help="A settings file; see data/configs.")]
Sets = Annotated[
    list[str] | None, Option("--set", metavar="KEY=VALUE", help="One setting, repeatable.")
]
Folds = Annotated[str, Option("--fold", help="1..10, 1,3,5..7 or all.")]
Json = Annotated[bool, Option("--json", help="Print one JSON document.")]
DryRun = Annotated[bool, Option("--dry-run", help="Print the plan and stop.")]
StudentPreset = Annotated[
    str | None, Option(help="paper, safe or tiny; tiny for the tiny student.")
]
Device = Annotated[str, Option(help="auto, cpu, cuda or cuda:N.")]
Jobs = Annotated[int | None, Option(min=1, help="Processes; as many as CPUs, or GPUs, by default.")]


def _grouped(command: Callable[..., Any]) -> Callable[..., Any]:
    """Put a group's flags in the place of each parameter that is annotated with the group.

    A group is a function of flags, used as ``Annotated[Any, group]``; the command gets its result.
    """
    signature = introspection.signature(command, eval_str=True)
    groups: dict[str, tuple[Callable[..., Any], list[str]]] = {}
    flags: list[introspection.Parameter] = []
    for parameter in signature.parameters.values():
        notes = getattr(parameter.annotation, "__metadata__", ())
        group = next((note for note in notes if introspection.isfunction(note)), None)
        if group is None:
            flags.append(parameter)
        else:
            own = introspection.signature(group, eval_str=True).parameters
            groups[parameter.name] = (group, list(own))
            flags += own.values()

    @functools.wraps(command)
    def run(**values: Any) -> Any:
        results = {
            name: group(**{flag: values.pop(flag) for flag in own})
            for name, (group, own) in groups.items()
        }
        return command(**values, **results)

    run.__signature__ = signature.replace(parameters=flags)  # type: ignore[attr-defined]
    return run


def _executor(
    *,
    executor: str = Option("local", help="local, or slurm: as jobs of a cluster."),
    slurm: Path | None = Option(None, help="Slurm: a TOML file of settings; flags win."),
    partition: str | None = Option(None, help="Slurm: where jobs run."),
    account: str | None = Option(None, help="Slurm: who is charged."),
    hours: float | None = Option(
        None, "--time", metavar="HOURS", help="Slurm: a job's limit; it resumes."
    ),
    array_limit: int | None = Option(None, min=1, help="Slurm: jobs at a time."),
    wait: bool = Option(True, help="Slurm: stay until all is done."),
    attach: bool = Option(False, "--attach", help="Slurm: wait for what was queued before."),
) -> Any:
    """Where the tasks are carried out."""
    from featstore.jobs import executor_settings

    return executor_settings(
        executor, slurm, wait=wait, attach=attach,
        partition=partition, account=account, hours=hours, array_limit=array_limit,
    )  # fmt: skip


Cluster = Annotated[Any, _executor]


@_grouped
def _training(
    *,
    store: StoreOption,
    runs: Path = Option(Path("runs"), help="Where results go."),
    weights: Path | None = Option(None, help="The backbone's weights, where not in the cache."),
    root: Root = None,
    jobs: Jobs = None,
    threads: int | None = Option(None, min=1, help="CPU threads of each run."),
    processes: int = Option(1, min=1, help="Processes of each run, on each node; one a GPU."),
    nodes: int = Option(1, min=1, help="Machines of each run, as SLURM gives them."),
    where: Cluster,
    device: Device = "auto",
    max_steps: int | None = Option(None, min=1, help="Stop each run after so many steps: a trial."),
) -> tuple[Any, dict[str, Any]]:
    """A run as far as all that are trained by one command are alike, and how they are launched."""
    from distill.experiments.launch import device_of
    from distill.runs.folder import RunRequest

    request = RunRequest(
        store=store, runs=runs, device=device_of(device, where), threads=threads, root=root,
        weights=weights, max_steps=max_steps,
    )  # fmt: skip
    return request, {"executor": where, "jobs": jobs, "processes": processes, "nodes": nodes}


Training = Annotated[Any, _training]


def _version(flag: bool) -> None:
    if flag:
        from importlib.metadata import version

        print(f"emodistill {version('emodistill')}")
        raise typer.Exit


@featstore.callback()
@distill.callback()
def _common(
    verbose: bool = Option(False, "-v", "--verbose", help="Tracebacks of errors."),
    version: bool = Option(
        False, "--version", callback=_version, is_eager=True, help="Print the version."
    ),
) -> None:
    console.set_verbose(verbose)


@featstore.command()
def synthesize(
    root: Path = Option(Path("data/synthetic"), help="Where to put it."),
    utterances: int = Option(800, min=80, help="Utterances in the four classes."),
    seed: int = Option(42, min=0),
    durations: Literal["short", "iemocap"] = Option("short", help="iemocap: as long as IEMOCAP's."),
    jobs: Jobs = None,
    as_json: Json = False,
) -> None:
    """Make the synthetic corpus: eSpeak NG, laid out as IEMOCAP. Same seed, same bytes."""
    from featstore.corpora.synthetic import generate

    made = generate(root, utterances=utterances, seed=seed, durations=durations, jobs=jobs)
    facts = {"root": str(root), "made": made}
    _print(facts, as_json, lambda _: [f"{root}: {'made' if made else 'already there'}"])


@featstore.command()
def check(
    dataset: Dataset = "iemocap",
    root: Root = None,
    config: Config = None,
    sets: Sets = None,
    strict: bool = Option(False, help="Exit 1 where an utterance is excluded."),
    as_json: Json = False,
) -> None:
    """Counts, durations and folds of a corpus, and all its faults. Builds nothing."""
    from featstore.corpora import load
    from featstore.corpora.audio_check import checked
    from featstore.inspection import render
    from featstore.inspection.corpus import audit

    settings = _build_settings(dataset, "paper", config, sets)
    manifest = checked(load(dataset, root, settings.corpus), settings.audio)
    facts = audit(manifest, settings.folds)
    _print(facts, as_json, render.audit)
    raise typer.Exit(1 if not facts["buildable"] or (strict and facts["excluded"]) else 0)


@featstore.command()
@_grouped
def build(
    *,
    dataset: Dataset = "iemocap",
    root: Root = None,
    store: Any = Option(None, parser=folder, metavar="PATH", help="Default: stores/<dataset>."),
    fold: Folds = "all",
    preset: str = Option("paper", help="paper, safe or tiny (no weights, CPU)."),
    config: Config = None,
    sets: Sets = None,
    jobs: Jobs = None,
    device: Device = "auto",
    embed_audio: bool = Option(True, help="Keep the signals in the store."),
    embed_text: bool = Option(True, help="Keep the transcripts in the store."),
    cross_fit: int | None = Option(
        None, metavar="K", help="Also targets by K teachers that never saw the speaker."
    ),
    shards: int | None = Option(
        None, min=1, max=999, help="Extract LLDs in N parts, which resume."
    ),
    where: Cluster,
    rebuild: bool = Option(False, "--rebuild", help="Replace units made from something else."),
    repair: bool = Option(False, "--repair", help="Read every byte and make damaged units anew."),
    strict: bool = Option(False, help="Stop where an utterance would be excluded."),
    dry_run: DryRun = False,
    as_json: Json = False,
) -> None:
    """Corpus -> audio, LLDs, splits, teachers' outputs per fold. Resumes."""
    from featstore.build import run as builds
    from featstore.build.plan import Request
    from featstore.corpora import load
    from featstore.inspection import render

    flags: dict[str, Any] = {}
    if not embed_audio:
        flags["audio"] = {"embed_audio": False}
    if not embed_text:
        flags["corpus"] = {"embed_text": False}
    settings = _build_settings(dataset, preset, config, sets, flags)
    manifest = load(dataset, root, settings.corpus)
    request = Request(
        manifest, settings, store or Path("stores") / dataset, fold, jobs, device, rebuild, repair,
        cross_fit, shards, strict,
    )  # fmt: skip
    if dry_run:
        _print(builds.dry_run(request, where), as_json, render.plan)
        return
    result = builds.build(request, where)
    _print(builds.result_dict(result, request), as_json, render.built)


@featstore.command()
def inspect(
    store: Stored,
    fold: int | None = Option(None, min=1, help="Whose teachers; 1, or all for tables."),
    utterance: str | None = Option(None, help="Show one utterance in full."),
    tau: float | None = Option(None, help="Temperature; 1, or 0.5, 1 and 5 for one utterance."),
    teachers: bool = Option(False, "--teachers", help="Scores, confidence, entropy, agreement."),
    fitness: bool = Option(False, "--fitness", help="Is each teacher fit to teach, and why not?"),
    teacher: list[str] | None = Option(None, help="Only this teacher; may be repeated."),
    disagree: bool = Option(
        False, "--disagree", help="List those that teachers label differently."
    ),
    wrong: bool = Option(False, "--wrong", help="List those that some teacher gets wrong."),
    confident: float | None = Option(None, help="List those with a confidence of at least this."),
    label: str | None = Option(None, help="List those of a class."),
    speaker: str | None = Option(None, help="List those of a speaker."),
    role: str | None = Option(None, help="List training, validation or test utterances."),
    text: str | None = Option(None, help="List those whose words hold this."),
    sort: str | None = Option(
        None, help="row (default), duration_s, confidence, entropy, p_truth, divergence."
    ),
    limit: int | None = Option(None, min=1, help="List at most so many; 20 by default."),
    as_json: Json = False,
    as_csv: bool = Option(False, "--csv", help="Print tables as CSV."),
    spreadsheet: bool = Option(False, "--spreadsheet", help="CSV, with a quote before formulas."),
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
    to: Annotated[Path, Option(help="The file: .h5 (all of it), .parquet or .npz.")],
    fold: Folds = "all",
    teacher: list[str] | None = Option(None, help="Only this one's targets; may be repeated."),
    embeddings: bool = Option(False, "--embeddings", help="Parquet: a column of embeddings too."),
    audio: bool = Option(True, help="HDF5: the signals; without them no import."),
    text: bool = Option(True, help="The transcripts; HDF5 without them: no import."),
    force: bool = Option(False, "--force", help="Replace a file of that name."),
    as_json: Json = False,
) -> None:
    """Write a store as HDF5, its targets as Parquet or NumPy."""
    from featstore.inspection import render
    from featstore.store import open_store
    from featstore.store.export import export as export_store

    written = export_store(
        open_store(store),
        to,
        folds=fold,
        teachers=teacher or (),
        embeddings=embeddings,
        audio=audio,
        text=text,
        force=force,
    )
    _print(written, as_json, render.exported)


@featstore.command("import")
def import_store(
    file: Annotated[Path, Argument(help="What `featstore export --to FILE.h5` wrote.")],
    store: Annotated[
        Any, Option(parser=folder, metavar="PATH", help="Where the store goes: a new folder.")
    ],
    as_json: Json = False,
) -> None:
    """Make the store that an HDF5 file was exported from. Resumes."""
    from featstore.inspection import render
    from featstore.store.hdf5 import import_hdf5

    _print(import_hdf5(file, store), as_json, render.imported)


@featstore.command("copy")
def copy_store(
    source: Annotated[Any, Argument(parser=place, metavar="SOURCE", help=_STORE)],
    to: Annotated[
        Any, Argument(parser=place, metavar="DEST", help="Where it goes: a folder or URL.")
    ],
    replace: bool = Option(False, "--replace", help="Put its units in the place of others there."),
    as_json: Json = False,
) -> None:
    """Publish a store in object storage, or fetch one. Resumes."""
    from featstore.inspection import render
    from featstore.store.remote import copy

    _print(copy(source, to, replace=replace), as_json, render.copied)


@featstore.command()
def diff(
    store: Stored,
    other: Any = Argument(
        None, parser=place, metavar="OTHER", help="Another; without it, two teachers of the first."
    ),
    teacher: str = Option("", help="Only this one's targets."),
    counterpart: str = Option("", "--with", help="The other's teacher to compare it with."),
    fold: Folds = "all",
    as_csv: bool = Option(False, "--csv", help="Print the target drift as CSV."),
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
    store: Annotated[Any, Argument(parser=folder, metavar="STORE", help="The store's folder.")],
    runs: Path | None = Option(None, help="Run folders whose students to show, too."),
    port: int | None = Option(None, min=0, max=65535, help="8765, or a free one if taken."),
    host: str = Option("127.0.0.1", help="An address others can reach asks for a token."),
    token: str | None = Option(
        None,
        envvar="FEATSTORE_TOKEN",
        show_envvar=False,
        help="What the link must hold, on this machine as well; see FEATSTORE_TOKEN.",
    ),
    browser: bool = Option(True, help="Open the page at once."),
) -> None:
    """A local page: listen, ask the teachers, filter, map. Read only."""
    from distill.runs.read import collect
    from featstore.inspection.view.serve import serve

    serve(store, collect([runs]) if runs else None, host, port, token, browser=browser)


@featstore.command("status")
def store_status(
    store: Annotated[Path, Argument(help="The store's folder.")], as_json: Json = False
) -> None:
    """What is done, running (and how far), queued or failed. From any machine; read only."""
    from featstore.inspection import render, status
    from featstore.jobs.status import exit_code

    facts = status.store_status(store)
    _print(facts, as_json, render.status)
    raise typer.Exit(exit_code(facts))


@distill.command()
@_grouped
def run(
    *,
    training: Training,
    fold: Folds = "all",
    student: str | None = Option(
        None, help="tiny, hubert-base (default), hubert-large, or hf:<id or path>."
    ),
    variant: str = Option("full", help="full, ce-only, or another row of the paper's Table 2."),
    preset: StudentPreset = None,
    config: Config = None,
    sets: Sets = None,
    seed: int | None = Option(None, min=0, max=2**63 - 1),
    experiment: str | None = Option(None, help="Folder below --runs; default <student>-<variant>."),
    tensorboard: bool = Option(False, help="Also log for TensorBoard."),
    dry_run: DryRun = False,
    as_json: Json = False,
) -> None:
    """Train one student per fold from cached targets. Resumes; finished folds are skipped."""
    from distill.experiments import launch, plan
    from distill.experiments import terminal as render

    request, how = training
    settings = plan.run_settings(student, variant, preset, config, sets or [], seed)
    name = experiment or plan.experiment_name(settings.student.backbone, variant)
    request = replace(
        request, settings=settings, variant=variant, experiment=name, tensorboard=tensorboard
    )
    requests = plan.each_fold(request, fold)
    if dry_run:
        facts = plan.plan(requests)
        _print(facts, as_json, render.plan)
        raise typer.Exit(plan.plan_exit_code(facts))
    done = launch.launch(requests, name, **how)
    _print(done.to_dict(), as_json, render.outcomes)
    raise typer.Exit(done.exit_code)


@distill.command()
@_grouped
def experiment(
    *,
    grid: Annotated[
        str, Argument(help="table1, table2, figure2, controls, crossfit, options, or a file.")
    ],
    training: Training,
    fold: Folds = "all",
    seeds: int = Option(1, min=1, max=1000, help="How many, from --seed on."),
    seed: int | None = Option(None, min=0, max=2**62),
    student: list[str] | None = Option(
        None, help="In place of the experiment's own; may be repeated."
    ),
    preset: StudentPreset = None,
    config: Config = None,
    sets: Sets = None,
    dry_run: DryRun = False,
    as_json: Json = False,
) -> None:
    """Train all rows of a table or figure. Equal runs are run once; it resumes."""
    from distill.experiments import launch
    from distill.experiments import rows as experiments
    from distill.experiments import terminal as render
    from distill.experiments.grid import load_grid

    request, how = training
    order = experiments.Experiment(
        load_grid(grid), request, fold, seeds, seed, tuple(student or ()), preset, config,
        tuple(sets or ()),
    )  # fmt: skip
    rows = experiments.rows_of(order)
    if dry_run:
        facts = experiments.plan(order, rows)
        _print(facts, as_json, render.experiment_plan)
        raise typer.Exit(experiments.plan_exit_code(facts))
    experiments.write_rows(order, rows)
    done = launch.launch(experiments.runs_of(rows), order.grid.name, **how)
    _print(experiments.summary(done, rows), as_json, render.experiment)
    raise typer.Exit(done.exit_code)


@distill.command()
def report(
    runs: Annotated[list[Path], Argument(help="Run folders, or folders that hold some.")],
    out: Path | None = Option(
        None, help="Also write the HTML page, Markdown, JSON, CSV and figures."
    ),
    as_json: Json = False,
) -> None:
    """Scores, intervals and tests, the paper's beside them."""
    from distill import report as reports

    summary = reports.summarise(reports.collect(runs))
    written = reports.write(summary, out) if out is not None else []
    _print(reports.document(summary), as_json, lambda _: reports.terminal(summary))
    for path in written:
        print(f"wrote {path}", file=sys.stderr)
    if not summary.studies:
        raise TaskFailed("no finished run to report on", "the list above says why, run by run")


@distill.command("status")
def runs_status(
    runs: Path = Argument(Path("runs"), help="The folder of `distill run --runs`."),
    as_json: Json = False,
) -> None:
    """What is done, running (and how far), queued or failed. From any machine; read only."""
    from distill.experiments import terminal as render
    from distill.runs import status
    from featstore.jobs.status import exit_code

    facts = status.runs_status(runs)
    _print(facts, as_json, render.status)
    raise typer.Exit(exit_code(facts))


@distill.command()
def predict(
    student: Annotated[Path, Argument(help="A run's student/ folder.")],
    audio: Annotated[list[Path], Argument(help="Audio files, any rate, any channels.")],
    max_duration_s: float = Option(
        60.0, min=0.06, max=600, help="Longer files are refused: memory grows."
    ),
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
    names: list[str] | None = Argument(
        None, help="As --student takes them; without any, all that this machine knows."
    ),
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
