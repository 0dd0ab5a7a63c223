"""How is the broker asked without a socket, on a clock that stands still? For simulations and tests."""

from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import Any, Final

from streamlet.broker.faults import Faults
from streamlet.broker.http import Request
from streamlet.broker.limits import MEMORY_BYTES_MAX, SEGMENT_BYTES
from streamlet.broker.persist.recovery import open_journal
from streamlet.broker.quotas import Quotas
from streamlet.broker.state import State
from streamlet.broker.stream import Stream
from streamlet.broker.wire import Answer, Front

__all__ = ["AUTHORIZATION", "EPOCH_S", "InlineBroker"]

AUTHORIZATION: Final = (
    "AWS4-HMAC-SHA256 Credential=AKIAEXAMPLE/20260101/eu-west-1/kinesis/aws4_request, SignedHeaders=host;x-amz-date, Signature=abcdef"
)
EPOCH_S: Final = 1_800_000_000.0


class InlineBroker:
    """State and front on a clock of their own, `now_s`, which only its owner moves. Further options are those of `State`.

    `post` and `ask` go the way that an HTTP request goes, behind the parser. The helpers below them are for programs
    that read better without a request's members: one partition key, whole values as text.
    """

    def __init__(
        self,
        *,
        now_s: float = EPOCH_S,
        enforce_limits: bool = False,
        faults_seed: int = 0,
        data_dir: Path | None = None,
        segment_bytes: int = SEGMENT_BYTES,
        memory_bytes_max: int = MEMORY_BYTES_MAX,
        **options: Any,
    ) -> None:
        self.now_s = now_s
        self.state = State(lambda: self.now_s, **options)
        self.state.quotas = Quotas() if enforce_limits else None
        self.faults = Faults(self.state, seed=faults_seed)
        self.front = Front(self.state, self.faults)
        if data_dir is not None:
            # Without a loop every answer is preceded by its sync.
            self.front.journal = open_journal(data_dir, self.state, segment_bytes=segment_bytes, memory_bytes_max=memory_bytes_max)

    def close(self) -> None:
        """Let go of the data directory."""
        if self.front.journal is not None:
            self.front.journal.close()

    def post(self, operation: str, body: bytes | str, **headers: str) -> Answer:
        """The raw answer. `headers` replace those that are sent, with `_` for `-`; an empty one is left out."""
        sent = {
            "content-type": "application/x-amz-json-1.1",
            "x-amz-target": f"Kinesis_20131202.{operation}",
            "x-amz-date": "20260101T000000Z",
            "authorization": AUTHORIZATION,
        }
        for name, value in headers.items():
            sent[name.replace("_", "-")] = value
        content = body.encode() if isinstance(body, str) else body
        return self.front.answer(Request("POST", "/", {k: v for k, v in sent.items() if v}, content, keep_alive=True))

    def ask(self, operation: str, **members: Any) -> dict[str, Any]:
        """The answer of a call that goes through."""
        answer = self.post(operation, json.dumps(members))
        body = b"".join(answer.body)
        assert answer.status == 200, body
        result: dict[str, Any] = json.loads(body) if body else {}
        return result

    def refused(self, operation: str, **members: Any) -> tuple[str, str]:
        """Code and text of a call that does not."""
        answer = self.post(operation, json.dumps(members))
        assert answer.status == 400, answer
        body = json.loads(b"".join(answer.body))
        return body["__type"], body.get("message", body.get("Message", ""))

    def stream(self, name: str = "s") -> Stream:
        """The stream itself, whoever made it."""
        stream = self.state.find_by_name(name, self.state.now_ms)
        assert stream is not None, f"there is no stream {name!r}"
        return stream

    def iterator(self, shard: int | str, kind: str = "TRIM_HORIZON", stream: str = "s", **more: Any) -> str:
        """A shard iterator; a shard by index or id."""
        shard_id = shard if isinstance(shard, str) else f"shardId-{shard:012d}"
        text: str = self.ask("GetShardIterator", StreamName=stream, ShardId=shard_id, ShardIteratorType=kind, **more)["ShardIterator"]
        return text

    def put(self, *values: str, stream: str = "s", key: str = "k") -> list[dict[str, str]]:
        """PutRecords of texts with one partition key; the answer's entries."""
        records = [{"Data": base64.b64encode(value.encode()).decode(), "PartitionKey": key} for value in values]
        answers: list[dict[str, str]] = self.ask("PutRecords", StreamName=stream, Records=records)["Records"]
        return answers

    def read(self, iterator: str, **more: Any) -> list[str]:
        """The payloads of one GetRecords, as text."""
        return [base64.b64decode(record["Data"]).decode() for record in self.ask("GetRecords", ShardIterator=iterator, **more)["Records"]]

    def shards(self, stream: str = "s", **more: Any) -> list[int]:
        """The indexes of the shards that ListShards tells."""
        return [int(shard["ShardId"][-12:]) for shard in self.ask("ListShards", StreamName=stream, **more)["Shards"]]
