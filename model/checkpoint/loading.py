"""From a path or a name to a model with its tokenizer, whatever the format."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch

from model.checkpoint import hub, huggingface, native
from model.checkpoint.error import CheckpointError
from model.checkpoint.fill import Progress, silent
from model.checkpoint.weights import PICKLED, PICKLED_REFUSED
from model.config import Architecture
from model.tokenizer import Tokenizer
from model.transformer import Transformer

TOKENIZER = "tokenizer.json"
OTHER_TOKENIZERS = ("tokenizer.model", "spiece.model", "vocab.json", "vocab.txt", "merges.txt")


@dataclass(frozen=True, slots=True)
class Loaded:
    """A model ready to run. `tokenizer` is None where the folder has none; `source` is the folder that was read."""

    architecture: Architecture
    model: Transformer
    tokenizer: Tokenizer | None
    source: Path


def load_any(path_or_name: str | Path, dtype: torch.dtype, progress: Progress = silent) -> Loaded:
    """Load a folder in our own format or a Hugging Face one, or org/name from the hub; parameters in `dtype`.

    CheckpointError for everything that is not as it should be; nothing is left behind then.
    """
    folder = find(path_or_name)
    architecture, tokenizer = read_architecture(folder), read_tokenizer(folder)
    if tokenizer is not None:
        check_ids(tokenizer, architecture)
    load = native.load if is_native(folder) else huggingface.load
    model = load(folder, dtype, progress)
    return Loaded(model.architecture, model, tokenizer, folder)


def read_architecture(path_or_name: str | Path) -> Architecture:
    """The architecture of a checkpoint folder or org/name, without reading weights."""
    folder = find(path_or_name, weights=False)
    return native.read_architecture(folder) if is_native(folder) else huggingface.read_architecture(folder)


def check_ids(tokenizer: Tokenizer, architecture: Architecture) -> None:
    """Raise CheckpointError unless the model has every id which a text or its end can give. Special tokens of other
    uses (images, for instance) may lie beyond."""
    for what, id in (("a token", tokenizer.highest_text_id), ("an end token", max(tokenizer.eos_ids, default=-1))):
        if id >= architecture.vocab:
            raise CheckpointError(f"{TOKENIZER}: {what} has the id {id}, the model has vocab={architecture.vocab}")


def find(path_or_name: str | Path, *, weights: bool = True) -> Path:
    """The folder of a checkpoint; weights: whether those of one on the hub are wanted too."""
    path = Path(path_or_name).expanduser()
    if path.is_dir():
        return path
    if path.is_file():
        why = PICKLED_REFUSED if path.suffix in PICKLED else "a checkpoint is a folder, this is a file"
        raise CheckpointError(f"{path.name}: {why}")
    if not hub.is_name(str(path_or_name)):
        raise CheckpointError(f"{path_or_name}: no such folder, and not a name of the form org/name")
    return hub.fetch(str(path_or_name), weights=weights)


def is_native(folder: Path) -> bool:
    """Whether a folder is in our own format; CheckpointError when it is in none."""
    if (folder / native.ARCHITECTURE).is_file():
        return True
    if not (folder / huggingface.CONFIG).is_file():
        raise CheckpointError(f"{folder.name}: neither {native.ARCHITECTURE} nor {huggingface.CONFIG} in the folder")
    return False


def read_tokenizer(folder: Path) -> Tokenizer | None:
    """The tokenizer of a folder, None where there is no trace of one."""
    if not (folder / TOKENIZER).is_file():
        others = [name for name in OTHER_TOKENIZERS if (folder / name).is_file()]
        if others:
            raise CheckpointError(f"{others[0]}: only {TOKENIZER} is read; save the tokenizer in its fast form")
        return None
    try:
        return Tokenizer.load(folder)
    except Exception as error:  # the tokenizers library raises nothing narrower
        raise CheckpointError(f"{TOKENIZER} and its settings: {str(error).splitlines()[0]}") from None
