"""A sweep on a real SLURM of one machine, started and stopped by these tests: `make test-slurm`.

It uses the programs of Debian's packages slurmctld, slurmd and slurm-client, and needs no special
permissions.
"""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import pytest
from programs import ON_THE_CPU, ROOT, run_python
from small_sweep import bounds

pytestmark = pytest.mark.slurm

CONFIG = [
    "experiments/run.py",
    f"--config={ROOT / 'tests' / 'support' / 'small_run.py'}",
    "--config.train.num_examples=200000",
    "--sweep",
]
SLURM = ["--launcher=slurm", "--slurm=time=5"]


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("", 0))
        return found.getsockname()[1]


def configuration(folder: Path) -> str:
    """Returns the configuration of one node with two cores, without accounts and passwords.

    A job that is queued again waits for seconds, not for the usual two minutes.
    """
    user = os.environ.get("USER") or "root"
    return f"""
ClusterName=one
SlurmctldHost={socket.gethostname()}(127.0.0.1)
SlurmUser={user}
SlurmdUser={user}
AuthType=auth/none
AuthInfo=cred_expire=5
CredType=cred/none
SlurmctldPort={free_port()}
SlurmdPort={free_port()}
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
SwitchType=switch/none
MpiDefault=none
ReturnToService=2
NodeName=node NodeHostname={socket.gethostname()} NodeAddr=127.0.0.1 CPUs=2 State=UNKNOWN
PartitionName=all Nodes=ALL Default=YES MaxTime=INFINITE State=UP
"""


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mapping[str, str]]:
    """Yields the environment in which SLURM's programs find the cluster."""
    missing = [name for name in ("slurmctld", "slurmd", "sbatch") if not shutil.which(name)]
    assert not missing, f"no {missing}: apt-get install slurmctld slurmd slurm-client"
    folder = tmp_path_factory.mktemp("slurm")
    for name in ("state", "spool"):
        (folder / name).mkdir()
    (folder / "slurm.conf").write_text(configuration(folder))
    env = {**os.environ, **ON_THE_CPU, "SLURM_CONF": str(folder / "slurm.conf")}
    daemons = []
    for command in (["slurmctld", "-D"], ["slurmd", "-D", "-N", "node"]):
        log = (folder / f"{command[0]}.log").open("w")
        daemons.append(subprocess.Popen(command, env=env, stdout=log, stderr=log))
    try:
        until = time.monotonic() + 300
        while "idle" not in told(env, "sinfo", "--noheader"):
            assert time.monotonic() < until, (folder / "slurmd.log").read_text()
            time.sleep(0.5)
        yield env
    finally:
        for daemon in reversed(daemons):
            daemon.terminate()
            daemon.wait(30)


def told(env: Mapping[str, str], *command: str) -> str:
    return subprocess.run(command, env=env, capture_output=True, text=True, check=False).stdout


def start(env: Mapping[str, str], folder: Path, *more: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, *CONFIG, *SLURM, f"--workdir={folder}", *more],
        cwd=ROOT,
        env=env,
        stderr=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )


def wait_for(ready: Callable[[], object], process: subprocess.Popen[str]) -> None:
    while not ready():
        assert process.poll() is None, process.communicate()
        time.sleep(0.1)


def finished(process: subprocess.Popen[str], status: int = 0) -> str:
    out, err = process.communicate(timeout=400)
    assert process.returncode == status, out + err
    return out


def jobs(folder: Path) -> dict[str, str]:
    return json.loads((folder / "jobs" / "jobs.json").read_text())


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> dict[str, float]:
    """Returns the bounds of the same sweep in one process."""
    folder = tmp_path_factory.mktemp("undisturbed")
    done = run_python(*CONFIG, "--mapping=sequence", f"--workdir={folder}")
    assert done.returncode == 0, done.stderr
    return bounds(folder)


def test_a_slurm_array_gives_the_results_of_a_sweep_in_one_process(
    cluster: Mapping[str, str], undisturbed: dict[str, float], tmp_path: Path
):
    out = finished(start(cluster, tmp_path))
    assert "launcher: slurm" in out
    assert bounds(tmp_path) == undisturbed
    assert len(jobs(tmp_path)) == 4
    (array,) = {job.partition("_")[0] for job in jobs(tmp_path).values()}
    assert f"{tmp_path / 'sweep.json'}" in out
    assert array.isdecimal()


@pytest.mark.parametrize("number", [signal.SIGUSR2, signal.SIGTERM, signal.SIGKILL])
def test_a_stopped_or_killed_slurm_job_is_queued_again_and_resumes(
    number: signal.Signals,
    cluster: Mapping[str, str],
    undisturbed: dict[str, float],
    tmp_path: Path,
):
    """After SIGUSR2, submitit has SLURM queue the same job again; otherwise there is a new job."""
    process = start(cluster, tmp_path, "--axis=model.num_latents=2")
    wait_for(lambda: list(tmp_path.rglob("metrics.jsonl")), process)
    (log, *_) = tmp_path.rglob("metrics.jsonl")
    name, first = log.parent.name, jobs(tmp_path)
    if number == signal.SIGKILL:  # `scancel` would count as a request of the user
        subprocess.run(["pkill", "-KILL", "-f", f"_submit {tmp_path}"], check=True)
    else:
        told(cluster, "scancel", f"--signal={number.name.removeprefix('SIG')}", first[name])
    out = finished(process)
    assert "failed" not in out
    assert bounds(tmp_path).items() <= undisturbed.items()
    assert len(bounds(tmp_path)) == 2
    examples = [json.loads(line)["examples"] for line in log.read_text().splitlines()]
    assert examples == sorted(set(examples))
    words = "".join(path.read_text() for path in (tmp_path / "jobs").glob("*_log.*"))
    assert (jobs(tmp_path)[name] == first[name]) == (number == signal.SIGUSR2)
    # SLURM can end the job before submitit writes that it has queued it again.
    assert number != signal.SIGUSR2 or "resuming from the checkpoint" in words


def test_a_job_that_is_cancelled_is_reported_and_the_same_command_runs_it(
    cluster: Mapping[str, str], undisturbed: dict[str, float], tmp_path: Path
):
    process = start(cluster, tmp_path)
    wait_for(lambda: (tmp_path / "jobs" / "jobs.json").exists(), process)
    name, job = next(iter(jobs(tmp_path).items()))
    told(cluster, "scancel", job)
    out = finished(process, status=3)
    assert f"{name} failed: job {job} was cancelled" in out
    assert len(bounds(tmp_path)) == 3
    finished(start(cluster, tmp_path))
    assert bounds(tmp_path) == undisturbed


def test_slurm_jobs_continue_without_the_command_and_are_found_by_the_next(
    cluster: Mapping[str, str], undisturbed: dict[str, float], tmp_path: Path
):
    process = start(cluster, tmp_path)
    wait_for(lambda: (tmp_path / "jobs" / "jobs.json").exists(), process)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=300)
    assert process.returncode == 128 + signal.SIGINT, err
    first = jobs(tmp_path)
    (array,) = {job.partition("_")[0] for job in first.values()}
    assert f"SLURM continues with job {array}; `scancel {array}` ends it" in err
    finished(start(cluster, tmp_path))
    assert jobs(tmp_path) == first
    assert bounds(tmp_path) == undisturbed


def test_a_refusal_by_slurm_is_reported_in_one_line(cluster: Mapping[str, str], tmp_path: Path):
    process = start(cluster, tmp_path, "--slurm=partition=gqu")
    _, err = process.communicate(timeout=300)
    assert process.returncode == 2
    assert "invalid partition" in err.splitlines()[-1]
    assert "Traceback" not in err
