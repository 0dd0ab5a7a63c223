"""The polling source against a real broker; time stands still except while the reader sleeps."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Self

import pytest

from streamlet.broker import Broker
from streamlet.broker.faults import DuplicateRead
from streamlet.errors import AccessRefused, ConfigurationError, IteratorRefused, NotFound, ServiceError, Throttled, Unavailable
from streamlet.kinesis.client import KinesisClient
from streamlet.kinesis.sigv4 import Credentials
from streamlet.kinesis.wire import PutEntry
from streamlet.model.position import AT_TIMESTAMP, LATEST, SHARD_END, TRIM_HORIZON, Position
from streamlet.model.record import Record
from streamlet.ports import Fetch, ShardReader, Source, StartingPosition
from streamlet.sources.polling import LIMIT_FIRST, LIMIT_MAX, PollingReader, PollingSource

SHARD = "shardId-000000000000"
HORIZON = StartingPosition(TRIM_HORIZON)


class StepClock:
    """Sleeping moves it, and nothing else does. The broker reads it, too."""

    def __init__(self) -> None:
        self.now_s = 1_700_000_000.0
        self.slept_s: list[float] = []

    def time(self) -> float:
        return self.now_s

    def monotonic(self) -> float:
        return self.now_s - 1_600_000_000.0

    async def sleep(self, delay_s: float) -> None:
        self.slept_s.append(delay_s)
        self.now_s += delay_s
        await asyncio.sleep(0)


class Middle:
    def random(self) -> float:
        return 0.5


class World:
    """A broker, a client and a source on one clock."""

    def __init__(self, shards: int = 1, **options: object) -> None:
        self.clock = StepClock()
        self.broker = Broker(streams={"s": shards}, clock=self.clock.time)
        self.options = options
        self.troubles: list[ServiceError] = []

    async def __aenter__(self) -> Self:
        await self.broker.start()
        self.client = KinesisClient("us-east-1", self.broker.endpoint_url, clock=self.clock, credentials=Credentials("a", "b"))
        await self.client.__aenter__()
        options = {"reads_per_second_max": None, "on_trouble": self.troubles.append, **self.options}
        self.source = PollingSource(self.client, "s", clock=self.clock, random=Middle(), **options)  # type: ignore[arg-type]
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.client.__aexit__(None, None, None)
        await self.broker.aclose()

    async def put(self, *values: bytes, hash_key: int = 0) -> list[str]:
        answer = await self.client.put_records("s", [PutEntry(value, "k", str(hash_key)) for value in values])
        return [entry.sequence_number or "" for entry in answer.records]

    def reader(self, start: StartingPosition = HORIZON, shard_id: str = SHARD) -> PollingReader:
        return self.source.reader(shard_id, start)


async def drain(reader: ShardReader) -> list[bytes]:
    """Until an empty fetch, or the shard's end."""
    values: list[bytes] = []
    while True:
        fetch = await reader.read()
        values += [record.data for record in fetch.records]
        if fetch.ended or not fetch.records:
            return values


def test_it_fits_the_ports() -> None:
    clock = StepClock()
    source: Source = PollingSource(KinesisClient(clock=clock), "s", clock=clock, random=Middle())
    reader: ShardReader = source.reader(SHARD, HORIZON)
    assert isinstance(reader, PollingReader)


async def test_records_carry_what_the_service_said() -> None:
    async with World() as world:
        [number] = await world.put(b'{"a":1}')
        fetch = await world.reader().read()
        [record] = fetch.records
        assert isinstance(record, Record)
        assert (record.data, record.partition_key, record.sequence_number, record.sub_sequence_number) == (b'{"a":1}', "k", number, 0)
        assert (record.shard_id, record.stream, record.arrived_at_s) == (SHARD, "s", 1_700_000_000.0)
        assert record.value == {"a": 1}
        assert fetch == Fetch(fetch.records, 0, ended=False)


async def test_a_caught_up_reader_ticks_once_per_interval() -> None:
    """Data is handed over at once; nothing new is an empty fetch per second."""
    async with World(poll_interval_s=1.0) as world:
        await world.put(b"1")
        reader = world.reader()
        assert len((await reader.read()).records) == 1
        for _ in range(3):
            assert not (await reader.read()).records
        assert world.clock.slept_s == pytest.approx([1.0, 1.0])
        await world.put(b"2")
        assert len((await reader.read()).records) == 1


async def test_reads_keep_to_the_services_rate_while_behind() -> None:
    async with World(reads_per_second_max=5, bytes_target=1) as world:
        for _ in range(4):
            await world.put(*[b"x"] * 300)
        reader = world.reader()
        assert len((await reader.read()).records) == LIMIT_FIRST
        assert len((await reader.read()).records) == 1
        assert len((await reader.read()).records) == 1
        assert world.clock.slept_s == pytest.approx([0.2, 0.2])


