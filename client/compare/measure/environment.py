"""Where a comparison was made: what a reader needs to judge whether it carries over."""

from __future__ import annotations

import os
import platform
import subprocess
from importlib.metadata import version
from pathlib import Path
from typing import Any

from client.compare.plan.experiment import Experiment

_THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "DYNO_THREADS")


def environment(experiment: Experiment) -> dict[str, Any]:
    """What is known of the machine, the programs and their settings, as JSON values."""
    told = {
        "dyno": version("dyno"),
        "commit": _commit(),
        "python": platform.python_version(),
        "system": platform.platform(),
        "processor": _processor(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "load_average": os.getloadavg()[0],  # of other programs too, just before the first measurement
        "memory": _memory(),
        "threads": {name: os.environ[name] for name in _THREADS if name in os.environ},
        "server flags": " ".join(experiment.flags),
        "server cores": list(experiment.cores),
        "client cores": list(experiment.client_cores),
    }
    return {name: value for name, value in told.items() if value not in ("", [], {})}


def _commit() -> str:
    """The commit of this file's working copy, with a plus where that was changed; empty where it is in none."""
    git = ["git", "--no-optional-locks", "-C", str(Path(__file__).parent)]
    try:
        _, commit, changed = (
            subprocess.run([*git, *words], capture_output=True, text=True, timeout=10, check=True).stdout.strip()
            for words in (
                ["ls-files", "--error-unmatch", __file__],
                ["rev-parse", "--short=12", "HEAD"],
                ["status", "--porcelain", "--untracked-files=no"],
            )
        )
    except (OSError, subprocess.SubprocessError):
        return ""
    return commit + ("+" if changed else "")


def _memory() -> str:
    """The size of the machine's memory; empty where nothing tells."""
    try:
        return f"{os.sysconf('SC_PAGE_SIZE') * os.sysconf('SC_PHYS_PAGES') / 2**30:.1f} GiB"
    except (ValueError, OSError, AttributeError):
        return ""


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), platform.machine())
