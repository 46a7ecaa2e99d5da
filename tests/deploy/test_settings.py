"""Every variable, flag and time of the deployment files is one that the server knows."""

from __future__ import annotations

import re

import pytest

from model import zoo
from server import config
from server.config import PREFIX, Settings
from server.requestlog import STDOUT
from tests.deploy import artifacts


def variables(name: str = "dense") -> dict[str, str]:
    """What the server finds in its environment under compose."""
    service = artifacts.services()[name]
    return artifacts.stages()["server"].environment() | {k: str(v) for k, v in service["environment"].items()}


def load(arguments: list[str]) -> Settings:
    # The settings read the process's environment themselves, so the test has to put the variables there.
    with pytest.MonkeyPatch.context() as patch:
        for name, value in variables().items():
            patch.setenv(name, value)
        return config.load(arguments)


def test_no_variable_is_unknown_to_the_server() -> None:
    ours = {name: value for name, value in variables().items() if name.startswith(PREFIX)}
    assert ours
    assert config.unknown_variables(ours) == []


@pytest.mark.parametrize(("name", "model"), artifacts.SERVERS.items())
def test_the_server_starts_with_what_compose_gives_it(name: str, model: str) -> None:
    settings = load(artifacts.services()[name]["command"])
    assert settings.model == (model,)
    assert settings.host == "0.0.0.0"
    assert settings.threads == int(artifacts.services()[name]["cpus"])
    assert settings.request_log == STDOUT, "the dashboards send their readers to it"
    assert [settings.port, settings.grpc_port] == [int(p) for p in artifacts.stages()["server"].last("EXPOSE").split()]


def test_part_of_a_cpu_more_is_no_matter() -> None:
    """CPUs of a container may have a part; threads are whole."""
    written = artifacts.COMPOSE.read_text()
    assert "cpus: ${CPUS:-1}" in written and written.count("${CPUS:-") == 1
    assert "DYNO_THREADS: ${THREADS:-1}" in written


def test_compose_serves_everybody_on_this_machine_until_there_are_keys(monkeypatch: pytest.MonkeyPatch) -> None:
    command = artifacts.services()["dense"]["command"]
    assert not load(command).asks_for_keys and load(command).allow_unauthenticated
    given = variables() | {"DYNO_API_KEYS": "a:inference:0123456789abcdef"}
    monkeypatch.setattr(f"{__name__}.variables", lambda: given)
    assert load(command).asks_for_keys, "keys go before everybody"


def test_the_models_that_are_served_ship_with_dyno() -> None:
    image = artifacts.exec_form(artifacts.stages()["server"].last("CMD"))
    (made,) = re.findall(r"^MODELS := (.*)$", (artifacts.ROOT / "Makefile").read_text(), re.MULTILINE)
    named = {*artifacts.SERVERS.values(), *image, *made.split()} - {"--model"}
    assert named <= set(zoo.names())


def test_the_image_alone_names_a_model_and_does_not_serve_everybody_unasked() -> None:
    image = artifacts.stages()["server"]
    assert artifacts.exec_form(image.last("CMD"))[0] == "--model"
    assert f"{PREFIX}ALLOW_UNAUTHENTICATED" not in image.environment()


def test_the_defaults_of_the_image_are_those_of_the_server() -> None:
    environment = artifacts.stages()["server"].environment()
    fields = Settings.model_fields
    assert int(environment["DYNO_PORT"]) == fields["port"].default
    assert int(environment["DYNO_GRPC_PORT"]) == fields["grpc_port"].default


def test_compose_waits_longer_than_the_server_drains() -> None:
    settings = load(artifacts.services()["dense"]["command"])
    assert artifacts.seconds(artifacts.services()["dense"]["stop_grace_period"]) >= settings.drain_seconds + 10


def test_the_server_starts_on_a_card_with_what_compose_gives_it(monkeypatch: pytest.MonkeyPatch) -> None:
    over = artifacts.compose(artifacts.CARD)["services"]["dense"]["environment"]
    given = variables() | {name: str(value) for name, value in over.items()}
    assert config.unknown_variables({k: v for k, v in given.items() if k.startswith(PREFIX)}) == []
    monkeypatch.setattr(f"{__name__}.variables", lambda: given)
    settings = load(artifacts.services()["dense"]["command"])
    assert (settings.device, settings.dtype, settings.cache_share) == ("cuda", "bfloat16", 0.4)
