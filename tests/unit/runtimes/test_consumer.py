"""A loop of one's own over the engine: ack, nack, pausing, leaving early."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest

from streamlet import ConfigurationError, Consumer, FileDestination, Producer, UsageError
from streamlet.broker import Broker
from streamlet.errors import NotFound
from streamlet.hooks import Event, Invoked, Paused


def consumer(broker: Broker, tmp_path: Path, **options: Any) -> Consumer:
    return Consumer(
        "s", endpoint_url=broker.endpoint_url, state=f"sqlite:///{tmp_path}/leases.db", poll_interval_s=0.05, failover_s=0.5, **options
    )


async def put(broker: Broker, numbers: range) -> None:
    async with Producer("s", endpoint_url=broker.endpoint_url) as producer:
        await producer.put_many([(json.dumps(n).encode(), "key") for n in numbers])


async def take(opened: Consumer, count: int) -> list[int]:
    seen: list[int] = []
    async with asyncio.timeout(30):
        async for batch in opened:
            seen += [record.value for record in batch]
            await batch.ack()
            if len(seen) >= count:
                break
    return seen


async def test_what_was_acknowledged_is_behind_and_the_rest_comes_again(tmp_path: Path) -> None:
    async with Broker(streams={"s": 1}) as broker:
        await put(broker, range(30))
        async with consumer(broker, tmp_path, batch_size=10) as opened, asyncio.timeout(30):
            async for batch in opened:
                numbers = [record.value for record in batch]
                if numbers[0] == 20:
                    break  # without an answer
                await batch.ack()
        async with consumer(broker, tmp_path, batch_size=10) as opened:
            assert await take(opened, 10) == list(range(20, 30))


async def test_nack_is_a_failure_like_any_other(tmp_path: Path) -> None:
    """Bisected until the poison is alone, then given up to the destination."""
    destination, seen = FileDestination(str(tmp_path / "failed.jsonl")), []
    async with Broker(streams={"s": 1}) as broker:
        await put(broker, range(10))
        options = {"maximum_retry_attempts": 0, "bisect_batch_on_function_error": True, "on_failure": destination}
        async with consumer(broker, tmp_path, **options) as opened, asyncio.timeout(30):
            async for batch in opened:
                numbers = [record.value for record in batch]
                if 6 in numbers:
                    await batch.nack(ValueError("six"))
                else:
                    seen += numbers
                    await batch.ack()
                if len(seen) == 9:
                    break
    assert seen == [n for n in range(10) if n != 6]
    assert json.loads((tmp_path / "failed.jsonl").read_text())["KinesisBatchInfo"]["batchSize"] == 1


async def test_nack_with_a_record_keeps_those_before_it(tmp_path: Path) -> None:
    batches = []
    async with Broker(streams={"s": 1}) as broker:
        await put(broker, range(10))
        async with consumer(broker, tmp_path) as opened, asyncio.timeout(30):
            async for batch in opened:
                batches.append([record.value for record in batch])
                if len(batches) == 1:
                    await batch.nack("later", record=batch.batch[4])
                else:
                    await batch.ack()
                    break
    assert batches == [list(range(10)), list(range(4, 10))]


async def test_a_second_answer_is_refused(tmp_path: Path) -> None:
    async with Broker(streams={"s": 1}) as broker:
        await put(broker, range(1))
        async with consumer(broker, tmp_path) as opened, asyncio.timeout(30):
            async for batch in opened:
                await batch.ack()
                with pytest.raises(UsageError, match="answered already"):
                    await batch.ack()
                break


async def test_a_missing_stream_is_told(tmp_path: Path) -> None:
    """In the loop, and also to a program that only leaves the block."""
    async with Broker() as broker, consumer(broker, tmp_path) as opened:
        with pytest.raises(NotFound, match="create the stream"):
            await take(opened, 1)


async def test_the_bodys_own_exception_comes_out_as_it_is(tmp_path: Path) -> None:
    async with Broker(streams={"s": 1}) as broker:
        await put(broker, range(1))

        async def body() -> None:
            async with consumer(broker, tmp_path) as opened, asyncio.timeout(30):
                async for _ in opened:
                    raise ZeroDivisionError

        with pytest.raises(ZeroDivisionError):
            await body()


def test_private_state_against_a_real_endpoint_is_refused() -> None:
    async def main() -> None:
        async with Consumer("s", endpoint_url="https://kinesis.us-east-1.amazonaws.com"):
            pass

    with pytest.raises(ConfigurationError, match="--state"):
        asyncio.run(main())


async def test_several_batches_of_a_shard_wait_for_their_answers_at_once(tmp_path: Path) -> None:
    """With a parallelization factor, answered in any order; the one left without an answer comes again, and what is behind it."""
    async with Broker(streams={"s": 1}) as broker:
        async with Producer("s", endpoint_url=broker.endpoint_url) as producer:
            await producer.put_many([(json.dumps(n).encode(), f"key-{n % 10}") for n in range(10)])
        async with consumer(broker, tmp_path, parallelization_factor=3, batch_size=10) as opened, asyncio.timeout(30):
            received = []
            async for batch in opened:
                received.append(batch)
                if len(received) == 3:
                    break
            of = [[record.value for record in batch] for batch in received]
            assert sorted(n for numbers in of for n in numbers) == list(range(10))
            for batch, numbers in zip(reversed(received), reversed(of), strict=True):
                if 0 not in numbers:
                    await batch.ack()
        async with consumer(broker, tmp_path, batch_size=10) as opened:
            assert await take(opened, 10) == list(range(10)), "the checkpoint is before record 0"


async def test_a_paused_consumer_hands_over_nothing_and_goes_on_where_it_was(tmp_path: Path) -> None:
    """The batch that the loop has taken is answered as ever; the one that waits in front of the loop is taken back, without an attempt
    being counted."""
    events: list[Event] = []
    paused = asyncio.Event()

    def listen(event: Event) -> None:
        events.append(event)
        if isinstance(event, Paused):
            paused.set()

    async with Broker(streams={"s": 1}) as broker:
        await put(broker, range(30))
        opened = consumer(broker, tmp_path, batch_size=10, maximum_retry_attempts=0, listeners=(listen,))
        async with opened, asyncio.timeout(30):
            batches = aiter(opened)
            first = await anext(batches)
            await first.ack()
            while opened._waiting.empty():  # the second is in front of the loop
                await asyncio.sleep(0)
            opened.pause()
            await paused.wait()
            second = asyncio.ensure_future(anext(batches))
            await asyncio.sleep(0.2)
            assert not second.done()
            opened.resume()
            again = await second
            assert [record.value for record in again] == list(range(10, 20))
            opened.pause()
            opened.pause()
            await again.ack()
            opened.resume()
            assert await take(opened, 10) == list(range(20, 30))
    assert [event.attempt for event in events if isinstance(event, Invoked)] == [1, 1, 1]


async def test_leaving_the_block_of_a_paused_consumer_keeps_what_was_not_answered(tmp_path: Path) -> None:
    async with Broker(streams={"s": 1}) as broker:
        await put(broker, range(10))
        async with consumer(broker, tmp_path) as opened, asyncio.timeout(30):
            await anext(aiter(opened))
            opened.pause()
        async with consumer(broker, tmp_path) as opened:
            assert await take(opened, 10) == list(range(10))


async def test_a_consumer_that_is_not_enabled_begins_paused_and_the_environment_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same variables as for an App override the options of the mapping."""
    monkeypatch.setenv("STREAMLET_ENABLED", "0")
    monkeypatch.setenv("STREAMLET_BATCH_SIZE", "4")
    events: list[Event] = []
    news = asyncio.Event()

    def listen(event: Event) -> None:
        events.append(event)
        news.set()

    async with Broker(streams={"s": 1}) as broker:
        await put(broker, range(10))
        async with consumer(broker, tmp_path, batch_size=10, listeners=(listen,)) as opened, asyncio.timeout(30):
            await news.wait()
            assert isinstance(events[0], Paused)
            opened.resume()
            sizes = []
            async for batch in opened:
                sizes.append(len(batch))
                await batch.ack()
                if sum(sizes) == 10:
                    break
    assert sizes == [4, 4, 2]
