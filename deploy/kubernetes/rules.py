"""Writes monitoring/rules.yaml, the rules of deploy/prometheus as Prometheus' operator takes them:
`python deploy/kubernetes/rules.py`. Tests hold them to each other."""

from __future__ import annotations

from pathlib import Path

HERE = Path(__file__).parent
RULES = HERE.parent / "prometheus" / "rules"
HEAD = """# Written by deploy/kubernetes/rules.py from deploy/prometheus/rules.
apiVersion: monitoring.coreos.com/v1
kind: PrometheusRule
metadata:
  name: dyno
spec:
  groups:
"""


def written() -> str:
    """The groups of every file behind each other, as they stand, two columns further right; their names made unique."""
    lines = []
    for path in sorted(RULES.glob("*.yml")):
        _, _, groups = path.read_text().partition("groups:\n")
        own = groups.replace("  - name: dyno_", f"  - name: {path.stem}_")
        lines += [f"  {line}" if line else "" for line in own.splitlines()]
    return HEAD + "\n".join(lines) + "\n"


if __name__ == "__main__":
    (HERE / "monitoring" / "rules.yaml").write_text(written())
