"""Does a data directory give back what was acknowledged, and say so when it cannot?"""

from __future__ import annotations

import base64
import json
import logging
import os
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from streamlet.broker import Broker
from streamlet.broker.errors import ApiError
from streamlet.broker.http import Request
from streamlet.broker.inline import AUTHORIZATION, EPOCH_S, InlineBroker
from streamlet.broker.persist import entries, journal
from streamlet.broker.persist.entries import Damage, Entry, read_entries
from streamlet.broker.persist.journal import segment_path
from streamlet.errors import ConfigurationError


def drain(world: InlineBroker, shard: int, stream: str = "s", **more: Any) -> list[tuple[str, str, float, str]]:
    iterator: str | None = world.iterator(shard, stream=stream)
    found = []
    while iterator is not None:
        answer = world.ask("GetRecords", ShardIterator=iterator, **more)
        found += [(r["SequenceNumber"], r["PartitionKey"], r["ApproximateArrivalTimestamp"], r["Data"]) for r in answer["Records"]]
        iterator = answer.get("NextShardIterator")
        if not answer["MillisBehindLatest"]:
            break
    return found


def dump(world: InlineBroker) -> dict[str, Any]:
    """All that a client can see."""
    found: dict[str, Any] = {}
    for name in world.ask("ListStreams")["StreamNames"]:
        described = world.ask("DescribeStream", StreamName=name)["StreamDescription"]
        arn = described["StreamARN"]
        found[name] = {
            "description": described,
            "summary": world.ask("DescribeStreamSummary", StreamName=name),
            "shards": world.ask("ListShards", StreamName=name)["Shards"],
            "tags": world.ask("ListTagsForStream", StreamName=name)["Tags"],
            "consumers": world.ask("ListStreamConsumers", StreamARN=arn)["Consumers"],
            "records": {index: drain(world, index, name) for index in world.shards(name)},
            "latest": {index: world.stream(name).shards[index].tip for index in world.shards(name)},
        }
    return found


def copy(folder: Path, name: str = "copy") -> Path:
    """The directory as a SIGKILL at this moment would leave it: without the lock, which goes with its process."""
    other = folder.parent / name
    shutil.rmtree(other, ignore_errors=True)
    return shutil.copytree(folder, other)


def log_of(folder: Path) -> Path:
    return max(folder.glob("*.log"))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "data"


@pytest.fixture
def opened(folder: Path) -> Any:
    """Open brokers on a directory, and close them."""
    worlds: list[InlineBroker] = []

    def make(place: Path = folder, **options: Any) -> InlineBroker:
        worlds.append(InlineBroker(data_dir=place, **options))
        return worlds[-1]

    yield make
    for world in worlds:
        world.close()


Open = Callable[..., InlineBroker]


# ── the same as before ───────────────────────────────────────────────────────────────────────────────────────────

names = st.sampled_from(["a", "b"])
texts = st.text(alphabet='aé"\\\n\0€', max_size=4)
steps = st.one_of(
    st.tuples(st.just("create"), names, st.integers(1, 3)),
    st.tuples(st.just("delete"), names),
    st.tuples(st.just("put"), names, texts.filter(bool), texts),
    st.tuples(st.just("put_many"), names, st.integers(1, 40)),
    st.tuples(st.just("split"), names, st.integers(0, 5)),
    st.tuples(st.just("merge"), names, st.integers(0, 5), st.integers(0, 5)),
    st.tuples(st.just("count"), names, st.integers(1, 6)),
    st.tuples(st.just("tag"), names, st.sampled_from(["x", "y"])),
    st.tuples(st.just("untag"), names, st.sampled_from(["x", "y"])),
    st.tuples(st.just("retain"), names, st.sampled_from([24, 48, 72])),
    st.tuples(st.just("consumer"), names, st.sampled_from(["c", "d"])),
    st.tuples(st.just("pass"), st.sampled_from([0.001, 0.3, 1.0, 3600.0, 30 * 3600.0, -0.6, -2.0])),
    st.tuples(st.just("look"), names),
    st.tuples(st.just("restart")),
)


