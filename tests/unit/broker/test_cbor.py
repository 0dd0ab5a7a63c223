"""Are CBOR bodies read and written as the SDKs have them, and can no body, however odd, do harm?"""

from __future__ import annotations

import base64
import random
import tracemalloc
from typing import Any

import pytest

from streamlet.broker import cbor
from streamlet.broker.inline import InlineBroker

CBOR = "application/x-amz-cbor-1.1"


@pytest.mark.parametrize(
    ("body", "value"),
    [
        # Vectors of RFC 8949, appendix A.
        ("00", 0),
        ("17", 23),
        ("1818", 24),
        ("1903e8", 1000),
        ("1a000f4240", 1_000_000),
        ("1bffffffffffffffff", 2**64 - 1),
        ("c249010000000000000000", 2**64),
        ("3bffffffffffffffff", -(2**64)),
        ("c349010000000000000000", -(2**64) - 1),
        ("3863", -100),
        ("f93c00", 1.0),
        ("fa47c35000", 100_000.0),
        ("fb3ff199999999999a", 1.1),
        ("f97c00", float("inf")),
        ("f4", False),
        ("f5", True),
        ("f6", None),
        ("f7", None),
        ("d74401020304", base64.b64encode(bytes([1, 2, 3, 4])).decode()),
        ("40", ""),
        ("62c3bc", "ü"),
        ("80", []),
        ("98190102030405060708090a0b0c0d0e0f101112131415161718181819", list(range(1, 26))),
        ("a26161016162820203", {"a": 1, "b": [2, 3]}),
        ("5f42010243030405ff", base64.b64encode(bytes([1, 2, 3, 4, 5])).decode()),
        ("7f657374726561646d696e67ff", "streaming"),
        ("9f018202039f0405ffff", [1, [2, 3], [4, 5]]),
        ("bf61610161629f0203ffff", {"a": 1, "b": [2, 3]}),
        # The dialect: milliseconds as an integer under tag 1; a float is seconds.
        ("c11b00000001a3185c5b", 0x1A3185C5B / 1000),
        ("c1fb41d452d9ec200000", 1363896240.5),
    ],
)
def test_what_is_read(body: str, value: Any) -> None:
    found = cbor.loads(bytes.fromhex(body))
    assert (found, type(found)) == (value, type(value))


@pytest.mark.parametrize(
    "body",
    [
        "",
        "0000",  # two values
        "18",
        "1c",  # a length that is not defined
        "1f",
        "df00",
        "61",
        "62ff",
        "61ff",  # not UTF-8
        "ff",
        "9f",
        "81ff",
        "a1ff",
        "a10102",  # a key that is no text
        "bf6161ff",  # a key without a value
        "5f6161ff",  # a text among bytes
        "5f5f4100ffff",
        "7f4100ff",
        "5f41",
        "c1f5",
        "c16161",
        "c1",
        "c1ff",
        "c2",
        "c261",
        "c25841" + "00" * 65,  # an integer of 65 bytes
        "f97e00",  # not a number
        "f8ff",
        "e0",
        "9bffffffffffffffff",
        "bbffffffffffffffff",
        "5bffffffffffffffff",
        "7b7fffffffffffffff",
        "81" * 5000,
        "9f" * 5000,
        "c1" * 5000,
        "d8" * 5000,
    ],
)
def test_what_is_refused(world: InlineBroker, body: str) -> None:
    with pytest.raises(ValueError):  # noqa: PT011 - UnicodeDecodeError is one, with words of its own
        cbor.loads(bytes.fromhex(body))
    answer = world.post("ListStreams", bytes.fromhex(body) or b"\xff", content_type=CBOR)
    assert (answer.status, cbor.loads(b"".join(answer.body))) == (400, {"__type": "SerializationException"})


