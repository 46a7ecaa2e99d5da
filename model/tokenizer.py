"""Text to token ids and back, incrementally."""

from __future__ import annotations

import codecs
import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

import tokenizers

from model.template import ChatTemplate

BYTE_TOKEN = re.compile("<0x([0-9A-F]{2})>")  # how vocabularies of words write bytes that they fall back on


class TokenStream(Protocol):
    """Turns ids into text one by one; the pieces joined are the text of all ids."""

    def push(self, token: int) -> str:
        """The text that became complete with this id; "" while a character is still open."""
        ...

    def flush(self) -> str:
        """What is left at the end: U+FFFD for an unfinished character."""
        ...


class ByteStream:
    """TokenStream where every id is a piece of UTF-8: exact, whatever the cut."""

    def __init__(self, pieces: Sequence[bytes]) -> None:
        self._pieces = pieces
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")

    def push(self, token: int) -> str:
        return self._decoder.decode(self._pieces[token])

    def flush(self) -> str:
        return self._decoder.decode(b"", True)


class WindowStream:
    """TokenStream for any other decoder: decodes a short window and emits what has become stable."""

    LONGEST_CHARACTER = 4  # byte tokens

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self._ids: list[int] = []
        self._start = self._read = 0  # ids before _start are forgotten, text of ids before _read is out

    def push(self, token: int) -> str:
        self._ids.append(token)
        before, after = self._texts()
        if after.endswith("�") and len(self._ids) - self._read < self.LONGEST_CHARACTER:
            return ""
        return self._emit(before, after)

    def flush(self) -> str:
        return self._emit(*self._texts())

    def _texts(self) -> tuple[str, str]:
        window = self._ids[self._start :]
        return self._tokenizer.decode(window[: self._read - self._start]), self._tokenizer.decode(window)

    def _emit(self, before: str, after: str) -> str:
        self._start, self._read = self._read, len(self._ids)
        return after[len(before) :]


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
        self.vocab_size: int = backend.get_vocab_size()
        self._pieces = _byte_pieces(backend)
        self._special_ids = {i for i, token in backend.get_added_tokens_decoder().items() if token.special}
        self._template = ChatTemplate(template, special or {}) if template else None
        # A second one for what templates write: one whose setting changes would be for a moment open to other threads.
        self._markup = tokenizers.Tokenizer.from_str(backend.to_str()) if template else backend

    @classmethod
    def load(cls, folder: Path) -> Tokenizer:
        """Read tokenizer.json and, when there, tokenizer_config.json and generation_config.json."""
        backend = tokenizers.Tokenizer.from_file(str(folder / "tokenizer.json"))
        settings = _read_json(folder / "tokenizer_config.json")
        template = _default_template(settings.get("chat_template"))
        if template is None and (folder / "chat_template.jinja").exists():
            template = (folder / "chat_template.jinja").read_text()
        special = {
            name: _token_text(settings.get(name)) for name in ("bos_token", "eos_token", "unk_token", "pad_token")
        }
        return cls(backend, _eos_ids(backend, folder, special["eos_token"]), template, special)

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

    def encode(self, text: str) -> list[int]:
        """Ids of plain text: what looks like a special token in it is ordinary text."""
        return list(self._backend.encode(text, add_special_tokens=True).ids)

    def decode(self, ids: Sequence[int]) -> str:
        if self._pieces is not None:
            return b"".join(self._pieces[i] for i in ids).decode("utf-8", "replace")
        return str(self._backend.decode(list(ids), skip_special_tokens=True))

    def token_bytes(self, token: int) -> bytes:
        """What an id stands for alone; of a piece of a character its own bytes, which are not UTF-8."""
        if self._pieces is not None:
            return self._pieces[token]
        text, byte = self.decode([token]), BYTE_TOKEN.fullmatch(self._backend.id_to_token(token) or "")
        return bytes.fromhex(byte[1]) if byte and text == "�" else text.encode()

    def stream(self) -> TokenStream:
        return WindowStream(self) if self._pieces is None else ByteStream(self._pieces)

    def render_chat(self, messages: Sequence[dict[str, str]]) -> list[int]:
        """Ids of a conversation, ready for the assistant's answer. ValueError when the template refuses it.

        Only the template may write special tokens. Contents that could pass for markup, alone or with what stands
        beside them, are encoded apart as plain text; all others as the model was trained, together with the template.
        """
        if self._template is None:
            raise ValueError("this model has no chat template")
        whole = self._written(self._template.render(messages))
        apart: list[int] = []
        for text, plain in self._template.parts(messages):
            apart += self._backend.encode(text, add_special_tokens=False).ids if plain else self._written(text)
        forging = any(self._specials(self._written(message["content"])) for message in messages)
        return apart if forging or self._specials(whole) != self._specials(apart) else whole

    def _written(self, text: str) -> list[int]:
        """Ids of a text in which special tokens count."""
        return list(self._markup.encode(text, add_special_tokens=False).ids)

    def _specials(self, ids: list[int]) -> list[int]:
        return [i for i in ids if i in self._special_ids]


class ByteTokenizer(Tokenizer):
    """Every byte is a token, 256 ends a text: the tokenizer of tests and of architectures without one."""

    LEAST = 257  # tokens a vocabulary must have

    def __init__(self, vocab_size: int = LEAST) -> None:
        self.eos_ids = frozenset({self.LEAST - 1})
        self.vocab_size = vocab_size
        self._template = None
        self._pieces = [bytes([i]) for i in range(256)] + [b""] * (vocab_size - 256)

    def encode(self, text: str) -> list[int]:
        return list(text.encode("utf-8", "replace"))


def _default_template(said: Any) -> str | None:
    """One template, or the one called default of several with names."""
    if isinstance(said, list):
        return next((item["template"] for item in said if item.get("name") == "default"), None)
    return None if said is None else str(said)


def _read_json(path: Path) -> dict[str, Any]:
    data: dict[str, Any] = json.loads(path.read_text()) if path.exists() else {}
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
