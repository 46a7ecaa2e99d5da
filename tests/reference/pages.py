"""The pages of docs/ that nobody writes."""

from __future__ import annotations

import json
from pathlib import Path

from server.limits import Limits
from server.transport.rest.openapi.document import document
from tests.reference import architectures, rest, rpc

DOCS = Path(__file__).parents[2] / "docs"


def pages() -> dict[str, str]:
    """Text by name of the file."""
    limits = Limits()
    told = document(limits)
    return {
        "openapi.json": json.dumps(told, indent=1, ensure_ascii=False) + "\n",
        "rest.md": rest.page(told, limits).rstrip() + "\n",
        "grpc.md": rpc.page(limits).rstrip() + "\n",
        "architectures.md": architectures.page().rstrip() + "\n",
    }
