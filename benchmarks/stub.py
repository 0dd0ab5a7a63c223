"""What do clients talk to, so that only they are measured? A stub of about 1 CPU second per million records; not a Kinesis.

GetRecords slices records that were encoded at the start; PutRecords is answered by the number of its records, unread.
Run as `python -m benchmarks.stub RECORDS`: that many lie in 4 shards of a stream that exists under any name.
"""

from __future__ import annotations

import asyncio
import json
import re
import sys
from typing import Any, Final, cast

from benchmarks.wire import payload

__all__ = ["SHARDS", "main"]

SHARDS: Final = 4
_PAYLOADS: Final = 256
_LIMIT_MAX: Final = 1_000
_RANGE: Final = 2**128 // SHARDS
_START: Final = "495903382714902566085596925383615710959215759891365"
_ARN: Final = "arn:aws:kinesis:us-east-1:000000000000:stream/bench"
_TARGET: Final = re.compile(rb"x-amz-target:\s*Kinesis_20131202\.(\w+)", re.IGNORECASE)
_LENGTH: Final = re.compile(rb"content-length:\s*(\d+)", re.IGNORECASE)


def _sequence(shard: int, position: int) -> str:
    return f"{_START}{shard:02d}{position:012d}"


def _shard(n: int) -> dict[str, Any]:
    return {
        "ShardId": f"shardId-{n:012d}",
        "HashKeyRange": {"StartingHashKey": str(n * _RANGE), "EndingHashKey": str((n + 1) * _RANGE - 1)},
        "SequenceNumberRange": {"StartingSequenceNumber": _sequence(n, 0)},
    }


class _Stream:
    """The records of each shard as JSON, and the answers."""

    def __init__(self, records: int) -> None:
        payloads = [payload(n) for n in range(_PAYLOADS)]
        each = records // SHARDS
        self.shards = [
            [
                json.dumps(
                    {
                        "SequenceNumber": _sequence(shard, n + 1),
                        "ApproximateArrivalTimestamp": 1_700_000_000.5,
                        "Data": payloads[n % _PAYLOADS],
                        "PartitionKey": f"customer-{n}",
                    },
                    separators=(",", ":"),
                ).encode()
                for n in range(each)
            ]
            for shard in range(SHARDS)
        ]
        self.taken = [
            b'{"SequenceNumber":"%s","ShardId":"shardId-%012d"}' % (_sequence(n % SHARDS, n).encode(), n % SHARDS) for n in range(500)
        ]
        self.answers: dict[int, bytes] = {}

    def answer(self, operation: str, body: bytes) -> bytes:
        """The body of the answer."""
        match operation:
            case "GetRecords":
                return self._records(json.loads(body))
            case "PutRecords":
                count = body.count(b'"PartitionKey"')
                if count not in self.answers:
                    self.answers[count] = b'{"FailedRecordCount":0,"Records":[' + b",".join(self.taken[:count]) + b"]}"
                return self.answers[count]
            case "GetShardIterator":
                return self._iterator(json.loads(body))
            case "ListShards":
                return json.dumps({"Shards": [_shard(n) for n in range(SHARDS)]}).encode()
            case "DescribeStream" | "DescribeStreamSummary":
                return self._description(operation)
            case _:
                return b"{}"

    def _records(self, members: dict[str, Any]) -> bytes:
        shard, at = map(int, members["ShardIterator"].split(":"))
        found = self.shards[shard][at : at + min(members.get("Limit", _LIMIT_MAX), _LIMIT_MAX)]
        after = at + len(found)
        behind = 0 if after == len(self.shards[shard]) else 60_000
        return b'{"Records":[%s],"NextShardIterator":"%d:%d","MillisBehindLatest":%d}' % (b",".join(found), shard, after, behind)

    def _iterator(self, members: dict[str, Any]) -> bytes:
        shard = int(members["ShardId"][-12:])
        after = members.get("StartingSequenceNumber")
        at = 0 if after is None else int(after[-12:]) - (members["ShardIteratorType"] == "AT_SEQUENCE_NUMBER")
        return json.dumps({"ShardIterator": f"{shard}:{max(0, at)}"}).encode()

    def _description(self, operation: str) -> bytes:
        common = {
            "StreamName": "bench",
            "StreamARN": _ARN,
            "StreamStatus": "ACTIVE",
            "RetentionPeriodHours": 24,
            "StreamCreationTimestamp": 1_700_000_000.0,
            "EnhancedMonitoring": [{"ShardLevelMetrics": []}],
            "StreamModeDetails": {"StreamMode": "PROVISIONED"},
        }
        if operation == "DescribeStream":
            return json.dumps(
                {"StreamDescription": {**common, "Shards": [_shard(n) for n in range(SHARDS)], "HasMoreShards": False}}
            ).encode()
        return json.dumps({"StreamDescriptionSummary": {**common, "OpenShardCount": SHARDS}}).encode()


class _Connection(asyncio.Protocol):
    def __init__(self, stream: _Stream) -> None:
        self._stream = stream
        self._buffer = bytearray()
        self._total = 0  # bytes of the request under way, 0 while its head is incomplete
        self._body_at = 0
        self._operation = ""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        while self._buffer and (self._total or self._read_head()) and len(self._buffer) >= self._total:
            body = self._stream.answer(self._operation, bytes(self._buffer[self._body_at : self._total]))
            del self._buffer[: self._total]
            self._total = 0
            head = b"HTTP/1.1 200 OK\r\nContent-Type: application/x-amz-json-1.1\r\nx-amzn-RequestId: stub\r\nContent-Length: %d\r\n\r\n"
            self._transport.writelines([head % len(body), body])

    def _read_head(self) -> bool:
        end = self._buffer.find(b"\r\n\r\n")
        if end < 0:
            return False
        head = bytes(self._buffer[:end])
        target, length = _TARGET.search(head), _LENGTH.search(head)
        self._operation = target[1].decode() if target else ""
        self._body_at = end + 4
        self._total = self._body_at + (int(length[1]) if length else 0)
        if b"100-continue" in head.lower():
            self._transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        return True


async def _serve(records: int) -> None:
    stream = _Stream(records)
    server = await asyncio.get_running_loop().create_server(lambda: _Connection(stream), "127.0.0.1", 0)
    sys.stdout.write(f"listening on http://127.0.0.1:{server.sockets[0].getsockname()[1]}\n")
    sys.stdout.flush()
    await server.serve_forever()


def main(arguments: list[str]) -> None:
    """Serve until killed."""
    import uvloop

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(_serve(int(arguments[0])))


if __name__ == "__main__":
    main(sys.argv[1:])
