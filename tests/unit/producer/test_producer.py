"""The producer against a real broker that throttles, fails records, drops connections and goes away."""

from __future__ import annotations

import asyncio
import base64
from collections import defaultdict
from collections.abc import Mapping
from typing import Any

import msgspec
import pytest

from streamlet.broker import Broker
from streamlet.clock import SystemClock
from streamlet.errors import (
    ConfigurationError,
    NotFound,
    RecordTooLarge,
    ServiceError,
    Throttled,
    Unavailable,
    UsageError,
)
from streamlet.kinesis.client import KinesisClient
from streamlet.kinesis.transport import AiohttpTransport
from streamlet.producer import Producer, PutPending, PutResult
from streamlet.producer import producer as module


class NoJitter:
    def random(self) -> float:
        return 0.0


@pytest.fixture(autouse=True)
def _no_aws_and_quick_retries(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "AWS_PROFILE", "AWS_REGION", "AWS_DEFAULT_REGION"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_CONFIG_FILE", "/nowhere")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", "/nowhere")
    monkeypatch.setattr(module, "BACKOFF_BASE_S", 0.005)


def stored(broker: Broker, stream: str = "s") -> dict[str, list[bytes]]:
    """What is in the stream, per partition key, in the order of its shard."""
    found: dict[str, list[bytes]] = defaultdict(list)
    for shard in broker.call("ListShards", StreamName=stream)["Shards"]:
        start = {"StreamName": stream, "ShardId": shard["ShardId"], "ShardIteratorType": "TRIM_HORIZON"}
        iterator = broker.call("GetShardIterator", **start)["ShardIterator"]
        while iterator is not None:
            # The broker splices its answers from bytes; this is what it would send.
            answer = msgspec.json.decode(b"".join(broker.call("GetRecords", ShardIterator=iterator)))
            for record in answer["Records"]:
                found[record["PartitionKey"]].append(base64.b64decode(record["Data"]))
            iterator = answer.get("NextShardIterator") if answer["Records"] else None
    return dict(found)


def producer(broker: Broker, **options: Any) -> Producer:
    return Producer("s", **{"endpoint_url": broker.endpoint_url, "linger_ms": 1, "random": NoJitter(), **options})


async def test_each_form_of_data_and_a_result_per_record() -> None:
    async with Broker(streams={"s": 1}) as broker:
        async with producer(broker) as open_producer:
            pendings = [
                await open_producer.put(b"bytes", "k"),
                await open_producer.put("größe", "k"),
                await open_producer.put({"a": [1, None]}, "k"),
                await open_producer.put(bytearray(b"array"), "k", 2**128 - 1),
            ]
            results = [await pending for pending in pendings]
            assert [pending.result() for pending in pendings] == results
        assert stored(broker) == {"k": [b"bytes", "größe".encode(), b'{"a":[1,null]}', b"array"]}
        assert {result.shard_id for result in results} == {"shardId-000000000000"}
        numbers = [int(result.sequence_number) for result in results]
        assert numbers == sorted(numbers)
        assert isinstance(results[0], PutResult)
        assert pendings[0].done


async def test_exit_sends_what_is_buffered() -> None:
    """Without flush, and with a linger that outlasts the test."""
    async with Broker(streams={"s": 2}) as broker:
        async with producer(broker, linger_ms=60_000) as open_producer:
            for number in range(1200):
                await open_producer.put(b"%d" % number, f"k{number % 7}")
        found = stored(broker)
        assert found == {f"k{key}": [b"%d" % n for n in range(key, 1200, 7)] for key in range(7)}


async def test_put_many_gives_results_in_order() -> None:
    async with Broker(streams={"s": 2}) as broker, producer(broker, linger_ms=60_000) as open_producer:
        results = await open_producer.put_many((b"%d" % n, f"k{n}") for n in range(1300))
        assert len(results) == 1300
        assert len({result.sequence_number for result in results}) == 1300
        assert sum(map(len, stored(broker).values())) == 1300


