"""Writes deploy/grafana/dashboards/*.json: `python deploy/grafana/build.py`. panels.py beside
it is what they are made from; tests hold both to each other, and every query to a live server."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
SOURCE = {"type": "prometheus", "uid": "prometheus"}
COLUMNS, HEIGHT = 24, 8
WINDOW = "$__rate_interval"


@dataclass(frozen=True)
class Panel:
    """One panel: queries are (expression, legend), `more` is laid over the rest."""

    title: str
    description: str
    queries: tuple[tuple[str, str], ...]
    unit: str = "short"
    kind: str = "timeseries"
    width: int = 12
    more: dict[str, Any] = field(default_factory=dict)

    def json(self, number: int, x: int, y: int) -> dict[str, Any]:
        instant = self.kind in ("stat", "table")
        targets = [
            {
                "datasource": SOURCE,
                "refId": chr(ord("A") + index),
                "expr": expression,
                "legendFormat": legend,
                "instant": instant,
                "range": not instant,
                "exemplar": "histogram_quantile" in expression,
                # A heat map's own format is for the bounds of a histogram: of other series Grafana would draw the last.
                "format": "table" if self.kind == "table" else "time_series",
            }
            for index, (expression, legend) in enumerate(self.queries)
        ]
        plain = {
            "id": number,
            "type": self.kind,
            "title": self.title,
            "description": self.description,
            "datasource": SOURCE,
            "gridPos": {"h": HEIGHT, "w": self.width, "x": x, "y": y},
            "targets": targets,
            "fieldConfig": {"defaults": {"unit": self.unit, "min": 0}, "overrides": []},
            "options": {},
        }
        return merged(plain, self.more)


@dataclass(frozen=True)
class Dashboard:
    """A file of its own; variables are (name, label, query, what it starts with)."""

    uid: str
    title: str
    description: str
    variables: tuple[tuple[str, str, str, str], ...]
    panels: tuple[Panel, ...]

    def json(self) -> dict[str, Any]:
        return {
            "uid": f"dyno-{self.uid}",
            "title": self.title,
            "description": self.description,
            "tags": ["dyno"],
            "schemaVersion": 41,
            "version": 1,
            "editable": False,
            "refresh": "5s",
            "time": {"from": "now-15m", "to": "now"},
            "links": [{"type": "dashboards", "tags": ["dyno"], "title": "Dyno", "asDropdown": False}],
            "templating": {"list": [_variable(*variable) for variable in self.variables]},
            "panels": self._placed(),
        }

    def _placed(self) -> list[dict[str, Any]]:
        placed, x, y = [], 0, 0
        for number, panel in enumerate(self.panels, 1):
            if x + panel.width > COLUMNS:
                x, y = 0, y + HEIGHT
            placed.append(panel.json(number, x, y))
            x += panel.width
        return placed


def merged(base: dict[str, Any], over: dict[str, Any]) -> dict[str, Any]:
    """Both; where both have a value, the one of `over`, but of two dictionaries again both."""
    both = {name: merged(base[name], over[name]) for name in base if isinstance(over.get(name), dict)}
    return base | over | both


def _variable(name: str, label: str, query: str, first: str) -> dict[str, Any]:
    return {
        "name": name,
        "label": label,
        "type": "query",
        "datasource": SOURCE,
        "query": {"query": query, "refId": name},
        "definition": query,
        "refresh": 2,
        "sort": 3,
        "current": {"text": first, "value": first},
    }


def quantiles(metric: str, where: str) -> tuple[tuple[str, str], ...]:
    """Half, nineteen in twenty and ninety-nine in a hundred of a histogram."""
    rate = f"sum by (le) (rate({metric}_bucket{{{where}}}[{WINDOW}]))"
    return tuple((f"histogram_quantile({q}, {rate})", f"p{q * 100:g}") for q in (0.5, 0.95, 0.99))


def rate(metric: str, where: str, by: str = "") -> str:
    grouped = f"sum by ({by})" if by else "sum"
    return f"{grouped} (rate({metric}{{{where}}}[{WINDOW}]))"


def written(dashboard: Dashboard) -> str:
    return json.dumps(dashboard.json(), indent=1, ensure_ascii=False) + "\n"


def main() -> None:
    from panels import DASHBOARDS

    for dashboard in DASHBOARDS:
        (HERE / "dashboards" / f"{dashboard.uid}.json").write_text(written(dashboard))


if __name__ == "__main__":
    main()