async def test_the_limit_follows_the_size_of_the_records() -> None:
    """Large records: few; tiny ones: many."""
    async with World() as world:
        reader = world.reader()
        assert reader.limit == LIMIT_FIRST
        await world.put(*[b"x" * 100_000] * 20)
        await reader.read()
        assert reader.limit == 14
        await world.put(*[b""] * 14)
        for _ in range(20):
            await world.put(*[b""] * 14)
            await reader.read()
        assert 1000 < reader.limit <= LIMIT_MAX


async def test_throttles_and_outages_are_waited_out_and_shown() -> None:
    """One second doubled for throttles, a tenth for broken connections; nothing is read twice or lost."""
    async with World() as world:
        await world.put(b"1", b"2")
        reader = world.reader()
        world.broker.faults.throttle("GetRecords", 3)
        assert await drain(reader) == [b"1", b"2"]
        assert world.clock.slept_s == pytest.approx([0.75, 1.5, 3.0])
        assert [type(error) for error in world.troubles] == [Throttled] * 3
        world.broker.faults.reset_after("GetRecords", 2)
        await world.put(b"3")
        assert await drain(reader) == [b"3"]
        assert [type(error) for error in world.troubles[3:]] == [Unavailable] * 2


async def test_an_expired_iterator_goes_on_after_the_last_record() -> None:
    async with World() as world:
        await world.put(b"1")
        reader = world.reader()
        assert await drain(reader) == [b"1"]
        await world.put(b"2")
        world.broker.faults.expire_iterators()
        assert await drain(reader) == [b"2"]
        world.clock.now_s += 301
        await world.put(b"3")
        assert await drain(reader) == [b"3"]
        assert world.troubles == []


async def test_an_expired_latest_iterator_loses_nothing() -> None:
    """LATEST is the moment of the first iterator, also when that one expired before it brought a record."""
    async with World() as world:
        await world.put(b"old")
        world.clock.now_s += 60
        reader = world.reader(StartingPosition(LATEST))
        assert await drain(reader) == []
        world.clock.now_s += 10
        await world.put(b"while the iterator expires")
        world.clock.now_s += 301
        assert await drain(reader) == [b"while the iterator expires"]


async def test_an_expired_horizon_iterator_starts_over_when_nothing_was_read() -> None:
    async with World() as world:
        reader = world.reader()
        assert await drain(reader) == []
        await world.put(b"1")
        world.broker.faults.expire_iterators()
        assert await drain(reader) == [b"1"]


async def test_what_an_answer_repeats_is_dropped() -> None:
    """The engine numbers what it is given: a record that came twice would be handed out after itself."""
    async with World() as world:
        reader, values = world.reader(), []
        for begin in (0, 10, 20):
            await world.put(*[b"%d" % n for n in range(begin, begin + 10)])
            values += await drain(reader)
            world.broker.faults.add(DuplicateRead(back=2))
    assert values == [b"%d" % n for n in range(30)]


async def test_it_begins_after_a_record_position() -> None:
    """Also when the position is inside an aggregate's sequence number, or the newest record of all."""
    async with World() as world:
        numbers = await world.put(b"0", b"1", b"2", b"3")
        for index in range(4):
            reader = world.reader(StartingPosition(Position(int(numbers[index]))))
            assert await drain(reader) == [b"0", b"1", b"2", b"3"][index + 1 :]
        newest = world.reader(StartingPosition(Position(int(numbers[3]), 2)))
        assert await drain(newest) == []
        await world.put(b"4")
        assert await drain(newest) == [b"4"]


async def test_it_begins_at_a_timestamp() -> None:
    async with World() as world:
        await world.put(b"old")
        world.clock.now_s += 60
        await world.put(b"new")
        reader = world.reader(StartingPosition(AT_TIMESTAMP, world.clock.now_s - 1))
        assert await drain(reader) == [b"new"]


async def test_a_split_is_followed_to_the_end() -> None:
    """The parent ends with its last record; children tell their parent; together every record once, in order."""
    async with World() as world:
        await world.put(b"1", b"2")
        world.broker.split_shard("s", SHARD)
        await world.put(b"low", hash_key=0)
        await world.put(b"high", hash_key=2**128 - 1)
        parent = world.reader()
        values, fetch = [], Fetch((), 0)
        while not fetch.ended:
            fetch = await parent.read()
            values += [record.data for record in fetch.records]
        assert values == [b"1", b"2"]
        assert await parent.read() == Fetch((), 0, ended=True)
        shards = {shard.shard_id: shard for shard in await world.source.list_shards()}
        children = [shard for shard in shards.values() if shard.parents == (SHARD,)]
        assert [await drain(world.reader(shard_id=child.shard_id)) for child in children] == [[b"low"], [b"high"]]


async def test_the_end_of_a_shard_needs_no_request() -> None:
    async with World() as world:
        assert (await world.reader(StartingPosition(SHARD_END)).read()).ended


