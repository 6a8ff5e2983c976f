"""What a user tells of a cluster, and what SLURM is told of it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from featstore.core.schema import UserError
from featstore.jobs import LOCAL, executor_settings
from featstore.jobs.settings import SlurmSettings
from featstore.jobs.slurm import parameters
from featstore.jobs.task import Demand


def test_flags_win_over_the_file(tmp_path: Path) -> None:
    file = tmp_path / "cluster.toml"
    file.write_text(
        'partition = "a"\naccount = "me"\nsetup = ["module load x"]\n[sbatch]\nreservation = "r"\n'
    )
    found = executor_settings("slurm", file, partition="b", hours=None, wait=False)
    assert (found.slurm.partition, found.slurm.account, found.wait) == ("b", "me", False)
    assert found.slurm.sbatch == {"reservation": "r"}
    assert executor_settings("local") == LOCAL


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"name": "condor"}, "--executor condor: not known"),
        ({"name": "local", "partition": "a"}, "flags of a cluster"),
        ({"name": "local", "wait": False}, "flags of a cluster"),
        ({"name": "local", "attach": True}, "flags of a cluster"),
        ({"name": "slurm", "wait": False, "attach": True}, "--attach waits"),
        ({"name": "slurm", "partition": "a\n#SBATCH --uid=0"}, "partition"),
        ({"name": "slurm", "hours": 0}, "hours"),
    ],
)
def test_what_makes_no_sense_is_told(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message) as caught:
        executor_settings(**arguments)
    assert caught.value.exit_code == 2


def test_all_faults_of_a_file_at_once(tmp_path: Path) -> None:
    file = tmp_path / "cluster.toml"
    file.write_text('partion = "a"\ncpus = 0\n[sbatch]\n"a b" = "c"\n')
    with pytest.raises(UserError, match=r"3 setting\(s\)") as caught:
        executor_settings("slurm", file)
    assert "did you mean partition" in caught.value.message


def test_a_demand_is_asked_for_process_by_process() -> None:
    four = Demand(cpus=2, gpus=1, memory_gb=8, hours=2, processes=4, nodes=2)
    found = parameters(four, SlurmSettings(cpu_partition="cpus", partition="gpus"), "afterany:7")
    assert (found["nodes"], found["ntasks_per_node"], found["cpus_per_task"]) == (2, 4, 2)
    assert (found["mem"], found["time"], found["partition"]) == ("32768M", 120, "gpus")
    assert found["additional_parameters"] == {"gpus-per-node": "4"}
    assert found["dependency"] == "afterany:7"
    assert "export OMP_NUM_THREADS=2" in found["setup"]


def test_the_cluster_has_the_last_word() -> None:
    cluster = SlurmSettings(
        hours=1, gpus="a100:1", cpus=8, memory_gb=0, partition="p", cpu_partition="c",
        sbatch={"gpus-per-node": 3, "nice": 10},
    )  # fmt: skip
    found = parameters(Demand(gpus=1), cluster)
    assert "mem" not in found
    assert (found["time"], found["cpus_per_task"], found["partition"]) == (60, 8, "p")
    assert found["additional_parameters"] == {"gpus-per-node": 3, "nice": 10}
    assert parameters(Demand(), cluster)["partition"] == "c"
    none = SlurmSettings(gpus=0)
    assert parameters(Demand(gpus=1), none)["additional_parameters"] == {}
