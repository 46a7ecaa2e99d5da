"""What the dashboards, rules and alerts ask of Prometheus, and how to ask it."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from tests.deploy.artifacts import ROOT

DASHBOARDS = ROOT / "deploy/grafana/dashboards"
RULES = ROOT / "deploy/prometheus/rules"
VARIABLES = {"$left": "tales-dense", "$right": "tales-moe", "$layer": "1", "$__rate_interval": "15s"}
NAME = r"[a-zA-Z_:][a-zA-Z0-9_:]*"
METRIC = re.compile(rf"\b(?:(?:dyno|process)_\w+|{NAME}:{NAME}|up)\b(?:{{[^}}]*}})?")


def dashboards() -> dict[str, dict[str, Any]]:
    return {path.stem: json.loads(path.read_text()) for path in sorted(DASHBOARDS.glob("*.json"))}


def panels() -> Iterator[tuple[str, dict[str, Any]]]:
    for name, dashboard in dashboards().items():
        for panel in dashboard["panels"]:
            yield f"{name}: {panel['title']}", panel


def of_panels() -> dict[str, str]:
    """Every query of every panel by where it stands, its variables filled in."""
    found = {}
    for where, panel in panels():
        for target in panel["targets"]:
            query = target["expr"]
            model = "tales-moe" if where.startswith("routing") else "tales-dense"
            for variable, value in {**VARIABLES, "$model": model}.items():
                query = query.replace(variable, value)
            found[f"{where} {target['refId']}"] = query
    return found


def of_variables() -> dict[str, str]:
    """What fills the lists from which a viewer chooses, as the selector behind it."""
    lists = ((name, one) for name, dashboard in dashboards().items() for one in dashboard["templating"]["list"])
    return {
        f"{name}: ${one['name']}": re.sub(r"label_values\((.*), \w+\)", r"\1", one["query"]["query"]).replace(
            "$model", "tales-moe"
        )
        for name, one in lists
    }


def rules() -> list[dict[str, Any]]:
    files: list[Path] = sorted(RULES.glob("*.yml"))
    return [rule for file in files for group in yaml.safe_load(file.read_text())["groups"] for rule in group["rules"]]


def recorded() -> dict[str, str]:
    return {rule["record"]: rule["expr"] for rule in rules() if "record" in rule}


def alerts() -> dict[str, str]:
    return {rule["alert"]: rule["expr"] for rule in rules() if "alert" in rule}


def selectors(query: str) -> list[str]:
    """The metrics that a query reads, with their labels."""
    return METRIC.findall(query)


def names(query: str) -> set[str]:
    return {selector.partition("{")[0] for selector in selectors(query)}


def of_manual() -> list[tuple[str, str]]:
    """The questions of docs/observe.md and what it says to paste."""
    text = (ROOT / "docs/observe.md").read_text()
    return re.findall(r"^### (.+?)\n.*?^```promql\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
