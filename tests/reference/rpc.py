"""docs/grpc.md: the proto files with their comments as a page for people."""

from __future__ import annotations

import re
import tempfile
from collections.abc import Iterator
from importlib import resources
from pathlib import Path

from google.protobuf.descriptor_pb2 import (
    DescriptorProto,
    EnumDescriptorProto,
    FieldDescriptorProto,
    FileDescriptorProto,
    FileDescriptorSet,
    ServiceDescriptorProto,
)
from grpc_tools import protoc

from server.errors import UnknownField
from server.limits import Limits
from server.transport.auth.access import Standing
from server.transport.auth.table import ACCESS
from server.transport.rest.openapi.errors import MEANING
from server.transport.rest.strictjson import MalformedJson
from server.transport.rpc import errors as transport
from tests.reference.rest import anchor

PROTO = Path(__file__).parents[2] / "proto"
CONTRACTS = ("dyno/inference/v1/inference.proto", "dyno/admin/v1/admin.proto")

REST_ONLY = (MalformedJson, UnknownField)

# Numbers of FileDescriptorProto's own fields, of which the paths of comments are made.
MESSAGES, ENUMS, SERVICES, PACKAGE, SYNTAX = 4, 5, 6, 2, 12
OF_MESSAGE_FIELDS, OF_MESSAGE_ONEOFS, OF_SERVICE_METHODS, OF_ENUM_VALUES = 2, 8, 2, 2

INTRODUCTION = """\
# gRPC

This page is made from the comments of [the proto files](../proto) by `make docs`. How the fields work together is
described in [requests.md](requests.md), with every default and limit, what a request costs in
[telemetry.md](telemetry.md); programs that call it are in [examples](examples), clients that are known to work in
[clients.md](clients.md). The same over REST: [rest.md](rest.md). Keys, roles and TLS are described in
[security.md](security.md), administration in [administration.md](administration.md).

The server has reflection (`grpc.reflection.v1alpha`; beyond loopback only with `--reflection`) and `grpc.health.v1`
with `Check`, `List` and `Watch`: the empty name is the server, `dyno.inference.v1.InferenceService` the service, and
the name of a model that model. Where the server has API keys, every call but `Check` and `Watch` needs one, as metadata
`authorization: Bearer KEY`.

An id in the metadata `x-request-id`, 1 to 64 letters, digits, `-` and `_`, comes back in the initial metadata, and of
a call that fails in the trailing metadata. Deadlines and cancellation end the work within one step.

A call that fails before its first message is answered with trailers alone, so a client's retry policy applies to it;
`grpc-retry-pushback-ms` tells the policy how long to wait, as `RetryInfo` does in the status details. Requests within
a `GenerateMany` are retried by the caller. With this service config, a call refused with `UNAVAILABLE` is tried up to
five times:

```json
{"methodConfig": [{"name": [{"service": "dyno.inference.v1.InferenceService"}], "retryPolicy": {
  "maxAttempts": 5, "initialBackoff": "0.5s", "maxBackoff": "8s", "backoffMultiplier": 2,
  "retryableStatusCodes": ["UNAVAILABLE"]}}]}
```

To send many requests at once (a load, an evaluation, a gateway), use one `GenerateMany` call: each step's tokens for
all of them arrive in one message, where `StreamGenerate` has a message for each. Each request is checked, counted,
limited and cancelled as with a call of its own; only one too large for a message, here or in its caller's library, ends
the others too. A call stays on one server; behind a load balancer, open a new one periodically, as the `dyno` client
does every minute and after a second with nothing in flight.

Messages of a stream stay below the 4 MiB that libraries take unless told otherwise; a long prompt's scores come in
several. An answer of `Generate` or `Score` is one message: with scores up to 20 + 15 × `prompt_logprobs` bytes a token
of the prompt, so that with 20 alternatives each, more than 13,100 tokens need a larger
`grpc.max_receive_message_length`.

```console
$ grpcurl -plaintext -d '{"model": "tales-moe", "prompt": "Once upon a time", "sampling": {"max_tokens": 24}}' \\
    127.0.0.1:50051 dyno.inference.v1.InferenceService/Generate
```
"""


class Comments:
    """What stands before each definition of a file, by its path of numbers."""

    def __init__(self, file: FileDescriptorProto) -> None:
        self._told = {tuple(at.path): at.leading_comments for at in file.source_code_info.location}

    def __call__(self, *path: int) -> str:
        return re.sub(r"\s*\n\s*", " ", self._told.get(path, "").strip())

    def paragraphs(self, *path: int) -> str:
        """With the breaks between paragraphs kept."""
        told = self._told.get(path, "").strip()
        return "\n\n".join(re.sub(r"\s*\n\s*", " ", part.strip()) for part in told.split("\n\n"))


def files() -> list[FileDescriptorProto]:
    """The contracts, read by protoc."""
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "set"
        own = resources.files("grpc_tools") / "_proto"
        arguments = ["protoc", f"-I{PROTO}", f"-I{own}", "--include_source_info", f"--descriptor_set_out={out}"]
        assert protoc.main([*arguments, *CONTRACTS]) == 0, "protoc failed"
        found = FileDescriptorSet.FromString(out.read_bytes())
    return list(found.file)


