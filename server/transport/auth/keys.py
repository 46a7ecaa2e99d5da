"""API keys: read from a file or a variable, kept as digests, never shown.

A file is TOML, one table a key:

    [[keys]]
    name = "alice"                  # 1 to 64 of A-Z a-z 0-9 _ . -; shown in logs and to the operator
    key = "…"                       # 16 to 512 visible ASCII characters; or sha256 = "…", their SHA-256 in hex
    roles = ["inference"]           # any of inference, metrics, admin
    max_concurrent = 64             # generations in flight at once; 64 when left out

The variable holds NAME:ROLES:KEY, roles joined by +, several keys with commas between:

    DYNO_API_KEYS=alice:inference:…,ops:metrics+admin:…
"""

from __future__ import annotations

import hashlib
import re
import stat
import tomllib
from collections.abc import Iterable
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Any

DEFAULT_CONCURRENT = 64
MOST_KEYS = 1000
MOST_FILE_BYTES = 1 << 20
NAME = re.compile(r"[A-Za-z0-9_.-]{1,64}")
KEY = re.compile(r"[!-~]{16,512}")
DIGEST = re.compile(r"[0-9a-fA-F]{64}")
FIELDS = {"name", "key", "sha256", "roles", "max_concurrent"}


class KeysError(ValueError):
    """The keys are wrong; the message is one line for the operator and holds no key."""


class Role(StrEnum):
    """What a key may be good for."""

    INFERENCE = "inference"  # ask models
    METRICS = "metrics"  # read metrics
    ADMIN = "admin"  # load and unload models, see and cancel everybody's requests, stop the server


@dataclass(frozen=True, slots=True)
class ApiKey:
    """A key, without itself."""

    name: str
    digest: bytes = field(repr=False)  # SHA-256
    roles: frozenset[Role]
    max_concurrent: int = DEFAULT_CONCURRENT


def digest_of(key: bytes) -> bytes:
    """A fast hash is enough: keys are long and random, nobody can go through them all."""
    return hashlib.sha256(key).digest()


def read_keys(path: Path) -> tuple[ApiKey, ...]:
    """The keys of a file. Raises KeysError.

    A file with keys in the clear must not be readable by everybody; one that only has digests may be.
    """
    try:
        with path.open("rb") as file:
            mode = stat.S_IMODE(path.stat().st_mode)
            raw = file.read(MOST_FILE_BYTES + 1)
    except OSError as error:
        raise KeysError(f"key file {path}: {error.strerror}") from None
    if len(raw) > MOST_FILE_BYTES:
        raise KeysError(f"key file {path}: more than {MOST_FILE_BYTES} bytes")
    try:
        tables = _tables(raw)
        if mode & stat.S_IROTH and any("key" in table for table in tables):
            raise KeysError("everybody may read it; chmod o-r, or keep sha256 in place of key")
        return _checked(_from_table(f"keys[{index}]", table) for index, table in enumerate(tables))
    except KeysError as error:
        raise KeysError(f"key file {path}: {error}") from None


def parse_keys(text: str, variable: str) -> tuple[ApiKey, ...]:
    """The keys of a variable. Raises KeysError."""
    parts = [part.strip() for part in text.split(",") if part.strip()]
    try:
        return _checked(_from_words(f"entry {index}", part) for index, part in enumerate(parts, 1))
    except KeysError as error:
        raise KeysError(f"{variable}: {error}") from None


def _tables(raw: bytes) -> list[dict[str, Any]]:
    try:
        data = tomllib.loads(raw.decode())
    except ValueError:  # the reader's message could quote what it could not read
        raise KeysError("not TOML in UTF-8") from None
    tables = data.pop("keys", [])
    if data or not isinstance(tables, list) or not all(isinstance(table, dict) for table in tables):
        raise KeysError("there may be [[keys]] in it and nothing else")
    return tables


def _from_table(where: str, table: dict[str, Any]) -> ApiKey:
    if unknown := table.keys() - FIELDS:
        raise KeysError(f"{where}: unknown field {sorted(unknown)[0]!r}")
    if ("key" in table) == ("sha256" in table):
        raise KeysError(f"{where}: either key or sha256 is needed")
    name, roles = _name(where, table.get("name")), table.get("roles")
    if not isinstance(roles, list):
        raise KeysError(f"{where} ({name}): roles must be a list")
    most = table.get("max_concurrent", DEFAULT_CONCURRENT)
    if type(most) is not int or most < 1:
        raise KeysError(f"{where} ({name}): max_concurrent must be a whole number from 1, got {most!r}")
    where = f"{where} ({name})"
    digest = _digest(where, table["sha256"]) if "sha256" in table else _key_digest(where, table["key"])
    return ApiKey(name, digest, _roles(where, roles), most)


def _from_words(where: str, text: str) -> ApiKey:
    words = text.split(":", 2)
    if len(words) != 3:
        raise KeysError(f"{where}: must be NAME:ROLES:KEY")
    name = _name(where, words[0])
    where = f"{where} ({name})"
    return ApiKey(name, _key_digest(where, words[2]), _roles(where, words[1].split("+")))


def _name(where: str, name: object) -> str:
    if not isinstance(name, str) or not NAME.fullmatch(name):
        raise KeysError(f"{where}: name must be 1 to 64 of A-Z a-z 0-9 _ . -")
    return name


def _key_digest(where: str, key: object) -> bytes:
    if not isinstance(key, str) or not KEY.fullmatch(key):
        raise KeysError(f"{where}: key must be 16 to 512 visible ASCII characters")
    return digest_of(key.encode())


def _digest(where: str, text: object) -> bytes:
    if not isinstance(text, str) or not DIGEST.fullmatch(text):
        raise KeysError(f"{where}: sha256 must be 64 hexadecimal digits")
    return bytes.fromhex(text)


def _roles(where: str, names: Iterable[object]) -> frozenset[Role]:
    known = [role.value for role in Role]
    roles = list(names)
    if not roles or any(role not in known for role in roles):
        raise KeysError(f"{where}: roles must be one or more of {', '.join(known)}")
    return frozenset(Role(str(role)) for role in roles)


def _checked(keys: Iterable[ApiKey]) -> tuple[ApiKey, ...]:
    made = tuple(keys)
    if not made:
        raise KeysError("there is no key")
    if len(made) > MOST_KEYS:
        raise KeysError(f"at most {MOST_KEYS} keys, got {len(made)}")
    for what, values in (("name", [key.name for key in made]), ("key", [key.digest for key in made])):
        if len(set(values)) < len(values):
            raise KeysError(f"two entries have the same {what}")
    return made
