"""The real server with the real models under a small load, scraped by a real Prometheus: every query has an answer."""

from __future__ import annotations

import asyncio
import json
import math
import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.parse
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import aiohttp
import grpc
import pytest
import yaml

from dyno.inference.v1 import inference_pb2 as pb
from dyno.inference.v1.inference_pb2_grpc import InferenceServiceStub
from tests.deploy import queries
from tests.deploy.artifacts import ROOT, SERVERS

PROMETHEUS = shutil.which("prometheus")
SECONDS_OF_LOAD = 20
pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(300),
    pytest.mark.skipif(PROMETHEUS is None, reason="needs Prometheus"),
]


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        return int(listening.getsockname()[1])


@contextmanager
def process(command: list[str], ready: str, log: Path) -> Iterator[None]:
    """A process of ours that has become ready, until it is no longer needed."""
    environment = os.environ | {"PYTHONPATH": f"{ROOT}:{ROOT / 'proto'}"}
    with log.open("wb") as out:
        running = subprocess.Popen(command, cwd=ROOT, env=environment, stdout=out, stderr=out)
        try:
            give_up = time.monotonic() + 120
            while not answers(ready):
                assert running.poll() is None and time.monotonic() < give_up, log.read_text()
                time.sleep(0.2)
            yield
        finally:
            running.terminate()
            running.wait(40)


def answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=2) as response:
            return bool(response.status == 200)
    except OSError:
        return False


def configured(folder: Path, rest: list[int]) -> Path:
    """The configuration of deploy/, at these servers and faster."""
    settings = yaml.safe_load((ROOT / "deploy/prometheus/prometheus.yml").read_text())
    settings["global"] = {"scrape_interval": "1s", "scrape_timeout": "1s", "evaluation_interval": "1s"}
    settings["rule_files"] = []
    for path in queries.RULES.glob("*.yml"):
        rules = yaml.safe_load(path.read_text())
        for group in rules["groups"]:
            group["interval"] = "1s"
        (folder / path.name).write_text(yaml.safe_dump(rules))
        settings["rule_files"].append(str(folder / path.name))
    job = next(job for job in settings["scrape_configs"] if job["job_name"] == "dyno")
    job["authorization"]["credentials_file"] = str(ROOT / "deploy/prometheus/no.key")
    job["static_configs"] = [{"targets": [f"127.0.0.1:{port}" for port in rest]}]
    settings["scrape_configs"] = [job]
    (folder / "prometheus.yml").write_text(yaml.safe_dump(settings))
    return folder / "prometheus.yml"


class Asked:
    """A Prometheus to ask."""

    def __init__(self, port: int) -> None:
        self.url = f"http://127.0.0.1:{port}"

    def get(self, path: str, **words: str) -> Any:
        with urllib.request.urlopen(f"{self.url}{path}?{urllib.parse.urlencode(words)}", timeout=20) as response:
            return json.load(response)["data"]

    def values(self, query: str) -> list[float]:
        """Numbers that a query gives now; one that is none does not count."""
        found = self.get("/api/v1/query", query=query)["result"]
        return [value for one in found if math.isfinite(value := float(one["value"][1]))]


async def load(rest: dict[str, int], rpc: dict[str, int]) -> None:
    """Streams on both transports for both models; some hang up, and some are refused."""
    ends = time.monotonic() + SECONDS_OF_LOAD

    async def over_rest(session: aiohttp.ClientSession, name: str, one: int) -> None:
        turn = 0
        while time.monotonic() < ends:
            turn += 1
            body = {
                "model": SERVERS[name],
                "prompt": f"Once, {one} and {turn}, " * 12,
                "max_tokens": 40,
                "stream": True,
            }
            if turn % 7 == 0:
                body["temperature"] = -1
            async with session.post(f"http://127.0.0.1:{rest[name]}/v1/completions", json=body) as response:
                async for _ in response.content:
                    if turn % 5 == 0:
                        break

    async def over_rpc(name: str) -> None:
        async with grpc.aio.insecure_channel(f"127.0.0.1:{rpc[name]}") as channel:
            stub = InferenceServiceStub(channel)
            while time.monotonic() < ends:
                request = pb.StreamGenerateRequest(
                    request=pb.GenerateRequest(model=SERVERS[name], prompt="There was a king")
                )
                async for _ in stub.StreamGenerate(request):
                    pass

    async with aiohttp.ClientSession() as session:
        calls = [over_rest(session, name, one) for name in SERVERS for one in range(2)]
        await asyncio.gather(*calls, *(over_rpc(name) for name in SERVERS))


