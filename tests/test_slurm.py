"""Snakemake on a real SLURM cluster: jobs side by side, one fails, one is killed, and slurmd is killed meanwhile."""

import subprocess
import sys

import pytest
from slurm_cluster import Cluster, install

pytestmark = pytest.mark.slurm

WORKFLOW = """
rule all:
    input: expand("{job}.done", job=["a", "b", "c", "broken", "killed"])

rule sleep:
    output: "{job}.done"
    wildcard_constraints: job="[abc]"
    shell: "echo $SLURM_JOB_ID > {wildcards.job}.log; sleep 5; touch {output}"

rule broken:
    output: "broken.done"
    shell: "echo $SLURM_JOB_ID >> broken.log; exit 1"

rule killed:
    output: "killed.done"
    shell: "echo $SLURM_JOB_ID >> killed.log; [ $(wc -l < killed.log) = 2 ] || sleep 600; touch {output}"
"""
OPTIONS = """
executor: slurm
jobs: 10
retries: 1
keep-going: true
latency-wait: 5
slurm-status-command: squeue
slurm-init-seconds-before-status-checks: 2
slurm-logdir: logs
default-resources:
  slurm_partition: long
  runtime: 30
  mem_mb: 1000
  gpu: 1
"""


@pytest.fixture
def cluster(tmp_path):
    pytest.importorskip("snakemake_executor_plugin_slurm")
    install()
    with Cluster(tmp_path / "slurm") as cluster:
        yield cluster


def test_snakemake_on_slurm(cluster, tmp_path):
    work = tmp_path / "work"
    (work / "profile").mkdir(parents=True)
    (work / "Snakefile").write_text(WORKFLOW)
    (work / "profile" / "config.yaml").write_text(OPTIONS)
    with (work / "log").open("w") as log:
        words = [sys.executable, "-m", "snakemake", "--profile", "profile"]
        snakemake = subprocess.Popen(words, cwd=work, env=cluster.environment, stdout=log, stderr=log)

    def tries(name: str) -> list[str]:
        """The SLURM jobs that have started a rule's job."""
        log = work / f"{name}.log"
        return log.read_text().split() if log.exists() else []

    def state(number: str) -> str:
        return next(job.state for job in cluster.jobs() if job.number == number)

    cluster.wait(lambda: any(map(tries, "abc")), 60)
    [first, *_] = [number for name in "abc" for number in tries(name)]
    cluster.kill_slurmd()
    cluster.wait(lambda: state(first) == "COMPLETING")  # the job is done, but nobody can tidy up after it
    cluster.start_slurmd()
    cluster.wait(lambda: state(first) == "COMPLETED")
    cluster.wait(lambda: tries("killed"), 60)
    cluster.kill_job(tries("killed")[0])

    status = snakemake.wait(120)
    text = (work / "log").read_text()
    assert status == 1, text
    assert sorted(path.name for path in work.glob("*.done")) == ["a.done", "b.done", "c.done", "killed.done"], text
    started = {name: [state(number) for number in tries(name)] for name in ("a", "b", "c", "broken", "killed")}
    assert [started.pop(name) for name in "abc"] == [["COMPLETED"]] * 3, text
    assert started == {"broken": ["FAILED", "FAILED"], "killed": ["FAILED", "COMPLETED"]}, text
