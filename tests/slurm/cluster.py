"""A SLURM of two nodes on this machine, for as long as it is wanted."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

COMMANDS = ("slurmctld", "slurmd", "munged", "munge", "sbatch", "squeue", "scontrol", "runuser")
NODES = ("n1", "n2")
_MUNGE_PID = Path("/run/munge/munged.pid")
_CONF = """\
ClusterName=lab
SlurmctldHost={host}(127.0.0.1)
SlurmUser=root
SlurmctldPort={ports[0]}
SlurmctldPidFile={folder}/ctld.pid
SlurmctldLogFile={folder}/ctld.log
StateSaveLocation={folder}/ctld
SlurmdPidFile={folder}/slurmd.%n.pid
SlurmdLogFile={folder}/slurmd.%n.log
SlurmdSpoolDir={folder}/spool.%n
SlurmdParameters=config_overrides
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
SchedulerParameters=sched_interval=1,batch_sched_delay=0,bf_interval=2
ReturnToService=2
AuthInfo=cred_expire=10
KillWait=3
MinJobAge=10
NodeName=n1 NodeHostname={host} NodeAddr=127.0.0.1 Port={ports[1]} CPUs=1 RealMemory=4000
NodeName=n2 NodeHostname={host} NodeAddr=127.0.0.1 Port={ports[2]} CPUs=1 RealMemory=4000
PartitionName=lab Nodes=n[1-2] Default=YES State=UP
"""


def missing() -> str:
    """Why there can be no SLURM here; empty where there can."""
    absent = [name for name in COMMANDS if shutil.which(name) is None]
    if absent:
        return f"no {', '.join(absent)} (Debian: apt-get install slurmd slurmctld slurm-client)"
    return "" if os.geteuid() == 0 else "slurmctld, slurmd and munged are started as root only"


@contextmanager
def running(folder: Path) -> Iterator[None]:
    """Start it, with ``SLURM_CONF`` naming it; gone afterwards, with every job."""
    for name in ("ctld", *(f"spool.{node}" for node in NODES)):
        (folder / name).mkdir()
    conf = folder / "slurm.conf"
    conf.write_text(_CONF.format(host=socket.gethostname(), folder=folder, ports=_free_ports(3)))
    before = os.environ.get("SLURM_CONF")
    os.environ["SLURM_CONF"] = str(conf)
    own_munge = _start_munge()
    try:
        _call("slurmctld", "-f", str(conf))
        for node in NODES:
            _call("slurmd", "-f", str(conf), "-N", node)
        until(lambda: _call("sinfo", "-h", "-o", "%T").split() == ["idle"], "both nodes are idle")
        yield
    finally:
        with suppress(subprocess.CalledProcessError):
            _call("scancel", "--me")
            until(lambda: not _call("squeue", "-h"), "no job is left")
        for pid_file in [*folder.glob("slurmd.*.pid"), folder / "ctld.pid"]:
            _stop(pid_file)
        if own_munge:
            _stop(_MUNGE_PID)
        if before is None:
            del os.environ["SLURM_CONF"]
        else:
            os.environ["SLURM_CONF"] = before


def jobs(state: str = "") -> list[str]:
    """Numbers of the jobs that squeue lists, such as ``7_3``; of one state only, if given."""
    states = [f"--states={state}"] if state else []
    return _call("squeue", "-h", "-r", "-o", "%i", *states).split()


def until(true: Callable[[], bool], what: str, timeout_s: float = 60.0) -> None:
    """Wait for something.

    Raises:
        TimeoutError: it did not come true.
    """
    end = time.monotonic() + timeout_s
    while not true():
        if time.monotonic() > end:
            raise TimeoutError(f"{what}: not after {timeout_s:.0f} s")
        time.sleep(0.1)


def _start_munge() -> bool:
    """Whether it was started here; another's is used as it is."""
    if subprocess.run(["munge", "-n"], capture_output=True, check=False).returncode == 0:
        return False
    for place in ("/run/munge", "/var/log/munge", "/var/lib/munge"):
        Path(place).mkdir(exist_ok=True)
        shutil.chown(place, "munge", "munge")
    _call("runuser", "-u", "munge", "--", "munged")
    return True


def _free_ports(count: int) -> list[int]:
    with _bound(count) as sockets:
        return [one.getsockname()[1] for one in sockets]


@contextmanager
def _bound(count: int) -> Iterator[list[socket.socket]]:
    """Sockets on ports of their own, all open at once so that no two are the same."""
    sockets = [socket.socket() for _ in range(count)]
    try:
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        yield sockets
    finally:
        for one in sockets:
            one.close()


def _stop(pid_file: Path) -> None:
    with suppress(OSError, ValueError):
        pid = int(pid_file.read_text())
        os.kill(pid, signal.SIGTERM)
        until(lambda: not Path(f"/proc/{pid}").exists(), f"process {pid} is gone", 15)


def _call(*command: str) -> str:
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    if done.returncode:
        raise subprocess.CalledProcessError(done.returncode, command, done.stdout, done.stderr)
    return done.stdout
