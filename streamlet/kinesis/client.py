"""Which calls does streamlet make on its hot path, and what do they answer?

`KinesisClient` signs with aiobotocore's credentials, sends through aiohttp and decodes with msgspec: a tenth of botocore's cost
per record. Every failure comes out as a class of errors.py. Reads that change nothing are repeated a few times when
the service does not answer; everything else is the caller's decision (the producer's, the reader's).
"""

from __future__ import annotations

from collections.abc import Sequence
from types import TracebackType
from typing import Any, Final, Self, TypeVar

import msgspec

from streamlet.errors import InternalError, ServiceError, Unavailable
from streamlet.kinesis import wire
from streamlet.kinesis.retry import PASSING, Failure, backoff_s, verdict
from streamlet.kinesis.session import Identity, resolve
from streamlet.kinesis.sigv4 import Credentials, Signer
from streamlet.kinesis.transport import AiohttpTransport, Transport
from streamlet.kinesis.wire import GetRecordsAnswer, PutEntry, PutRecordsAnswer, PutRecordsRequest, StreamSummary, WireShard
from streamlet.model.shard import Shard
from streamlet.ports import Clock, Random

__all__ = ["KinesisClient"]

T = TypeVar("T")

TRIES_MAX: Final = 3
_TARGET: Final = "Kinesis_20131202."
_SHARDS_PER_PAGE: Final = 1_000
_PAGES_MAX: Final = 1_000


