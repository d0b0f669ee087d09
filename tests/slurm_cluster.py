"""A real SLURM cluster in a folder: one node with two CPUs and two pretended GPUs; it needs no
root, systemd or accounting.
"""

import getpass
import os
import secrets
import shlex
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

import pytest

PATH = f"{os.environ['PATH']}{os.pathsep}/usr/sbin"  # where Debian has the daemons
LOOPBACK = "127.0.0.1"
PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch", "srun", "squeue", "scancel", "scontrol")
PACKAGES = ("munge", "slurmctld", "slurmd", "slurm-client")

# squeue remembers finished jobs for MinJobAge. No cgroups: linuxproc follows a process's parents.
# config_overrides: two CPUs whatever the machine has. cred_expire: how long a requeued job waits
# (default: two minutes), and srun for slurmd at most.
CONFIG = """\
ClusterName=test
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={ports[0]}
SlurmdPort={ports[1]}
{listen}
SlurmUser={user}
SlurmdUser={user}
AuthInfo=socket={folder}/munge.socket,cred_expire=15
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd.log
MailProg=/bin/true
MpiDefault=none
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
SlurmdParameters=config_overrides
SchedulerParameters=bf_interval=1,sched_interval=1
BatchStartTimeout=2
KillWait=2
MinJobAge=3600
ReturnToService=2
SlurmdTimeout=60
GresTypes=gpu
NodeName={host} NodeAddr=127.0.0.1 CPUs=2 RealMemory=64000 Gres=gpu:2
PartitionName=short Nodes={host} MaxTime=60 Default=YES
PartitionName=long Nodes={host} MaxTime=INFINITE
"""
GRES = "AutoDetect=off\nName=gpu File=/dev/null\nName=gpu File=/dev/zero\n"


def install() -> None:
    """Skips the test where SLURM is missing, unless root can have it from apt-get."""
    missing = [name for name in PROGRAMS if not shutil.which(name, path=PATH)]
    if not missing:
        return
    why = f"no {', '.join(missing)}; on Debian and Ubuntu: apt-get install {' '.join(PACKAGES)}"
    if os.geteuid() or not shutil.which("apt-get"):
        pytest.skip(why)
    for words in (["update"], ["install", "--yes", "--no-install-recommends", *PACKAGES]):
        done = subprocess.run(
            ["apt-get", *words],
            env=os.environ | {"DEBIAN_FRONTEND": "noninteractive"},
            capture_output=True,
            text=True,
        )
        if done.returncode:
            pytest.skip(f"{why} failed: {done.stderr.strip()[-300:]}")


class Job(NamedTuple):
    number: str
    state: str  # PENDING, RUNNING, COMPLETING, COMPLETED, FAILED, CANCELLED, ...
    comment: str  # Snakemake's: rule_<name>_wildcards_<values>