def take(world: InlineBroker, step: tuple[Any, ...]) -> None:
    kind, *more = step
    calls: dict[str, Callable[[], tuple[str, dict[str, Any]]]] = {
        "create": lambda: ("CreateStream", {"ShardCount": more[1]}),
        "delete": lambda: ("DeleteStream", {}),
        "put": lambda: ("PutRecord", {"PartitionKey": more[1], "Data": base64.b64encode(more[2].encode()).decode()}),
        "put_many": lambda: ("PutRecords", {"Records": [{"PartitionKey": f"k{n}", "Data": "QQ=="} for n in range(more[1])]}),
        "split": lambda: ("SplitShard", {"ShardToSplit": str(more[1]), "NewStartingHashKey": split_at(world, more[0], more[1])}),
        "merge": lambda: ("MergeShards", {"ShardToMerge": str(more[1]), "AdjacentShardToMerge": str(more[2])}),
        "count": lambda: ("UpdateShardCount", {"TargetShardCount": more[1], "ScalingType": "UNIFORM_SCALING"}),
        "tag": lambda: ("AddTagsToStream", {"Tags": {more[1]: "1"}}),
        "untag": lambda: ("RemoveTagsFromStream", {"TagKeys": [more[1]]}),
        "retain": lambda: ("IncreaseStreamRetentionPeriod", {"RetentionPeriodHours": more[1]}),
        "consumer": lambda: ("RegisterStreamConsumer", {"ConsumerName": more[1], "StreamARN": arn_of(more[0])}),
        "look": lambda: ("DescribeStream", {}),
    }
    if kind == "pass":
        world.now_s += more[0]
        return
    operation, members = calls[kind]()
    if "StreamARN" not in members:
        members["StreamName"] = more[0]
    status = world.post(operation, json.dumps(members)).status
    assert status in {200, 400}


def arn_of(name: str) -> str:
    return f"arn:aws:kinesis:eu-west-1:000000000000:stream/{name}"


def split_at(world: InlineBroker, name: str, index: int) -> str:
    stream = world.state.find_by_name(name, world.state.now_ms)
    shard = None if stream is None else stream.shards.get(index)
    return "1" if shard is None else str((shard.start + shard.end) // 2)


@given(st.lists(steps, max_size=25), st.sampled_from([0, 500]), st.sampled_from([600, 10_000, 2**26]), st.sampled_from([0, 2000, 2**28]))
def test_what_was_seen_before_is_seen_after(history: list[tuple[Any, ...]], delay_ms: int, segment_bytes: int, memory: int) -> None:
    """Whatever happened, whatever the size of segments and memory: a killed broker's successor answers as it did."""
    options: dict[str, Any] = {"control_delay_ms": delay_ms, "segment_bytes": segment_bytes, "memory_bytes_max": memory}
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch) / "data"
        world = InlineBroker(data_dir=folder, **options)
        try:
            for step in [("create", "a", 2), *history]:
                if step[0] == "restart":
                    world.close()
                    world = InlineBroker(data_dir=folder, now_s=world.now_s, **options)
                else:
                    take(world, step)
            killed = copy(folder)
            after = InlineBroker(data_dir=killed, now_s=world.now_s, segment_bytes=segment_bytes)
            try:
                assert dump(after) == dump(world)
                # What was on its way comes when it is due, and numbers go on where they were.
                for one in (world, after):
                    one.now_s += 0.6
                    for name in ("a", "b"):
                        take(one, ("put_many", name, 20))
                assert dump(after) == dump(world)
            finally:
                after.close()
        finally:
            world.close()


def test_an_iterator_outlives_the_broker(opened: Open, folder: Path) -> None:
    world = opened()
    world.ask("CreateStream", StreamName="s", ShardCount=1)
    world.put("a")
    first, latest = world.iterator(0), world.iterator(0, "LATEST")
    world.put("b")
    after = opened(copy(folder))
    assert after.read(first) == ["a", "b"]
    assert after.read(latest) == ["b"]


