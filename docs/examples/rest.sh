#!/bin/sh
# Asks a Dyno server over REST with curl. DYNO_URL is where it is, DYNO_API_KEY a key where it asks for one.
set -eu
url=${DYNO_URL:-http://127.0.0.1:8000}

ask() { # PATH BODY
    curl --silent --show-error --fail-with-body --no-buffer "$url$1" \
        -H "authorization: Bearer ${DYNO_API_KEY:-none}" -H 'content-type: application/json' -d "$2"
    echo
}

echo '# the models'
curl --silent --show-error --fail-with-body "$url/v1/models" -H "authorization: Bearer ${DYNO_API_KEY:-none}"
echo

echo '# a continuation, and what it cost'
ask /v1/completions '{
    "model": "tales-moe", "prompt": "Once upon a time", "max_tokens": 8, "seed": 4, "dyno": {"routing": "summary"}}'

echo '# as a stream, with the usage at its end'
ask /v1/completions '{
    "model": "tales-moe", "prompt": "Once upon a time", "max_tokens": 8, "seed": 4,
    "stream": true, "stream_options": {"include_usage": true}}'

echo '# how probable a prompt is'
ask /v1/completions '{
    "model": "tales-moe", "prompt": "Once upon a time", "max_tokens": 0, "echo": true, "logprobs": 1}'

echo '# an error: the field, the value and the limit'
ask /v1/completions '{"model": "tales-moe", "prompt": "Once upon a time", "temperature": 3}' || true
