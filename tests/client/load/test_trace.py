from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from client.load.trace import Trace, TraceError, TraceRow

ROW = '{"format":"dyno.trace/1"}\n{"offset":0,"prompt":"x","max_tokens":1'
TRACE = Trace((TraceRow(0.0, "once upon", 8, seed=3), TraceRow(0.1 + 0.2, (1, 2, 3), 4, temperature=0.7)))


def test_what_is_written_is_read_back(tmp_path: Path) -> None:
    TRACE.write(tmp_path / "trace.jsonl")
    read = Trace.read(tmp_path / "trace.jsonl")
    assert read == TRACE
    assert read.hash == TRACE.hash


def test_the_hash_stays_the_same_from_version_to_version() -> None:
    assert TRACE.hash == "554ba5557e025a8b0f4d486bb05734783b5f7742150e01e7ba695090b9901a90"


@pytest.mark.parametrize(
    "change", [{"offset": 0.5}, {"prompt": "twice"}, {"max_tokens": 9}, {"seed": 4}, {"ignore_eos": False}]
)
def test_any_change_changes_the_hash(change: dict[str, object]) -> None:
    changed = Trace((replace(TRACE.rows[0], **change), TRACE.rows[1]))  # type: ignore[arg-type]
    assert changed.hash != TRACE.hash


def test_the_same_requests_at_other_instants() -> None:
    timed = TRACE.timed((1.0, 2.5))
    assert [row.offset for row in timed.rows] == [1.0, 2.5]
    assert [row.prompt for row in timed.rows] == [row.prompt for row in TRACE.rows]
    assert timed.seconds == 2.5


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("", "line 1"),
        ("{}", "line 1 .* does not say"),
        ("[1]", "line 1 is not a JSON object"),
        ('{"format":"dyno.trace/1"}\n{', "line 2 is not JSON"),
        ('{"format":"dyno.trace/1"}\n{"offset":0,"max_tokens":1}', "line 2 has no prompt"),
        ('{"format":"dyno.trace/1"}\n{"offset":0,"prompt":"x","max_tokens":1,"speed":2}', "line 2 .*keys: speed"),
        ('{"format":"dyno.trace/1"}\n{"offset":0,"prompt":"x"}', "line 2.*max_tokens"),
        (
            '{"format":"dyno.trace/1","rows":3}\n{"offset":0,"prompt":"x","max_tokens":1}',
            "not whole: .* 3 rows.* are 1",
        ),
        ('{"format":"dyno.trace/1","rows":0}\n{"offset":0,"prompt":"x","max_tokens":1}', "not whole"),
        ('{"format":"dyno.trace/1","rows":"1"}\n{"offset":0,"prompt":"x","max_tokens":1}', "'1' rows"),
        (f'{ROW}, "seed": "3"}}', "line 2: seed must be a whole number of 64 bits, got '3'"),
        (f'{ROW}, "seed": true}}', "line 2: seed .*got True"),
        (f'{ROW}, "seed": {2**63}}}', "line 2: seed .*got 9223372036854775808"),
        (f'{ROW}, "ignore_eos": 1}}', "line 2: ignore_eos must be true or false, got 1"),
        (f'{ROW}, "tenant": 7}}', "line 2: tenant must be a text, got 7"),
        (f'{ROW}, "top_p": "all"}}', "line 2: top_p must be a number, got 'all'"),
        (f'{ROW}, "top_k": 2.5}}', "line 2: top_k must be a whole number, got 2.5"),
    ],
)
def test_a_bad_file_is_refused_by_line(tmp_path: Path, text: str, complaint: str) -> None:
    path = tmp_path / "bad.jsonl"
    path.write_text(text)
    with pytest.raises(TraceError, match=complaint):
        Trace.read(path)


def test_a_file_need_not_say_how_many_rows_it_has(tmp_path: Path) -> None:
    (tmp_path / "t.jsonl").write_text(ROW + "}\n" + ROW.splitlines()[1] + ', "seed": -1}')
    assert [row.seed for row in Trace.read(tmp_path / "t.jsonl").rows] == [0, -1]


def test_a_file_that_was_cut_off_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "t.jsonl"
    TRACE.write(path)
    path.write_bytes(b"".join(path.read_bytes().splitlines(keepends=True)[:-1]))
    with pytest.raises(TraceError, match="line 1 says 2 rows, there are 1"):
        Trace.read(path)