def test_records_of_a_shard_that_came_late_are_there(opened: Open, folder: Path) -> None:
    """The reshard was on its way for half a second; nobody but the put looked before the kill."""
    world = opened(control_delay_ms=500)
    world.ask("CreateStream", StreamName="s", ShardCount=1)
    world.now_s += 1
    world.put("parent")
    world.ask("SplitShard", StreamName="s", ShardToSplit="0", NewStartingHashKey=str(2**127))
    world.now_s += 0.2
    world.put("parent, still")
    world.now_s += 1
    world.put("child")
    after = opened(copy(folder), now_s=world.now_s)
    assert dump(after) == dump(world)
    assert sorted(len(drain(after, index)) for index in after.shards()) == [0, 1, 2]


def test_what_has_taken_effect_has_done_so_for_good(opened: Open, folder: Path) -> None:
    """A delayed change is seen, then the clock goes back, and what follows counts on the change."""
    world = opened(control_delay_ms=500)
    world.ask("CreateStream", StreamName="s", ShardCount=1)
    world.now_s += 1
    world.ask("SplitShard", StreamName="s", ShardToSplit="0", NewStartingHashKey=str(2**127))
    world.now_s += 1
    assert world.shards() == [0, 1, 2]
    world.now_s -= 1.9
    world.ask("SplitShard", StreamName="s", ShardToSplit="1", NewStartingHashKey=str(2**126))
    after = opened(copy(folder), now_s=world.now_s, control_delay_ms=500)
    assert dump(after) == dump(world)
    world.now_s += 1
    world.ask("DeleteStream", StreamName="s")
    world.now_s += 1
    assert world.ask("ListStreams")["StreamNames"] == []
    world.now_s -= 1.9
    world.ask("CreateStream", StreamName="s", ShardCount=1)
    after = opened(copy(folder, "other"), now_s=world.now_s + 1)
    assert after.shards() == [0]


def test_a_clock_that_goes_back_loses_nothing(opened: Open, folder: Path) -> None:
    """Also to before the stream was made."""
    world = opened()
    world.ask("CreateStream", StreamName="s", ShardCount=1)
    world.put("a")
    world.now_s -= 5
    world.ask("CreateStream", StreamName="t", ShardCount=1)
    world.now_s -= 5
    numbers = [int(one["SequenceNumber"]) for one in (*world.put("b"), *world.put("c"))]
    world.put("d", "e", stream="t")
    world.put("f", stream="t")
    after = opened(copy(folder), now_s=world.now_s - 5)
    numbers += [int(one["SequenceNumber"]) for one in after.put("g")]
    after.put("h", stream="t")
    assert numbers == sorted(set(numbers))
    assert after.read(after.iterator(0)) == ["a", "b", "c", "g"]
    assert after.read(after.iterator(0, stream="t")) == ["d", "e", "f", "h"]
    for name in "st":
        times = [at for _, _, at, _ in drain(after, 0, name)]
        assert times == sorted(times)


def test_a_shard_whose_records_have_all_expired_is_read_from_any_time(opened: Open, folder: Path) -> None:
    world = opened(segment_bytes=600)
    world.ask("CreateStream", StreamName="s", ShardCount=1)
    for value in "abc":
        world.put(value * 100)
    world.now_s += 25 * 3600
    assert world.read(world.iterator(0)) == []
    for one in (world, opened(copy(folder), now_s=world.now_s)):
        assert one.read(one.iterator(0, "AT_TIMESTAMP", Timestamp=EPOCH_S)) == []
        shard = one.stream().shards[0]
        assert [shard.bytes_before(n) for n in (1, 3, 4)] == [303, 303, 303]
        one.put("d")
        assert one.read(one.iterator(0, "AT_TIMESTAMP", Timestamp=EPOCH_S)) == ["d"]


def test_a_limit_that_was_lowered_since_undoes_nothing(opened: Open, folder: Path) -> None:
    opened().ask("CreateStream", StreamName="s", ShardCount=10)
    after = opened(copy(folder), shards_max=2)
    assert len(after.shards()) == 10
    assert after.refused("CreateStream", StreamName="t", ShardCount=1)[0] == "LimitExceededException"


