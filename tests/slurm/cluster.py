"""A real Slurm cluster on this one machine: four nodes (one slurmd each), accounting, fake GPUs; without systemd or cgroups.

Everything lies in one folder, listens on ports of its own, and goes when the cluster is taken down.
"""

import os
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path

from needs import NotHereError

NODES = 4

CONFIGURATION = """
ClusterName=lab
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={port}
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
AuthInfo=socket={lab}/run/munge.socket,cred_expire=5
CredType=cred/munge
StateSaveLocation={lab}/state
SlurmdSpoolDir={lab}/spool/%n
SlurmctldPidFile={lab}/run/slurmctld.pid
SlurmdPidFile={lab}/run/slurmd-%n.pid
SlurmctldLogFile={lab}/log/slurmctld.log
SlurmdLogFile={lab}/log/slurmd-%n.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
SwitchType=switch/none
MpiDefault=none
MailProg=/bin/true
ReturnToService=2
SlurmctldTimeout=10
SlurmdTimeout=10
InactiveLimit=0
KillWait=5
MinJobAge=300
JobRequeue=1
MaxArraySize={largest_array}
SchedulerType=sched/backfill
SchedulerParameters=sched_interval=1,sched_min_interval=0,batch_sched_delay=0,bf_interval=1
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU_Memory
DefMemPerCPU=100
SlurmdParameters=config_overrides
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
GresTypes=gpu
NodeName=node[0-{last}] NodeHostname={host} NodeAddr=127.0.0.1 Port=[{first_port}-{last_port}] {size}
PartitionName=main Nodes=node[0-{last}] Default=YES MaxTime=INFINITE PriorityTier=1 GraceTime=8 LLN=YES State=UP
PartitionName=urgent Nodes=node[0-{last}] MaxTime=INFINITE PriorityTier=2 PreemptMode=OFF State=UP
{accounting}
"""
SIZE = "CPUs=4 RealMemory=16000 Gres=gpu:2 State=UNKNOWN"
ACCOUNTING = """
AccountingStorageType=accounting_storage/slurmdbd
AccountingStorageHost=127.0.0.1
AccountingStoragePort={dbd_port}
AccountingStoragePass={lab}/run/munge.socket
AccountingStorageEnforce=limits
"""
DATABASE = """
DbdHost={host}
DbdAddr=127.0.0.1
DbdPort={dbd_port}
SlurmUser=root
AuthType=auth/munge
AuthInfo=socket={lab}/run/munge.socket
PidFile={lab}/run/slurmdbd.pid
LogFile={lab}/log/slurmdbd.log
StorageType=accounting_storage/mysql
StorageHost=127.0.0.1
StoragePort={mysql_port}
StorageUser=slurm
StoragePass=slurm
StorageLoc=slurm_acct_db
"""
USERS = """
CREATE DATABASE IF NOT EXISTS slurm_acct_db;
CREATE USER IF NOT EXISTS 'slurm'@'127.0.0.1' IDENTIFIED BY 'slurm';
GRANT ALL ON slurm_acct_db.* TO 'slurm'@'127.0.0.1';
"""
# The database need not survive a power cut.
MARIADB = (
    "--no-defaults",
    "--user=mysql",
    "--innodb-log-file-size=16M",
    "--innodb-flush-log-at-trx-commit=0",
    "--innodb-flush-method=nosync",
)


def wait_for(what: Callable[[], object], name: str, seconds: float = 60.0) -> None:
    """Wait until something is so."""
    deadline = time.monotonic() + seconds
    while not what():
        if time.monotonic() > deadline:
            raise TimeoutError(f"{name}: not after {seconds:.0f} s")
        time.sleep(0.05)