class Cluster:
    """`with Cluster(folder) as cluster`: at its end neither a daemon nor any process with its
    environment is left.
    """

    def __init__(self, folder: Path):
        self.folder = folder.resolve()
        self.config = self.folder / "slurm.conf"
        own = {
            name: value
            for name, value in os.environ.items()
            if not name.startswith(("SLURM_", "SBATCH_", "SRUN_"))
        }
        self.environment = own | {
            "PATH": f"{self.folder}{os.pathsep}{PATH}",
            "SLURM_CONF": str(self.config),
        }
        self.host = socket.gethostname().split(".")[0]
        # On loopback alone if the host's name says so, as NoInAddrAny means its address; else munge
        # keeps strangers out.
        self.listen = (
            "CommunicationParameters=NoCtldInAddrAny,NoInAddrAny"
            if _address(self.host) == LOOPBACK
            else "#"
        )
        with (
            socket.create_server((LOOPBACK, 0)) as one,
            socket.create_server((LOOPBACK, 0)) as other,
        ):
            self.ports = [free.getsockname()[1] for free in (one, other)]
        self.daemons: dict[str, subprocess.Popen] = {}

    def __enter__(self):
        try:
            self._configure()
            files = {
                "socket": "munge.socket",
                "key-file": "munge.key",
                "seed-file": "munge.seed",
                "pid-file": "munge.pid",
            }
            # --force: the folder may be one that only we can enter, and all clients are ours
            self._start(
                "munged",
                "--foreground",
                "--force",
                *(f"--{k}={self.folder / v}" for k, v in files.items()),
            )
            self.wait(lambda: (self.folder / "munge.socket").exists())
            self._start("slurmctld", "-D")
            self.wait(lambda: "UP" in self.run("scontrol", "ping"))
            self.start_slurmd()
            self.wait(lambda: "idle" in self.run("sinfo", "--format=%T"))
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(self, *_):
        self.stop()

    def _configure(self) -> None:
        for name in ("state", "spool"):
            (self.folder / name).mkdir(parents=True)
        self.config.write_text(CONFIG.format(user=getpass.getuser(), **vars(self)))
        (self.folder / "gres.conf").write_text(GRES)
        # Within a job the plugin drops $SLURM_CONF before it calls srun, which then looks in
        # /etc/slurm.
        srun = self.folder / "srun"
        srun.write_text(
            f'#!/bin/sh\nSLURM_CONF={shlex.quote(str(self.config))} exec {shutil.which("srun", path=PATH)} "$@"\n'
        )
        srun.chmod(0o755)
        key = self.folder / "munge.key"
        key.touch(mode=0o600)
        key.write_bytes(secrets.token_bytes(64))

    def _start(self, name: str, *words: str) -> None:
        with (self.folder / f"{name}.out").open("a") as out:
            program = shutil.which(name, path=PATH) or name
            self.daemons[name] = subprocess.Popen(
                [program, *words], env=self.environment, stdout=out, stderr=out
            )

    def run(self, *words: str) -> str:
        """One of SLURM's commands: what it prints."""
        done = subprocess.run(
            words, env=self.environment, capture_output=True, text=True, timeout=60
        )
        return done.stdout

    def wait(self, until: Callable[[], object], seconds: float = 30) -> None:
        """Until it holds; AssertionError, with the daemons' last lines, if that takes longer."""
        deadline = time.monotonic() + seconds
        while not until():
            last = "\n".join(
                f"{log.name}: {log.read_text()[-1500:]}" for log in self.folder.glob("*.out")
            )
            assert time.monotonic() < deadline, (
                f"not within {seconds} s; squeue: {self.jobs()}\n{last}"
            )
            time.sleep(0.1)

    def jobs(self) -> list[Job]:
        """All jobs since the start, the first first, finished ones too."""
        lines = self.run(
            "squeue", "--states=all", "--noheader", "--sort=i", "--format=%i|%T|%k"
        ).splitlines()
        return [Job(*line.split("|", 2)) for line in lines]

    def start_slurmd(self) -> None:
        self._start("slurmd", "-D")
        self.wait(lambda: _listens(self.ports[1]))

    def kill_slurmd(self) -> None:
        """SIGKILL, as a crash of the daemon: its jobs go on, and finish once it is back."""
        self.daemons["slurmd"].kill()
        self.daemons["slurmd"].wait()

    def cancel(self, number: str) -> None:
        self.run("scancel", number)

    def kill_job(self, number: str) -> None:
        """SIGKILL of all processes of a job: it has FAILED."""
        _kill(f"SLURM_JOB_ID={number}", f"SLURM_CONF={self.config}")

    def stop(self) -> None:
        for daemon in reversed(self.daemons.values()):
            daemon.terminate()
            with suppress(subprocess.TimeoutExpired):
                daemon.wait(10)
        while _kill(
            f"SLURM_CONF={self.config}"
        ):  # also slurmstepd, the jobs, and a Snakemake that still runs
            time.sleep(0.1)
        for daemon in self.daemons.values():
            daemon.wait()


def _address(host: str) -> str | None:
    with suppress(OSError):
        return socket.gethostbyname(host)
    return None


def _listens(port: int) -> bool:
    with suppress(OSError), socket.create_connection((LOOPBACK, port)):
        return True
    return False


def _kill(*variables: str) -> int:
    """SIGKILL the processes with these in their environment; how many there were."""
    found = 0
    for place in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):  # another user's, or gone already
            if {variable.encode() for variable in variables} <= set(
                (place / "environ").read_bytes().split(b"\0")
            ):
                os.kill(int(place.name), signal.SIGKILL)
                found += 1
    return found