async def test_order_per_key_under_partial_failures_and_throttles() -> None:
    """A third of the records of twenty calls fail, five calls are throttled: every record is there once, in order per key."""
    troubles: list[ServiceError] = []
    async with Broker(streams={"s": 4}) as broker:
        broker.faults.fail_records(0.34, 20)
        broker.faults.throttle("PutRecords", 5)
        async with producer(broker, on_trouble=troubles.append) as open_producer:
            await open_producer.put_many([(b"%d" % n, f"k{n % 50}") for n in range(1000)])
        assert stored(broker) == {f"k{key}": [b"%d" % n for n in range(key, 1000, 50)] for key in range(50)}
    assert {type(error) for error in troubles} == {Throttled}


async def test_a_lost_answer_may_double_and_never_reorders() -> None:
    """The connection drops after the call was applied: at least once, in order, first copies."""
    async with Broker(streams={"s": 1}) as broker:
        broker.faults.reset_after("PutRecords", 2)
        async with producer(broker, calls_in_flight_max=2) as open_producer:
            await open_producer.put_many([(b"%03d" % n, f"k{n % 3}") for n in range(90)])
        for key, values in stored(broker).items():
            assert values == sorted(values), key
            assert sorted(set(values)) == [b"%03d" % n for n in range(int(key[1:]), 90, 3)]
        assert sum(map(len, stored(broker).values())) > 90


async def test_a_reset_before_the_call_is_repeated() -> None:
    async with Broker(streams={"s": 1}) as broker:
        broker.faults.reset_before("PutRecords", 3)
        async with producer(broker) as open_producer:
            await (await open_producer.put(b"x", "k"))
        assert stored(broker) == {"k": [b"x"]}


async def test_the_buffer_slows_the_caller_and_drops_nothing() -> None:
    """With room for a few records, puts wait; a record larger than the buffer goes alone."""
    async with Broker(streams={"s": 1}) as broker:
        async with producer(broker, buffer_bytes_max=2000, linger_ms=60_000) as open_producer:
            most = 0
            for number in range(100):
                await open_producer.put(b"%d" % number + b" " * 500, f"k{number % 3}")
                most = max(most, open_producer._buffered_bytes)
            await open_producer.put(b"x" * 5000, "large")
        assert most <= 2000
        found = stored(broker)
        assert sum(map(len, found.values())) == 101
        assert [int(value) for value in found["k1"]] == list(range(1, 100, 3))


async def test_waiting_puts_are_served_in_order() -> None:
    """Many tasks wait for room with records of one key; a small one that would fit does not overtake; a cancelled one is not sent."""
    async with Broker(streams={"s": 1}) as broker:
        async with producer(broker, buffer_bytes_max=2000, linger_ms=60_000) as open_producer, asyncio.TaskGroup() as group:
            await open_producer.put(b"first" + b" " * 700, "k")
            tasks = [group.create_task(open_producer.put(b"%02d" % n + b" " * (1 if n % 2 else 1200), "k")) for n in range(20)]
            await asyncio.sleep(0)
            tasks[7].cancel()
        values = [value.strip() for value in stored(broker)["k"]]
        assert values == [b"first"] + [b"%02d" % n for n in range(20) if n != 7]


async def test_a_record_that_is_too_large_does_not_wait_for_room() -> None:
    async with Broker(streams={"s": 1}) as broker, producer(broker, buffer_bytes_max=500, linger_ms=60_000) as open_producer:
        await open_producer.put(b"x" * 400, "k")
        with pytest.raises(RecordTooLarge):
            await open_producer.put(b"x" * 2_000_000, "k")
        assert not (await open_producer.put(b"y", "k")).done


async def test_a_put_that_waits_when_the_producer_closes_is_turned_away() -> None:
    async with Broker(streams={"s": 1}) as broker:
        async with producer(broker, buffer_bytes_max=500, linger_ms=60_000) as open_producer:
            await open_producer.put(b"x" * 400, "k")
            late = asyncio.create_task(open_producer.put(b"late", "k"))
            await asyncio.sleep(0)
        with pytest.raises(UsageError, match="was not sent"):
            await late
        assert stored(broker) == {"k": [b"x" * 400]}


async def test_a_failure_that_somebody_waits_for_is_not_told_twice() -> None:
    """Records wake who awaits them before flush looks for failures that nobody saw."""
    async with Broker(streams={"s": 1}) as broker, producer(broker, linger_ms=60_000) as open_producer:
        broker.delete_stream("s")
        pending = await open_producer.put(b"x", "k")
        flushed, awaited = await asyncio.gather(open_producer.flush(), _look_at(pending), return_exceptions=True)
        assert flushed is None
        assert isinstance(awaited, NotFound)


