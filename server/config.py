"""Settings: flags, DYNO_… variables and a TOML file; of one that is in several, the first of these wins."""

from __future__ import annotations

import argparse
import ipaddress
import os
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any, Literal, get_args, get_origin

from pydantic import Field, PositiveFloat, PositiveInt, ValidationError, field_validator, model_validator
from pydantic_settings import (
    BaseSettings,
    InitSettingsSource,
    NoDecode,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
)

from server.limits import Limits
from server.transport.auth.keys import ApiKey, Role, parse_keys
from server.transport.tls import TlsFiles

PREFIX = "DYNO_"
CLIENTS_VARIABLES = ("target", "api_key", "ca", "cert", "key")  # of the `dyno` command, as variables
WITHOUT_FLAG = ("api_keys",)
Port = Annotated[int, Field(ge=0, le=65535)]


class SettingsError(Exception):
    """The settings are wrong; the message is one line for the operator."""


class Settings(BaseSettings):
    """Every setting of the server. A field is the flag --field-name, the variable DYNO_FIELD_NAME and the key
    field_name of the file."""

    model_config = SettingsConfigDict(env_prefix=PREFIX, extra="forbid", frozen=True)

    model: Annotated[tuple[str, ...], NoDecode] = Field((), description="what to serve: NAME, PATH or ID=NAME; repeat")
    host: str = Field("127.0.0.1", description="address of both listeners")
    port: Port = Field(8000, description="REST port; 0 takes a free one")
    grpc_port: Port = Field(50051, description="gRPC port; 0 takes a free one")
    dtype: Literal["float32", "bfloat16"] = Field("float32", description="type of weights and cache")
    weights: Literal["lossless", "whole", "int8", "w8a8"] = Field(
        "lossless",
        description="how a CPU keeps weights of linear layers; lossless: bfloat16 in 12 bits, bit-exact; whole: as it "
        "is; int8: rounded to 8 bits, one scale an output; w8a8: what they read too, one scale for 32 numbers",
    )
    device: Annotated[str, Field(pattern=r"^(auto|cpu|cuda(:\d+)?)$")] = Field(
        "cpu", description="where models run: cpu, cuda, cuda:N, or auto; NAME@DEVICE says it for one of them"
    )
    cache_tokens: PositiveInt | None = Field(None, description="size of each model's cache in tokens")
    cache_share: Annotated[float, Field(gt=0, lt=1)] = Field(
        0.85, description="without cache_tokens: most of a GPU's free memory that caches take"
    )
    max_batch_tokens: PositiveInt = Field(512, description="most tokens of one step")
    max_rows: PositiveInt = Field(64, description="most requests of one step")
    chunk_ms: Annotated[float, Field(gt=0, allow_inf_nan=False)] | None = Field(
        None,
        description="about how long prompts may hold up other requests in one step, as far as 64 of their tokens "
        "allow; without it they take all that max_batch_tokens leaves",
    )
    speculate: Annotated[int, Field(ge=0, le=32)] = Field(
        0, description="most tokens of a request that a step guesses from its text and confirms; 0 guesses none"
    )
    threads: PositiveInt | None = Field(None, description="CPU threads of the model")
    seed: int = Field(0, description="draws the weights of models without a checkpoint")
    scale: str | None = Field(None, description="size of what has random weights: presets and architecture files")
    measure_machine: bool = Field(True, description="measure what this machine can do, for its metrics; kept on disk")
    queue: PositiveInt = Field(Limits().queue, description="most requests waiting for one model")
    queue_seconds: PositiveFloat = Field(Limits().queue_seconds, description="longest wait in the queue")
    request_seconds: PositiveFloat = Field(Limits().request_seconds, description="longest time of one request")
    drain_seconds: Annotated[float, Field(ge=0)] = Field(30.0, description="time for requests in flight at the end")
    stall_seconds: PositiveFloat = Field(
        10.0,
        description="an engine whose step takes so long is taken for dead; of a large model on a slow machine, longer",
    )
    reflection: bool | None = Field(None, description="gRPC reflection; on by default on loopback")
    allow_unauthenticated: bool = Field(False, description="serve everybody who reaches a host that is not loopback")
    api_keys_file: Path | None = Field(None, description="TOML file with API keys; read again when it changes")
    api_keys: Annotated[tuple[ApiKey, ...], NoDecode] = Field((), repr=False)  # a variable only: flags are seen by all
    tls_cert: Path | None = Field(None, description="PEM file with the certificate of both listeners")
    tls_key: Path | None = Field(None, description="PEM file with its key")
    tls_client_ca: Path | None = Field(
        None, description="PEM file with the authorities that client certificates must come from"
    )
    grpc_connection_seconds: PositiveFloat | None = Field(
        None, description="age at which gRPC connections are renewed, so that load spreads over new replicas"
    )
    peer_metrics: bool = Field(False, description="export metrics under OpenTelemetry's GenAI and vLLM's names as well")
    request_log: str | None = Field(
        None, min_length=1, description="file that gets a JSON line for every request that ended; - is stdout"
    )
    otlp_endpoint: str | None = Field(
        None,
        pattern=r"^https?://[^/?#]+(/[^?#]*)?$",
        description="base URL of a collector that gets a trace of every call by OTLP over HTTP",
    )
    debug: bool = Field(False, description="answer /debug/state to callers on loopback")
    log_level: Literal["debug", "info", "warning", "error"] = Field("info", description="least serious record shown")

    @field_validator("model", mode="before")
    @classmethod
    def _split(cls, value: object) -> object:
        """A variable holds several models with commas between."""
        return [part.strip() for part in value.split(",") if part.strip()] if isinstance(value, str) else value

    @field_validator("api_keys", mode="before")
    @classmethod
    def _hash(cls, value: object) -> object:
        """Nothing but digests is kept."""
        if not isinstance(value, str):
            return value
        return parse_keys(value, PREFIX + "API_KEYS") if value.strip() else ()

    @model_validator(mode="after")
    def _consistent(self) -> Settings:
        if not self.model:
            raise ValueError("model: at least one is needed, for instance --model tales-dense")
        if self.api_keys and self.api_keys_file is not None:
            raise ValueError(f"api_keys_file: there are keys in {PREFIX}API_KEYS as well; give one of the two")
        if not self.loopback and not self.asks_for_keys and not self.allow_unauthenticated:
            what = f"host: {self.host} is open to others and there are no API keys"
            raise ValueError(f"{what}; give --api-keys-file, or say --allow-unauthenticated if that is meant")
        if (self.tls_cert is None) != (self.tls_key is None) or (self.tls_client_ca and not self.tls_cert):
            raise ValueError("tls_cert: certificate and key are needed together, and for a client authority as well")
        if self.port == self.grpc_port != 0:
            raise ValueError(f"grpc_port: {self.grpc_port} is the REST port already")
        return self

    @property
    def loopback(self) -> bool:
        """Whether only this machine can reach the listeners."""
        if self.host == "localhost":
            return True
        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return False

    @property
    def asks_for_keys(self) -> bool:
        return bool(self.api_keys) or self.api_keys_file is not None

    @property
    def everybody(self) -> frozenset[Role]:
        """What callers may do where no keys are asked for: everything on loopback; elsewhere nothing of the admin's."""
        return frozenset(Role) if self.loopback else frozenset({Role.INFERENCE, Role.METRICS})

    @property
    def tls(self) -> TlsFiles | None:
        if self.tls_cert is None or self.tls_key is None:
            return None
        return TlsFiles(self.tls_cert, self.tls_key, self.tls_client_ca)

    @property
    def reflects(self) -> bool:
        return self.loopback if self.reflection is None else self.reflection

    @property
    def limits(self) -> Limits:
        return replace(
            Limits(), queue=self.queue, queue_seconds=self.queue_seconds, request_seconds=self.request_seconds
        )


