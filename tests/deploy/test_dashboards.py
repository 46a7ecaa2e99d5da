"""Dashboards, rules and alerts say what they show, ask for what exists, and fire when they should."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.deploy import queries
from tests.deploy.artifacts import ROOT
from tests.server.kit import Harness, fake_model, running

PROMTOOL = shutil.which("promtool")
TYPES = {"timeseries", "stat", "table", "heatmap"}
promtool = pytest.mark.skipif(PROMTOOL is None, reason="promtool comes with Prometheus")


@pytest.fixture
async def server() -> AsyncIterator[Harness]:
    async with running(fake_model("fake")) as harness:
        yield harness


def told(*words: str) -> str:
    run = subprocess.run([PROMTOOL or "", *words], cwd=ROOT, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stdout + run.stderr
    return run.stdout


def test_the_files_are_what_the_program_writes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(ROOT / "deploy/grafana"))
    from build import written  # type: ignore[import-not-found]
    from panels import DASHBOARDS  # type: ignore[import-not-found]

    made = {f"{one.uid}.json": written(one) for one in DASHBOARDS}
    units = {panel.title: panel.unit for one in DASHBOARDS for panel in one.panels}
    told = {panel["title"]: panel["fieldConfig"]["defaults"]["unit"] for _, panel in queries.panels()}
    assert told == units, "whatever else a panel is given"
    assert {path.name: path.read_text() for path in queries.DASHBOARDS.glob("*.json")} == made
    for name in ("build", "panels"):
        del sys.modules[name]


@pytest.mark.parametrize("where", [where for where, _ in queries.panels()])
def test_a_panel_says_what_it_shows(where: str) -> None:
    panel = dict(queries.panels())[where]
    assert len(panel["description"]) > 20
    assert panel["targets"]
    assert panel["type"] in TYPES
    assert {target["datasource"]["uid"] for target in panel["targets"]} == {"prometheus"}
    # Of series without bounds Grafana would draw only the last in a heat map's own format.
    assert all(target["format"] != "heatmap" or "le" in target["expr"] for target in panel["targets"])


@pytest.mark.parametrize("name", queries.dashboards())
def test_panels_do_not_lie_on_each_other(name: str) -> None:
    taken = set()
    for panel in queries.dashboards()[name]["panels"]:
        place = panel["gridPos"]
        cells = {(x, y) for x in range(place["x"], place["x"] + place["w"]) for y in range(place["y"], place["y"] + 8)}
        assert place["x"] + place["w"] <= 24
        assert not cells & taken, panel["title"]
        taken |= cells


@pytest.mark.parametrize("name", queries.dashboards())
def test_every_variable_of_a_query_is_one_of_its_dashboard(name: str) -> None:
    dashboard = queries.dashboards()[name]
    known = {one["name"] for one in dashboard["templating"]["list"]} | {"__rate_interval"}
    used = {
        word for panel in dashboard["panels"] for t in panel["targets"] for word in re.findall(r"\$(\w+)", t["expr"])
    }
    assert used <= known
    assert known - used - {"__rate_interval"} == set()


def test_what_machines_ask_for_by_themselves_is_no_answer_to_anybody() -> None:
    (query,) = (query for where, query in queries.of_panels().items() if where.startswith("service: Answers by code"))
    (left_out,) = re.findall(r'method!~"(.*?)"', query)
    assert all(re.fullmatch(left_out, path) for path in ("/metrics", "/livez", "/readyz", "/health", "/ready"))
    assert not any(re.fullmatch(left_out, path) for path in ("/v1/completions", "Generate", "unknown"))


async def test_every_metric_that_is_asked_for_exists(server: Harness) -> None:
    """Under the name it has in a query: with its ending."""
    async with server.session.post(
        f"{server.url}/v1/completions", json={"model": "fake", "prompt": "abc", "max_tokens": 4}
    ) as response:
        assert response.status == 200
    await server.settled()
    exported = {name for name, _ in await server.series()} | {"up"}
    unmeasured = {"dyno_forward_least_seconds_total"}  # a fake has no roofs
    asked = {*queries.of_panels().values(), *queries.of_variables().values(), *queries.alerts().values()}
    for query in {*asked, *queries.recorded().values()}:
        assert queries.names(query) - set(queries.recorded()) - unmeasured <= exported, query


def test_every_recorded_series_is_asked_for_by_somebody() -> None:
    asked = [*queries.of_panels().values(), *queries.alerts().values(), *queries.recorded().values()]
    documented = (ROOT / "docs/observe.md").read_text()
    used = set().union(*(queries.names(query) for query in asked))
    assert {name for name in queries.recorded() if name not in used and name not in documented} == set()


def test_every_alert_tells_what_and_what_then() -> None:
    for rule in queries.rules():
        if "alert" in rule:
            assert rule["labels"]["severity"] in ("page", "ticket")
            assert rule["annotations"].keys() == {"summary", "description"}


@promtool
def test_the_configuration_and_its_rules_are_valid() -> None:
    """The key is a secret that only a container has; its place is checked with compose."""
    told("check", "config", "--syntax-only", "deploy/prometheus/prometheus.yml")
    told("check", "rules", *map(str, queries.RULES.glob("*.yml")))


@promtool
def test_alerts_fire_when_they_should_and_only_then() -> None:
    path = ROOT / "deploy/prometheus/tests/alerts.yml"
    assert "SUCCESS" in told("test", "rules", str(path))
    assert {name for name in queries.alerts() if name not in path.read_text()} == set(), "an alert without a test"


@promtool
async def test_the_exposition_is_clean_in_the_eyes_of_prometheus(server: Harness, tmp_path: Path) -> None:
    async with server.session.get(f"{server.url}/metrics") as response:
        page = await response.text()
    run = subprocess.run([PROMTOOL or "", "check", "metrics"], input=page, capture_output=True, text=True)  # noqa: ASYNC221
    assert (run.returncode, run.stdout, run.stderr) == (0, "", "")
