"""Text to token ids and back, incrementally."""

from __future__ import annotations

import contextlib
import itertools
import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import tokenizers

from model.template import ChatTemplate
from model.tokenstream import ByteStream, TokenStream, WindowStream

BYTE_TOKEN = re.compile("<0x([0-9A-F]{2})>")  # how vocabularies of words write bytes that they fall back on
REMEMBERED = 8  # ids with text before a stream that it has to know: more than a character has
CONTINUES = re.compile(r"<0x[89AB][0-9A-F]>")  # a token for a byte inside a character


class Tokenizer:
    """A `tokenizers` tokenizer with its end tokens and chat template."""

    def __init__(
        self,
        backend: tokenizers.Tokenizer,
        eos_ids: frozenset[int],
        template: str | None = None,
        special: dict[str, str] | None = None,
    ) -> None:
        self._backend = backend
        backend.encode_special_tokens = True
        self.eos_ids = eos_ids
        self._pieces = _byte_pieces(backend)
        self._special_ids = {i for i, token in backend.get_added_tokens_decoder().items() if token.special}
        every = set(backend.get_vocab(with_added_tokens=True).values())
        self.vocab_size: int = max(every, default=-1) + 1  # ids may have gaps
        self.highest_text_id: int = max(every - self._special_ids, default=-1)
        self._before = _some_text(backend) if self._pieces is None else []
        self._text_of_before = self.decode(self._before)
        self._template = ChatTemplate(template, special or {}) if template else None
        # A second one for text with markup: one whose setting changes would be for a moment open to other threads.
        self._markup = tokenizers.Tokenizer.from_str(backend.to_str())

    @classmethod
    def load(cls, folder: Path) -> Tokenizer:
        """Read tokenizer.json and, when there, tokenizer_config.json and generation_config.json."""
        backend = tokenizers.Tokenizer.from_file(str(folder / "tokenizer.json"))
        settings = _read_json(folder / "tokenizer_config.json")
        template = _default_template(settings.get("chat_template"))
        if template is None and (folder / "chat_template.jinja").exists():
            template = (folder / "chat_template.jinja").read_text("utf-8")
        names = ("bos_token", "eos_token", "unk_token", "pad_token")
        special = {name: text for name in names if (text := _token_text(settings.get(name)))}
        return cls(backend, _eos_ids(backend, folder, special.get("eos_token", "")), template, special)

    @property
    def chat(self) -> bool:
        return self._template is not None

    @property
    def pieces(self) -> Sequence[bytes] | None:
        """The bytes of every id, nothing for one without text; None where an id's text hangs on its neighbours."""
        return self._pieces

    def definition(self) -> str:
        """The whole tokenizer as JSON, in the form of tokenizer.json."""
        return str(self._backend.to_str())

    def encode(self, text: str, *, framed: bool = True, markup: bool = False) -> list[int]:
        """Ids of a text. `framed`: with what the tokenizer puts around one, as a token for its beginning. `markup`:
        what looks like a special token in it is one; else it is ordinary text."""
        backend = self._markup if markup else self._backend
        return list(backend.encode(text, add_special_tokens=framed).ids)

    def decode(self, ids: Sequence[int]) -> str:
        if self._pieces is not None:
            return b"".join(self._pieces[i] for i in ids).decode("utf-8", "replace")
        return str(self._backend.decode(list(ids), skip_special_tokens=True))

    def token_bytes(self, token: int) -> bytes:
        """What an id stands for within a text; of a piece of a character its own bytes, which are not UTF-8."""
        if self._pieces is not None:
            return self._pieces[token]
        text, byte = self.text_of(token), BYTE_TOKEN.fullmatch(self._backend.id_to_token(token) or "")
        return bytes.fromhex(byte[1]) if byte and text == "�" else text.encode()

    def text_of(self, token: int) -> str:
        """The text of one id within a text: with its space, which decoders take off where a text begins."""
        if self._pieces is not None:
            return self.decode([token])
        return self.decode([*self._before, token])[len(self._text_of_before) :]

    def stream(self, after: Sequence[int] = ()) -> TokenStream:
        """A TokenStream of the ids that follow `after`; its text follows `text_before(after)`."""
        stream = WindowStream(self.decode, self.shows) if self._pieces is None else ByteStream(self._pieces)
        for token in self._last(after):
            stream.push(token)
        return stream

    def stream_within(self) -> TokenStream:
        """A TokenStream of ids that stand inside some text, whatever comes before them."""
        return self.stream(self._before)

    def text_before(self, ids: Sequence[int]) -> str:
        """The text of ids that others follow: an unfinished character at the end is left to the stream after them."""
        stream = self.stream(ids)
        if isinstance(stream, WindowStream):
            return self.decode(list(filter(self.shows, ids))[: -stream.held or None])
        return self.decode(ids).removesuffix(stream.flush())

    def shows(self, token: int) -> bool:
        """Whether an id leaves a trace in a text: special tokens and ids that stand for nothing do not."""
        if self._pieces is not None:
            return bool(self._pieces[token])
        return token not in self._special_ids and self._backend.id_to_token(token) is not None

    def _last(self, ids: Sequence[int]) -> list[int]:
        """The last few ids with text, from the beginning of a character on where that can be told."""
        found = list(itertools.islice(filter(self.shows, reversed(ids)), REMEMBERED))[::-1]
        if self._pieces is not None:
            return found
        inside = itertools.takewhile(lambda token: CONTINUES.fullmatch(self._backend.id_to_token(token) or ""), found)
        return found[len(list(inside)) :]

    def render_chat(self, messages: Sequence[dict[str, str]]) -> list[int]:
        """Ids of a conversation, ready for the assistant's answer. ValueError when the template refuses it.

        Only the template may write special tokens. Contents that could pass for markup, alone or with what stands
        beside them, are encoded apart as plain text; all others as the model was trained, together with the template.
        """
        if self._template is None:
            raise ValueError("this model has no chat template")
        whole = self._marked_up(self._template.render(messages))
        apart: list[int] = []
        for text, plain in self._template.parts(messages):
            apart += self.encode(text, framed=False, markup=not plain)
        forging = any(self._specials(self._marked_up(message["content"])) for message in messages)
        return apart if forging or self._specials(whole) != self._specials(apart) else whole

    def _marked_up(self, text: str) -> list[int]:
        return self.encode(text, framed=False, markup=True)

    def _specials(self, ids: list[int]) -> list[int]:
        return [i for i in ids if i in self._special_ids]


