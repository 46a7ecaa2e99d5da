"""The real application over models that count on their fingers, on free ports of this machine, in this process."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import aiohttp
import fastapi.dependencies.models
from prometheus_client.parser import text_string_to_metric_families

from model.config import Architecture, Attention, Block, FeedForward, Full, Grouped, MoE
from model.costs import Costs
from model.tokenizer import ByteTokenizer
from server.app import Application
from server.config import Settings
from server.engine.engine import Engine
from server.engine.stats import Observer
from server.engine.step import CacheGroup, DeviceLost, MixtureShape, Pick, Row, Step
from server.limits import Limits
from server.models import ServedModel, split_spec
from tests.fakes import FakeRunner

VOCAB = 257
CONTEXT = 256
EXPERTS, ACTIVE, LAYERS = 4, 2, 2
BLOCK = 4
BLOCKS = 65  # one of them stands for none: 256 tokens

ModelOf = Callable[[Observer], ServedModel]
Labels = tuple[tuple[str, str], ...]


class ChatBytes(ByteTokenizer):
    """Bytes, with the plainest of chat templates."""

    @property
    def chat(self) -> bool:
        return True

    def render_chat(self, messages: Sequence[dict[str, str]]) -> list[int]:
        if messages[0]["role"] == "assistant":
            raise ValueError("messages: the assistant cannot speak first")
        if messages[0]["content"] == "render nothing":
            return []
        return self.encode("".join(f"{m['role']}: {m['content']}\n" for m in messages) + "assistant: ")


class ScriptRunner(FakeRunner):
    """Says the same text whatever the prompt, then its end token."""

    def __init__(self, script: bytes | Sequence[int], **more: Any) -> None:
        super().__init__(**more)
        self.script = [*script, VOCAB - 1]

    def _draw(self, row: Row, pick: Pick) -> int:
        return self.script[min(pick.number, len(self.script) - 1)]


def architecture(*, moe: bool = True, context: int = CONTEXT) -> Architecture:
    expert = FeedForward(8)
    branches = (Attention(Grouped(2, 1, 4)), MoE(EXPERTS, ACTIVE, expert) if moe else expert)
    return Architecture(VOCAB, 8, context, (Block(branches),) * LAYERS)


def fake_model(
    name: str = "fake",
    *,
    chat: bool = False,
    moe: bool = True,
    context: int = CONTEXT,
    blocks: int = BLOCKS,
    rows: int = 8,
    speculate: int = 0,
    script: bytes | Sequence[int] | None = None,
    **runner: Any,
) -> ModelOf:
    """A served model over a FakeRunner; `script` makes it say that. `runner`: more arguments of the runner."""
    mixtures = tuple(MixtureShape(layer, EXPERTS, ACTIVE) for layer in range(LAYERS)) if moe else ()
    runner |= {"groups": (CacheGroup(Full(), blocks, 1024),), "block_size": BLOCK, "mixtures": mixtures}

    def build(observer: Observer) -> ServedModel:
        runner.setdefault("costs", Costs.of(architecture(moe=moe, context=context), 4, 4))
        made = FakeRunner(vocab=VOCAB, **runner) if script is None else ScriptRunner(script, vocab=VOCAB, **runner)
        engine = Engine(name, made, observer=observer, max_batch_tokens=64, max_rows=rows, speculate=speculate)
        tokenizer = ChatBytes() if chat else ByteTokenizer()
        return ServedModel(name, architecture(moe=moe, context=context), tokenizer, engine, "float32", (2000, 1000))

    return build


@dataclass
class Harness:
    """A running application and a session to call it with."""

    app: Application
    session: aiohttp.ClientSession
    models: dict[str, ServedModel] = field(default_factory=dict)
    left: bool = False

    @property
    def url(self) -> str:
        return f"http{'s' if self.app.settings.tls else ''}://127.0.0.1:{self.app.http_port}"

    @property
    def target(self) -> str:
        return f"127.0.0.1:{self.app.grpc_port}"

    async def leave(self) -> None:
        """End it as a process does that was told to."""
        self.left = True
        await self.app.drain()
        await self.app.stop()

    def hurry(self) -> None:
        """From now on no step takes time: what was seen under way comes to its end at once."""
        for model in self.models.values():
            model.engine._runner._sleep = 0.0  # type: ignore[attr-defined]

    async def series(self, *names: str) -> dict[tuple[str, Labels], float]:
        """The samples of /metrics by name and labels: all, or those whose names begin like one of these."""
        async with self.session.get(f"{self.url}/metrics") as response:
            text = await response.text()
        if names:  # there are thousands, and the parser is slow
            text = "".join(line for line in text.splitlines(keepends=True) if line.startswith(names))
        return {
            (sample.name, tuple(sorted(sample.labels.items()))): sample.value
            for family in text_string_to_metric_families(text)
            for sample in family.samples
        }

    async def total(self, name: str, **labels: str) -> float:
        """The sum of a metric's samples that have these labels."""
        wanted = set(labels.items())
        return sum(
            value for (found, have), value in (await self.series(name)).items() if found == name and wanted <= {*have}
        )

    async def settled(self, seconds: float = 5.0) -> None:
        """Within this time nothing of any request is left: not in the service, an engine or a cache, nor uncounted."""
        give_up = time.monotonic() + seconds
        while (left := await self._left()) and time.monotonic() < give_up:  # noqa: ASYNC110
            await asyncio.sleep(0.005)
        assert not left, left
        for model in self.models.values():
            model.engine.check()

    async def _left(self) -> str:
        """What is left, in words."""
        if not self._idle():
            return "requests are in flight"
        series = await self.series("dyno_requests_", "dyno_cache_blocks_used")
        for (name, labels), value in series.items():
            if name in ("dyno_requests_running", "dyno_requests_waiting", "dyno_cache_blocks_used") and value:
                return f"{name} {labels} is {value}"
        received = sum(v for (name, _), v in series.items() if name == "dyno_requests_received_total")
        ended = sum(v for (name, _), v in series.items() if name == "dyno_requests_total")
        return "" if received == ended else f"{received} requests came in, {ended} ended"

    def _idle(self) -> bool:
        return not self.app.service.active and not any(model.engine.has_work for model in self.models.values())


