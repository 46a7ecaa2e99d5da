"""Figures of an earlier day on the same machine, to compare with. Kept in the user's cache, one file a machine."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from model import machine
from tests.bench.figure import Figure

ROOT = Path(__file__).parents[2]


class Baseline:
    """What `save` kept; empty before the first time."""

    def __init__(self, folder: Path | None = None) -> None:
        self.path = (folder or machine.folder("bench")) / f"{machine.fingerprint()}.json"
        try:
            self._known: dict[str, dict[str, Any]] = json.loads(self.path.read_text())
        except (OSError, ValueError):
            self._known = {}

    def speed(self, figure: Figure) -> float | None:
        """How many times as fast as then; None where there is nothing to compare with."""
        known = self._known.get(figure.name)
        if known is None or known["unit"] != figure.unit:
            return None
        return figure.speed_against(known["value"])

    def origin(self) -> str:
        """When and at which commit the oldest of its figures was saved."""
        if not self._known:
            return "no baseline of this machine yet: --save makes one"
        oldest = min(self._known.values(), key=lambda known: known["when"])
        return f"against the baseline of {oldest['when']}, commit {oldest['commit']}"

    def save(self, figures: Sequence[Figure]) -> None:
        """These take the place of those of the same name; others stay."""
        stamp = {"when": datetime.now(UTC).isoformat(timespec="minutes"), "commit": _commit()}
        fresh = {f.name: {"value": f.value, "unit": f.unit, "spread": f.spread, **stamp} for f in figures}
        self._known |= fresh
        self.path.write_text(json.dumps(self._known, indent=1))


def _commit() -> str:
    command = ["git", "describe", "--always", "--dirty"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    return done.stdout.strip() or "unknown"
