"""Asks a Dyno server over gRPC with the stubs that are installed with Dyno.

DYNO_TARGET is where it is, DYNO_API_KEY a key where it asks for one.
"""

from __future__ import annotations

import os

import grpc
from google.rpc import error_details_pb2
from grpc_status import rpc_status

from dyno.inference.v1 import inference_pb2 as pb
from dyno.inference.v1.inference_pb2_grpc import InferenceServiceStub

TARGET = os.environ.get("DYNO_TARGET", "127.0.0.1:50051")
METADATA = (("authorization", f"Bearer {os.environ.get('DYNO_API_KEY', 'none')}"),)

request = pb.GenerateRequest(
    model="tales-moe",
    prompt="Once upon a time",
    sampling=pb.SamplingParameters(max_tokens=8, seed=4),
    dyno=pb.DynoOptions(routing=pb.ROUTING_DETAIL_SUMMARY),
)

with grpc.insecure_channel(TARGET) as channel:
    service = InferenceServiceStub(channel)
    for message in service.StreamGenerate(pb.StreamGenerateRequest(request=request), timeout=60, metadata=METADATA):
        print(message.text, end="", flush=True)
        if message.HasField("finished"):
            latency, routing = message.finished.latency, message.finished.routing.summary
            print(f"\nfirst token after {latency.first_token * 1000:.1f} ms, mean entropy {routing.entropy:.2f}")

    prompts = {1: "Once upon a time", 2: "There was a king"}  # many over one call, each under a number of its own
    starts = {
        tag: pb.GenerateStart(request=pb.GenerateRequest(model="tales-moe", prompt=prompt, sampling=request.sampling))
        for tag, prompt in prompts.items()
    }
    asked = pb.GenerateManyRequest(actions=[pb.GenerateAction(tag=tag, start=start) for tag, start in starts.items()])
    for message in service.GenerateMany(iter([asked]), timeout=60, metadata=METADATA):
        for event in message.events:
            if event.HasField("piece"):
                prompts[event.tag] += event.piece.text
            elif event.end.code:
                print(f"{event.tag} failed: {event.end.message}")
    print(*(f"{tag}: {text}" for tag, text in prompts.items()), sep="\n")

    score = service.Score(pb.ScoreRequest(model="tales-moe", prompt="Once upon a time"), metadata=METADATA)
    print(f"log-probability {score.logprob:.2f} of {len(score.tokens)} tokens")

    request.sampling.temperature = 3
    try:
        service.Generate(request, metadata=METADATA)
    except grpc.RpcError as refusal:
        status = rpc_status.from_call(refusal)
        for detail in status.details:
            wrong = error_details_pb2.BadRequest()
            if detail.Unpack(wrong):
                print(refusal.code().name, wrong.field_violations[0].field, wrong.field_violations[0].description)
