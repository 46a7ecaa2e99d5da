"""A server process over fakes: `python -m tests.server.entry` with the server's flags; model names choose the fake."""

from __future__ import annotations

import asyncio
import sys
import time

from server import logs, process
from server.__main__ import leave
from server.app import run
from server.config import Settings, load
from server.engine.stats import Observer
from server.engine.step import DeviceLost, Step
from server.models import ServedModel
from server.premises import StartupError
from tests.server.kit import ModelOf, fake_model


def deadly(step: Step) -> None:
    """What nothing can be run after."""
    if any(bytes(row.request.prompt) == b"poison" for row in step.rows):
        raise DeviceLost("the device is gone")


MODELS: dict[str, ModelOf] = {
    "fake": fake_model("fake"),
    "slow": fake_model("slow", sleep=0.02),
    "mortal": fake_model("mortal", fault=deadly),
}


def build(settings: Settings, observer: Observer, *, measures: bool = True) -> list[ServedModel]:
    """`late` takes a second to load, `bad` cannot be loaded."""
    names = settings.model
    if "bad" in names:
        raise StartupError("model bad: the file ends too early")
    if "late" in names:
        time.sleep(1.0)
    return [MODELS.get(name, MODELS["fake"])(observer) for name in names]


def main() -> int:
    settings = load(sys.argv[1:])
    logs.configure(settings.log_level)
    try:
        with asyncio.Runner(loop_factory=process.loop_factory()) as runner:
            return runner.run(run(settings, build))
    except StartupError as error:
        print(f"dyno serve: {error}", file=sys.stderr)
        return 1


if __name__ == "__main__":
    leave(main())
