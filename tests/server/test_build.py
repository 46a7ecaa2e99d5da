"""From a name to a served model: what its card says, and what is refused before anything is built."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from model.checkpoint import native
from model.checkpoint.error import CheckpointError
from model.config import Architecture, Block, ConfigError, FeedForward
from model.initialise import random_model
from server.build import BuildOptions, build_model
from server.metrics import PrometheusObserver


def test_a_model_without_attention_is_refused(tmp_path: Path) -> None:
    branches = '[{type = "feed_forward", hidden = 8}]'
    file = tmp_path / "flat.toml"
    file.write_text(f"vocab = 300\nwidth = 16\ncontext = 64\nlayers = ['a*2']\nblocks.a.branches = {branches}")
    with pytest.raises(ConfigError, match=r"^model 'flat': none of its blocks has an attention"):
        build_model(str(file), BuildOptions(), PrometheusObserver())


@pytest.mark.parametrize("vocab", [33, 256])
def test_a_checkpoint_too_small_for_bytes_needs_a_tokenizer(vocab: int, tmp_path: Path) -> None:
    model = random_model(Architecture(vocab, 16, 8, (Block((FeedForward(8),)),)), 0)
    native.save(tmp_path / "small", model, {}, torch.float32)
    with pytest.raises(
        CheckpointError, match=rf"^small has no tokenizer: vocab={vocab} is too small, bytes .* need 257"
    ):
        build_model(str(tmp_path / "small"), BuildOptions(), PrometheusObserver())