def page(limits: Limits) -> str:
    """The whole page."""
    lines = [INTRODUCTION, *_limits(limits), *_errors()]
    for file in files():
        lines += _file(file)
    return "\n".join(lines)


def _limits(limits: Limits) -> Iterator[str]:
    yield (
        f"A message may have {limits.body_bytes:,} bytes, metadata {limits.metadata_bytes:,}; a connection may have "
        f"{limits.streams_per_connection} calls at once, each `GenerateMany` one, which may have "
        f"{limits.requests_per_call} requests in flight and {limits.actions_per_message:,} actions in a message.\n"
    )


def _errors() -> Iterator[str]:
    yield "## Errors\n"
    yield "`reason` is that of `google.rpc.ErrorInfo`, domain `dyno`: REST's `code` in capital letters.\n"
    yield from ("| status | `reason` | |", "|---|---|---|")
    own = {
        transport.SlowReader: "The stream was ended because nobody read it.",
        transport.CallOver: "This `GenerateMany` is too old for another request; the next one takes it.",
        transport.ServiceUnknown: "A health check of an unknown name.",
    }
    rows = []
    for kind, meaning in (MEANING | own).items():
        status = next((transport.STATUS[parent] for parent in kind.__mro__ if parent in transport.STATUS), None)
        if status is not None and kind not in REST_ONLY:
            rows.append((status.name, kind.code.upper(), meaning.replace("`retry-after`", "`RetryInfo`")))
    yield from (f"| `{status}` | `{reason}` | {meaning} |" for status, reason, meaning in sorted(set(rows)))
    yield ""


def _file(file: FileDescriptorProto) -> Iterator[str]:
    comments, types = Comments(file), _Types(file)
    yield f"## {file.package}\n"
    yield comments.paragraphs(SYNTAX) + "\n"
    for at, service in enumerate(file.service):
        yield from _service(service, (SERVICES, at), comments, types)
    for at, message in enumerate(file.message_type):
        yield from _message(message, (MESSAGES, at), comments, types)
    for at, enum in enumerate(file.enum_type):
        yield from _enum(enum, (ENUMS, at), comments, types)


def _service(
    service: ServiceDescriptorProto, path: tuple[int, ...], comments: Comments, types: _Types
) -> Iterator[str]:
    yield from (f"### {service.name}\n", comments.paragraphs(*path) + "\n")
    yield from ("| call | takes | answers | role | |", "|---|---|---|---|---|")
    for at, method in enumerate(service.method):
        access = ACCESS[f"/{types.package}.{service.name}/{method.name}"]
        role = access.value if access is not Standing.OPEN else ""
        answers = ("stream of " if method.server_streaming else "") + types.link(method.output_type)
        told = comments(*path, OF_SERVICE_METHODS, at)
        yield f"| `{method.name}` | {types.link(method.input_type)} | {answers} | `{role}` | {told} |"
    yield ""


def _message(message: DescriptorProto, path: tuple[int, ...], comments: Comments, types: _Types) -> Iterator[str]:
    yield from (f"### {types.heading(message.name)}\n", comments(*path) + "\n")
    if not message.field:
        return
    yield from ("| field | type | |", "|---|---|---|")
    maps = {f".{types.package}.{message.name}.{entry.name}": entry for entry in message.nested_type}
    for at, field in enumerate(message.field):
        told = comments(*path, OF_MESSAGE_FIELDS, at)
        if field.HasField("oneof_index") and not field.proto3_optional:
            told = f"One of `{message.oneof_decl[field.oneof_index].name}`. {told}"
        yield f"| `{field.name}` = {field.number} | {types.of(field, maps)} | {told} |"
    yield ""


def _enum(enum: EnumDescriptorProto, path: tuple[int, ...], comments: Comments, types: _Types) -> Iterator[str]:
    yield from (f"### {types.heading(enum.name)}\n", comments(*path) + "\n")
    yield from ("| value | |", "|---|---|")
    for at, value in enumerate(enum.value):
        yield f"| `{value.name}` = {value.number} | {comments(*path, OF_ENUM_VALUES, at)} |"
    yield ""


class _Types:
    """How the types of one file are written and where they are told of. Both files have a Model: a heading that is
    not the first of its name has the package's."""

    def __init__(self, file: FileDescriptorProto) -> None:
        self.package = file.package
        self._apart = "" if "inference" in file.package else "admin."

    def heading(self, name: str) -> str:
        return f"{self._apart}{name}"

    def link(self, full: str) -> str:
        name = full.rpartition(".")[2]
        return f"[{name}](#{anchor(self.heading(name))})"

    def of(self, field: FieldDescriptorProto, maps: dict[str, DescriptorProto]) -> str:
        if field.type_name in maps:
            key, value = maps[field.type_name].field
            return f"map of {self._plain(key)} to {self._plain(value)}"
        label = "repeated " if field.label == field.LABEL_REPEATED else "optional " if field.proto3_optional else ""
        if field.type_name.startswith(".google."):
            return f"{label}`{field.type_name[1:]}`"
        return label + (self.link(field.type_name) if field.type_name else self._plain(field))

    def _plain(self, field: FieldDescriptorProto) -> str:
        return FieldDescriptorProto.Type.Name(field.type).removeprefix("TYPE_").lower()
