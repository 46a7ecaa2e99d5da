from __future__ import annotations

import pytest

from client.load.prompts import cut, passages, random_ids, shared_prefix, tales


def test_the_passages_are_many_and_of_the_promised_length() -> None:
    lengths = [len(text.split()) for text in passages()]
    assert len(set(passages())) == 200
    assert min(lengths) >= 60
    assert max(lengths) <= 150


def test_no_two_tales_begin_alike_even_when_passages_come_again() -> None:
    texts = tales(650, seed=4)
    assert len({" ".join(text.split()[:12]) for text in texts}) == 650
    assert sorted(texts[:200]) == sorted(passages())
    assert sorted(texts[200].split()) == sorted(texts[0].split())


def test_the_seed_decides_the_order() -> None:
    assert tales(5, seed=1) == tales(5, seed=1)
    assert tales(5, seed=1) != tales(5, seed=2)


def test_prompts_are_cut_or_continued_to_the_length() -> None:
    assert cut([[1, 2, 3], [4], [5]], [2, 2, 2]) == ((1, 2), (4, 5), (5, 1))


def test_nothing_cannot_be_continued() -> None:
    with pytest.raises(ValueError, match="no tokens"):
        cut([[]], [3])


def test_random_ids_stay_in_the_vocabulary() -> None:
    prompts = random_ids(50, 20, vocab=7, seed=0)
    assert {len(prompt) for prompt in prompts} == {20}
    assert {token for prompt in prompts for token in prompt} == set(range(7))


def test_a_family_shares_its_beginning_and_nothing_else() -> None:
    prompts = shared_prefix(6, 20, vocab=1000, seed=0, share=0.75, families=2)
    assert {len(prompt) for prompt in prompts} == {20}
    assert len({prompt[:15] for prompt in prompts}) == 2
    assert prompts[0][:15] == prompts[2][:15] != prompts[1][:15]
    assert len({prompt[15:] for prompt in prompts}) == 6
