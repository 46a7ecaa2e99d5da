"""Settings come from flags, variables and a file, and nothing in them is passed over in silence."""

from __future__ import annotations

from pathlib import Path

import pytest

from server.config import WITHOUT_FLAG, Settings, SettingsError, load, unknown_variables
from server.transport.auth.keys import Role


@pytest.fixture(autouse=True)
def clean(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in list(Settings.model_fields):
        monkeypatch.delenv(f"DYNO_{name.upper()}", raising=False)


def test_flags_come_before_variables_and_these_before_the_file(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    file = tmp_path / "dyno.toml"
    file.write_text('model = ["from-file"]\nport = 1\ngrpc_port = 2\nmax_rows = 3\n')
    monkeypatch.setenv("DYNO_PORT", "4")
    monkeypatch.setenv("DYNO_GRPC_PORT", "5")
    settings = load(["--config", str(file), "--grpc-port", "6"])
    assert (settings.model, settings.max_rows, settings.port, settings.grpc_port) == (("from-file",), 3, 4, 6)
    assert settings.max_batch_tokens == 512, "the default"


def test_several_models_in_a_flag_a_variable_and_a_file(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert load(["--model", "a", "--model", "b=org/c"]).model == ("a", "b=org/c")
    monkeypatch.setenv("DYNO_MODEL", "a, b=org/c")
    assert load([]).model == ("a", "b=org/c")
    file = tmp_path / "dyno.toml"
    file.write_text('model = ["x", "y"]')
    monkeypatch.delenv("DYNO_MODEL")
    monkeypatch.setenv("DYNO_CONFIG", str(file))
    assert load([], {"DYNO_CONFIG": str(file)}).model == ("x", "y")


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        ([], "model: at least one is needed"),
        (["--port", "99999"], "port: Input should be less than or equal to 65535, got '99999'"),
        (["--dtype", "float8"], "dtype: Input should be 'float32' or 'bfloat16', got 'float8'"),
        (["--device", "gpu"], "device: String should match pattern"),
        (["--cache-share", "1"], "cache_share: Input should be less than 1, got '1'"),
        (["--max-rows", "0"], "max_rows: Input should be greater than 0"),
        (["--speculate", "-1"], "speculate: Input should be greater than or equal to 0"),
        (["--chunk-ms", "0"], "chunk_ms: Input should be greater than 0"),
        (["--chunk-ms", "inf"], "chunk_ms: Input should be a finite number"),
        (["--speculate", "33"], "speculate: Input should be less than or equal to 32"),
        (["--drain-seconds", "-1"], "drain_seconds"),
        (["--host", "0.0.0.0"], "there are no API keys; give --api-keys-file, or say --allow-unauthenticated"),
        (["--host", "example.org"], "--allow-unauthenticated"),
        (["--port", "8000", "--grpc-port", "8000"], "grpc_port: 8000 is the REST port already"),
        (["--tls-cert", "a.pem"], "tls_cert: certificate and key are needed together"),
        (["--tls-client-ca", "a.pem"], "tls_cert: certificate and key are needed together"),
        (["--grpc-connection-seconds", "0"], "grpc_connection_seconds: Input should be greater than 0"),
        (["--config", "/nowhere/dyno.toml"], "settings file /nowhere/dyno.toml: No such file or directory"),
    ],
    ids=lambda value: str(value)[:30],
)
def test_what_is_wrong_is_said_in_one_line(flags: list[str], words: str) -> None:
    model = [] if not flags else ["--model", "m"]
    with pytest.raises(SettingsError) as wrong:
        load([*model, *flags])
    assert words in str(wrong.value) and "\n" not in str(wrong.value)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("prot = 1", "unknown setting 'prot'"),
        ("[server]\nport = 1", "unknown setting 'server'"),
        ("port = ", "settings file"),
    ],
)
def test_a_file_with_anything_else_in_it_is_refused(text: str, words: str, tmp_path: Path) -> None:
    file = tmp_path / "dyno.toml"
    file.write_text(text)
    with pytest.raises(SettingsError, match=words):
        load(["--model", "m", "--config", str(file)])


@pytest.mark.parametrize("flag", ["--nonsense", "--mod", "--grpc_port"])
def test_an_unknown_flag_ends_the_process(flag: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        load(["--model", "m", flag, "1"])
    assert end.value.code == 2
    assert flag in capsys.readouterr().err.splitlines()[-1]


def test_a_variable_that_nothing_reads_is_noticed() -> None:
    environment = {"DYNO_PROT": "1", "DYNO_PORT": "1", "DYNO_CONFIG": "x", "PATH": ""}
    assert unknown_variables(environment) == ["DYNO_PROT"]


@pytest.mark.parametrize(
    ("host", "loopback"), [("127.0.0.1", True), ("localhost", True), ("::1", True), ("127.1.2.3", True), ("::", False)]
)
def test_what_is_loopback(host: str, loopback: bool) -> None:
    settings = load(["--model", "m", "--host", host, "--allow-unauthenticated"])
    assert settings.loopback is loopback
    assert settings.reflects is loopback, "reflection is on where only this machine can ask"


def test_limits_follow_the_settings() -> None:
    limits = load(["--model", "m", "--queue", "7", "--queue-seconds", "8", "--request-seconds", "9"]).limits
    assert (limits.queue, limits.queue_seconds, limits.request_seconds) == (7, 8.0, 9.0)


def test_keys_open_a_host_to_those_who_have_one(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    other = ["--model", "m", "--host", "0.0.0.0"]
    assert load([*other, "--api-keys-file", str(tmp_path / "keys.toml")]).asks_for_keys
    monkeypatch.setenv("DYNO_API_KEYS", "a:inference:0123456789abcdef")
    settings = load(other)
    assert settings.asks_for_keys and "0123456789abcdef" not in repr(settings)
    with pytest.raises(SettingsError, match="give one of the two"):
        load([*other, "--api-keys-file", "keys.toml"])


def test_without_keys_only_this_machine_may_administer() -> None:
    assert load(["--model", "m"]).everybody == set(Role)
    others = load(["--model", "m", "--host", "0.0.0.0", "--allow-unauthenticated"])
    assert others.everybody == {Role.INFERENCE, Role.METRICS}


@pytest.mark.parametrize(
    "keys",
    ["a:inference:SECRETSECRET", "a:king:SECRETSECRETSECRET", "SECRETSECRETSECRET", "a:admin:SECRET SECRET SECRET"],
)
def test_a_wrong_key_is_not_shown(monkeypatch: pytest.MonkeyPatch, keys: str) -> None:
    monkeypatch.setenv("DYNO_API_KEYS", keys)
    with pytest.raises(SettingsError) as wrong:
        load(["--model", "m"])
    assert str(wrong.value).startswith("DYNO_API_KEYS: entry 1") and "SECRET" not in str(wrong.value)


def test_keys_are_no_flag(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        load(["--model", "m", "--api-keys", "a:inference:0123456789abcdef"])


def test_every_flag_is_described(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        load(["--help"])
    told = capsys.readouterr().out
    flags = set(Settings.model_fields) - set(WITHOUT_FLAG)
    assert all(f"--{name.replace('_', '-')}" in told for name in flags)
    assert "--dtype float32|bfloat16" in told and "8000" in told, "with what it may be and what it is by itself"
