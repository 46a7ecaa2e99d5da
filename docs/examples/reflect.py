"""A small grpcurl in Python: learns the contract from the server by reflection and calls it with JSON.

    reflect.py HOST:PORT list
    reflect.py HOST:PORT describe dyno.inference.v1.GenerateRequest
    reflect.py HOST:PORT call dyno.inference.v1.InferenceService/Generate '{"model": "tales-moe", "prompt": "Once"}'

Needs grpcio and grpcio-reflection, and nothing of Dyno. DYNO_API_KEY is a key where the server asks for one.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator

import grpc
from google.protobuf import descriptor_pb2, json_format
from google.protobuf.descriptor_pool import DescriptorPool
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import ProtoReflectionDescriptorDatabase

ARGUMENTS = {"list": 0, "describe": 1, "call": 2}  # that come after each verb
METADATA = (("authorization", f"Bearer {os.environ.get('DYNO_API_KEY', 'none')}"),)


class WithKey(grpc.UnaryUnaryClientInterceptor, grpc.UnaryStreamClientInterceptor, grpc.StreamStreamClientInterceptor):
    """Every call has the metadata, those of reflection too."""

    def _more(self, go_on, details, asked):  # noqa: ANN001, ANN202
        return go_on(details._replace(metadata=METADATA), asked)

    intercept_unary_unary = intercept_unary_stream = intercept_stream_stream = _more


def call(channel: grpc.Channel, pool: DescriptorPool, path: str, body: str) -> Iterator[Message]:
    """The answers of PACKAGE.SERVICE/METHOD to a request in JSON."""
    service, _, name = path.rpartition("/")
    method = pool.FindServiceByName(service).methods_by_name[name]
    request = json_format.Parse(body, GetMessageClass(method.input_type)())
    how = {
        "request_serializer": type(request).SerializeToString,
        "response_deserializer": GetMessageClass(method.output_type).FromString,
    }
    if method.server_streaming:
        yield from channel.unary_stream(f"/{path}", **how)(request, timeout=60)
    else:
        yield channel.unary_unary(f"/{path}", **how)(request, timeout=60)


def described(
    pool: DescriptorPool, name: str
) -> descriptor_pb2.DescriptorProto | descriptor_pb2.ServiceDescriptorProto:
    """What a name of the contract stands for: a message or a service."""
    try:
        service = descriptor_pb2.ServiceDescriptorProto()
        pool.FindServiceByName(name).CopyToProto(service)
        return service
    except KeyError:
        message = descriptor_pb2.DescriptorProto()
        pool.FindMessageTypeByName(name).CopyToProto(message)
        return message


def main(target: str, what: str, *more: str) -> None:
    with grpc.intercept_channel(grpc.insecure_channel(target), WithKey()) as channel:
        database = ProtoReflectionDescriptorDatabase(channel)
        pool = DescriptorPool(database)
        if what == "list":
            print("\n".join(database.get_services()))
        elif what == "describe":
            print(described(pool, more[0]))
        else:
            for answer in call(channel, pool, more[0], more[1]):
                print(json_format.MessageToJson(answer, indent=None))


if __name__ == "__main__":
    if ARGUMENTS.get("".join(sys.argv[2:3])) != len(sys.argv) - 3:
        sys.exit(__doc__)
    main(*sys.argv[1:])
