from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from client.load.lengths import Listed, LogNormal, Uniform, draw_lengths, most, parse_lengths, read_lengths


def test_one_number_is_every_length() -> None:
    assert draw_lengths(7, 3, 0) == (7, 7, 7)
    assert most(7) == 7


def test_uniform_lengths_reach_both_ends() -> None:
    assert set(draw_lengths(Uniform(2, 5), 200, 0)) == {2, 3, 4, 5}
    assert most(Uniform(2, 5)) == 5


def test_log_normal_lengths_have_their_median_and_their_top() -> None:
    drawn = draw_lengths(LogNormal(100.0, 1.0, 400), 2000, 1)
    assert np.median(drawn) == pytest.approx(100, rel=0.08)
    assert max(drawn) == 400
    assert min(drawn) >= 1


def test_lengths_of_a_file(tmp_path: Path) -> None:
    file = tmp_path / "lengths.txt"
    file.write_text("3\n\n9\n")
    assert read_lengths(file) == Listed((3, 9))
    assert set(draw_lengths(Listed((3, 9)), 50, 0)) == {3, 9}
    file.write_text("3\nfour\n")
    with pytest.raises(ValueError, match=r"line 2 of .* is not a whole number of at least 1: 'four'"):
        read_lengths(file)


def test_lengths_from_a_flag(tmp_path: Path) -> None:
    (tmp_path / "some").write_text("5")
    assert parse_lengths("64") == 64
    assert parse_lengths("uniform:16:128") == Uniform(16, 128)
    assert parse_lengths("log-normal:100:0.8:512") == LogNormal(100.0, 0.8, 512)
    assert parse_lengths(f"file:{tmp_path / 'some'}") == Listed((5,))


@pytest.mark.parametrize("text", ["", "0", "-3", "uniform:9:3", "uniform:9", "log-normal:0:1:5", "normal:3"])
def test_lengths_that_are_none_are_refused(text: str) -> None:
    with pytest.raises(ValueError, match="lengths"):
        parse_lengths(text)