# ── damage ───────────────────────────────────────────────────────────────────────────────────────────────────────


def written(opened: Open, folder: Path) -> tuple[list[Entry], bytes]:
    """A stream with the records 0, 1, 2, each a group of its own; the log as a kill would leave it."""
    world = opened()
    world.ask("CreateStream", StreamName="s", ShardCount=1)
    for value in "012":
        world.put(value)
    raw = log_of(folder).read_bytes()
    found = [entry for entry in read_entries(memoryview(raw), entries.HEAD_BYTES) if isinstance(entry, Entry)]
    assert len(found) == 4
    assert found[-1].end == len(raw)
    return found, raw


def values(world: InlineBroker) -> list[str]:
    return [base64.b64decode(data).decode() for *_, data in drain(world, 0)]


def test_a_torn_tail_is_cut_off_at_every_byte(opened: Open, folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    """What was not written completely was never acknowledged; the log goes on from there, and says what was dropped."""
    found, raw = written(opened, folder)
    place = copy(folder)
    for size in range(found[-1].offset, len(raw)):
        for tail in (raw[:size], raw[:size] + bytes(len(raw) - size)):  # short, or as long as it should be but empty
            log_of(place).write_bytes(tail)
            caplog.clear()
            world = opened(place)
            assert values(world) == ["0", "1"]
            if len(tail) > found[-1].offset:
                assert f"cut off at byte {found[-1].offset}, {len(tail) - found[-1].offset} bytes dropped" in caplog.text
            else:
                assert caplog.text == ""
            world.put("3")
            world.close()
            again = opened(place)
            assert values(again) == ["0", "1", "3"]
            again.close()


def test_damage_behind_which_something_was_acknowledged_stops_the_start(opened: Open, folder: Path) -> None:
    found, raw = written(opened, folder)
    place = copy(folder)
    for at in range(found[-1].offset):
        log_of(place).write_bytes(raw[:at] + bytes((raw[at] ^ 0x10,)) + raw[at + 1 :])
        where = 0 if at < entries.HEAD_BYTES else next(entry.offset for entry in found if at < entry.end)
        with pytest.raises(ConfigurationError, match=f"damaged at byte {where}, and acknowledged"):
            opened(place)


def test_after_a_clean_stop_no_damage_passes_for_a_torn_tail(opened: Open, folder: Path) -> None:
    found, _ = written(opened, folder)
    opened_world = copy(folder)
    world = opened(opened_world)
    world.put("3")
    world.close()
    path = log_of(opened_world)
    raw = bytearray(path.read_bytes())
    raw[found[-1].end + 20] ^= 1
    path.write_bytes(raw)
    with pytest.raises(ConfigurationError, match=f"damaged at byte {found[-1].end}"):
        opened(opened_world)


def test_a_group_that_came_to_the_disk_in_pieces_is_a_torn_tail(opened: Open, folder: Path) -> None:
    """Pages of one write may arrive in any order. Its entries say that they belong together."""
    found, raw = written(opened, folder)
    group = found[-1].offset
    content = bytes(found[-1].content)
    second = b"".join(entries.frame([content], group))  # of the same group: it does not prove the one before it
    torn = raw[: group + 20] + bytes(len(raw) - group - 20) + second
    place = copy(folder)
    log_of(place).write_bytes(torn)
    assert values(opened(place)) == ["0", "1"]


def test_a_missing_file_stops_the_start(opened: Open, folder: Path) -> None:
    world = opened(segment_bytes=600)
    world.ask("CreateStream", StreamName="s", ShardCount=1)
    for value in range(10):
        world.put(str(value))
    for number in (1, 3):
        place = copy(folder)
        segment_path(place, number).unlink()
        with pytest.raises(ConfigurationError, match=f"{number:08d}.log is missing"):
            opened(place)


def test_a_file_that_was_just_begun_is_begun_anew(opened: Open, folder: Path) -> None:
    world = opened(segment_bytes=600)
    world.ask("CreateStream", StreamName="s", ShardCount=1)
    world.put("a", "b", "c")
    place = copy(folder)
    number = int(log_of(place).stem) + 1
    for size in range(entries.HEAD_BYTES):
        segment_path(place, number).write_bytes(entries.encode_head(number, number)[:size])
        after = opened(place)
        assert values(after) == ["a", "b", "c"]
        after.close()


def test_another_version_is_refused(opened: Open, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    opened().close()
    with monkeypatch.context() as patch:
        patch.setattr(entries, "VERSION", 7)
        segment_path(folder, 1).write_bytes(entries.encode_head(1, 1))
    with pytest.raises(ConfigurationError, match="is of version 7, this broker reads 1"):
        opened()


def test_a_directory_has_one_broker(opened: Open, folder: Path) -> None:
    first = opened()
    with pytest.raises(ConfigurationError, match="in use by another broker"):
        opened()
    first.close()
    opened()


def test_entries_end_in_a_damage_that_names_the_place() -> None:
    one = b"".join(entries.frame([b"x" * 9], 40))
    found = list(read_entries(memoryview(one + b"y"), 0))
    assert isinstance(found[0], Entry)
    assert found[1:] == [Damage(len(one))]


# ── a kill at any moment ─────────────────────────────────────────────────────────────────────────────────────────


class Killed(BaseException):
    """The process is no more."""


class MortalOs:
    """The system as a process sees it that is killed at its `left`-th call that changes the disk: a write may come half."""

    def __init__(self, left: int) -> None:
        self.left = left

    def __getattr__(self, name: str) -> Any:
        return getattr(os, name)

    def _count(self) -> None:
        self.left -= 1
        if self.left < 0:
            raise Killed

    def writev(self, file: int, pieces: list[bytes]) -> int:
        raw = b"".join(pieces)
        if self.left == 0:
            os.write(file, raw[: len(raw) * 2 // 3])
        self._count()
        return os.write(file, raw[: max(len(raw) // 2, 1)])  # short: the rest is another call

    def open(self, path: Path, flags: int, mode: int = 0o777) -> int:
        if flags & os.O_WRONLY:
            self._count()
        return os.open(path, flags, mode)

    def fdatasync(self, file: int) -> None:
        self._count()
        os.fdatasync(file)

    def fsync(self, file: int) -> None:
        self._count()
        os.fsync(file)

    def ftruncate(self, file: int, size: int) -> None:
        self._count()
        os.ftruncate(file, size)


def live(world: InlineBroker, turn: int, acknowledged: dict[str, float]) -> None:
    """Puts, reshards and time enough that files are begun and replaced. To the first refusal: the process is as good as dead."""
    for n in range(20):
        name = f"{turn}.{n:02}"
        record = {"Data": base64.b64encode(name.encode()).decode(), "PartitionKey": name}
        if world.post("PutRecord", json.dumps({"StreamName": "s", **record})).status != 200:
            return
        acknowledged[name] = world.now_s
        if n % 4 == 1:
            count = {"StreamName": "s", "TargetShardCount": 1 + n % 8 // 4, "ScalingType": "UNIFORM_SCALING"}
            world.post("UpdateShardCount", json.dumps(count))
        world.now_s += 4 * 3600


@pytest.mark.parametrize("first", range(0, 240, 60))
def test_a_kill_at_any_call_of_the_system_loses_nothing(folder: Path, monkeypatch: pytest.MonkeyPatch, first: int) -> None:
    """And again in the recovery, and once more."""
    options: dict[str, Any] = {"segment_bytes": 1000, "memory_bytes_max": 500}
    for left in range(first, first + 60, 2):
        shutil.rmtree(folder, ignore_errors=True)
        world = InlineBroker(data_dir=folder, **options)
        world.ask("CreateStream", StreamName="s", ShardCount=1)
        world.close()
        acknowledged: dict[str, float] = {}
        now_s = EPOCH_S
        for turn, calls in enumerate((left, left // 3, 10**9)):
            with monkeypatch.context() as patch:
                patch.setattr(journal, "os", MortalOs(calls))
                try:
                    world = InlineBroker(data_dir=folder, now_s=now_s, **options)
                except Killed:
                    continue
                live(world, turn, acknowledged)
                world.close()
                now_s = world.now_s
        after = InlineBroker(data_dir=folder, now_s=now_s, **options)
        found = [[base64.b64decode(data).decode() for *_, data in drain(after, index)] for index in after.shards()]
        after.close()
        assert all(names == sorted(set(names)) for names in found)
        names = [name for shard in found for name in shard]
        assert len(names) == len(set(names))
        assert {name for name, put_s in acknowledged.items() if put_s > now_s - 23 * 3600} <= set(names), left


# ── disk and memory ──────────────────────────────────────────────────────────────────────────────────────────────


def disk(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.glob("*.log"))


def test_expired_records_leave_the_disk_and_commands_stay(opened: Open, folder: Path) -> None:
    world = opened(segment_bytes=20_000)
    world.ask("CreateStream", StreamName="s", ShardCount=2, Tags={"a": "b"})
    for hour in range(100):
        world.now_s = EPOCH_S + hour * 3600
        world.put(*(f"{hour}.{n}" for n in range(50)), key=f"k{hour}")
        if hour == 50:
            world.ask("CreateStream", StreamName="t", ShardCount=1)
    assert len(list(folder.glob("*.log"))) < 36
    assert disk(folder) < 30 * 50 * 300
    seen = dump(world)
    after = opened(copy(folder), now_s=world.now_s, segment_bytes=20_000)
    assert dump(after) == seen
    assert seen["s"]["tags"] == [{"Key": "a", "Value": "b"}]
    assert sum(map(len, seen["s"]["records"].values())) == 25 * 50


def test_a_deleted_stream_leaves_the_disk(opened: Open, folder: Path) -> None:
    world = opened(segment_bytes=20_000)
    world.ask("CreateStream", StreamName="s", ShardCount=1)
    world.ask("CreateStream", StreamName="t", ShardCount=1)
    for _ in range(20):
        world.put(*["x" * 100] * 50)
    world.put("t", stream="t")
    before = disk(folder)
    world.ask("DeleteStream", StreamName="s")
    world.close()
    assert disk(folder) < before / 4
    after = opened(segment_bytes=20_000)
    assert list(dump(after)) == ["t"]
    assert [data for *_, data in drain(after, 0, "t")] == ["dA=="]


@pytest.mark.parametrize("limit", [1, 7, 10_000])
def test_what_is_read_from_the_log_is_what_was_in_memory(opened: Open, folder: Path, limit: int) -> None:
    hot = InlineBroker()
    cold = opened(segment_bytes=10_000, memory_bytes_max=1)
    numbers = []
    for world in (hot, cold):
        world.ask("CreateStream", StreamName="s", ShardCount=1)
        for turn in range(30):
            world.now_s = EPOCH_S + turn
            numbers = [one["SequenceNumber"] for one in world.put(*(f"{turn}.{n}" for n in range(turn + 1)))]
    shard = cold.stream().shards[0]
    assert not shard._blocks
    assert drain(cold, 0, Limit=limit) == drain(hot, 0, Limit=limit)
    every = drain(hot, 0)
    for at in (0, 0.5, 7, 29, 29.5):
        times: dict[str, Any] = {"Timestamp": EPOCH_S + at}
        cold.now_s = hot.now_s = EPOCH_S + 30
        assert cold.read(cold.iterator(0, "AT_TIMESTAMP", **times)) == hot.read(hot.iterator(0, "AT_TIMESTAMP", **times))
    for number in (every[0][0], every[100][0], numbers[-1]):
        for kind in ("AT_SEQUENCE_NUMBER", "AFTER_SEQUENCE_NUMBER"):
            there: dict[str, Any] = {"StartingSequenceNumber": number}
            assert cold.read(cold.iterator(0, kind, **there)) == hot.read(hot.iterator(0, kind, **there))
    twin = hot.stream().shards[0]
    assert [shard.bytes_before(n) for n in range(1, shard.tip + 2)] == [twin.bytes_before(n) for n in range(1, twin.tip + 2)]
    assert [shard.arrival_ms(n) for n in range(shard.tip + 2)] == [twin.arrival_ms(n) for n in range(twin.tip + 2)]


def test_memory_stays_within_its_bound(opened: Open) -> None:
    """Whatever is written, in single records and in batches, to few shards and to many."""
    world = opened(memory_bytes_max=100_000)
    world.ask("CreateStream", StreamName="s", ShardCount=8)
    for turn in range(60):
        world.put(*["x" * 200] * (20 if turn % 2 else 1), key=f"k{turn}")
        held = sum(block.held for shard in world.stream().shards.values() for block in shard._blocks)
        assert held <= 100_000
        assert world.front.journal is not None
        assert world.front.journal._held_bytes == held
    assert sum(len(drain(world, index)) for index in world.shards()) == 30 * 21


# ── with a loop ──────────────────────────────────────────────────────────────────────────────────────────────────


def request(operation: str, **members: Any) -> Request:
    headers = {
        "content-type": "application/x-amz-json-1.1",
        "x-amz-target": f"Kinesis_20131202.{operation}",
        "authorization": AUTHORIZATION,
    }
    headers["x-amz-date"] = "20260101T000000Z"
    return Request("POST", "/", headers, json.dumps(members).encode(), keep_alive=True)


async def test_an_answer_waits_for_the_sync_and_so_does_a_reader(folder: Path) -> None:
    """A record is not seen before it is safe, and one group carries all that gathered."""
    async with Broker(data_dir=folder, streams={"s": 1}) as broker:
        front = broker._front
        put = {"StreamName": "s", "Data": "QQ==", "PartitionKey": "k"}
        token = json.loads(
            b"".join(front.answer(request("GetShardIterator", StreamName="s", ShardId="0", ShardIteratorType="LATEST")).body)
        )
        read = request("GetRecords", ShardIterator=token["ShardIterator"])
        first, second = front.answer(request("PutRecord", **put)), front.answer(request("PutRecord", **put))
        assert first.ready is not None
        assert first.ready is second.ready
        assert not first.ready.done()
        raw = log_of(folder).read_bytes()
        assert json.loads(b"".join(front.answer(read).body))["Records"] == []
        assert await first.ready
        assert log_of(folder).stat().st_size > len(raw)
        assert len(json.loads(b"".join(front.answer(read).body))["Records"]) == 2


async def test_what_a_control_call_did_is_not_told_before_it_is_safe(folder: Path) -> None:
    async with Broker(data_dir=folder, streams={"s": 1}) as broker:
        front = broker._front
        split = front.answer(request("SplitShard", StreamName="s", ShardToSplit="0", NewStartingHashKey=str(2**127)))
        told = front.answer(request("ListShards", StreamName="s"))
        assert told.ready is not None
        assert told.ready is split.ready
        shard = broker.state.find_by_name("s", broker.state.now_ms).shards[0]  # type: ignore[union-attr]
        assert not shard.read(1, 10, 1000, 0).at_end
        assert await told.ready
        assert shard.read(1, 10, 1000, 0).at_end
        assert front.answer(request("ListShards", StreamName="s")).ready is None


async def test_a_refusal_that_tells_of_an_operation_waits_for_it(folder: Path) -> None:
    async with Broker(data_dir=folder) as broker:
        made = broker._front.answer(request("CreateStream", StreamName="s", ShardCount=1))
        refused = broker._front.answer(request("CreateStream", StreamName="s", ShardCount=1))
        assert refused.status == 400
        assert refused.ready is not None
        assert refused.ready is made.ready
        assert await refused.ready
        assert broker._front.answer(request("CreateStream", StreamName="s", ShardCount=1)).ready is None


async def test_a_start_that_fails_lets_go_of_the_directory(folder: Path) -> None:
    with pytest.raises(ApiError):
        await Broker(data_dir=folder, streams={"s": 10**9}).start()
    async with Broker(data_dir=folder, streams={"s": 1}):
        pass


async def test_a_log_that_cannot_be_read_ends_a_subscription(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    """With an exception within its stream, and the broker goes on: also when it looks for what has expired."""
    caplog.set_level(logging.ERROR)
    now = [EPOCH_S]
    async with Broker(data_dir=folder, memory_bytes_max=0, segment_bytes=600, clock=lambda: now[0]) as broker:
        broker.create_stream("s", region="eu-west-1")
        arn = arn_of("s")
        broker.call("RegisterStreamConsumer", region="eu-west-1", StreamARN=arn, ConsumerName="c")
        for value in ("QUFB", "QkJC", "Q0ND"):
            broker.call("PutRecord", region="eu-west-1", StreamName="s", Data=value * 200, PartitionKey="k")
            now[0] += 10
        for path in sorted(folder.glob("*.log"))[:-1]:
            raw = path.read_bytes()
            path.write_bytes(raw[:-1] + bytes((raw[-1] ^ 1,)))
        consumer = broker.call("DescribeStreamConsumer", region="eu-west-1", StreamARN=arn, ConsumerName="c")
        start = {"Type": "TRIM_HORIZON"}
        answer = broker._front.answer(
            request("SubscribeToShard", ConsumerARN=consumer["ConsumerDescription"]["ConsumerARN"], ShardId="0", StartingPosition=start)
        )
        assert answer.push is not None
        got = Pieces()
        answer.push.opened(got)
        assert b"InternalFailureException" in got.pieces[-1]
        assert got.ended
        now[0] += 24 * 3600 - 25  # one of the three has expired
        broker._journal.sweep()  # type: ignore[union-attr]
        broker.call("AddTagsToStream", region="eu-west-1", StreamName="s", Tags={"a": "b"})
    assert "the log is damaged" in caplog.text


class Pieces:
    """Where a push is written to."""

    def __init__(self) -> None:
        self.pieces: list[bytes] = []
        self.ended = False

    def write(self, data: bytes) -> None:
        self.pieces.append(data)

    def end(self) -> None:
        self.ended = True

    def abort(self) -> None:
        raise AssertionError("nobody breaks off")


async def test_a_call_in_process_returns_when_it_is_safe(folder: Path) -> None:
    async with Broker(data_dir=folder, streams={"s": 1}) as broker:
        broker.create_stream("t")
        broker.call("PutRecord", StreamName="t", Data="QQ==", PartitionKey="k")
        after = InlineBroker(data_dir=copy(folder), now_s=broker.state.now_ms / 1000)
        assert len(drain(after, 0, "t")) == 1
        after.close()
    async with Broker(data_dir=folder, streams={"s": 3}) as again:
        assert len(again.state.find_by_name("s", again.state.now_ms).open) == 1  # type: ignore[union-attr]  # it was there


async def test_before_its_start_and_after_its_end_it_takes_nothing(folder: Path) -> None:
    broker = Broker(data_dir=folder)
    with pytest.raises(RuntimeError, match="not running"):
        broker.create_stream("s")
    async with broker:
        pass
    with pytest.raises(RuntimeError, match="not running"):
        broker.create_stream("s")
    with pytest.raises(RuntimeError, match="starts once"):
        await broker.start()


def test_what_cannot_be_a_directory_is_said(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigurationError, match="--data-dir"):
        InlineBroker(data_dir=tmp_path / "file")


def test_a_log_that_does_not_fit_is_refused(opened: Open, folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Two entries of the same records: sound each, but together they cannot be."""
    caplog.set_level(logging.ERROR)
    found, raw = written(opened, folder)
    place = copy(folder)
    log_of(place).write_bytes(raw + raw[found[-1].offset : found[-1].end])
    with pytest.raises(ConfigurationError, match="does not fit"):
        opened(place)