async def _look_at(pending: PutPending) -> PutResult:
    return await pending


async def test_a_record_that_is_too_large_is_refused_alone() -> None:
    async with Broker(streams={"s": 1}) as broker:
        async with producer(broker) as open_producer:
            with pytest.raises(RecordTooLarge, match="1,048,577 bytes"):
                await open_producer.put(b"x" * 1_048_576, "k")
            with pytest.raises(RecordTooLarge, match="1 of 3 records"):
                await open_producer.put_many([(b"a", "k"), (b"x" * 2_000_000, "k"), (b"b", "k")])
        assert stored(broker) == {"k": [b"a", b"b"]}


@pytest.mark.parametrize(
    ("data", "key", "hash_key"),
    [(b"", "", None), (b"", "k" * 257, None), (b"", 5, None), (b"", "k", -1), (b"", "k", 2**128), (object(), "k", None)],
)
async def test_what_kinesis_does_not_take_is_refused_at_once(data: Any, key: Any, hash_key: Any) -> None:
    async with Broker(streams={"s": 1}) as broker, producer(broker) as open_producer:
        with pytest.raises(UsageError):
            await open_producer.put(data, key, hash_key)


async def test_keys_of_256_characters_beyond_ascii_are_taken() -> None:
    async with Broker(streams={"s": 1}) as broker:
        async with producer(broker) as open_producer:
            await open_producer.put(b"", "ж" * 256)
        assert stored(broker) == {"ж" * 256: [b""]}


async def test_a_missing_stream_is_told_at_the_start() -> None:
    async with Broker() as broker:
        with pytest.raises(NotFound, match="create the stream 's' first"):
            async with producer(broker):
                pass


async def test_a_stream_that_goes_away_fails_records_at_once_and_flush_tells_unseen_ones() -> None:
    """One failure is looked at, two are not: flush names the two, once."""
    async with Broker(streams={"s": 1}) as broker, producer(broker) as open_producer:
        broker.delete_stream("s")
        pendings = [await open_producer.put(b"x", f"k{n}") for n in range(3)]
        with pytest.raises(NotFound):
            await pendings[0]
        with pytest.raises(NotFound, match="2 records could not be put into s"):
            await open_producer.flush()
        await open_producer.flush()
        with pytest.raises(NotFound):
            pendings[1].result()


async def test_exit_raises_for_failures_that_nobody_saw() -> None:
    async with Broker(streams={"s": 1}) as broker:
        with pytest.raises(NotFound, match="1 record could not be put"):  # noqa: PT012  the exit of the body is what is tested
            async with producer(broker) as open_producer:
                broker.delete_stream("s")
                await open_producer.put(b"x", "k")


async def test_an_error_of_the_body_comes_first() -> None:
    """What is buffered is still sent, and failures are a note on the body's own exception."""
    async with Broker(streams={"s": 1}) as broker:
        with pytest.raises(ZeroDivisionError):  # noqa: PT012  the exit of the body is what is tested
            async with producer(broker, linger_ms=60_000) as open_producer:
                await open_producer.put(b"x", "k")
                raise ZeroDivisionError
        assert stored(broker) == {"k": [b"x"]}
        with pytest.raises(ZeroDivisionError) as raised:  # noqa: PT012  the exit of the body is what is tested
            async with producer(broker) as open_producer:
                broker.delete_stream("s")
                await open_producer.put(b"x", "k")
                raise ZeroDivisionError
        assert "1 record could not be put" in raised.value.__notes__[0]


async def test_ttl_gives_records_up_when_nothing_answers() -> None:
    broker = await Broker(streams={"s": 1}).start()
    async with producer(broker, record_ttl_s=0.05) as open_producer:
        await broker.aclose()
        pendings = [await open_producer.put(b"x", "k") for _ in range(3)]
        for pending in pendings:
            with pytest.raises(Unavailable):
                await pending