class Cluster:
    """A cluster in a folder of its own, which the database's user can enter."""

    def __init__(self, *, port: int, accounting: bool = True, largest_array: int = 1001) -> None:
        lab = self.lab = Path(tempfile.mkdtemp(prefix="spac-repro-slurm-"))
        self.accounting = accounting
        self.started: list[subprocess.Popen[bytes]] = []
        host = subprocess.run(["hostname", "-s"], capture_output=True, text=True, check=True).stdout.strip()
        self.fields = {
            "lab": lab,
            "host": host,
            "port": port,
            "dbd_port": port + 1,
            "mysql_port": port + 2,
            "first_port": port + 10,
            "last_port": port + 9 + NODES,
            "last": NODES - 1,
            "size": SIZE,
            "largest_array": largest_array,
        }
        self.before = os.environ.get("SLURM_CONF")
        os.environ["SLURM_CONF"] = str(lab / "etc" / "slurm.conf")

    def up(self) -> None:
        """Start everything, and wait until all nodes are idle."""
        if os.geteuid() != 0:
            raise NotHereError("only root may start Slurm's daemons")
        self._configure()
        self._start_munge()
        if self.accounting:
            self._start_accounting()
        self._run("slurmctld")
        for node in range(NODES):
            self.start_node(node)
        wait_for(lambda: self._ok("scontrol", "ping"), "slurmctld")
        wait_for(lambda: len(self.ask("sinfo", "-hN", "-p", "main", "-t", "idle", "-o", "%N").split()) == NODES, "idle nodes")

    def down(self) -> None:
        """Stop the jobs, then what was started, by its process number; remove the folder."""
        if (self.lab / "run" / "slurmctld.pid").exists():
            for arguments in (["--state=PENDING"], ["--full", "--signal=KILL"], []):
                with suppress(subprocess.TimeoutExpired):
                    subprocess.run(["scancel", *arguments, "-u", "root"], capture_output=True, timeout=20)
            deadline = time.monotonic() + 20
            while self.ask("squeue", "-h") and time.monotonic() < deadline:
                time.sleep(0.2)
        for name in ("slurmctld", "slurmd-*", "slurmdbd", "mariadbd", "munged"):
            for file in (self.lab / "run").glob(f"{name}.pid"):
                _stop(int(file.read_text()), name.removesuffix("-*"))
        for process in self.started:
            process.wait(timeout=20)
        shutil.rmtree(self.lab, ignore_errors=True)
        os.environ.pop("SLURM_CONF", None)
        if self.before is not None:
            os.environ["SLURM_CONF"] = self.before

    def state(self) -> str:
        """Its jobs, nodes and last decisions, for the report of a test that failed."""
        asked = [["squeue", "--all", "--long"], ["sinfo", "--long", "--Node"], ["tail", "-60", f"{self.lab}/log/slurmctld.log"]]
        said = [subprocess.run(command, capture_output=True, text=True, timeout=30, check=False) for command in asked]
        return "\n".join(answer.stdout + answer.stderr for answer in said)

    def start_node(self, node: int, *before: str) -> None:
        """Start a node's slurmd; `before` are words in front of it."""
        self._run(*before, "slurmd", "-N", f"node{node}")

    def stop_node(self, node: int) -> None:
        """Stop a node's slurmd alone; what runs there goes on."""
        _stop(self._slurmd(node), "slurmd")

    def kill_node(self, node: int) -> None:
        """Kill a node's slurmd and every step on it, as a loss of power would."""
        pid = self._slurmd(node)
        steps = [pid for pid in _processes("slurmstepd") if f"node{node}" in self._node_of(pid)]
        for victim in (pid, *steps, *(child for step in steps for child in _below(step))):
            _kill(victim)
        (self.lab / "run" / f"slurmd-node{node}.pid").unlink(missing_ok=True)

    def ask(self, *command: str) -> str:
        """What a command prints."""
        return subprocess.run(command, capture_output=True, text=True, timeout=60).stdout.strip()

    # The parts

    def _configure(self) -> None:
        for name in ("etc", "run", "log", "state", "dev", "munge", "db", *(f"spool/node{node}" for node in range(NODES))):
            (self.lab / name).mkdir(parents=True)
        for ours in (self.lab, self.lab / "munge", self.lab / "run"):
            ours.chmod(0o755)
        host = self.fields["host"]
        if subprocess.run(["getent", "hosts", str(host)], capture_output=True).returncode:
            raise NotHereError(f"this machine does not know its own name: add `127.0.0.1 {host}` to /etc/hosts")
        for gpu in range(2):  # what a GPU is to Slurm: a device file; these are /dev/null's twins
            os.mknod(self.lab / "dev" / f"nvidia{gpu}", 0o20666, os.makedev(1, 3))
        accounting = ACCOUNTING.format(**self.fields) if self.accounting else "AccountingStorageType=accounting_storage/none"
        self._write("slurm.conf", CONFIGURATION.format(**self.fields, accounting=accounting))
        self._write("gres.conf", f"NodeName=node[0-{NODES - 1}] Name=gpu File={self.lab}/dev/nvidia[0-1]\n")
        self._write("slurmdbd.conf", DATABASE.format(**self.fields)).chmod(0o600)
        self._write("users.sql", USERS)

    def _start_munge(self) -> None:
        key = self.lab / "munge" / "key"
        key.write_bytes(os.urandom(128))
        key.chmod(0o400)
        files = {"key-file": key, "seed-file": self.lab / "munge" / "seed", "log-file": self.lab / "log" / "munged.log"}
        run = {"socket": self.lab / "run" / "munge.socket", "pid-file": self.lab / "run" / "munged.pid"}
        self._run("munged", "--force", *(f"--{name}={path}" for name, path in {**files, **run}.items()))
        wait_for(lambda: self._ok("munge", "-n", "-S", str(run["socket"])), "munged")

    def _start_accounting(self) -> None:
        data, sockets = self.lab / "db" / "data", self.lab / "run" / "db"
        sockets.mkdir()
        for folder in (self.lab / "db", sockets):
            shutil.chown(folder, "mysql")
        self._run("mariadb-install-db", *MARIADB, f"--datadir={data}", "--auth-root-authentication-method=normal", "--skip-test-db")
        with (self.lab / "log" / "mariadbd.log").open("wb") as log:
            database = subprocess.Popen(
                [
                    *("mariadbd", *MARIADB, f"--datadir={data}", f"--socket={sockets}/mysql.sock", "--bind-address=127.0.0.1"),
                    *(f"--port={self.fields['mysql_port']}", "--skip-name-resolve", f"--init-file={self.lab}/etc/users.sql"),
                    *("--innodb-buffer-pool-size=64M", "--innodb-lock-wait-timeout=900"),
                ],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        self.started.append(database)
        (self.lab / "run" / "mariadbd.pid").write_text(str(database.pid))
        login = ("-h127.0.0.1", f"-P{self.fields['mysql_port']}", "-uslurm", "-pslurm", "slurm_acct_db")
        wait_for(lambda: self._ok("mariadb", "--no-defaults", *login, "-e", "select 1"), "mariadbd")
        self._run("slurmdbd")
        wait_for(lambda: self._ok("sacctmgr", "-n", "list", "cluster"), "slurmdbd")
        for arguments in (["cluster", "lab"], ["account", "science"], ["user", "root", "account=science"]):
            subprocess.run(["sacctmgr", "-i", "add", *arguments], capture_output=True, check=True)

    def _write(self, name: str, text: str) -> Path:
        file = self.lab / "etc" / name
        file.write_text(text)
        return file

    def _run(self, *command: str) -> None:
        """Run what ends soon, or puts itself into the background."""
        with (self.lab / "log" / "start.log").open("ab") as log:
            subprocess.run(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, check=True, timeout=60)

    def _ok(self, *command: str) -> bool:
        return subprocess.run(command, capture_output=True).returncode == 0

    def _slurmd(self, node: int) -> int:
        return int((self.lab / "run" / f"slurmd-node{node}.pid").read_text())

    def _node_of(self, step: int) -> str:
        """The node of a step: in the variables of what it started."""
        names = [value for pid in _below(step) for value in _variables(pid) if value.startswith("SLURMD_NODENAME=")]
        return names[0] if names else ""


def _processes(name: str) -> list[int]:
    return [int(path.name) for path in Path("/proc").glob("[0-9]*") if _comm(path).startswith(name)]


def _comm(process: Path) -> str:
    try:
        return (process / "comm").read_text().strip()
    except OSError:
        return ""


def _variables(pid: int) -> Sequence[str]:
    try:
        return Path(f"/proc/{pid}/environ").read_text(errors="replace").split("\0")
    except OSError:
        return ()


def _below(pid: int) -> list[int]:
    """All descendants of a process, the nearest first."""
    try:
        children = [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    except OSError:
        return []
    return [*children, *(below for child in children for below in _below(child))]


def _stop(pid: int, name: str) -> None:
    """End a daemon that we started, if that is still who has the number."""
    if not _comm(Path(f"/proc/{pid}")).startswith(name[:15]):
        return
    os.kill(pid, signal.SIGTERM)
    deadline = time.monotonic() + 20
    while _comm(Path(f"/proc/{pid}")).startswith(name[:15]):
        if _state(pid) == "Z":
            return
        if time.monotonic() > deadline:
            _kill(pid)
        time.sleep(0.1)


def _state(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return ""


def _kill(pid: int) -> None:
    with suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)
