"""Which machine this is, in a few words and as a key, and where what is measured and built for it is kept. No torch."""

from __future__ import annotations

import functools
import hashlib
import os
import platform
import tempfile
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path

CACHES = Path("/sys/devices/system/cpu/cpu0/cache")
CGROUPS, OWN_GROUPS = Path("/sys/fs/cgroup"), Path("/proc/self/cgroup")


@functools.cache
def words() -> str:
    """The machine in words for people: "AMD EPYC, 2 cores, 25 GB, torch 2.13.0"."""
    return f"{processor().get('model name', platform.machine())}, {cores()} cores, {memory() / 1e9:.0f} GB, {_torch()}"


@functools.cache
def fingerprint() -> str:
    """A key that changes with the processor, the cores this process may use, the memory and PyTorch: figures under
    different keys are not comparable."""
    found = processor()
    parts = (platform.machine(), found.get("model name", ""), found.get("flags", found.get("Features", "")))
    digest = hashlib.sha256("\0".join((*parts, str(cores()), f"{memory() >> 30}", _torch())).encode())
    return digest.hexdigest()[:16]


def processor() -> dict[str, str]:
    """The fields of the first processor in Linux's /proc/cpuinfo; empty elsewhere."""
    try:
        first = Path("/proc/cpuinfo").read_text().split("\n\n")[0]
    except OSError:
        return {}
    pairs = (line.partition(":") for line in first.splitlines())
    return {name.strip(): value.strip() for name, _, value in pairs}


def cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def memory() -> int:
    """Bytes of memory of this machine."""
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def room() -> int:
    """Bytes that this process may still fill: of the machine's memory, or of the least that a container or a service
    manager leaves it (cgroup v2), what it does not hold already."""
    return max(0, min([memory(), *_limits()]) - _held())


def _limits() -> Iterator[int]:
    """Memory limits in bytes of this process's control group and of those around it, as far as they can be seen."""
    try:
        groups = OWN_GROUPS.read_text().splitlines()
    except OSError:
        return
    own = CGROUPS / next((line[4:] for line in groups if line.startswith("0::/")), "")
    for group in (own, *own.parents):
        try:
            limit = (group / "memory.max").read_text().strip()
        except OSError:
            continue
        if limit != "max":
            yield int(limit)


def _held() -> int:
    """Bytes this process holds; its control group also counts cached files, which give way when memory is needed."""
    try:
        return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except OSError:
        return 0


def last_cache() -> int:
    """Bytes of the processor's largest cache; 32 MiB where it does not tell."""
    sizes = [0]
    for path in CACHES.glob("index*/size"):
        text = path.read_text().strip()
        number, unit = text.rstrip("KM"), text[-1:]
        sizes.append(int(number) * {"K": 1 << 10, "M": 1 << 20}.get(unit, 1))
    return max(sizes) or 32 << 20


def folder(room: str) -> Path:
    """A folder of the user's cache, made where missing, readable by nobody else; a temporary one where that fails."""
    base = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    try:
        found = Path(base) / "dyno" / room
        found.mkdir(mode=0o700, parents=True, exist_ok=True)
        if os.access(found, os.W_OK):
            return found
    except (OSError, RuntimeError):
        pass
    return Path(tempfile.mkdtemp(prefix=f"dyno-{room}-"))


def _torch() -> str:
    return f"torch {version('torch')}"