class ByteTokenizer(Tokenizer):
    """Every byte is a token, 256 ends a text: the tokenizer of tests and of architectures without one."""

    LEAST = 257  # tokens a vocabulary must have

    def __init__(self, vocab_size: int = LEAST) -> None:
        self.eos_ids = frozenset({self.LEAST - 1})
        self.vocab_size, self.highest_text_id = vocab_size, 255
        self._template = None
        self._before = []
        self._pieces = [bytes([i]) for i in range(256)] + [b""] * (vocab_size - 256)

    def encode(self, text: str, *, framed: bool = True, markup: bool = False) -> list[int]:
        return list(text.encode("utf-8", "replace"))


def _some_text(backend: tokenizers.Tokenizer) -> list[int]:
    """A list of one id with text, for others to stand behind; empty where the vocabulary has no letters."""
    with contextlib.suppress(Exception):  # the library has no other for a text that it cannot write
        return list(backend.encode("a", add_special_tokens=False).ids[-1:])
    return []


def _default_template(said: Any) -> str | None:
    """One template, or the one called default of several with names."""
    if isinstance(said, list):
        return next((item["template"] for item in said if item.get("name") == "default"), None)
    return None if said is None else str(said)


def _read_json(path: Path) -> dict[str, Any]:
    try:
        data = json.loads(path.read_text("utf-8")) if path.exists() else {}
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path.name}: {error}") from None
    if not isinstance(data, dict):
        raise ValueError(f"{path.name}: a JSON object is needed")
    return data


def _token_text(value: Any) -> str:
    return str(value["content"]) if isinstance(value, dict) else str(value or "")


def _eos_ids(backend: tokenizers.Tokenizer, folder: Path, eos_text: str) -> frozenset[int]:
    """End tokens: the tokenizer's, and every one the model's configuration names."""
    found = {backend.token_to_id(eos_text)} if eos_text else set()
    for name in ("generation_config.json", "config.json"):
        value = _read_json(folder / name).get("eos_token_id")
        found |= set(value) if isinstance(value, list) else {value}
    return frozenset(i for i in found if isinstance(i, int))


def byte_alphabet() -> dict[str, int]:
    """The printable stand-in of each byte in byte-level BPE: itself where printable, else the next code from 256 up."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in printable]
    return {chr(byte): byte for byte in printable} | {chr(256 + i): byte for i, byte in enumerate(others)}


def _byte_pieces(backend: tokenizers.Tokenizer) -> list[bytes] | None:
    """The bytes of every id, for byte-level tokenizers; None for others. Special tokens have no text."""
    decoder = json.loads(backend.to_str()).get("decoder") or {}
    if decoder.get("type") != "ByteLevel":
        return None
    alphabet = byte_alphabet()
    added = backend.get_added_tokens_decoder()
    vocabulary = backend.get_vocab(with_added_tokens=True)
    pieces = [b""] * (max(vocabulary.values()) + 1)
    for text, i in vocabulary.items():
        if i in added:
            pieces[i] = b"" if added[i].special else text.encode()
        else:
            pieces[i] = bytes(alphabet[c] for c in text)
    return pieces