def load(arguments: Sequence[str], environment: Mapping[str, str] = os.environ) -> Settings:
    """The settings of this process. Raises SettingsError; leaves by SystemExit on --help and on unknown flags."""
    flags = vars(parser().parse_args(arguments))
    path = flags.pop("config", environment.get(f"{PREFIX}CONFIG"))
    file = {} if path is None else _read(Path(path))

    class Sources(Settings):
        @classmethod
        def settings_customise_sources(
            cls,
            settings_cls: type[BaseSettings],
            init_settings: PydanticBaseSettingsSource,
            env_settings: PydanticBaseSettingsSource,
            dotenv_settings: PydanticBaseSettingsSource,
            file_secret_settings: PydanticBaseSettingsSource,
        ) -> tuple[PydanticBaseSettingsSource, ...]:
            return init_settings, env_settings, InitSettingsSource(settings_cls, file)

    try:
        return Sources(**flags)
    except ValidationError as error:
        raise SettingsError(_one_line(error)) from None


def unknown_variables(environment: Mapping[str, str] = os.environ) -> list[str]:
    """DYNO_… variables that nothing reads: most likely misspelt."""
    known = {PREFIX + name.upper() for name in (*Settings.model_fields, *CLIENTS_VARIABLES, "config")}
    return sorted(name for name in environment if name.startswith(PREFIX) and name not in known)


def parser() -> argparse.ArgumentParser:
    """Flags leave what they are not given to the other sources."""
    parser = argparse.ArgumentParser("dyno serve", description="Serve models over REST and gRPC.", allow_abbrev=False)
    parser.add_argument("--config", default=argparse.SUPPRESS, help="TOML file with these settings")
    for name, field in Settings.model_fields.items():
        if name in WITHOUT_FLAG:
            continue
        flag, text = f"--{name.replace('_', '-')}", field.description
        default = argparse.SUPPRESS
        if field.annotation in (bool, bool | None):
            parser.add_argument(flag, action=argparse.BooleanOptionalAction, default=default, help=text)
        elif name == "model":
            parser.add_argument(flag, action="append", default=default, help=text)
        else:
            kinds = get_args(field.annotation) if get_origin(field.annotation) is Literal else (name.upper(),)
            parser.add_argument(flag, default=default, metavar="|".join(kinds), help=f"{text}{_told(field.default)}")
    return parser


def _told(default: object) -> str:
    return "" if default is None else f" (default {default})"


def _read(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text())
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else str(error)
        raise SettingsError(f"settings file {path}: {reason}") from None


def _one_line(error: ValidationError) -> str:
    first = error.errors(include_url=False)[0]
    name = ".".join(str(part) for part in first["loc"])
    if first["type"] == "extra_forbidden":
        return f"unknown setting {name!r}"
    message = first["msg"].removeprefix("Value error, ")
    if name in WITHOUT_FLAG:
        return message  # and not what is wrong with it: that is a secret
    return f"{name}: {message}, got {first['input']!r}" if name else message
