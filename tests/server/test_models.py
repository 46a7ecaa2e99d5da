"""Under which names models are served."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from model import presets, zoo
from model.initialise import random_model
from model.tokenizer import ByteTokenizer
from server.build import build_model
from server.call import GenerateCall, SamplingWishes
from server.engine.engine import Engine
from server.engine.request import Outcome, Request
from server.engine.runner import ModelRunner, Room
from server.models import BadModelId, ServedModel, split_spec
from server.validation import fitting_sampling
from tests.fakes import Recorder
from tests.server.kit import VOCAB, architecture, settings


@pytest.mark.parametrize("id", ["a", "A.b_c-d/e", "7b", "x" * 64])
def test_a_plain_name_is_an_id(id: str) -> None:
    assert split_spec(f"{id}=somewhere") == (id, "somewhere")


@pytest.mark.parametrize("id", ["", "<b>", "a b", "../a", "/a", ".a", "-a", "é", "a\n", "a@b", "a:b", "x" * 65])
def test_other_names_are_not(id: str) -> None:
    with pytest.raises(BadModelId, match="cannot be the id of 'somewhere'"):
        split_spec(f"{id}=somewhere")


def test_what_ships_has_names_that_are_ids() -> None:
    for name in (*presets.names(), *zoo.names()):
        assert split_spec(name) == (name, name)


def test_a_file_whose_name_is_no_id_needs_one(tmp_path: Path) -> None:
    path = tmp_path / "my model.toml"
    path.write_text("")
    with pytest.raises(BadModelId, match="ID=NAME"):
        split_spec(str(path))
    assert split_spec(f"mine={path}") == ("mine", str(path))


def test_what_lies_in_files_is_called_as_they_are(tmp_path: Path) -> None:
    """A folder's name may have dots; a file's has an ending."""
    (tmp_path / "Llama-3.1-8B").mkdir()
    (tmp_path / "mine.v2.toml").write_text("")
    for path, name in (
        ("Llama-3.1-8B", "Llama-3.1-8B"),
        ("Llama-3.1-8B/", "Llama-3.1-8B"),
        ("mine.v2.toml", "mine.v2"),
    ):
        assert split_spec(f"{tmp_path}/{path}") == (name, f"{tmp_path}/{path}")


def test_the_command_line_is_held_to_it() -> None:
    with pytest.raises(BadModelId):
        build_model("=tales-moe", settings(), Recorder())


def test_an_end_that_the_model_cannot_say_is_none() -> None:
    """A configuration may name ids that are padding of the logits: min_tokens has none of them to hold back."""
    shape, tokenizer = replace(architecture(moe=False), vocab=VOCAB + 8), ByteTokenizer(VOCAB)
    tokenizer.eos_ids |= {VOCAB + 7}
    runner = ModelRunner(random_model(shape, 0).eval().requires_grad_(False), Room(64, 1, 64), VOCAB)
    model = ServedModel("m", shape, tokenizer, Engine("m", runner, observer=(seen := Recorder())), "float32", (1, 1))
    call = GenerateCall("m", ((97, 98, 99),), SamplingWishes(max_tokens=3, min_tokens=2, temperature=0))
    how = fitting_sampling(call, model, 3, lambda: 1)
    assert how.stop_ids == model.ends == {VOCAB - 1}
    model.engine.add(Request("r-0", (97, 98, 99), how, 0.0))
    while model.engine.has_work:
        model.engine.step()
    assert seen.requests[0].outcome in (Outcome.LENGTH, Outcome.STOP)