class KinesisClient:
    """The calls of Kinesis that streamlet makes. Use as `async with KinesisClient(...) as client`.

    region, endpoint_url   default: what the AWS configuration says (profile, AWS_REGION, AWS_ENDPOINT_URL_KINESIS, AWS_ENDPOINT_URL)
    credentials            default: what aiobotocore finds; dummy ones for an endpoint on this machine where it finds none
    transport              default: aiohttp. A given one is not closed
    identity               all of the first three, where nothing is to be looked up

    Methods raise the classes under ServiceError, each message saying what to do. Safe for many tasks at once.
    """

    def __init__(
        self,
        region: str | None = None,
        endpoint_url: str | None = None,
        *,
        clock: Clock,
        random: Random | None = None,
        transport: Transport | None = None,
        credentials: Credentials | None = None,
        identity: Identity | None = None,
    ) -> None:
        self._wanted = (region, endpoint_url, credentials)
        self._clock = clock
        self._random = random
        self._own_transport = transport is None
        self._transport: Transport | None = transport
        self._given = identity
        self._identity: Identity | None = None
        self._signer: Signer | None = None

    async def __aenter__(self) -> Self:
        """Find region, endpoint and credentials. Raises ConfigurationError or AccessRefused; sends nothing yet."""
        self._identity = self._given or await resolve(*self._wanted)
        self._signer = Signer(self._identity.url, self._identity.region)
        if self._own_transport:
            self._transport = AiohttpTransport(ca_bundle=self._identity.ca_bundle)
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self._own_transport and self._transport is not None:
            transport, self._transport = self._transport, None
            await transport.close()

    @property
    def endpoint_url(self) -> str:
        """Where requests go."""
        return self._opened()[0].url

    @property
    def region(self) -> str:
        """What requests are signed for."""
        return self._opened()[0].region

    # ── the data plane ───────────────────────────────────────────────────────────────────────────────────────────

    async def get_records(self, iterator: str, limit: int) -> GetRecordsAnswer:
        """At most `limit` (1 … 10,000) records. Not repeated here: the reader paces and repeats its reads itself."""
        body = msgspec.json.encode({"ShardIterator": iterator, "Limit": limit})
        return self._decoded("GetRecords", wire.GET_RECORDS, await self._ask("GetRecords", body))

    async def put_records(self, stream: str, entries: Sequence[PutEntry]) -> PutRecordsAnswer:
        """One call with 1 … 500 records. Each succeeds or fails by itself: look at every entry of the answer.

        After `Unavailable` it is unknown whether any record was taken; repeating is the producer's decision.
        """
        body = msgspec.json.encode(PutRecordsRequest(stream, list(entries)))
        answer = self._decoded("PutRecords", wire.PUT_RECORDS, await self._ask("PutRecords", body, stream))
        if len(answer.records) != len(entries):
            # Which record got which result is unknown; so is whether they were applied.
            raise Unavailable(
                f"PutRecords: {len(entries)} records were sent and {len(answer.records)} results came back",
                status=200,
                operation="PutRecords",
            )
        return answer

    async def get_shard_iterator(
        self, stream: str, shard_id: str, kind: str, *, sequence_number: str | None = None, timestamp_s: float | None = None
    ) -> str:
        """An iterator of the type `kind` (TRIM_HORIZON, LATEST, AT_TIMESTAMP, AT_SEQUENCE_NUMBER, AFTER_SEQUENCE_NUMBER)."""
        request: dict[str, Any] = {"StreamName": stream, "ShardId": shard_id, "ShardIteratorType": kind}
        if sequence_number is not None:
            request["StartingSequenceNumber"] = sequence_number
        if timestamp_s is not None:
            request["Timestamp"] = timestamp_s
        return (await self._read("GetShardIterator", request, wire.ITERATOR, stream)).shard_iterator

    # ── the control plane, as far as it is needed ────────────────────────────────────────────────────────────────

    async def list_shards(self, stream: str) -> list[Shard]:
        """Every shard within retention, open and closed."""
        shards: list[Shard] = []
        request: dict[str, Any] = {"StreamName": stream, "MaxResults": _SHARDS_PER_PAGE}
        for _ in range(_PAGES_MAX):
            page = await self._read("ListShards", request, wire.LIST_SHARDS, stream)
            shards += map(_shard, page.shards)
            if not page.next_token:
                return shards
            request = {"NextToken": page.next_token, "MaxResults": _SHARDS_PER_PAGE}
        raise InternalError(f"ListShards of {stream} did not end after {_PAGES_MAX} pages")

    async def describe_stream_summary(self, stream: str) -> StreamSummary:
        """Status, number of open shards, retention, record size."""
        return (await self._read("DescribeStreamSummary", {"StreamName": stream}, wire.SUMMARY, stream)).stream_description_summary

    async def create_stream(self, stream: str, shards: int) -> None:
        """Start creating a stream of `shards` shards. Raises RequestRefused, code ResourceInUseException, if it is there already."""
        await self._ask("CreateStream", msgspec.json.encode({"StreamName": stream, "ShardCount": shards}), stream)

    async def call(self, operation: str, request: dict[str, Any]) -> Any:
        """Any other operation, once: the members of the request as the API names them; the decoded answer, or None."""
        answer = await self._ask(operation, msgspec.json.encode(request), str(request.get("StreamName", "")))
        return self._decoded(operation, wire.ANYTHING, answer) if answer else None

    # ── one request ──────────────────────────────────────────────────────────────────────────────────────────────

    async def _read(self, operation: str, request: dict[str, Any], decoder: msgspec.json.Decoder[T], stream: str) -> T:
        body = msgspec.json.encode(request)
        for tries in range(1, TRIES_MAX + 1):
            try:
                return self._decoded(operation, decoder, await self._ask(operation, body, stream))
            except PASSING:
                # These calls change nothing, so repeating is free of risk; a few tries bridge a restart or a full second.
                if tries == TRIES_MAX:
                    raise
            jitter = self._random.random() if self._random is not None else 0.5
            await self._clock.sleep(backoff_s(tries, jitter))
        raise AssertionError("the loop returns or raises")

    async def _ask(self, operation: str, body: bytes, stream: str = "") -> bytes:
        identity, signer, transport = self._opened()
        url = identity.url
        headers = signer.headers(_TARGET + operation, body, await identity.credentials(), self._clock.time())
        try:
            status, answer = await transport.request(url, headers, body)
        except OSError as cause:
            raise verdict(Failure(operation, cause=cause, url=url, stream=stream)).error from cause
        if status == 200:
            return answer
        raise self._refusal(operation, status, answer, stream)

    def _refusal(self, operation: str, status: int, answer: bytes, stream: str) -> ServiceError:
        try:
            body = wire.ERROR.decode(answer)
            code, text = body.code, body.text
        except msgspec.MsgspecError:
            # Not the service's form: a proxy, a load balancer, or another server on this port.
            code, text = "", answer[:200].decode("utf-8", "replace")
        return verdict(Failure(operation, status, code, text, url=self.endpoint_url, stream=stream)).error

    def _decoded(self, operation: str, decoder: msgspec.json.Decoder[T], answer: bytes) -> T:
        try:
            return decoder.decode(answer)
        except msgspec.MsgspecError as error:
            # A cut or foreign body under status 200. Whether the call was applied is unknown, as after a 5xx.
            raise Unavailable(
                f"{operation}: the answer of {self.endpoint_url} is not Kinesis's ({error}); is there another service at this address?",
                status=200,
                operation=operation,
            ) from error

    def _opened(self) -> tuple[Identity, Signer, Transport]:
        if self._identity is None or self._signer is None or self._transport is None:
            raise InternalError("the client is not open: use it inside `async with KinesisClient(...) as client`")
        return self._identity, self._signer, self._transport


def _shard(shard: WireShard) -> Shard:
    parents = (shard.parent_shard_id, shard.adjacent_parent_shard_id)
    return Shard(
        shard.shard_id,
        int(shard.hash_key_range.starting_hash_key),
        int(shard.hash_key_range.ending_hash_key),
        tuple(parent for parent in parents if parent),
        shard.sequence_number_range.ending_sequence_number is not None,
        shard.sequence_number_range.starting_sequence_number,
    )
