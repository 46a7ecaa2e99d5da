"""From a name to a served model: what its card says, and what is refused before anything is built."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from model.checkpoint import native
from model.checkpoint.error import CheckpointError
from model.config import Architecture, Block, FeedForward
from model.initialise import random_model
from server.build import BuildOptions, build_model
from server.metrics import PrometheusObserver


@pytest.mark.parametrize("vocab", [33, 256])
def test_a_checkpoint_too_small_for_bytes_needs_a_tokenizer(vocab: int, tmp_path: Path) -> None:
    model = random_model(Architecture(vocab, 16, 8, (Block((FeedForward(8),)),)), 0)
    native.save(tmp_path / "small", model, {}, torch.float32)
    with pytest.raises(
        CheckpointError, match=rf"^small has no tokenizer: vocab={vocab} is too small, bytes .* need 257"
    ):
        build_model(str(tmp_path / "small"), BuildOptions(), PrometheusObserver())
