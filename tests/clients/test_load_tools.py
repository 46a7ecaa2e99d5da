"""Programs that measure servers: they must find what they look for, and count what was there."""

from __future__ import annotations

import csv
import json
import os
import shutil
from pathlib import Path
from typing import Any

import pytest

from tests.clients.kit import PROGRAMS, ROOT, Served, program, run

pytestmark = [pytest.mark.clients, pytest.mark.timeout(400)]

MODEL = "tales-dense"
FOLDER = ROOT / "model" / "zoo" / MODEL
REQUESTS, CONCURRENCY, PROMPT, OUTPUT = 6, 2, 32, 12


def read(path: Path) -> Any:
    return json.loads(path.read_text())


@pytest.mark.parametrize("route", ["/v1/completions", "/v1/chat/completions"])
def test_guidellm(served: Served, route: str) -> None:
    out = served.work / f"guidellm-{route.count('/')}.json"
    model, folder = (MODEL, FOLDER) if route == "/v1/completions" else ("chat", served.chat)
    run(
        served,
        program("guidellm", "guidellm"),
        *("run", "--disable-console"),
        *("--backend", f"kind=openai_http,target={served.url},model={model},request_format={route}"),
        *("--tokenizer", f"kind=huggingface_auto,model={folder}"),
        *("--profile", f"kind=concurrent,streams={CONCURRENCY}"),
        *("--constraint", f"kind=max_requests,count={REQUESTS}"),
        *("--data", f"kind=synthetic_text,prompt_tokens={PROMPT},output_tokens={OUTPUT}"),
        *("--output", f"kind=json,path={out}"),
        GUIDELLM__MAX_WORKER_PROCESSES="1",
    )
    [benchmark] = read(out)["benchmarks"]
    requests = benchmark["requests"]
    assert len(requests["successful"]) == REQUESTS and not requests["errored"]
    for one in requests["successful"]:
        assert one["output_tokens"] == OUTPUT and one["time_to_first_token_ms"] > 0


@pytest.mark.parametrize("kind", ["completions", "chat"])
def test_aiperf(served: Served, kind: str) -> None:
    out = served.work / f"aiperf-{kind}"
    model, folder = (MODEL, FOLDER) if kind == "completions" else ("chat", served.chat)
    run(
        served,
        program("aiperf", "aiperf"),
        *("profile", "--ui", "none", "--model", model, "--url", served.url, "--tokenizer", str(folder)),
        *("--endpoint-type", kind, "--streaming", "--use-server-token-count"),
        *("--concurrency", str(CONCURRENCY), "--request-count", str(REQUESTS)),
        *("--synthetic-input-tokens-mean", str(PROMPT), "--output-tokens-mean", str(OUTPUT)),
        *("--extra-inputs", "ignore_eos:true", "--artifact-dir", str(out)),
        online=True,  # it does not find a folder otherwise
    )
    told = read(out / "profile_export_aiperf.json")
    assert told["request_count"]["avg"] == REQUESTS and told["error_summary"] == []
    assert told["output_sequence_length"]["avg"] == OUTPUT and told["time_to_first_token"]["avg"] > 0
    assert "dyno_" in (out / "server_metrics_export.json").read_text(), "it reads /metrics too"


@pytest.mark.parametrize("chat", [False, True])
def test_vllm_bench_serve(served: Served, chat: bool) -> None:
    vllm = os.environ.get("DYNO_VLLM") or shutil.which("vllm")
    if vllm is None:
        pytest.skip("vllm is not installed; DYNO_VLLM may name its program")
    name = f"vllm-{chat}.json"
    route, backend = ("/v1/chat/completions", "openai-chat") if chat else ("/v1/completions", "openai")
    model, folder = ("chat", served.chat) if chat else (MODEL, FOLDER)
    run(
        served,
        vllm,
        *("bench", "serve", "--base-url", served.url, "--backend", backend, "--endpoint", route),
        *("--model", model, "--tokenizer", str(folder), "--dataset-name", "random", "--ignore-eos"),
        *("--random-input-len", str(PROMPT), "--random-output-len", str(OUTPUT)),
        *("--num-prompts", str(REQUESTS), "--max-concurrency", str(CONCURRENCY)),
        *("--save-result", "--save-detailed", "--result-dir", str(served.work), "--result-filename", name),
        VLLM_NO_USAGE_STATS="1",
    )
    told = read(served.work / name)
    assert told["completed"] == REQUESTS and told["failed"] == 0
    assert told["total_output_tokens"] == REQUESTS * OUTPUT and not any(told["errors"])
    assert all(len(gaps) == OUTPUT - 1 for gaps in told["itls"]), "each token is an event of its own"


def test_locust(served: Served) -> None:
    run(
        served,
        program("python", "locust"),
        *("--headless", "--locustfile", str(PROGRAMS / "locustfile.py"), "--host", served.url),
        *("--users", str(CONCURRENCY), "--spawn-rate", str(CONCURRENCY), "--run-time", "3s", "--csv", "locust"),
        *("--stop-timeout", "10", "--only-summary"),
    )
    with (served.work / "locust_stats.csv").open() as lines:
        rows = {row["Name"]: row for row in csv.DictReader(lines)}
    streams, first, last = (rows[name] for name in ("/v1/completions", "first token", "last token"))
    assert streams["Failure Count"] == "0"
    assert 1 < int(streams["Request Count"]) == int(first["Request Count"]) == int(last["Request Count"])
    assert 0 < float(first["Average Response Time"]) < float(last["Average Response Time"]), "tokens come one by one"
