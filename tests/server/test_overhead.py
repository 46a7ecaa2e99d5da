"""The tool that measures what a step costs outside the forward pass: it must find what it times, and time it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests import hollow

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("phase", hollow.PLACES)
def test_every_phase_is_a_function_that_is_there(phase: str) -> None:
    owner, name = hollow.find(hollow.PLACES[phase])
    assert callable(getattr(owner, name))


def test_a_hollow_server_serves_and_its_phases_are_told() -> None:
    """A row for each transport, every phase with some time, all tokens of a step counted."""
    command = [sys.executable, "-m", "tests.bench.step_overhead", "--streams", "2", "--forward-ms", "1"]
    environment = os.environ | {"PYTHONPATH": str(ROOT / "proto")}
    told = subprocess.run(
        [*command, "--seconds", "1", "--experts", "4"], cwd=ROOT, env=environment, capture_output=True, text=True
    )
    assert told.returncode == 0, told.stderr
    head, *rows = (line.split() for line in told.stdout.splitlines())
    assert [row[0] for row in rows] == ["rest", "grpc"]
    for row in rows:
        figures = dict(zip(head, row, strict=True))
        assert float(figures["forward"]) > 0.3 and float(figures["tok/s"]) > 0
        assert all(float(figures[name]) > 0 for name in ("schedule", "inputs", "sample", "routes", "settle", "report"))
        assert all(float(figures[name]) > 0 for name in ("deliver", "text", "event"))
