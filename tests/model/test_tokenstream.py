"""Answers after prompts: whatever the tokenizer and wherever the cut, their texts join to the text of all ids."""

from __future__ import annotations

from typing import Any

import pytest
import tokenizers
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import AddedToken, decoders, models

from model.tokenizer import ByteTokenizer, Tokenizer, byte_alphabet
from model.tokenstream import WindowStream


def metaspace(strip: bool) -> tokenizers.Tokenizer:
    """The decoders of Llama 1 and 2, Mistral, Mixtral and Phi-3, and of Metaspace alone."""
    vocabulary = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256)), "▁", "▁Once", "▁upon", "a", "▁▁"]
    model = models.BPE({text: i for i, text in enumerate(vocabulary)}, [], unk_token="<unk>", byte_fallback=True)
    backend = tokenizers.Tokenizer(model)
    fallen: list[Any] = [decoders.ByteFallback(), decoders.Fuse()]
    if strip:
        backend.decoder = decoders.Sequence([decoders.Replace("▁", " "), *fallen, decoders.Strip(" ", 1, 0)])
    else:
        backend.decoder = decoders.Sequence([decoders.Metaspace(), *fallen])
    return backend


def unigram() -> tokenizers.Tokenizer:
    words = ["<pad>", "</s>", "<unk>", "<s>", "▁", "▁Once", "▁upon", "a", "time", "▁é", "漢"]
    backend = tokenizers.Tokenizer(models.Unigram([(word, -float(i)) for i, word in enumerate(words)], unk_id=2))
    backend.decoder = decoders.Metaspace()
    return backend


def wordpiece() -> tokenizers.Tokenizer:
    words = ["<s>", "</s>", "[UNK]", "once", "##ly", "upon", ".", "don", "'", "t", "##é", "漢", "not", "n't"]
    backend = tokenizers.Tokenizer(models.WordPiece({word: i for i, word in enumerate(words)}, unk_token="[UNK]"))
    backend.decoder = decoders.WordPiece()
    return backend


def byte_level() -> tokenizers.Tokenizer:
    words = ["<s>", "</s>", *byte_alphabet(), "ĠOnce", "Ġupon", "æ¼¢", "æ¼", "aðŁ"]
    backend = tokenizers.Tokenizer(models.BPE({word: i for i, word in enumerate(words)}, []))
    backend.decoder = decoders.ByteLevel()
    return backend


def with_ends(backend: tokenizers.Tokenizer) -> Tokenizer:
    backend.add_special_tokens([AddedToken(text, special=True) for text in ("<s>", "</s>")])
    return Tokenizer(backend, frozenset({1}))


KINDS = {
    "metaspace": with_ends(metaspace(strip=False)),
    "llama": with_ends(metaspace(strip=True)),
    "unigram": with_ends(unigram()),
    "wordpiece": with_ends(wordpiece()),
    "byte-level": with_ends(byte_level()),
    "bytes": ByteTokenizer(),
}


@st.composite
def ids_of(draw: st.DrawFn, tokenizer: Tokenizer) -> list[int]:
    """Any ids; tokens for single bytes only as whole characters, since a decoder gives up on whole runs of them."""
    backend = getattr(tokenizer, "_backend", None)
    first = None if backend is None else backend.token_to_id("<0x00>")
    fallen = range(0) if first is None else range(first, first + 256)
    units: list[Any] = [st.sampled_from([[i] for i in range(tokenizer.vocab_size) if i not in fallen])]
    if first is not None:
        units.append(st.sampled_from("aé漢👍").map(lambda text: [first + byte for byte in text.encode()]))
    return [i for unit in draw(st.lists(st.one_of(units), max_size=24)) for i in unit]


@pytest.mark.parametrize("kind", KINDS)
@given(st.data())
def test_a_prompt_and_the_stream_after_it_join_to_the_decoded_text(kind: str, data: st.DataObject) -> None:
    tokenizer = KINDS[kind]
    ids = data.draw(ids_of(tokenizer))
    cut = data.draw(st.integers(0, len(ids)))
    prompt, answer = ids[:cut], ids[cut:]
    stream = tokenizer.stream(prompt)
    text = "".join([*map(stream.push, answer), stream.flush()])
    assert tokenizer.text_before(prompt) + text == tokenizer.decode(ids)


def test_the_first_word_of_an_answer_keeps_its_space() -> None:
    tokenizer = KINDS["llama"]
    once, upon = (tokenizer._backend.token_to_id(text) for text in ("▁Once", "▁upon"))
    assert tokenizer.stream([1, once]).push(upon) == " upon"
    assert tokenizer.stream([1]).push(upon) == "upon", "nothing stands before it"
    stream = tokenizer.stream([once, 2, 1])
    assert [stream.push(i) for i in (2, 2, upon, 2, once)] == ["", "", " upon", "", " Once"]
    assert [stream.push(i) for i in [2] * 200 + [upon]] == [""] * 200 + [" upon"]


def test_a_stream_of_ids_without_text_of_their_own_forgets_them() -> None:
    counted: list[int] = []

    def decode(ids: Any) -> str:
        counted.append(len(ids))
        return "".join("x" for i in ids if i)

    stream = WindowStream(decode, lambda token: True)
    assert "".join(map(stream.push, [1, *[0] * 500, 1])) == "xx" and max(counted) <= 2 * WindowStream.LONGEST
