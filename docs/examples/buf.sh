#!/bin/sh
# The same as grpc.sh with `buf curl` (npm install @bufbuild/buf).
set -eu
target=${DYNO_TARGET:-127.0.0.1:50051}
service=http://$target/dyno.inference.v1.InferenceService

call() { # URL BODY
    buf curl --protocol grpc --http2-prior-knowledge -H "authorization: Bearer ${DYNO_API_KEY:-none}" -d "$2" "$1"
}

call "http://$target/grpc.health.v1.Health/Check" '{}'
call "$service/Generate" '{"model": "tales-moe", "prompt": "Once upon a time", "sampling": {"maxTokens": 8, "seed": 4}}'
call "$service/StreamGenerate" '{
    "request": {"model": "tales-moe", "prompt": "Once upon a time", "sampling": {"maxTokens": 8, "seed": 4}}}'
