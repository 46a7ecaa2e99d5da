"""Public trace formats, each with a file of a few lines in its published columns."""

from __future__ import annotations

from pathlib import Path

import orjson
import pytest

from client.load.arrivals import Constant
from client.load.importing import Format, Shaping, read
from client.load.trace import Trace, TraceError

MOONCAKE = """
{"timestamp": 27482, "input_length": 1100, "output_length": 52, "hash_ids": [46, 47, 48]}
{"timestamp": 30535, "input_length": 1030, "output_length": 26, "hash_ids": [46, 47, 60]}
"""
AZURE = """TIMESTAMP,ContextTokens,GeneratedTokens
2023-11-16 18:15:46.6805900,374,44
2023-11-16 18:15:50.9951690,396,109
"""
BURSTGPT = """Timestamp,Model,Request tokens,Response tokens,Total tokens,Log Type
5,ChatGPT,472,18,490,Conversation log
45,ChatGPT,1087,230,1317,Conversation log
60,ChatGPT,417,0,417,API log
"""
SHAREGPT = """[
{"id": "a", "conversations": [{"from": "human", "value": "Tell me a tale"},
 {"from": "gpt", "value": "Once there was."}]},
{"id": "b", "conversations": [{"from": "gpt", "value": "No question"}]},
{"id": "c", "conversations": [{"from": "human", "value": "And another"}, {"from": "gpt", "value": "Long ago it came."}]}
]"""


def imported(form: Format, text: str, folder: Path, **shaping: object) -> Trace:
    path = folder / "trace"
    path.write_text(text)
    return read(form, path, Shaping(**{"vocab": 100, **shaping}))  # type: ignore[arg-type]


def lengths(trace: Trace) -> list[tuple[int, int]]:
    return [(len(row.prompt), row.max_tokens) for row in trace.rows]


def test_mooncake_blocks_are_shared_where_their_ids_are(tmp_path: Path) -> None:
    trace = imported(Format.MOONCAKE, MOONCAKE, tmp_path)
    assert [row.offset for row in trace.rows] == [0.0, 3.053]
    assert lengths(trace) == [(1100, 52), (1030, 26)]
    first, second = (row.prompt for row in trace.rows)
    assert first[:1024] == second[:1024]
    assert first[1024:1030] != second[1024:]


def test_azure_and_burstgpt_columns(tmp_path: Path) -> None:
    azure = imported(Format.AZURE, AZURE, tmp_path)
    assert [row.offset for row in azure.rows] == pytest.approx([0.0, 4.314579])
    assert lengths(azure) == [(374, 44), (396, 109)]
    burst = imported(Format.BURSTGPT, BURSTGPT, tmp_path)
    assert [row.offset for row in burst.rows] == [0.0, 40.0]
    assert lengths(burst) == [(472, 18), (1087, 230)]


def test_sharegpt_keeps_the_words_and_draws_the_instants(tmp_path: Path) -> None:
    trace = imported(Format.SHAREGPT, SHAREGPT, tmp_path, arrivals=Constant(2.0))
    assert [(row.offset, row.prompt, row.max_tokens) for row in trace.rows] == [
        (0.0, "Tell me a tale", 4),
        (0.5, "And another", 5),
    ]


def test_sharegpt_has_the_rate_that_was_asked_for_whatever_was_too_long(tmp_path: Path) -> None:
    said = [
        ("Tell me a tale", "Once there was."),
        ("word " * 200, "So."),
        ("And another", "Long ago."),
        ("More", "No."),
    ]
    talks = [{"conversations": [{"from": "human", "value": q}, {"from": "gpt", "value": a}]} for q, a in said * 5]
    text = orjson.dumps(talks).decode()
    kept = imported(Format.SHAREGPT, text, tmp_path, arrivals=Constant(2.0), context=50, requests=12)
    assert [row.offset for row in kept.rows] == [i / 2 for i in range(12)]


def test_sharegpt_questions_get_shorter_with_all_else(tmp_path: Path) -> None:
    words = " ".join(f"word{i:03}" for i in range(50))  # 399 characters
    talk = [{"conversations": [{"from": "human", "value": words}, {"from": "gpt", "value": "x" * 80}]}]
    text = orjson.dumps(talk).decode()
    (whole,), (short,) = (imported(Format.SHAREGPT, text, tmp_path, shorter=n).rows for n in (1.0, 4.0))
    assert (whole.prompt, whole.max_tokens) == (words, 20)
    assert (short.prompt, short.max_tokens) == (words[:95], 5), "a hundred characters, to the last whole word"
    (one,) = imported(Format.SHAREGPT, text.replace(" ", ""), tmp_path, shorter=4.0).rows
    assert one.prompt == words.replace(" ", "")[: len(one.prompt)] and len(one.prompt) == 88


def test_a_large_trace_is_made_to_fit(tmp_path: Path) -> None:
    small = imported(Format.BURSTGPT, BURSTGPT, tmp_path, shorter=10, faster=20)
    assert lengths(small) == [(47, 2), (109, 23)]
    assert [row.offset for row in small.rows] == [0.0, 2.0]
    assert lengths(imported(Format.BURSTGPT, BURSTGPT, tmp_path, context=500)) == [(472, 18)]
    assert lengths(imported(Format.BURSTGPT, BURSTGPT, tmp_path, requests=1)) == [(472, 18)]


def test_the_same_file_gives_the_same_hash(tmp_path: Path) -> None:
    one, two = (imported(Format.MOONCAKE, MOONCAKE, tmp_path) for _ in range(2))
    assert one.hash == two.hash
    assert imported(Format.MOONCAKE, MOONCAKE, tmp_path, seed=1).hash != one.hash


@pytest.mark.parametrize(
    ("form", "text", "complaint"),
    [
        (Format.MOONCAKE, '{"timestamp": 1}', "line 1 of .* has no 'hash_ids'"),
        (Format.MOONCAKE, "{", "line 1 of .* is not JSON"),
        (Format.AZURE, "a,b\n1,2\n", "has no column 'TIMESTAMP'"),
        (Format.AZURE, "TIMESTAMP,ContextTokens,GeneratedTokens\nnoon,1,1\n", "line 2 of .*noon"),
        (Format.BURSTGPT, BURSTGPT.replace("472", "many"), "line 2 of .*many"),
        (Format.SHAREGPT, '[{"id": 1}]', "a conversation lacks 'conversations'"),
        (Format.SHAREGPT, "[]", "holds no request that fits"),
    ],
)
def test_what_is_not_the_format_is_told(tmp_path: Path, form: Format, text: str, complaint: str) -> None:
    with pytest.raises(TraceError, match=complaint):
        imported(form, text, tmp_path)


def test_shaping_must_be_possible() -> None:
    with pytest.raises(ValueError, match="faster must be positive, got 0"):
        Shaping(vocab=10, faster=0)
