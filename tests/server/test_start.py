"""A real server of an embedded model: from the start of its process to its first token, and at rest."""

from __future__ import annotations

import time

from client.launch import ServerProcess
from tests.bench.closed import Case, measure
from tests.bench.processes import family, used_seconds

# Two to five seconds on cores of its own (`python -m tests.bench.start`), more where kernels are compiled first. The
# bounds are for machines that are busy with other work, and for a start that has become another kind of thing.
MOST_SECONDS, MOST_PROCESSOR_SECONDS = 60.0, 30.0
REST_SECONDS, MOST_AT_REST = 1.0, 0.1


def test_the_first_token_comes_soon_and_a_server_at_rest_uses_no_processor() -> None:
    began = time.monotonic()
    with ServerProcess(["--model", "tales-dense"]) as server:
        measure(server.http, "tales-dense", Case(1, prompt=8, output=1, requests=1), (0,), vocab=400)
        assert time.monotonic() - began < MOST_SECONDS
        assert server.pid is not None
        assert used_seconds(family(server.pid)) < MOST_PROCESSOR_SECONDS
        time.sleep(0.5)  # whoever was still at work is done
        before = used_seconds(family(server.pid))
        time.sleep(REST_SECONDS)
        assert used_seconds(family(server.pid)) - before < MOST_AT_REST * REST_SECONDS
