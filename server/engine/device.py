"""Where a model runs, and how much of a GPU's memory its cache may take."""

from __future__ import annotations

from bisect import bisect_left
from dataclasses import replace

import torch

from model.cache import Carried, cache_entries
from model.config import Architecture
from model.footprint import state_bytes
from server.engine.memory import memory_entries
from server.engine.runner import Room

LARGEST_POOL = 2**31 - 1  # numbers: kernels count them in 32 bits


class NoDevice(ValueError):
    """A device that this machine does not have; the message is one line for the operator."""


def find_device(wanted: str) -> torch.device:
    """cpu, cuda, cuda:N, or auto: a GPU where there is one. Raises NoDevice."""
    gpus = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if wanted == "auto":
        wanted = "cuda" if gpus else "cpu"
    device = torch.device(wanted)
    if device.type != "cuda":
        return device
    if not gpus:
        raise NoDevice(f"device {wanted}: PyTorch {torch.__version__} sees no CUDA GPU on this machine")
    if (device.index or 0) >= gpus:
        raise NoDevice(f"device {wanted}: this machine has cuda:0 to cuda:{gpus - 1}")
    return torch.device("cuda", device.index or 0)


def free_bytes(device: torch.device) -> int:
    """Memory of a GPU that nobody has taken, what PyTorch keeps in reserve included."""
    free, _ = torch.cuda.mem_get_info(device)
    return free + torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)


def pool_bytes(architecture: Architecture, room: Room, itemsize: int) -> int:
    """What the pools of this room take, those of an encoder's memory and of states included."""
    entries = (*cache_entries(architecture), *(() if architecture.encoder is None else memory_entries(architecture)))
    paged = sum(entry.numbers * room.pages(entry.span) * room.page_size * itemsize for entry in entries)
    return paged + state_pool_bytes(architecture, room)


def state_pool_bytes(architecture: Architecture, room: Room) -> int:
    """What the states of recurrent mixers take in this room: a slot for each page, and one more for each row."""
    return state_bytes(architecture) * (room.pages(Carried()) + room.rows)


def largest_room(architecture: Architecture, room: Room, itemsize: int, budget: int) -> Room:
    """The room with the most tokens, up to those of `room`, whose pools fit into `budget` bytes and each of which a
    kernel can count; a room of no page where not even one fits."""
    widest = max((max(e.key_dim, e.value_dim) * e.heads for e in cache_entries(architecture)), default=1)

    def too_large(pages: int) -> bool:
        return pool_bytes(architecture, replace(room, tokens=pages * room.page_size), itemsize) > budget

    pages = range(1, min(room.tokens, LARGEST_POOL // widest) // room.page_size + 1)
    return replace(room, tokens=bisect_left(pages, True, key=too_large) * room.page_size)
