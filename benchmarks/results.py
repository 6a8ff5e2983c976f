"""``RESULTS.md``: what was measured, on which machine, by which command; written, never edited.

``results.json`` beside it holds every single measurement, so that one benchmark can be run again
and the table be written anew with the others' figures.
"""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

from benchmarks.common import Answer, Row
from featstore.core.files import write_file
from featstore.jobs.local import default_jobs

PACKAGES = ("emodistill", "torch", "torchaudio", "transformers", "numpy", "zarr", "h5py",
            "soundfile", "opensmile", "datasets", "lhotse")  # fmt: skip

_HEAD = """\
# Results

Written by `python -m benchmarks` (`make bench`); every single measurement stands in
`results.json`. Ratios compare variants that took turns in one run, on one core each unless a row
says otherwise (`OMP_NUM_THREADS=1`). A figure is the median, with the lowest and the highest in
brackets; a ratio is that of two neighbours in time. Noise stands for speech throughout: these are
times, never scores. All of it runs on the CPU and says nothing about a GPU.
"""


def machine() -> dict[str, str]:
    """What the figures depend on."""
    versions = {name: _version(name) for name in ("python", *PACKAGES)}
    return {
        "processor": f"{_processor()}, {default_jobs()} cores",
        "memory": f"{os.sysconf('SC_PAGE_SIZE') * os.sysconf('SC_PHYS_PAGES') / 2**30:.0f} GiB",
        "system": f"{platform.system()} {platform.machine()}",
        "versions": ", ".join(f"{name} {version}" for name, version in versions.items()),
    }


def entry(name: str, question: str, answer: Answer, seconds: float, load: float) -> dict[str, Any]:
    """What ``results.json`` keeps of one benchmark.

    Args:
        name: of its file.
        question: what it asks.
        answer: what it found.
        seconds: how long it took.
        load: the system's load average when it began; what it is now is told beside it. One is
            this program's own.
    """
    return {
        "question": question,
        "command": f"python -m benchmarks {name}",
        "date": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "seconds": round(seconds, 1),
        "load": [round(load, 1), round(os.getloadavg()[0], 1)],
        "machine": machine(),
        "rows": [vars(row) for row in answer.rows],
        "notes": list(answer.notes),
        "measured": {key: [float(v) for v in values] for key, values in answer.measured.items()},
    }


def write(folder: Path, new: Mapping[str, Mapping[str, Any]], order: Iterable[str]) -> None:
    """Put new entries into ``results.json`` and write ``RESULTS.md`` from all that it holds."""
    path = folder / "results.json"
    old = json.loads(path.read_bytes()) if path.is_file() else {}
    found = {**old, **new}
    entries = {name: found[name] for name in order if name in found}
    write_file(path, (json.dumps(entries, indent=1) + "\n").encode())
    write_file(folder / "RESULTS.md", markdown(entries).encode())


def markdown(entries: Mapping[str, Mapping[str, Any]]) -> str:
    """The table of all rows, then each benchmark's conditions, command and machine."""
    lines = [_HEAD, "| what | against | goal | measured | |", "|---|---|---|---|---|"]
    for one in entries.values():
        lines += [_line(Row(**row)) for row in one["rows"]]
    for name, one in entries.items():
        lines += ["", *_section(name, one)]
    return "\n".join(lines) + "\n"


def _line(row: Row) -> str:
    """One line of the table.

    >>> _line(Row("opening", "np.load", "3.1x", "<= 2x", False, "SHA-256"))
    '| opening | np.load | <= 2x | 3.1x | missed: SHA-256 |'
    """
    verdict = {True: "met", False: f"missed: {row.reason}", None: ""}[row.met]
    cells = (row.what, row.against, row.goal, row.figure, verdict)
    return f"| {' | '.join(cell.replace('|', '/') for cell in cells)} |"


def _section(name: str, one: Mapping[str, Any]) -> list[str]:
    about = one["machine"]
    return [
        f"## {name}",
        "",
        one["question"],
        "",
        f"`{one['command']}` took {one['seconds']:.0f} s on {one['date']}, load average "
        f"{one['load'][0]} before and {one['load'][1]} after. {about['processor']}, "
        f"{about['memory']}, {about['system']}; {about['versions']}.",
        "",
        *[f"- {note}" for note in one["notes"]],
    ]


def _version(name: str) -> str:
    if name == "python":
        return platform.python_version()
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return "not installed"


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or "unknown processor"
    models = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return models[0] if models else platform.processor() or "unknown processor"
