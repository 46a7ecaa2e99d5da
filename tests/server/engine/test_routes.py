"""How tokens were routed, told of each once: alone, in a batch, found in the cache, computed again."""

from __future__ import annotations

from collections.abc import Callable

import torch

from model.config import Full
from server.engine.results import Routed
from server.engine.stats import LayerRouting
from server.engine.step import CacheGroup, MixtureShape
from tests.fakes import expert_tokens, make_request
from tests.server.engine.conftest import Rig

Make = Callable[..., Rig]
MIXTURES = (MixtureShape(1, 4, 2), MixtureShape(3, 3, 1))


def test_known_answers(rig: Make) -> None:
    r = rig(vocab=10, mixtures=(MixtureShape(2, 4, 1),))
    r.add(make_request([3, 4], 3, id="a"))
    r.finish()
    # Tokens 3, 4, 8, 7 at positions 0 .. 3 go to experts 3, 1, 2, 2; the last token, 5, is never computed.
    stats = r.stats("a")
    entropy = (2 * 0.25 * 2 + 0.5 * 1) / 2  # in bits over log2(4)
    margin = (0 + 1 + 2 + 3) / 4 / 8
    assert stats.routing == (LayerRouting(2, (0, 1, 2, 1), 0, entropy, 2.0, 0.5, 0.5, margin),)
    assert stats.routed_tokens == 4
    routes = r.last("a").routes
    assert routes is not None and routes.experts[:, 0, 0].tolist() == [3, 1, 2, 2]
    assert [s.expert_tokens.tolist() for s in r.seen.steps] == [[[0, 1, 0, 1]], [[0, 0, 1, 0]], [[0, 0, 1, 0]]]


def test_a_model_without_experts_has_none(rig: Make) -> None:
    r = rig()
    r.add(make_request([3], 2, id="a"))
    r.finish()
    assert r.stats("a").routing == () and r.stats("a").routed_tokens == 0
    assert r.last("a").routes is None
    assert r.seen.steps[0].expert_tokens.size == 0


def test_the_same_alone_in_a_batch_with_a_cached_prefix_and_preempted(rig: Make) -> None:
    prompt = range(7, 20)
    alone = rig(mixtures=MIXTURES)
    alone.add(make_request(prompt, 8, id="a"))
    alone.finish()
    batch = rig(mixtures=MIXTURES, max_batch_tokens=5)
    batch.add(*(make_request([n, n], 20, id=str(n)) for n in range(3)), make_request(prompt, 8, id="a"))
    batch.finish()
    again = rig(mixtures=MIXTURES)
    again.add(make_request(prompt, 8, id="before"))
    again.finish()
    again.add(make_request(prompt, 8, id="a"))
    again.finish()
    short = rig(mixtures=MIXTURES, groups=(CacheGroup(Full(), 8, 1),), prefix_cache=False)
    short.add(make_request([1, 1, 1], 20, id="old"), make_request(prompt, 8, id="a"))
    short.finish()
    assert again.stats("a").cached_tokens == 12
    assert short.stats("a").preemptions > 0 and short.stats("a").recomputed_tokens > 0
    for other in (batch, again, short):
        assert other.stats("a").routing == alone.stats("a").routing
        assert other.stats("a").routed_tokens == alone.stats("a").routed_tokens == 13 + 7
        ours, theirs = other.last("a").routes, alone.last("a").routes
        assert ours is not None and theirs is not None
        assert (ours.experts == theirs.experts).all() and (ours.gates == theirs.gates).all()
        assert (ours.margins == theirs.margins).all()


def test_layers_sum_to_tokens_times_top_k(rig: Make) -> None:
    r = rig(mixtures=MIXTURES)
    r.add(make_request(range(9), 5, id="a"))
    r.finish()
    tokens = [*range(9), *r.said("a")[:-1]]
    assert [list(layer.expert_tokens) for layer in r.stats("a").routing] == expert_tokens(tokens, MIXTURES)
    assert [sum(layer.expert_tokens) for layer in r.stats("a").routing] == [13 * 2, 13 * 1]


def test_rows_bring_what_came_before_to_routers_with_a_capacity(rig: Make) -> None:
    limited = (MixtureShape(0, 4, 1, limited=True), MixtureShape(1, 2, 1))
    r = rig(mixtures=limited, max_batch_tokens=4, groups=(CacheGroup(Full(), 7, 1),))
    r.add(make_request([1, 2, 3], 14, id="old"), make_request(range(11), 6, id="a"))
    r.finish()
    r.add(make_request(range(11), 6, id="b"))
    r.finish()
    assert r.stats("a").preemptions > 0 and r.stats("b").cached_tokens > 0
    for row in (row for step in r.runner.steps for row in step.rows):
        assert row.prior is not None
        own = expert_tokens(row.request.tokens(0, row.start), limited)
        assert row.prior.tolist() == [own[0], [*own[1], 0, 0]]


def test_rows_of_other_models_bring_nothing(rig: Make) -> None:
    r = rig(mixtures=MIXTURES)
    r.add(make_request([1], 2))
    r.finish()
    assert all(row.prior is None for step in r.runner.steps for row in step.rows)


def test_what_is_no_number_spoils_no_sum() -> None:
    """Of a request whose row is no number, and which fails; sums over all requests go on."""
    bad, good = torch.tensor([[float("nan")], [0.5]]), torch.tensor([[[0, 1]], [[1, 2]]], dtype=torch.int16)
    routes = Routed(good, torch.tensor([[[float("nan"), 1.0]], [[0.75, 0.25]]]), bad).told()
    assert routes.margins.tolist() == [[0.0], [0.5]]
    assert routes.gates.tolist() == [[[0.0, 1.0]], [[0.75, 0.25]]]
