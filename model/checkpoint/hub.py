"""Checkpoints by name from the Hugging Face hub, through its own client and its cache."""

from __future__ import annotations

import re
from pathlib import Path

from model.checkpoint.error import CheckpointError

NAME = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")
TEXTS = ("*.json", "*.jinja")
WEIGHTS = ("*.safetensors",)
UNWANTED = ("*/*", "consolidated*.safetensors")  # other formats of the same weights


def is_name(text: str) -> bool:
    """Whether a text has the form org/name."""
    return NAME.fullmatch(text) is not None


def fetch(name: str, *, weights: bool = True) -> Path:
    """The folder of org/name, downloaded unless it is in the cache; without a network the cache is all there is.

    weights: else only texts are needed. Only safetensors files and texts are fetched, never code or pickles.
    CheckpointError says what stood in the way.
    """
    try:
        from huggingface_hub import errors, snapshot_download
    except ImportError:
        raise CheckpointError(f"{name}: the package huggingface_hub is needed to fetch models by name") from None
    try:
        wanted = [*TEXTS, *(WEIGHTS if weights else ())]
        folder = snapshot_download(name, allow_patterns=wanted, ignore_patterns=list(UNWANTED))
    except errors.GatedRepoError:
        raise CheckpointError(f"{name}: its owner gives access on request only, and HF_TOKEN has none") from None
    except errors.RepositoryNotFoundError:
        raise CheckpointError(f"{name}: the hub has no such model (or it is private, and HF_TOKEN not set)") from None
    except errors.LocalEntryNotFoundError:
        raise CheckpointError(f"{name}: not in the local cache, and the hub cannot be reached") from None
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{name}: {str(error).splitlines()[0]}") from None
    return Path(folder)
