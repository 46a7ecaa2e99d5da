"""What is left of the memory: the machine's, or that of a container, less what this process holds."""

from __future__ import annotations

from pathlib import Path

import pytest

from model import machine

GIB = 1 << 30


@pytest.mark.parametrize(
    ("own", "limits", "room"),
    [
        ("0::/", {"": "max"}, 64),
        ("0::/", {"": str(8 * GIB)}, 8),
        ("0::/", {"": str(128 * GIB)}, 64),
        ("4:memory:/old\n0::/pods/one", {"": "max", "pods": str(16 * GIB), "pods/one": "max"}, 16),
        ("0::/pods/one", {"pods": str(16 * GIB), "pods/one": str(4 * GIB)}, 4),
        ("0::/seen/from/outside", {"": str(4 * GIB)}, 4),
        ("4:memory:/", {}, 64),
        (None, {"": str(4 * GIB)}, 64),
    ],
    ids=["none", "container", "more than there is", "around", "both", "outside", "version 1", "no groups"],
)
def test_the_least_limit_counts(
    own: str | None, limits: dict[str, str], room: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    groups, file = tmp_path / "cgroup", tmp_path / "self"
    for path, limit in limits.items():
        (groups / path).mkdir(parents=True, exist_ok=True)
        (groups / path / "memory.max").write_text(f"{limit}\n")
    if own is not None:
        file.write_text(f"{own}\n")
    monkeypatch.setattr(machine, "CGROUPS", groups)
    monkeypatch.setattr(machine, "OWN_GROUPS", file)
    monkeypatch.setattr(machine, "memory", lambda: 64 * GIB)
    monkeypatch.setattr(machine, "_held", lambda: 3 * GIB)
    assert machine.room() == (room - 3) * GIB


def test_what_the_process_holds_is_not_left() -> None:
    before = machine.room()
    held = b"x" * (1 << 28)
    assert before - machine.room() > len(held) // 2
