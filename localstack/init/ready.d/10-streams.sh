#!/bin/sh
# Creates the streams that STREAMS names ("orders:2 clicks:1") when LocalStack is ready, and waits until they are ACTIVE.
set -eu
for stream in ${STREAMS:-orders:2 clicks:1}; do
    name=${stream%%:*}
    shards=${stream##*:}
    if ! awslocal kinesis describe-stream-summary --stream-name "$name" >/dev/null 2>&1; then
        awslocal kinesis create-stream --stream-name "$name" --shard-count "$shards"
    fi
    awslocal kinesis wait stream-exists --stream-name "$name"
done