@pytest.fixture(scope="module")
def asked(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Asked]:
    folder = tmp_path_factory.mktemp("prometheus")
    rest, rpc, own = ({name: free_port() for name in SERVERS} for _ in range(3))
    port = own["dense"]
    servers = []
    for name, model in SERVERS.items():
        ports = ["--port", str(rest[name]), "--grpc-port", str(rpc[name])]
        started = [sys.executable, "-m", "server", "--model", model, "--threads", "1", *ports]
        servers.append(process(started, f"http://127.0.0.1:{rest[name]}/readyz", folder / f"{name}.log"))
    command = [PROMETHEUS or "", f"--config.file={configured(folder, list(rest.values()))}"]
    command += [f"--storage.tsdb.path={folder / 'data'}", f"--web.listen-address=127.0.0.1:{port}"]
    command += ["--enable-feature=exemplar-storage"]
    watching = process(command, f"http://127.0.0.1:{port}/-/ready", folder / "prometheus.log")
    with servers[0], servers[1], watching:
        asyncio.run(load(rest, rpc))
        time.sleep(3)
        yield Asked(port)


def test_both_servers_are_scraped(asked: Asked) -> None:
    targets = asked.get("/api/v1/targets")["activeTargets"]
    assert [(target["health"], target["lastError"]) for target in targets] == [("up", "")] * 2


def test_every_rule_is_evaluated(asked: Asked) -> None:
    found = [rule for group in asked.get("/api/v1/rules")["groups"] for rule in group["rules"]]
    assert len(found) == len(queries.rules())
    assert {(rule["health"], rule.get("lastError", "")) for rule in found} == {("ok", "")}


@pytest.mark.parametrize("name", queries.recorded())
def test_a_recorded_series_has_data(asked: Asked, name: str) -> None:
    assert asked.values(name), queries.recorded()[name]


@pytest.mark.parametrize("name", queries.alerts())
def test_an_alert_reads_what_is_there_and_is_silent(asked: Asked, name: str) -> None:
    for selector in queries.selectors(queries.alerts()[name]):
        assert asked.values(selector), selector
    assert asked.values(f'ALERTS{{alertname="{name}", alertstate="firing"}}') == []


@pytest.mark.parametrize("where", queries.of_panels())
def test_a_panel_shows_something(asked: Asked, where: str) -> None:
    query = queries.of_panels()[where]
    assert asked.values(query), query


@pytest.mark.parametrize("where", queries.of_variables())
def test_a_list_to_choose_from_is_not_empty(asked: Asked, where: str) -> None:
    assert asked.values(queries.of_variables()[where])


@pytest.mark.parametrize("number", range(10))
def test_the_questions_of_the_manual_have_answers(asked: Asked, number: int) -> None:
    questions = queries.of_manual()
    assert len(questions) == 10
    title, query = questions[number]
    assert asked.values(query), f"{title}: {query}"


def test_an_exemplar_leads_to_a_request(asked: Asked) -> None:
    now = str(int(time.time()))
    found = asked.get(
        "/api/v1/query_exemplars", query="dyno_e2e_request_seconds_bucket", start=str(int(now) - 120), end=now
    )
    ids = {one["labels"]["request_id"] for series in found for one in series["exemplars"]}
    assert ids and all(len(id) == 24 for id in ids)
