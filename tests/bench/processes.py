"""Whose processor time it is, who listens and what is held, as /proc tells it (Linux)."""

from __future__ import annotations

import os
import signal
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path

PROC = Path("/proc")
TICKS = os.sysconf("SC_CLK_TCK")
LISTEN = "0A"
NOISY_CORES = 0.15  # of others, above which a figure is not to be believed


def end_orderly() -> None:
    """SIGTERM ends this process by SystemExit, so that the servers it started are ended too."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))


def family(pid: int) -> set[int]:
    """A process and all that descend from it, as far as they live."""
    parents = {int(path.name): _stat(path)[1] for path in PROC.iterdir() if path.name.isdigit()}
    found, fresh = set[int](), {pid} & set(parents)
    while fresh:
        found |= fresh
        fresh = {child for child, parent in parents.items() if int(parent or 0) in fresh} - found
    return found


def used_seconds(pids: set[int]) -> float:
    """Processor time of these processes and of children they have buried."""
    return sum(sum(map(int, _stat(PROC / str(pid))[11:15])) for pid in pids) / TICKS


def busy_seconds() -> float:
    """Processor time of everybody, what a hypervisor took away included."""
    user, nice, system, _idle, _wait, *rest = map(int, (PROC / "stat").read_text().split("\n")[0].split()[1:9])
    return (user + nice + system + sum(rest)) / TICKS


def listens(port: int, pids: set[int]) -> bool:
    """Whether one of these processes owns a socket that listens on the port: another program may answer there too."""
    wanted = set[str]()
    for table in ("tcp", "tcp6"):
        for line in (PROC / "net" / table).read_text().splitlines()[1:]:
            cells = line.split()
            if cells[3] == LISTEN and int(cells[1].rpartition(":")[2], 16) == port:
                wanted.add(f"socket:[{cells[9]}]")
    return any(link in wanted for pid in pids for link in _links(pid))


def held_bytes(pids: set[int]) -> int:
    """Memory of these processes, what they share counted once."""
    return sum(_proportional(pid) for pid in pids)


def peak_bytes(pid: int) -> int:
    """The most memory that a process ever had resident."""
    return _field(pid, "status", "VmHWM")


@dataclass
class Others:
    """Cores that programs used which are not ours: `with Others() as others: …; others.cores`. Ours are this process,
    its children, and the families of `also`."""

    also: tuple[int, ...] = ()
    cores: float = 0.0
    _began: tuple[float, float, float] = field(default=(0.0, 0.0, 0.0), repr=False)

    def __enter__(self) -> Others:
        self._began = self._now()
        return self

    def __exit__(self, *_: object) -> None:
        (at, busy, ours), (ended, all_busy, all_ours) = self._began, self._now()
        self.cores = max(0.0, (all_busy - busy) - (all_ours - ours)) / max(ended - at, 1e-9)

    @property
    def noisy(self) -> bool:
        return self.cores > NOISY_CORES

    def _now(self) -> tuple[float, float, float]:
        pids = set().union(*(family(pid) for pid in (os.getpid(), *self.also)))
        return time.perf_counter(), busy_seconds(), used_seconds(pids)


def _stat(path: Path) -> list[str]:
    """What stands in a process's stat behind its name; zeros when it has ended. Index 1 is the parent."""
    try:
        return (path / "stat").read_text().rpartition(") ")[2].split()
    except OSError:
        return ["0"] * 20


def _links(pid: int) -> list[str]:
    found = []
    try:
        for path in (PROC / str(pid) / "fd").iterdir():
            found.append(str(path.readlink()))
    except OSError:  # it ended, or is not ours to look into
        pass
    return found


def _proportional(pid: int) -> int:
    return _field(pid, "smaps_rollup", "Pss") or _field(pid, "status", "VmRSS")


def _field(pid: int, file: str, name: str) -> int:
    try:
        lines = (PROC / str(pid) / file).read_text().splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) << 10 for line in lines if line.startswith(f"{name}:")), 0)
