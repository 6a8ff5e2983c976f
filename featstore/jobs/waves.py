"""Which tasks can begin together, and which can not begin any more."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence

from featstore.core.schema import TaskFailed
from featstore.jobs.task import Demand, Task


def failed_needs(
    tasks: Iterable[Task], failed: Collection[str]
) -> Iterator[tuple[Task, TaskFailed]]:
    """The tasks that need one that has failed, each with the error that says so."""
    for task in list(tasks):
        if lost := sorted(set(task.needs) & set(failed)):
            hint = "mend its cause and run the same command again"
            yield task, TaskFailed(f"needs {', '.join(lost)}, which failed", hint)


def ready_groups(
    tasks: Sequence[Task], queued: Mapping[str, str]
) -> list[tuple[Demand, list[Task]]]:
    """Tasks of which all that they need is queued, together where they want and need the same.

    Each group can be one array: its jobs want the same of a machine and wait for the same jobs.

    Args:
        tasks: that are to be queued.
        queued: the job of each task that is queued already.

    >>> a, b = Task("a", print, bool), Task("b", print, bool)
    >>> c = Task("c", print, bool, needs=("a",))
    >>> [[task.key for task in group] for _, group in ready_groups([a, b, c], {})]
    [['a', 'b']]
    >>> [[task.key for task in group] for _, group in ready_groups([c], {"a": "7_0", "b": "7_1"})]
    [['c']]
    """
    waiting = {task.key for task in tasks}
    groups: dict[tuple[Demand, frozenset[str]], list[Task]] = {}
    for task in tasks:
        if not waiting & set(task.needs):
            live = frozenset(need for need in task.needs if need in queued)
            groups.setdefault((task.demand, live), []).append(task)
    return [(demand, group) for (demand, _), group in groups.items()]


def dependency(jobs: Iterable[str], sizes: Mapping[str, int]) -> str:
    """What sbatch's ``--dependency`` is told, a whole array by its own number.

    ``afterany``, not ``afterok``: one failed job of an array would hold back all that depends on
    the array, also what does not need it. Each task looks for itself whether what it needs is done.

    Args:
        jobs: that come first.
        sizes: how many jobs an array has, by its number.

    >>> dependency(["7_0", "7_1", "8_3", "9"], {"7": 2, "8": 5})
    'afterany:7:8_3:9'
    """
    by_array: dict[str, list[str]] = {}
    for job in jobs:
        by_array.setdefault(job.partition("_")[0], []).append(job)
    parts: list[str] = []
    for array, members in sorted(by_array.items()):
        parts += [array] if len(members) == sizes.get(array) else sorted(members)
    return ":".join(["afterany", *parts]) if parts else ""
