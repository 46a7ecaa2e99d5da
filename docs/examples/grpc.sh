#!/bin/sh
# Asks a Dyno server over gRPC with grpcurl, which learns the contract by reflection. DYNO_TARGET is where it is,
# DYNO_API_KEY a key where it asks for one.
set -eu
target=${DYNO_TARGET:-127.0.0.1:50051}

call() { # METHOD BODY
    grpcurl -plaintext -H "authorization: Bearer ${DYNO_API_KEY:-none}" -d "$2" "$target" "$1"
}

grpcurl -plaintext -H "authorization: Bearer ${DYNO_API_KEY:-none}" "$target" list
grpcurl -plaintext -H "authorization: Bearer ${DYNO_API_KEY:-none}" "$target" describe dyno.inference.v1.SamplingParameters
call grpc.health.v1.Health/Check '{}'
call dyno.inference.v1.InferenceService/Generate '{
    "model": "tales-moe", "prompt": "Once upon a time", "sampling": {"max_tokens": 8, "seed": 4}}'
call dyno.inference.v1.InferenceService/StreamGenerate '{
    "request": {"model": "tales-moe", "prompt": "Once upon a time", "sampling": {"max_tokens": 8, "seed": 4}}}'
