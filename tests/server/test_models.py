"""Under which names models are served."""

from __future__ import annotations

from pathlib import Path

import pytest

from model import presets, zoo
from server.build import BuildOptions, build_model
from server.models import BadModelId, split_spec
from tests.fakes import Recorder


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
        build_model("=tales-moe", BuildOptions(), Recorder())
