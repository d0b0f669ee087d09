"""A SLURM cluster in a folder: a node of two CPUs and two pretended GPUs, without root."""

import contextlib
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
from pathlib import Path
from typing import NamedTuple

import pytest

PATH = f"{os.environ['PATH']}{os.pathsep}/usr/sbin"  # where Debian has the daemons
LOOPBACK = "127.0.0.1"
PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch", "srun", "squeue", "scancel", "scontrol")
PACKAGES = ("munge", "slurmctld", "slurmd", "slurm-client")

CONFIG = Path(__file__).with_name("slurm.conf").read_text()
GRES = "AutoDetect=off\nName=gpu File=/dev/null\nName=gpu File=/dev/zero\n"


def install() -> None:
    """Skip the test where SLURM is missing, unless root can have it from apt-get."""
    missing = [name for name in PROGRAMS if not shutil.which(name, path=PATH)]
    if not missing:
        return
    why = f"no {', '.join(missing)}; on Debian and Ubuntu: apt-get install {' '.join(PACKAGES)}"
    if os.geteuid() or not shutil.which("apt-get"):
        pytest.skip(why)
    how = {"env": os.environ | {"DEBIAN_FRONTEND": "noninteractive"}, "capture_output": True}
    for words in (["update"], ["install", "--yes", "--no-install-recommends", *PACKAGES]):
        done = subprocess.run(["apt-get", *words], text=True, **how)
        if done.returncode:
            pytest.skip(f"{why} failed: {done.stderr.strip()[-300:]}")


class Job(NamedTuple):
    number: str
    state: str  # PENDING, RUNNING, COMPLETING, COMPLETED, FAILED, CANCELLED, ...
    comment: str  # Snakemake's: rule_<name>_wildcards_<values>


class Cluster:
    """`with Cluster(folder) as cluster`: at its end no process of it is left."""

    def __init__(self, folder: Path):
        self.folder = folder.resolve()
        self.config = self.folder / "slurm.conf"
        foreign = ("SLURM_", "SBATCH_", "SRUN_")
        own = {name: value for name, value in os.environ.items() if not name.startswith(foreign)}
        path = f"{self.folder}{os.pathsep}{PATH}"
        self.environment = own | {"PATH": path, "SLURM_CONF": str(self.config)}
        self.host = socket.gethostname().split(".")[0]
        # On loopback alone if the host's name means that; else munge keeps strangers out
        loopback = _address(self.host) == LOOPBACK
        listen = "CommunicationParameters=NoCtldInAddrAny,NoInAddrAny"
        self.listen = listen if loopback else "#"
        with contextlib.ExitStack() as stack:
            servers = [stack.enter_context(socket.create_server((LOOPBACK, 0))) for _ in range(2)]
            self.ports = [server.getsockname()[1] for server in servers]
        self.daemons: dict[str, subprocess.Popen] = {}

    def __enter__(self):
        files = {"socket": "munge.socket", "key-file": "munge.key"}
        files |= {"seed-file": "munge.seed", "pid-file": "munge.pid"}
        munge = [f"--{option}={self.folder / name}" for option, name in files.items()]
        try:
            self._configure()
            # --force: the folder may be one that only we can enter, and all clients are ours
            self._start("munged", "--foreground", "--force", *munge)
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
        # Within a job the plugin drops $SLURM_CONF before srun, which then looks in /etc/slurm
        srun = self.folder / "srun"
        config = shlex.quote(str(self.config))
        program = shutil.which("srun", path=PATH)
        srun.write_text(f'#!/bin/sh\nSLURM_CONF={config} exec {program} "$@"\n')
        srun.chmod(0o755)
        key = self.folder / "munge.key"
        key.touch(mode=0o600)
        key.write_bytes(secrets.token_bytes(64))

    def _start(self, name: str, *words: str) -> None:
        program = shutil.which(name, path=PATH) or name
        with (self.folder / f"{name}.out").open("a") as out:
            how = {"env": self.environment, "stdout": out, "stderr": out}
            self.daemons[name] = subprocess.Popen([program, *words], **how)

    def run(self, *words: str) -> str:
        """What one of SLURM's commands prints."""
        how = {"env": self.environment, "capture_output": True, "timeout": 60}
        return subprocess.run(words, text=True, **how).stdout

    def wait(self, until: Callable[[], bool], seconds: float = 30) -> None:
        """Until it holds; AssertionError, with the daemons' last lines, if that takes longer."""
        deadline = time.monotonic() + seconds
        while not until():
            logs = self.folder.glob("*.out")
            last = "\n".join(f"{log.name}: {log.read_text()[-1500:]}" for log in logs)
            late = time.monotonic() > deadline
            assert not late, f"not within {seconds} s; squeue: {self.jobs()}\n{last}"
            time.sleep(0.1)

    def jobs(self) -> list[Job]:
        """All jobs since the start, the first first, finished ones too."""
        options = ("--states=all", "--noheader", "--sort=i", "--format=%i|%T|%k")
        lines = self.run("squeue", *options).splitlines()
        return [Job(*line.split("|", 2)) for line in lines]

    def start_slurmd(self) -> None:
        self._start("slurmd", "-D")
        self.wait(lambda: _listens(self.ports[1]))

    def kill_slurmd(self) -> None:
        """SIGKILL, as a crash of the daemon: its jobs go on, and finish once it is back."""
        self.daemons["slurmd"].kill()
        self.daemons["slurmd"].wait()

    def kill_job(self, number: str) -> None:
        """SIGKILL of all processes of a job: it has FAILED."""
        _kill(f"SLURM_JOB_ID={number}", f"SLURM_CONF={self.config}")

    def stop(self) -> None:
        for daemon in reversed(self.daemons.values()):
            daemon.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                daemon.wait(10)
        # slurmstepd, the jobs, a Snakemake that still runs
        while _kill(f"SLURM_CONF={self.config}"):
            time.sleep(0.1)
        for daemon in self.daemons.values():
            daemon.wait()


def _address(host: str) -> str | None:
    with contextlib.suppress(OSError):
        return socket.gethostbyname(host)
    return None


def _listens(port: int) -> bool:
    with contextlib.suppress(OSError), socket.create_connection((LOOPBACK, port)):
        return True
    return False


def _kill(*variables: str) -> int:
    """SIGKILL the processes with these in their environment; how many there were."""
    wanted = {variable.encode() for variable in variables}
    found = 0
    for place in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):  # another user's, or gone already
            if wanted <= set((place / "environ").read_bytes().split(b"\0")):
                os.kill(int(place.name), signal.SIGKILL)
                found += 1
    return found
