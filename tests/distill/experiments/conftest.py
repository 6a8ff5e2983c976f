"""Runs in this process, at once, in the place of workers and of a cluster's jobs."""

import pickle

import pytest

from distill.experiments import launch as launching
from featstore.core.schema import UserError
from featstore.jobs.local import perform


@pytest.fixture
def here(monkeypatch):
    """The tasks that were carried out, in order."""
    done = []

    def carry_out(root, tasks, executor, **rest):
        for task in pickle.loads(pickle.dumps(list(tasks))):
            done.append(task)
            error = None
            try:
                perform(root, task)
            except UserError as failure:
                error = failure
            yield task, error

    monkeypatch.setattr(launching, "carry_out", carry_out)
    return done
