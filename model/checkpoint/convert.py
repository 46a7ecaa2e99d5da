"""From one format of checkpoint to the other: a Hugging Face directory into our own, ours back into a directory."""

from __future__ import annotations

import shutil
from collections import Counter
from pathlib import Path

import torch

from model.checkpoint import export, huggingface, native
from model.checkpoint.error import CheckpointError
from model.checkpoint.fill import Progress, silent
from model.checkpoint.loading import find, is_native, read_tokenizer
from model.checkpoint.weights import Weights, read_json

TEXTS = ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "chat_template.jinja")
GENERATION = "generation_config.json"
DTYPES = {"F64": torch.float32, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}


def convert(
    source: str | Path, out: Path, dtype: torch.dtype | None = None, progress: Progress = silent
) -> tuple[str, torch.dtype]:
    """Write `source` (a folder or org/name) in the other format into the new or empty folder `out`.

    Parameters are written in `dtype`, or in the type that most of the source is stored in. Returns the format (`dyno`
    or a model type) and the type. CheckpointError when the source cannot be read, or not be said in the other format.
    """
    folder = find(source)
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise CheckpointError(f"{out.name}: there is something there already")
    dtype = dtype or stored_dtype(Weights(folder))
    write = _to_directory if is_native(folder) else _to_own
    return write(folder, out, dtype, progress), dtype


def stored_dtype(weights: Weights) -> torch.dtype:
    """The floating type that most bytes are stored in."""
    found: Counter[str] = Counter()
    for stored in weights.tensors.values():
        if stored.dtype in DTYPES:
            found[stored.dtype] += stored.bytes
    return DTYPES[found.most_common(1)[0][0]] if found else torch.float32


def _to_own(folder: Path, out: Path, dtype: torch.dtype, progress: Progress) -> str:
    model = huggingface.load(folder, dtype, progress)
    kind = read_json(folder / huggingface.CONFIG)["model_type"]
    native.save(out, model, {"name": folder.name, "converted_from": kind}, dtype)
    _copy_tokenizer(folder, out)
    return "dyno"


def _to_directory(folder: Path, out: Path, dtype: torch.dtype, progress: Progress) -> str:
    export.describe(native.read_architecture(folder))  # refuse before the weights are read
    ends = _end_ids(folder)
    kind = export.save(out, native.load(folder, dtype, progress), {"eos_token_id": ends} if ends else {})
    _copy_tokenizer(folder, out)
    return kind


def _copy_tokenizer(folder: Path, out: Path) -> None:
    """The tokenizer's files; end tokens that only config.json names would get lost, so they are written out."""
    for name in TEXTS:
        if (folder / name).is_file():
            shutil.copyfile(folder / name, out / name)
    said = read_json(folder / GENERATION) if (folder / GENERATION).is_file() else {}
    ends = _end_ids(folder)
    if said or ends:
        native.write_json(out / GENERATION, said | ({"eos_token_id": ends} if ends else {}))


def _end_ids(folder: Path) -> list[int]:
    tokenizer = read_tokenizer(folder)
    return [] if tokenizer is None else sorted(tokenizer.eos_ids)