async def test_a_shard_that_retention_removed_has_ended() -> None:
    async with World() as world:
        reader = world.reader(shard_id="shardId-000000000007")
        assert (await reader.read()).ended
        assert [type(error) for error in world.troubles] == [NotFound]


async def test_a_deleted_stream_is_told() -> None:
    async with World() as world:
        reader = world.reader()
        await reader.read()
        world.broker.delete_stream("s")
        with pytest.raises(NotFound):
            await reader.read()


async def test_a_recreated_stream_is_told_with_what_to_do() -> None:
    """A checkpoint of the old stream does not fit the new one."""
    async with World() as world:
        [number] = await world.put(b"1")
        world.broker.delete_stream("s")
        world.clock.now_s += 5
        world.broker.create_stream("s", 1)
        with pytest.raises(IteratorRefused, match="deleted and created anew"):
            await world.reader(StartingPosition(Position(int(number)))).read()


class Script:
    """A transport that gives prepared answers and notes what was asked."""

    def __init__(self, *answers: tuple[int, bytes]) -> None:
        self.answers = list(answers)
        self.asked: list[str] = []

    async def request(self, url: str, headers: Mapping[str, str], body: bytes) -> tuple[int, bytes]:
        self.asked.append(headers["X-Amz-Target"].rpartition(".")[2])
        return self.answers.pop(0)

    async def close(self) -> None:
        pass


ITERATOR = (200, b'{"ShardIterator":"i"}')
EMPTY = (200, b'{"Records":[],"NextShardIterator":"j","MillisBehindLatest":0}')


async def scripted(script: Script) -> PollingReader:
    clock = StepClock()
    client = KinesisClient("us-east-1", "http://127.0.0.1:1", clock=clock, credentials=Credentials("a", "b"), transport=script)
    await client.__aenter__()
    return PollingSource(client, "s", clock=clock, random=Middle()).reader(SHARD, HORIZON)


async def test_a_service_that_forgot_its_tokens_is_asked_for_new_ones() -> None:
    """An iterator that was good is refused (a restart): a new one from the same place. A fresh one that is refused is raised."""
    refused = (400, b'{"__type":"InvalidArgumentException","message":"Invalid ShardIterator."}')
    script = Script(ITERATOR, EMPTY, refused, ITERATOR, EMPTY)
    reader = await scripted(script)
    await reader.read()
    await reader.read()
    assert script.asked == ["GetShardIterator", "GetRecords", "GetRecords", "GetShardIterator", "GetRecords"]
    with pytest.raises(IteratorRefused):
        await (await scripted(Script(ITERATOR, refused))).read()


async def test_an_iterator_that_only_fails_is_replaced() -> None:
    """A re-created stream answers an old iterator with 500 for ever."""
    broken = (500, b"")
    script = Script(ITERATOR, EMPTY, broken, broken, broken, ITERATOR, EMPTY)
    reader = await scripted(script)
    await reader.read()
    await reader.read()
    assert script.asked[-2:] == ["GetShardIterator", "GetRecords"]


async def test_what_will_not_pass_is_raised() -> None:
    with pytest.raises(AccessRefused):
        await (await scripted(Script((400, b'{"__type":"AccessDeniedException","message":"no"}')))).read()


async def test_records_without_a_partition_key() -> None:
    """A stream with automatic record distribution has none."""
    body = b'{"Records":[{"Data":"eA==","SequenceNumber":"1","ApproximateArrivalTimestamp":1.5}],"NextShardIterator":null,"ChildShards":[]}'
    fetch = await (await scripted(Script(ITERATOR, (200, body)))).read()
    assert (fetch.records[0].partition_key, fetch.records[0].data, fetch.ended) == ("", b"x", True)


async def test_a_cancelled_read_loses_nothing() -> None:
    async with World() as world:
        await world.put(b"1")
        reader = world.reader()
        for delay_s in (0.0, 0.0001, 0.001):
            try:
                async with asyncio.timeout(delay_s):
                    fetch = await reader.read()
            except TimeoutError:
                continue
            else:
                break
        else:
            fetch = await reader.read()
        assert [record.data for record in fetch.records] == [b"1"]


def test_options_out_of_range_are_refused() -> None:
    clock = StepClock()
    client = KinesisClient(clock=clock)
    for options in ({"poll_interval_s": -1}, {"reads_per_second_max": 0}, {"bytes_target": 0}):
        with pytest.raises(ConfigurationError, match=next(iter(options))):
            PollingSource(client, "s", clock=clock, random=Middle(), **options)  # type: ignore[arg-type]
    source = PollingSource(client, "s", clock=clock, random=Middle())
    with pytest.raises(ConfigurationError, match="needs a timestamp_s"):
        source.reader(SHARD, StartingPosition(AT_TIMESTAMP))
    with pytest.raises(ConfigurationError, match="AT_TIMESTAMP only"):
        source.reader(SHARD, StartingPosition(LATEST, 1.0))