async def test_cancelling_leaves_no_task_and_tells_whoever_waits() -> None:
    """Nothing answers and records wait: cancelling the producer's owner ends it at once, and its records say so."""
    broker = await Broker(streams={"s": 1}).start()
    pendings: list[PutPending] = []
    ready = asyncio.Event()

    async def own() -> None:
        async with producer(broker) as open_producer:
            await broker.aclose()
            pendings.extend([await open_producer.put(b"x", f"k{n % 2}") for n in range(6)])
            ready.set()
            await asyncio.sleep(3600)

    task = asyncio.create_task(own())
    await ready.wait()
    await asyncio.sleep(0.02)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    for pending in pendings:
        with pytest.raises(Unavailable, match="may or may not"):
            await pending
    assert asyncio.all_tasks() == {asyncio.current_task()}


async def test_cancelling_who_awaits_a_record_does_not_cancel_the_record() -> None:
    async with Broker(streams={"s": 1}) as broker, producer(broker, linger_ms=60_000) as open_producer:
        pending = await open_producer.put(b"x", "k")
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.01):
                await pending
        with pytest.raises(asyncio.InvalidStateError):
            pending.result()
        await open_producer.flush()
        assert pending.result() == await pending


async def test_flush_does_not_wait_for_later_records() -> None:
    """Somebody who goes on putting does not keep a flush from ending."""
    async with Broker(streams={"s": 1}) as broker, producer(broker) as open_producer:
        stop = False

        async def go_on() -> None:
            number = 0
            while not stop:
                await open_producer.put(b"x", f"k{(number := number + 1)}")
                await asyncio.sleep(0)

        async with asyncio.TaskGroup() as group:
            group.create_task(go_on())
            await asyncio.sleep(0.01)
            async with asyncio.timeout(5):
                for _ in range(5):
                    await open_producer.flush()
            stop = True


async def test_a_bug_in_a_call_stops_the_producer_loudly(monkeypatch: pytest.MonkeyPatch) -> None:
    """An exception that is no ServiceError is ours: the TaskGroup cancels the body and raises it."""

    async def broken(*_: Any) -> None:
        raise ZeroDivisionError

    async with Broker(streams={"s": 1}) as broker:
        with pytest.raises(ExceptionGroup) as raised:  # noqa: PT012  the exit of the body is what is tested
            async with asyncio.timeout(5), producer(broker) as open_producer:
                monkeypatch.setattr(open_producer._client, "put_records", broken)
                await (await open_producer.put(b"x", "k"))
        assert raised.group_contains(ZeroDivisionError)


class PutOnly:
    """Allows PutRecords and nothing else, as the policy of many a producer does."""

    def __init__(self) -> None:
        self.inner = AiohttpTransport()

    async def request(self, url: str, headers: Mapping[str, str], body: bytes) -> tuple[int, bytes]:
        if not headers["X-Amz-Target"].endswith(".PutRecords"):
            return 400, b'{"__type":"AccessDeniedException","message":"not allowed"}'
        return await self.inner.request(url, headers, body)

    async def close(self) -> None:
        await self.inner.close()


async def test_the_right_to_put_is_enough() -> None:
    transport = PutOnly()
    async with Broker(streams={"s": 1}) as broker:
        async with KinesisClient(endpoint_url=broker.endpoint_url, clock=SystemClock(), transport=transport) as client:
            async with producer(broker, client=client) as open_producer:
                await (await open_producer.put(b"x", "k"))
        assert stored(broker) == {"k": [b"x"]}
    await transport.close()


async def test_usage() -> None:
    """Options out of range, a put outside of `async with`, a second use."""
    for options in (
        {"linger_ms": -1},
        {"calls_in_flight_max": 0},
        {"buffer_bytes_max": 0},
        {"call_bytes_max": 2**30},
        {"record_ttl_s": -1},
    ):
        with pytest.raises(ConfigurationError, match=next(iter(options))):
            Producer("s", **options)  # type: ignore[arg-type]
    with pytest.raises(ConfigurationError, match="stream"):
        Producer("")
    with pytest.raises(UsageError, match="async with"):
        await Producer("s").put(b"", "k")
    async with Broker(streams={"s": 1}) as broker:
        async with producer(broker) as open_producer:
            pass
        with pytest.raises(UsageError, match="async with"):
            await open_producer.put(b"", "k")
        with pytest.raises(UsageError, match="once"):
            await open_producer.__aenter__()
