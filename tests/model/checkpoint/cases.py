"""Every tiny configuration, by model type and by the name of its test."""

from __future__ import annotations

from tests.model.checkpoint.dense import DENSE
from tests.model.checkpoint.recurrent import RECURRENT
from tests.model.checkpoint.settings import Case
from tests.model.checkpoint.sparse import EXPERTS

FAMILIES: dict[str, dict[str, Case]] = DENSE | EXPERTS | RECURRENT
CASES: dict[str, Case] = {
    kind if name == "plain" else f"{kind}, {name.replace('_', ' ')}": case
    for kind, cases in FAMILIES.items()
    for name, case in cases.items()
}
