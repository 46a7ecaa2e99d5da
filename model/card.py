"""The architecture card: what a model is and costs, as data for pages and programs. model/inspect.py prints it."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from model.codec import architecture_to_dict
from model.config import Architecture
from model.describe import describe
from model.footprint import cache_bytes, cache_bytes_per_token, memory_bytes, state_bytes
from model.naming import Names
from model.operations import flops_per_token
from model.parameters import parameters, without_memory
from model.presets import Preset
from model.roofline import largest_batch, largest_context

LENGTHS = (1024, 32768)
CACHE_LENGTHS = (4096, 32768)


def card(
    name: str,
    architecture: Architecture,
    dtype: str = "bfloat16",
    preset: Preset | None = None,
    scale: str | None = None,
    names: Names | None = None,
) -> dict[str, Any]:
    """JSON-ready: what `dyno inspect --json` prints and a server tells of a model.

    Bytes in `dtype`; operations of one decode step at each of LENGTHS and the cache of one request at each of
    CACHE_LENGTHS, also where they are beyond the context; `memory_bytes_per_token` is what cross-attention keeps of one
    token of the source, `state_bytes` what recurrent mixers carry of a request. Active parameters and operations are
    those of a text alone, without the `left_out_layers` that only look at a memory. `published` are its makers'
    figures, where the architecture is a preset as published. `names` are what the blocks are called already, for
    instance in a file.
    """
    counted, running = parameters(architecture), without_memory(architecture)
    used = parameters(running)
    operations = {str(length): flops_per_token(running, length) for length in LENGTHS}
    return {
        "name": name,
        "parameters": {
            "total": counted.total,
            "active": used.active,
            "active_without_embeddings": used.active_without_embeddings,
        },
        "parameters_by_part": asdict(counted.all),
        "left_out_layers": len(architecture.blocks) - len(running.blocks),
        "cache_bytes_per_token": cache_bytes_per_token(architecture, dtype),
        "state_bytes": state_bytes(architecture),
        "cache_bytes": {str(length): cache_bytes(architecture, length, dtype) for length in CACHE_LENGTHS},
        "memory_bytes_per_token": memory_bytes(running, 1, dtype),
        "flops_per_token": {length: parts.total for length, parts in operations.items()},
        "flops_by_part": {length: asdict(parts) for length, parts in operations.items()},
        "dtype": dtype,
        "description": describe(architecture, names),
        "published": None if preset is None else _published(preset),
        "scale": scale,
        "architecture": architecture_to_dict(architecture, names),
    }


def fits(architecture: Architecture, gib: float, dtype: str = "bfloat16") -> dict[str, Any]:
    """What a memory of so many GiB holds beside the weights: requests of `length` positions, or positions of one."""
    memory, length = gib * 2**30, min(architecture.context, CACHE_LENGTHS[0])
    return {
        "memory_gib": gib,
        "length": length,
        "largest_batch": largest_batch(architecture, memory, length, dtype),
        "largest_context": largest_context(architecture, memory, 1, dtype),
    }


def _published(preset: Preset) -> dict[str, Any]:
    origin = {"year": preset.year, "source": preset.source, "checkpoint": preset.checkpoint, "remark": preset.note}
    return {**asdict(preset.published), **origin}