def test_small_bodies_do_not_become_large(world: InlineBroker) -> None:
    """What is announced is not believed, and a body of nothing but small items is not read to its end."""
    tracemalloc.start()
    try:
        for body in (b"\x9a\x00\xff\xff\xff" + b"\x80" * 1_000_000, b"\x9f" + b"\xa0" * 1_000_000, b"\x5f" + b"\x40" * 1_000_000):
            tracemalloc.reset_peak()
            before = tracemalloc.get_traced_memory()[0]
            assert world.post("ListStreams", body, content_type=CBOR).status == 400
            assert tracemalloc.get_traced_memory()[1] - before < 20_000_000
    finally:
        tracemalloc.stop()


def test_what_is_written() -> None:
    answer = {"Data": "AQI=", "ApproximateArrivalTimestamp": 1800000000.123, "MillisBehindLatest": 300, "Records": [True, ("x", -25)]}
    expected = (
        "bf"
        "6444617461" + "420102"
        "781b417070726f78696d6174654172726976616c54696d657374616d70" + "c11b000001a3185c507b"
        "724d696c6c6973426568696e644c6174657374" + "19012c"
        "675265636f726473" + "9ff59f61783818ffff"
        "ff"
    )
    assert cbor.dumps(answer).hex() == expected


@pytest.mark.parametrize("number", [0, 23, 24, 255, 256, 65535, 65536, 2**32 - 1, 2**32, 2**63, -1, -24, -25, -256, -257, -(2**40)])
def test_numbers_come_back(number: int) -> None:
    assert cbor.loads(cbor.dumps({"n": number})) == {"n": number}


@pytest.mark.parametrize("size", [0, 1, 23, 24, 255, 256, 65535, 65536])
def test_texts_and_payloads_come_back(size: int) -> None:
    value = {"Text": "é" * size, "Data": base64.b64encode(b"\xff" * size).decode()}
    assert cbor.loads(cbor.dumps(value)) == value


def test_types_are_checked_with_the_services_texts(world: InlineBroker) -> None:
    for members, text in (
        ({"StreamName": 5}, "class com.amazon.coral.value.json.numbers.TruncatingBigNumber can not be converted to an String"),
        ({"Limit": "5", "StreamName": "s"}, "class java.lang.String can not be converted to an Integer"),
    ):
        answer = world.post("DescribeStream", cbor.dumps(members), content_type=CBOR)
        assert cbor.loads(b"".join(answer.body)) == {"__type": "SerializationException", "Message": text}


def test_a_timestamp_is_understood(world: InlineBroker) -> None:
    """AT_TIMESTAMP in milliseconds under tag 1."""
    world.put("old")
    world.now_s += 10
    world.put("new")
    milliseconds = int(world.now_s * 1000)
    members = cbor.dumps({"StreamName": "s", "ShardId": "shardId-000000000000", "ShardIteratorType": "AT_TIMESTAMP"})
    body = members[:-1] + b"\x69Timestamp\xc1\x1b" + milliseconds.to_bytes(8, "big") + b"\xff"
    answer = world.post("GetShardIterator", body, content_type=CBOR)
    assert world.read(cbor.loads(b"".join(answer.body))["ShardIterator"]) == ["new"]


@pytest.mark.parametrize("seed", range(4))
def test_no_damage_to_a_body_breaks_anything(world: InlineBroker, seed: int) -> None:
    """Good requests with bytes changed, taken out or put in: 200 or a refusal, never a failure of ours."""
    chance = random.Random(seed)
    good = [
        ("PutRecords", cbor.dumps({"StreamName": "s", "Records": [{"Data": "aGk=", "PartitionKey": "k", "ExplicitHashKey": "7"}] * 3})),
        ("ListShards", cbor.dumps({"StreamName": "s", "MaxResults": 3, "ShardFilter": {"Type": "AT_LATEST"}})),
        ("AddTagsToStream", cbor.dumps({"StreamName": "s", "Tags": {"a": "b"}})),
    ]
    statuses = set()
    for _ in range(1500):
        operation, body = chance.choice(good)
        damaged = bytearray(body)
        for _ in range(chance.randint(1, 4)):
            place = chance.randrange(len(damaged))
            damaged[place : place + chance.randint(0, 2)] = chance.randbytes(chance.randint(0, 2))
        statuses.add(world.post(operation, bytes(damaged) or b"\xff", content_type=CBOR).status)
    assert statuses == {200, 400}
