"""Sampling: exact draws, thresholds with their ties, the right distribution, and rows that do not know each other."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from model import sampling
from model.sampling import Draw, Edits, edit, log_probabilities, sample, thresholds, uniform

LOGITS = torch.log(torch.tensor([[0.1, 0.4, 0.2, 0.3]]))  # cumulative 0.1, 0.5, 0.7, 1.0


def draw(
    rows: int = 1, temperature: float = 1.0, top_k: int = 0, top_p: float = 1.0, min_p: float = 0.0, u: float = 0.0
) -> Draw:
    return Draw([temperature] * rows, [top_k] * rows, [top_p] * rows, [min_p] * rows, [u] * rows)


def drawn(logits: Tensor, u: float, **how: float) -> int:
    return int(sample(logits, draw(u=u, **how)))  # type: ignore[arg-type]


# ---------------------------------------------------------------------------------------------- exact draws


@pytest.mark.parametrize(
    ("u", "token"), [(0.0, 0), (0.09, 0), (0.11, 1), (0.49, 1), (0.51, 2), (0.69, 2), (0.71, 3), (1 - 2**-53, 3)]
)
def test_a_draw_inverts_the_cumulative_distribution(u: float, token: int) -> None:
    assert drawn(LOGITS, u) == token


def test_temperature_zero_takes_the_best_and_the_first_of_equals() -> None:
    assert drawn(LOGITS, 0.99, temperature=0.0) == 1
    assert drawn(torch.tensor([[1.0, 3.0, 3.0]]), 0.99, temperature=0.0) == 1


def test_temperature_sharpens() -> None:
    """At 1/2 the shares are squares: 0.01, 0.16, 0.04, 0.09 of 0.30."""
    assert [drawn(LOGITS, u, temperature=0.5) for u in (0.032, 0.034, 0.56, 0.57)] == [0, 1, 1, 2]


@pytest.mark.parametrize("temperature", [1e-45, 1e-300, 1e-6])
def test_the_smallest_temperatures_are_greedy(temperature: float) -> None:
    assert drawn(LOGITS, 0.999, temperature=temperature) == 1


def test_a_token_of_no_probability_is_never_drawn() -> None:
    logits = torch.tensor([[-math.inf, 0.0, -math.inf, 0.0, -math.inf]])
    assert [drawn(logits, u) for u in (0.0, 0.49, 0.51, 1 - 2**-53)] == [1, 1, 3, 3]


def test_top_k() -> None:
    """Of the two best 0.4 and 0.3 are left: shares 4/7 and 3/7."""
    assert [drawn(LOGITS, u, top_k=2) for u in (0.0, 0.57, 0.58, 0.99)] == [1, 1, 3, 3]


def test_top_p_keeps_what_first_reaches_the_mass() -> None:
    assert [drawn(LOGITS, 0.99, top_p=p) for p in (0.3, 0.41, 0.69, 0.71, 0.91)] == [1, 3, 3, 3, 3]
    assert [drawn(LOGITS, 0.0, top_p=p) for p in (1e-12, 0.69, 0.71, 0.91)] == [1, 1, 1, 0]


def test_min_p_is_a_share_of_the_best() -> None:
    assert drawn(LOGITS, 0.0, min_p=0.24) == 0 and drawn(LOGITS, 0.0, min_p=0.26) == 1
    assert drawn(LOGITS, 0.999, min_p=1.0) == 1


def test_top_p_counts_among_the_survivors_of_top_k() -> None:
    """0.4 and 0.3 survive; 4/7 of them reach 0.57, not 0.58."""
    assert drawn(LOGITS, 0.99, top_k=2, top_p=0.57) == 1
    assert drawn(LOGITS, 0.99, top_k=2, top_p=0.58) == 3


# ---------------------------------------------------------------------------------------------- thresholds


def test_ties_with_the_last_kept_token_are_kept() -> None:
    tied = torch.tensor([[0.0, -1.0, -1.0, -1.0, -2.0]], dtype=torch.double)
    assert thresholds(tied, draw(top_k=2)).tolist() == [-1.0]
    assert thresholds(tied, draw(top_p=0.5)).tolist() == [-1.0]
    assert {drawn(tied.float(), u, top_k=2) for u in np.linspace(0, 0.999, 50)} == {0, 1, 2, 3}


def by_sorting(logits: Tensor, top_k: int, top_p: float, min_p: float) -> set[int]:
    """What is kept, worked out plainly."""
    order = sorted(logits.tolist(), reverse=True)
    if top_k:
        order = [x for x in order if x >= order[min(top_k, len(order)) - 1]]
    total, kept, mass = sum(map(math.exp, order)), [], 0.0
    for x in order:
        if mass < top_p * total or top_p == 1:
            kept.append(x)
        mass += math.exp(x)
    least = max(kept[-1], order[0] + math.log(min_p) if min_p else -math.inf)
    return {i for i, x in enumerate(logits.tolist()) if x >= least}


@settings(max_examples=80, deadline=None)
@given(st.data())
def test_thresholds_keep_what_sorting_keeps(data: st.DataObject) -> None:
    """With so few candidates looked at first that many rows fall back on the whole sort."""
    vocab = data.draw(st.integers(1, 40))
    values = st.lists(st.integers(-24, 0).map(lambda x: x / 4), min_size=vocab, max_size=vocab)
    logits = torch.tensor(data.draw(st.lists(values, min_size=1, max_size=4)), dtype=torch.double)
    logits -= logits.amax(-1, keepdim=True)
    one = st.tuples(
        st.integers(0, vocab + 2), st.sampled_from([1.0, 0.93, 0.51, 0.07]), st.sampled_from([0.0, 0.11, 0.6])
    )
    how = data.draw(st.lists(one, min_size=len(logits), max_size=len(logits)))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sampling, "CANDIDATES", 4)
        ks, ps, ms = map(list, zip(*how, strict=True))
        least = thresholds(logits, Draw([1.0] * len(how), ks, ps, ms, [0.0] * len(how)))
    for row, bound, asked in zip(logits, least, how, strict=True):
        assert set((row >= bound).nonzero().flatten().tolist()) == by_sorting(row, *asked)


def test_a_flat_distribution_needs_the_whole_sort() -> None:
    """90 % of 2,000 equal tokens and one better: far more than are looked at first."""
    logits = torch.zeros(1, 2000)
    logits[0, 7] = 0.5
    sure = replace(draw(4000, top_p=0.9), uniform=np.linspace(0, 0.9999, 4000).tolist())
    kept = set(sample(logits.expand(4000, 2000), sure).tolist())
    assert len(kept) == 2000, "the equals of the last one kept are kept"


# ---------------------------------------------------------------------------------------------- distribution


@pytest.mark.parametrize("how", [{}, {"temperature": 0.7}, {"top_k": 5}, {"top_p": 0.8}, {"min_p": 0.2}], ids=str)
def test_ten_thousand_draws_follow_the_softmax(how: dict[str, float]) -> None:
    """χ² against the exact distribution; below 0.1 % it would be a mistake, and the seeds are fixed."""
    vocab, count = 12, 10_000
    logits = torch.randn(vocab, generator=torch.Generator().manual_seed(5))
    settings_ = draw(count, **how)  # type: ignore[arg-type]
    tokens = sample(logits.expand(count, vocab), replace(settings_, uniform=[uniform(i, 3) for i in range(count)]))
    scaled = (logits / how.get("temperature", 1.0)).double()
    kept = by_sorting(scaled, int(how.get("top_k", 0)), how.get("top_p", 1.0), how.get("min_p", 0.0))
    shares = torch.tensor([math.exp(scaled[i]) if i in kept else 0.0 for i in range(vocab)])
    expected = (shares / shares.sum() * count).numpy()
    found = torch.bincount(tokens, minlength=vocab).numpy()
    assert not found[expected == 0].any()
    seen = expected > 0
    assert chi_square_tail(((found - expected)[seen] ** 2 / expected[seen]).sum(), int(seen.sum()) - 1) > 0.001


def chi_square_tail(x: float, freedom: int) -> float:
    """P(χ² ≥ x): the upper incomplete gamma function."""
    return float(torch.special.gammaincc(torch.tensor(freedom / 2.0), torch.tensor(x / 2.0)))


def test_the_uniform_numbers_are_uniform_and_apart() -> None:
    """Along the outputs of one request, and along requests at one output."""
    for numbers in ([uniform(7, i) for i in range(10_000)], [uniform(i, 0) for i in range(10_000)]):
        counts = np.histogram(numbers, bins=20, range=(0, 1))[0]
        assert chi_square_tail(((counts - 500) ** 2 / 500).sum(), 19) > 0.001
        assert abs(np.corrcoef(numbers[:-1], numbers[1:])[0, 1]) < 0.03
        assert len(set(numbers)) == 10_000


@pytest.mark.parametrize(
    ("seed", "index", "number"),
    [(0, 0, 0.6524484863740322), (1, 2, 0.7095306023074913), (2**64 - 1, 7, 0.5014352239054358)],
)
def test_the_uniform_numbers_stay_what_they_are(seed: int, index: int, number: float) -> None:
    """A user who keeps a seed keeps the text, from one version to the next."""
    assert uniform(seed, index) == number


@given(st.integers(0, 2**64 - 1), st.integers(0, 2**20))
def test_a_uniform_number_is_below_one_and_fixed(seed: int, index: int) -> None:
    assert 0 <= uniform(seed, index) < 1
    assert uniform(seed, index) == uniform(seed, index)


# ---------------------------------------------------------------------------------------------- batches


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10_000), st.integers(2, 9))
def test_a_row_alone_draws_what_it_draws_in_a_batch(seed: int, rows: int) -> None:
    generator = np.random.default_rng(seed)
    logits = torch.from_numpy(generator.normal(0, 3, (rows, 700)).astype(np.float32))
    how = Draw(
        generator.choice([0.0, 0.3, 1.0, 1.7], rows).tolist(),
        generator.choice([0, 1, 40, 300, 699], rows).tolist(),
        generator.choice([1.0, 0.95, 0.5], rows).tolist(),
        generator.choice([0.0, 0.01, 0.2], rows).tolist(),
        generator.random(rows).tolist(),
    )
    together = sample(logits, how).tolist()
    assert together == [int(sample(logits[i : i + 1], how.where([i]))) for i in range(rows)]
    order = generator.permutation(rows).tolist()
    assert sample(logits[order], how.where(order)).tolist() == [together[i] for i in order]


# ---------------------------------------------------------------------------------------------- edits


def edits_at(*columns: list[float]) -> Edits:
    kinds = (np.int64, np.int64, np.float32) * 2
    return Edits(*(np.array(column, kind) for column, kind in zip(columns, kinds, strict=True)))


def test_biases_add_up_and_repetition_shrinks_towards_zero() -> None:
    logits = torch.tensor([[2.0, -2.0, 1.0], [2.0, -2.0, 1.0]])
    edits = edits_at([0, 0, 1], [2, 2, 0], [0.5, 0.25, -1.0], [1, 1], [0, 1], [2.0, 2.0])
    assert edit(logits, edits).tolist() == [[2.0, -2.0, 1.75], [0.0, -4.0, 1.0]]
    assert logits.tolist() == [[2.0, -2.0, 1.0]] * 2, "the logits that log-probabilities are taken from stay"


def test_a_forbidden_token_stays_forbidden_under_every_edit() -> None:
    edits = edits_at([0, 0], [1, 1], [-math.inf, 100.0], [0], [1], [0.5])
    assert edit(torch.tensor([[0.0, 5.0]]), edits)[0, 1] == -math.inf


def test_no_edits_are_false() -> None:
    assert not edits_at([], [], [], [], [], [])
    assert edits_at([0], [0], [1.0], [], [], []) and edits_at([], [], [], [0], [0], [1.0])


def test_log_probabilities() -> None:
    chosen, likelier, ids, values = log_probabilities(LOGITS.repeat(2, 1), torch.tensor([2, 1]), 3)
    assert chosen.exp().tolist() == pytest.approx([0.2, 0.4])
    assert likelier.tolist() == [2, 0]
    assert ids.tolist() == [[1, 3, 2]] * 2
    assert values.exp()[0].tolist() == pytest.approx([0.4, 0.3, 0.2])
    assert log_probabilities(LOGITS, torch.tensor([0]), 0)[2].shape == (1, 0)
