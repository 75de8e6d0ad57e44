"""A SLURM on this machine only, which it treats as two nodes, one of them with two simulated GPUs, for a test.

Its daemons are started for the test and stopped after it. The GPUs are copies of ``/dev/null``.
"""

import os
import re
import shutil
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

PACKAGES = ("slurmctld", "slurmd", "slurm-client", "munge")
FOLDER = Path("/etc/slurm")  # compiled into Debian's packages; an executor's job steps forget SLURM_CONF
GPU_MODEL = "pretended"
NODES = ("node0", "node1")
CONFIGURATION = """
ClusterName=test
SlurmctldHost={host}(127.0.0.1)
SlurmUser=root
SlurmdUser=root
AuthInfo=socket={folder}/munge.socket
SlurmctldPort={ports[0]}
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd-%n.pid
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool-%n
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core_Memory
SchedulerParameters=sched_interval=1,batch_sched_delay=0
MpiDefault=none
MailProg=/bin/true
MinJobAge=600
KillWait=5
SlurmdParameters=config_overrides
GresTypes=gpu
NodeName={nodes[0]} NodeHostname={host} NodeAddr=127.0.0.1 Port={ports[1]} CPUs=8 RealMemory=16000 Gres=gpu:{model}:2
NodeName={nodes[1]} NodeHostname={host} NodeAddr=127.0.0.1 Port={ports[2]} CPUs=8 RealMemory=16000
PartitionName=cpu Nodes={nodes[0]},{nodes[1]} Default=YES MaxTime=60
PartitionName=gpu Nodes={nodes[0]} MaxTime=60
"""
GPUS = "AutoDetect=off\nNodeName={nodes[0]} Name=gpu Type={model} File={folder}/nvidia[0-1] Flags=nvidia_gpu_env\n"


class UnavailableError(Exception):
    """Why there can be no SLURM on this machine."""


@dataclass(frozen=True)
class Job:
    """What SLURM says of a job.

    Attributes:
        state: such as RUNNING.
        gpus: ids of its GPUs while it runs.
        memory: in MiB.
    """

    number: str
    comment: str
    partition: str
    state: str
    gpus: frozenset[str]
    memory: int


def jobs() -> list[Job]:
    """All jobs since the start."""
    text = subprocess.run(
        ["scontrol", "--oneliner", "--details", "show", "job"], capture_output=True, text=True, check=True
    ).stdout
    return [_job(line) for line in text.splitlines() if line.startswith("JobId=")]


def _job(line: str) -> Job:
    fields = dict(field.split("=", 1) for field in line.split() if "=" in field)
    held = re.search(rf" GRES=gpu:{GPU_MODEL}:\d+\(IDX:([\d,-]+)\)", line)
    gpus = {"0", "1"} if held and "-" in held[1] else set(held[1].split(",") if held else ())
    memory = re.fullmatch(r"(\d+)M", fields["MinMemoryNode"])
    assert memory, line
    state = fields["JobState"]
    return Job(fields["JobId"], fields["Comment"], fields["Partition"], state, frozenset(gpus), int(memory[1]))


def install() -> None:
    """Install SLURM where it is not.

    Raises:
        UnavailableError: if this is not root on Debian, or the packages cannot be had.
    """
    if os.geteuid() != 0:
        raise UnavailableError("only root can run a SLURM of its own")
    if all(map(shutil.which, ("slurmctld", "slurmd", "srun", "munged"))):
        return
    if not shutil.which("apt-get"):
        raise UnavailableError("SLURM is not installed, and without apt-get this test does not install it")
    for command in (["update"], ["install", "--yes", "--no-install-recommends", *PACKAGES]):
        try:
            done = subprocess.run(
                ["apt-get", "--quiet", "--option=Acquire::Retries=1", "--option=Acquire::http::Timeout=20", *command],
                env=os.environ | {"DEBIAN_FRONTEND": "noninteractive"},
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                check=False,
                timeout=120,
            )
        except subprocess.TimeoutExpired:
            raise UnavailableError("SLURM is not installed, and apt-get takes more than two minutes") from None
        if done.returncode:
            raise UnavailableError(f"SLURM is not installed, and apt-get cannot: {done.stdout.strip()[-300:]}")


@contextmanager
def running(folder: Path) -> Iterator[None]:
    """Run SLURM with its files in ``folder``.

    Raises:
        UnavailableError: if this machine has a SLURM of its own, no device files can be made, or it does not start.
    """
    links = {FOLDER / name: folder / name for name in ("slurm.conf", "gres.conf")}
    if any(link.exists() for link in links):
        raise UnavailableError(f"this machine has a SLURM of its own: {FOLDER}")
    host = socket.gethostname().split(".")[0]
    names = {"host": host, "nodes": NODES, "folder": folder, "model": GPU_MODEL, "ports": _free_ports(3)}
    (folder / "slurm.conf").write_text(CONFIGURATION.format(**names))
    (folder / "gres.conf").write_text(GPUS.format(**names))
    (folder / "munge.key").touch(0o600)
    (folder / "munge.key").write_bytes(os.urandom(128))
    (folder / "state").mkdir(0o700)
    for node in NODES:
        (folder / f"spool-{node}").mkdir(0o755)
    with ExitStack() as stack:
        for number in range(2):
            try:
                os.mknod(folder / f"nvidia{number}", 0o020666, Path(os.devnull).stat().st_rdev)
            except PermissionError as error:
                raise UnavailableError("no files of pretended GPUs can be made here") from error
        FOLDER.mkdir(exist_ok=True)
        for link, target in links.items():
            link.unlink(missing_ok=True)  # of a test that was killed
            link.symlink_to(target)
            stack.callback(link.unlink)
        munge = {"socket": "munge.socket", "key-file": "munge.key", "pid-file": "munge.pid", "seed-file": "munge.seed"}
        options = [f"--{option}={folder / name}" for option, name in munge.items()]
        stack.enter_context(_daemon(["munged", "--foreground", "--force", *options], folder / "munged.log"))
        _wait_for(lambda: (folder / "munge.socket").exists(), folder)
        stack.enter_context(_daemon(["slurmctld", "-D", "-c"], folder / "slurmctld.log"))
        for node in NODES:
            stack.enter_context(_daemon(["slurmd", "-D", "-N", node], folder / f"{node}.log"))
        _wait_for(lambda: _says(["sinfo", "--noheader", "--format=%T"]).strip() == "idle", folder)
        stack.callback(_wait_for, lambda: not _says(["squeue", "--noheader"]), folder)
        stack.callback(_says, ["scancel", "--user=root"])
        yield


@contextmanager
def _daemon(command: list[str], log: Path) -> Iterator[None]:
    with log.open("w") as output:
        process = subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT, start_new_session=True)
    try:
        yield
    finally:
        process.terminate()
        process.wait(30)


def _wait_for(condition: Callable[[], bool], folder: Path) -> None:
    deadline = time.monotonic() + 30
    while not condition():
        if time.monotonic() > deadline:
            logs = "\n".join(log.read_text()[-2000:] for log in sorted(folder.glob("*.log")))
            raise UnavailableError(f"SLURM does not start or stop here: {logs}")
        time.sleep(0.2)


def _says(command: list[str]) -> str:
    return subprocess.run(command, capture_output=True, text=True, check=False).stdout


def _free_ports(number: int) -> list[int]:
    with ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(number)]
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in sockets]