def settings(**more: Any) -> Settings:
    return Settings(**{"model": ("fake",), "port": 0, "grpc_port": 0, "measure_machine": False, "debug": True, **more})


def build_fakes(settings: Settings, observer: Observer, *, measures: bool = True) -> list[ServedModel]:
    """What can be loaded into an application that runs: ID=KIND, of these kinds."""
    return [_build_fake(*split_spec(spec), settings, observer) for spec in settings.model]


class _Compiling:
    """Takes its time, once."""

    done = False

    def __call__(self, step: Step) -> None:
        if not self.done:
            self.done = True
            time.sleep(0.5)


def _lose(step: Step) -> None:
    raise DeviceLost("the device is gone")


def _build_fake(name: str, kind: str, settings: Settings, observer: Observer) -> ServedModel:
    match kind:
        case "bad":
            raise ValueError("the file ends too early")
        case "late":
            time.sleep(0.3)
        case "failing":
            return fake_model(name, nan=lambda row: True)(observer)
        case "dying":
            return fake_model(name, fault=_lose)(observer)
        case "compiling":  # has something to build in its first pass
            return fake_model(name, fault=_Compiling())(observer)
        case "seeded":  # says the settings it was built with
            said = f"{settings.seed} {settings.scale} {settings.cache_tokens}"
            return fake_model(name, script=said.encode())(observer)
        case "slow":
            return fake_model(name, sleep=0.01)(observer)
    return fake_model(name)(observer)


@contextlib.asynccontextmanager
async def running(
    *models: ModelOf, limits: Limits | None = None, loading: bool = False, **more: Any
) -> AsyncIterator[Harness]:
    """The application serving these models; with `loading` its listeners only. `more` are settings."""
    app = Application(settings(**more), build_fakes, limits)
    harness: Harness | None = None
    try:
        await app.listen()
        async with aiohttp.ClientSession() as session:
            harness = Harness(app, session)
            if not loading:
                served = [model(app.observer) for model in models or (fake_model(),)]
                harness.models = {model.name: model for model in served}
                await app.serve(served)
            yield harness
    finally:
        if harness is None or not harness.left:
            await app.stop()
        _forget()


def _forget() -> None:
    """FastAPI keeps the routes of every application, and so its listeners, which cannot end with the interpreter."""
    for kept in vars(fastapi.dependencies.models).values():
        if hasattr(kept, "cache_clear"):
            kept.cache_clear()
