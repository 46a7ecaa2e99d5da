"""The tensors of a checkpoint folder: names, shapes and types at once, contents one by one through a memory map."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from model.checkpoint.error import CheckpointError

INDEX = "model.safetensors.index.json"
SINGLE = "model.safetensors"
PICKLED = frozenset({".bin", ".pt", ".pth", ".pkl", ".ckpt"})
PICKLED_REFUSED = "pickled weights can run code and are never read; convert them to safetensors"
LONGEST_JSON = 64 * 1024 * 1024
BYTES = {"F64": 8, "F32": 4, "F16": 2, "BF16": 2, "I64": 8, "I32": 4, "I16": 2}
"""Bytes of one element by safetensors' name of its type; every other type has one."""


@dataclass(frozen=True, slots=True)
class Stored:
    """One tensor as its file's header describes it; `dtype` is safetensors' name, for instance BF16."""

    file: Path
    shape: tuple[int, ...]
    dtype: str

    @property
    def bytes(self) -> int:
        return math.prod(self.shape) * BYTES.get(self.dtype, 1)


class Weights:
    """Every tensor of the safetensors files of a folder. Opening reads headers only."""

    def __init__(self, folder: Path) -> None:
        """CheckpointError for files that are missing, truncated, pickled, or outside the folder."""
        files, promised = _files(folder)
        self.label = INDEX if promised else files[0].name
        self.tensors: dict[str, Stored] = {}
        for file in files:
            self._read_header(file)
        lost = sorted(promised - set(self.tensors))
        if lost:
            others = f" and {len(lost) - 1} more" if len(lost) > 1 else ""
            raise CheckpointError(f"{INDEX}: no shard holds the tensor {lost[0]}{others}")
        self._open: tuple[Path, Any] | None = None

    def read(self, name: str) -> Tensor:
        """The tensor as stored, backed by the file: nothing is in memory before it is touched."""
        file = self.tensors[name].file
        if self._open is None or self._open[0] != file:
            self._open = (file, open_file(file))
        tensor: Tensor = self._open[1].get_tensor(name)
        return tensor

    def _read_header(self, file: Path) -> None:
        header = open_file(file)
        for name in header.keys():  # noqa: SIM118 - not a mapping
            if name in self.tensors:
                raise CheckpointError(f"{file.name}: {name} is also in {self.tensors[name].file.name}")
            part = header.get_slice(name)
            self.tensors[name] = Stored(file, tuple(part.get_shape()), part.get_dtype())


def write(path: Path, tensors: dict[str, Tensor], metadata: dict[str, str] | None = None) -> None:
    """Write one safetensors file with the usual permissions: the library makes it readable by its owner alone."""
    path.touch()
    mode = path.stat().st_mode
    save_file(tensors, path, metadata)
    path.chmod(mode)


def open_file(file: Path) -> Any:
    """A safetensors file, mapped; CheckpointError when it is none, or broken."""
    try:
        return safe_open(file, framework="pt")
    except (OSError, SafetensorError) as error:
        raise CheckpointError(f"{file.name}: {_plain(error)}") from None


def read_json(path: Path) -> dict[str, Any]:
    """The JSON object in a file; CheckpointError for a file that is missing, too long or not one."""
    try:
        if path.stat().st_size > LONGEST_JSON:
            raise CheckpointError(f"{path.name}: {path.stat().st_size} bytes, at most {LONGEST_JSON} are read")
        data = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        if isinstance(error, CheckpointError):
            raise
        raise CheckpointError(f"{path.name}: {_plain(error)}") from None
    if not isinstance(data, dict):
        raise CheckpointError(f"{path.name}: a JSON object is needed")
    return data


def _plain(error: Exception) -> str:
    """An error's first line without the path (the folder is nobody's business but the user's)."""
    text = (error.strerror or "cannot be read") if isinstance(error, OSError) else str(error)
    return text.splitlines()[0] if text else type(error).__name__


def _files(folder: Path) -> tuple[list[Path], frozenset[str]]:
    """The files that hold the weights, and the tensors an index promises (none without an index)."""
    if (folder / INDEX).is_file():
        return _indexed(folder)
    if (folder / SINGLE).is_file():
        return [folder / SINGLE], frozenset()
    found = sorted(folder.glob("*.safetensors"))
    if len(found) == 1:
        return found, frozenset()
    if found:
        raise CheckpointError(f"{len(found)} .safetensors files and no {INDEX} that says which belong together")
    pickled = sorted(file.name for file in folder.glob("*") if file.suffix in PICKLED)
    if pickled:
        raise CheckpointError(f"{pickled[0]}: {PICKLED_REFUSED}")
    raise CheckpointError(f"no {SINGLE} and no {INDEX} in the folder")


def _indexed(folder: Path) -> tuple[list[Path], frozenset[str]]:
    places = read_json(folder / INDEX).get("weight_map")
    if not isinstance(places, dict) or not all(isinstance(name, str) for name in places.values()) or not places:
        raise CheckpointError(f"{INDEX}: weight_map must say for every tensor which file it is in")
    names = sorted(set(places.values()))
    for name in names:
        if Path(name).name != name or not name.endswith(".safetensors"):
            raise CheckpointError(f"{INDEX}: {name!r} is not the name of a .safetensors file in the folder")
        if not (folder / name).is_file():
            raise CheckpointError(f"{INDEX}: the shard {name} is missing")
    return [folder / name for name in names], frozenset(places)
