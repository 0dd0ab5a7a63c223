"""What becomes of records: writing, reading, shard iterators?"""

from __future__ import annotations

import base64
import hashlib
import re
import time
from typing import Any

from kit import HASH_KEYS, Kit, Missing, b64, case, holds, same, wait_until

PUT = "kinesis-api.md 5"
ITERATOR = "errors.md 7.3"
MIB = 1024 * 1024


# --- writing ----------------------------------------------------------------------------------------------------------


@case("writing", "a record comes back: data, key, sequence number, arrival with milliseconds", "errors.md 8, recorded on AWS 2022-08")
def _(k: Kit) -> None:
    name = k.stream()
    put = k.put(name, b"\x00\xffpayload", key="kéy 日本")[0]
    same("members of the answer", set(put), {"ShardId", "SequenceNumber"})
    page = k.ask("GetRecords", ShardIterator=k.iterator(name))
    record = page["Records"][0]
    same("members of a record", set(record), {"SequenceNumber", "ApproximateArrivalTimestamp", "Data", "PartitionKey"})
    same("record", (base64.b64decode(record["Data"]), record["PartitionKey"]), (b"\x00\xffpayload", "kéy 日本"))
    same("sequence number", record["SequenceNumber"], put["SequenceNumber"])
    holds("arrival is now", abs(record["ApproximateArrivalTimestamp"] - time.time()) < 10, record["ApproximateArrivalTimestamp"])


@case("writing", "the shard is chosen by the MD5 of the key's UTF-8", PUT)
def _(k: Kit) -> None:
    name = k.stream(3)
    starts = [HASH_KEYS // 3 * index for index in range(3)]
    for key in ("a", "b", "c", "é", "日本", "key-17"):
        number = int.from_bytes(hashlib.md5(key.encode(), usedforsecurity=False).digest(), "big")
        index = max(i for i, start in enumerate(starts) if start <= number)
        same(f"shard of {key!r}", k.put(name, b"", key=key)[0]["ShardId"], f"shardId-{index:012d}")


@case("writing", "an ExplicitHashKey chooses the shard, the key is kept", PUT)
def _(k: Kit) -> None:
    name = k.stream(2)
    for hash_key, shard in ((0, 0), (HASH_KEYS // 2 - 1, 0), (HASH_KEYS // 2, 1), (HASH_KEYS - 1, 1)):
        same(f"shard of {hash_key}", k.put(name, b"", hash_key=hash_key)[0]["ShardId"], f"shardId-{shard:012d}")
    records = k.ask("GetRecords", ShardIterator=k.iterator(name, 1))["Records"]
    same("keys", {record["PartitionKey"] for record in records}, {"k"})
    holds("no ExplicitHashKey in a record", all("ExplicitHashKey" not in record for record in records))


@case("writing", "an ExplicitHashKey of 2^128 is out of range", "errors.md 7.4, recorded on AWS until 2020")
def _(k: Kit) -> None:
    name = k.stream()
    text = f"Invalid ExplicitHashKey. ExplicitHashKey must be in the range: [0, 2^128-1]. Specified value was {HASH_KEYS}"
    k.refused("PutRecord", "InvalidArgumentException", text, StreamName=name, Data="", PartitionKey="k", ExplicitHashKey=str(HASH_KEYS))


@case("writing", "one bad hash key fails the whole PutRecords, and nothing is written", "errors.md 7.2, recorded on AWS until 2020")
def _(k: Kit) -> None:
    name = k.stream()
    records: list[dict[str, Any]] = [
        {"Data": "", "PartitionKey": "a"},
        {"Data": "", "PartitionKey": "b", "ExplicitHashKey": str(HASH_KEYS)},
    ]
    k.refused("PutRecords", "InvalidArgumentException", StreamName=name, Records=records)
    same("records", k.read(k.iterator(name)), [])


@case("writing", "PutRecords answers in the request's order", "errors.md 8, recorded on AWS until 2020")
def _(k: Kit) -> None:
    name = k.stream(2)
    hashes = [0, HASH_KEYS - 1, 1, HASH_KEYS - 2]
    records = [{"Data": b64(b"%d" % n), "PartitionKey": "k", "ExplicitHashKey": str(h)} for n, h in enumerate(hashes)]
    answer = k.ask("PutRecords", StreamName=name, Records=records)
    same("members and failures", (set(answer), answer["FailedRecordCount"]), ({"FailedRecordCount", "Records"}, 0))
    same("shards", [int(entry["ShardId"][-1]) for entry in answer["Records"]], [0, 1, 0, 1])
    for shard, expected in ((0, [b"0", b"2"]), (1, [b"1", b"3"])):
        same(f"shard {shard}", k.read(k.iterator(name, shard)), expected)


@case("writing", "sequence numbers of a shard rise", PUT)
def _(k: Kit) -> None:
    name = k.stream()
    numbers = [int(entry["SequenceNumber"]) for entry in k.put(name, *[b""] * 20)]
    same("sorted, each once", numbers, sorted(set(numbers)))
    begin = k.shards(name)[0]["SequenceNumberRange"]["StartingSequenceNumber"]
    holds("above the shard's start", int(begin) < numbers[0], begin)


@case("writing", "sequence numbers have 56 digits in the service's layout", "errors.md 8, recorded on AWS until 2020 and 2025")
def _(k: Kit) -> None:
    name = k.stream()
    number = k.put(name, b"")[0]["SequenceNumber"]
    same("digits", len(number), 56)
    text = f"{int(number):x}"
    same("hex digits, first and last", (len(text), text[0], text[-1]), (47, "2", "2"))
    holds("put time is now", abs(int(text[29:38], 16) - time.time()) < 10, int(text[29:38], 16))


@case("writing", "a SequenceNumberForOrdering that does not parse", "errors.md 7.4, recorded on AWS until 2020")
def _(k: Kit) -> None:
    name = k.stream()
    number = str(2**185)
    text = f"ExclusiveMinimumSequenceNumber {number} used in PutRecord on stream {name} under account {k.account(name)} is invalid."
    members = {"StreamName": name, "Data": "", "PartitionKey": "k"}
    k.refused("PutRecord", "InvalidArgumentException", text, **members, SequenceNumberForOrdering=number)
    k.ask("PutRecord", members, SequenceNumberForOrdering=k.put(name, b"")[0]["SequenceNumber"])


@case("writing", "an empty payload is a record", "errors.md 5")
def _(k: Kit) -> None:
    name = k.stream()
    k.put(name, b"", b"x", b"")
    same("records", k.read(k.iterator(name)), [b"", b"x", b""])


@case("writing", "a payload of 1 MiB is taken, one byte more is not", "errors.md 6.3; report of 2025-12")
def _(k: Kit) -> None:
    name = k.stream()
    k.put(name, bytes(MIB - 1))
    item = f"data: Member must have length less than or equal to {MIB}"
    k.invalid("PutRecord", item, StreamName=name, PartitionKey="k", Data=b64(bytes(MIB + 1)))


@case("writing", "a PutRecords of more than 10 MiB is refused", "kinesis-api.md 2.1; the text is not known")
def _(k: Kit) -> None:
    name = k.stream()
    records = [{"Data": b64(bytes(MIB - 100)), "PartitionKey": "k"}] * 11
    answer = k.post("PutRecords", {"StreamName": name, "Records": records})
    holds("refused", answer.status in {400, 413}, answer.status)
    same("records", k.read(k.iterator(name)), [])


@case("writing", "a missing stream", "errors.md 7.1, recorded on AWS until 2020 and 2025-09")
def _(k: Kit) -> None:
    text = re.compile(r"Stream no-such under account \d{12} not found\.")
    k.refused("PutRecord", "ResourceNotFoundException", text, StreamName="no-such", Data="", PartitionKey="k")
    k.refused("PutRecords", "ResourceNotFoundException", text, StreamName="no-such", Records=[{"Data": "", "PartitionKey": "k"}])


@case("writing", "past 1,000 records a second the rest of a PutRecords fails one by one, with HTTP 200", "kinesis-api.md 2.1 and 5")
def _(k: Kit) -> None:
    with k.limited() as url:
        other = Kit(url)
        try:
            name = other.stream()
            records = [{"Data": "", "PartitionKey": "k"}] * 500
            failed: list[dict[str, Any]] = []
            for _ in range(12):  # more than a burst of several seconds could hold
                answer = other.ask("PutRecords", StreamName=name, Records=records)
                bad = [entry for entry in answer["Records"] if "ErrorCode" in entry]
                same("FailedRecordCount", answer["FailedRecordCount"], len(bad))
                failed += bad
            holds("some failed", failed)
            same("codes", {entry["ErrorCode"] for entry in failed}, {"ProvisionedThroughputExceededException"})
            holds("texts name the stream", all(name in entry["ErrorMessage"] for entry in failed), failed[0])
            holds("no sequence number beside an error", all("SequenceNumber" not in entry for entry in failed), failed[0])
        finally:
            other.close()


# --- reading ----------------------------------------------------------------------------------------------------------


@case("reading", "members of an empty answer", "errors.md 8, recorded on AWS until 2020")
def _(k: Kit) -> None:
    name = k.stream()
    page = k.ask("GetRecords", ShardIterator=k.iterator(name))
    same("members", set(page), {"MillisBehindLatest", "NextShardIterator", "Records"})
    same("records and lag", (page["Records"], page["MillisBehindLatest"]), ([], 0))


@case("reading", "Limit cuts, the next iterator goes on", "kinesis-api.md 4")
def _(k: Kit) -> None:
    name = k.stream()
    k.put(name, *[b"%d" % n for n in range(5)])
    token, found = k.iterator(name), []
    for _ in range(3):
        page = k.ask("GetRecords", ShardIterator=token, Limit=2)
        found.append([base64.b64decode(record["Data"]) for record in page["Records"]])
        token = page["NextShardIterator"]
    same("pages", found, [[b"0", b"1"], [b"2", b"3"], [b"4"]])


@case("reading", "every call gives a new iterator text; an old one reads again", "errors.md 8, recorded on AWS until 2020")
def _(k: Kit) -> None:
    name = k.stream()
    k.put(name, b"x")
    token = k.iterator(name)
    tokens = [token] + [k.ask("GetRecords", ShardIterator=token)["NextShardIterator"] for _ in range(2)]
    holds("of at most 512 characters", all(len(text) <= 512 for text in tokens))
    same("again", k.read(token), [b"x"])
    empty = k.ask("GetRecords", ShardIterator=tokens[1])["NextShardIterator"]
    holds("a new text after an empty answer", empty != tokens[1])


@case("reading", "MillisBehindLatest is above zero behind the tip", "kinesis-api.md 5")
def _(k: Kit) -> None:
    name = k.stream()
    k.put(name, b"1")
    k.wait(0.1)
    k.put(name, b"2")
    k.wait(0.1)
    page = k.ask("GetRecords", ShardIterator=k.iterator(name), Limit=1)
    holds("above zero", page["MillisBehindLatest"] > 0, page["MillisBehindLatest"])
    same("at the tip", k.ask("GetRecords", ShardIterator=page["NextShardIterator"])["MillisBehindLatest"], 0)


@case("reading", "an answer holds at most 10 MiB", "kinesis-api.md 2.1")
def _(k: Kit) -> None:
    name = k.stream()
    for _ in range(12):
        k.put(name, bytes(MIB - 1))
    page = k.ask("GetRecords", ShardIterator=k.iterator(name))
    size = sum(len(base64.b64decode(record["Data"])) for record in page["Records"])
    holds("some, but at most 10 MiB", 0 < size <= 10 * MIB, size)
    k.wait(0.01)
    rest = k.ask("GetRecords", ShardIterator=page["NextShardIterator"])["Records"]
    same("all in two answers", len(page["Records"]) + len(rest), 12)


@case("reading", "a garbage iterator is a 400", "errors.md 7.7, recorded on AWS until 2020")
def _(k: Kit) -> None:
    name = k.stream()
    good = k.iterator(name)
    for token in ("garbage!", "AAAA", b64(bytes(7) + b"\1" + bytes(160)), good[:-8] + "AAAAAAA="):
        k.refused("GetRecords", "InvalidArgumentException", "Invalid ShardIterator.", ShardIterator=token)


@case("reading", "an iterator in double quotes is taken", "errors.md 7.7, test of LocalStack validated on AWS")
def _(k: Kit) -> None:
    name = k.stream()
    k.put(name, b"x")
    same("records", k.read(f'"{k.iterator(name)}"'), [b"x"])


@case("reading", "an iterator older than five minutes has expired: 400, with both times", "errors.md 7.7, seen again 2024-03")
def _(k: Kit) -> None:
    name = k.stream()
    token = k.iterator(name)
    k.jump(301)
    when = r"[A-Z][a-z]{2} [A-Z][a-z]{2} \d\d \d\d:\d\d:\d\d UTC \d{4}"
    text = (
        rf"Iterator expired\. The iterator was created at time {when} while right now it is {when} which is further in the future "
        r"than the tolerated delay of 300000 milliseconds\."
    )
    k.refused("GetRecords", "ExpiredIteratorException", re.compile(text), ShardIterator=token)


@case("reading", "the iterator of a deleted stream is a 400 that names the shard", "errors.md 7.1, recorded on AWS until 2020")
def _(k: Kit) -> None:
    name = k.stream()
    token, account = k.iterator(name), k.account(name)
    k.ask("DeleteStream", StreamName=name)
    wait_until("the stream goes", lambda: k.post("DescribeStream", {"StreamName": name}).status != 200)
    text = f"Shard shardId-000000000000 in stream {name} under account {account} does not exist"
    k.refused("GetRecords", "ResourceNotFoundException", text, ShardIterator=token)


@case("reading", "records older than the retention are gone", "kinesis-api.md 2.2")
def _(k: Kit) -> None:
    name = k.stream()
    first = k.put(name, b"old")[0]["SequenceNumber"]
    k.jump(24 * 3600 + 60)
    k.put(name, b"new")
    same("from the horizon", k.read(k.iterator(name)), [b"new"])
    same("from a trimmed number", k.read(k.iterator(name, 0, "AT_SEQUENCE_NUMBER", StartingSequenceNumber=first)), [b"new"])


@case("reading", "past five reads of a shard a second it is throttled", "kinesis-api.md 2.1; texts of 2023 and before")
def _(k: Kit) -> None:
    with k.limited() as url:
        other = Kit(url)
        try:
            name = other.stream()
            token = other.iterator(name)
            answers = [other.post("GetRecords", {"ShardIterator": token}) for _ in range(12)]
            refused = [answer for answer in answers if answer.status != 200]
            holds("some were refused", refused)
            other.is_error(refused[0], "ProvisionedThroughputExceededException", re.compile(r"Rate exceeded for (shard|Shard - ).*"))
        finally:
            other.close()


# --- iterators --------------------------------------------------------------------------------------------------------


@case("iterators", "TRIM_HORIZON reads all, LATEST only what comes", "kinesis-api.md 5")
def _(k: Kit) -> None:
    name = k.stream()
    k.put(name, b"old")
    latest = k.iterator(name, 0, "LATEST")
    k.put(name, b"new")
    same("from the tip", k.read(latest), [b"new"])
    same("from the start", k.read(k.iterator(name)), [b"old", b"new"])


@case("iterators", "AT_ reads the record itself, AFTER_ the next", "kinesis-api.md 5")
def _(k: Kit) -> None:
    name = k.stream()
    number = k.put(name, b"0", b"1", b"2")[1]["SequenceNumber"]
    same("AT", k.read(k.iterator(name, 0, "AT_SEQUENCE_NUMBER", StartingSequenceNumber=number)), [b"1", b"2"])
    same("AFTER", k.read(k.iterator(name, 0, "AFTER_SEQUENCE_NUMBER", StartingSequenceNumber=number)), [b"2"])


@case("iterators", "the shard's own starting number reads from its start", "errors.md 8, recorded on AWS 2022-08")
def _(k: Kit) -> None:
    name = k.stream()
    k.put(name, b"0")
    number = k.shards(name)[0]["SequenceNumberRange"]["StartingSequenceNumber"]
    same("AT", k.read(k.iterator(name, 0, "AT_SEQUENCE_NUMBER", StartingSequenceNumber=number)), [b"0"])


@case("iterators", "AT_TIMESTAMP tells milliseconds apart", "kinesis-api.md 5")
def _(k: Kit) -> None:
    name = k.stream()
    for value in (b"0", b"1", b"2"):
        k.put(name, value)
        k.wait(0.03)
    stamps = [record["ApproximateArrivalTimestamp"] for record in k.ask("GetRecords", ShardIterator=k.iterator(name))["Records"]]
    same("at the second", k.read(k.iterator(name, 0, "AT_TIMESTAMP", Timestamp=stamps[1])), [b"1", b"2"])
    after = round(stamps[1] * 1000 + 2) / 1000
    same("just after the second", k.read(k.iterator(name, 0, "AT_TIMESTAMP", Timestamp=after)), [b"2"])


@case("iterators", "AT_TIMESTAMP before the stream was made reads from its start", "errors.md 7.3, recorded on AWS 2024-06")
def _(k: Kit) -> None:
    name = k.stream()
    k.put(name, b"x")
    same("records", k.read(k.iterator(name, 0, "AT_TIMESTAMP", Timestamp=1)), [b"x"])


@case("iterators", "AT_TIMESTAMP in the future is refused with both times", f"{ITERATOR} row 8, seen again 2021")
def _(k: Kit) -> None:
    name = k.stream()
    text = (
        r"The timestampInMillis parameter cannot be greater than the currentTimestampInMillis\. "
        r"timestampInMillis: 9999999999500, currentTimestampInMillis: \d{13}"
    )
    members = {"StreamName": name, "ShardId": "shardId-000000000000", "ShardIteratorType": "AT_TIMESTAMP", "Timestamp": 9_999_999_999.5}
    k.refused("GetShardIterator", "InvalidArgumentException", re.compile(text), **members)


def asked(name: str, kind: str, **more: Any) -> dict[str, Any]:
    return {"StreamName": name, "ShardId": "shardId-000000000000", "ShardIteratorType": kind, **more}


@case("iterators", "AT_TIMESTAMP without a timestamp", f"{ITERATOR} row 7, recorded on AWS until 2020")
def _(k: Kit) -> None:
    text = "Must specify timestampInMillis parameter for iterator of type AT_TIMESTAMP. Current request has no timestamp parameter."
    k.refused("GetShardIterator", "InvalidArgumentException", text, **asked(k.stream(), "AT_TIMESTAMP"))


@case("iterators", "a sequence number with TRIM_HORIZON, or none with AT_", f"{ITERATOR} rows 1 and 6, recorded on AWS until 2020")
def _(k: Kit) -> None:
    name = k.stream()
    start = (
        "Must either specify (1) AT_SEQUENCE_NUMBER or AFTER_SEQUENCE_NUMBER and StartingSequenceNumber or (2) TRIM_HORIZON or LATEST "
        "and no StartingSequenceNumber. Request specified "
    )
    number = k.put(name, b"")[0]["SequenceNumber"]
    text = f"{start}TRIM_HORIZON and also a StartingSequenceNumber."
    k.refused("GetShardIterator", "InvalidArgumentException", text, **asked(name, "TRIM_HORIZON", StartingSequenceNumber=number))
    text = f"{start}AT_SEQUENCE_NUMBER and no StartingSequenceNumber."
    k.refused("GetShardIterator", "InvalidArgumentException", text, **asked(name, "AT_SEQUENCE_NUMBER"))


@case("iterators", "a number that does not parse", f"{ITERATOR} row 2, recorded on AWS until 2020")
def _(k: Kit) -> None:
    name = k.stream()
    number = str(2**185)
    text = (
        f"StartingSequenceNumber {number} used in GetShardIterator on shard shardId-000000000000 in stream {name} "
        f"under account {k.account(name)} is invalid."
    )
    k.refused("GetShardIterator", "InvalidArgumentException", text, **asked(name, "AT_SEQUENCE_NUMBER", StartingSequenceNumber=number))


@case("iterators", "a number of another shard is refused", f"{ITERATOR} row 3, recorded on AWS until 2020")
def _(k: Kit) -> None:
    name = k.stream(2)
    number = k.put(name, b"", hash_key=HASH_KEYS - 1)[0]["SequenceNumber"]
    text = (
        "Invalid StartingSequenceNumber. It encodes shardId-000000000001, while it was used in a call to a shard with shardId-000000000000"
    )
    k.refused("GetShardIterator", "InvalidArgumentException", text, **asked(name, "AT_SEQUENCE_NUMBER", StartingSequenceNumber=number))


@case("iterators", "a missing stream or shard", "errors.md 7.1, recorded on AWS until 2020")
def _(k: Kit) -> None:
    name = k.stream()
    account = k.account(name)
    text = f"Shard shardId-000000000000 in stream no-such under account {account} does not exist"
    k.refused("GetShardIterator", "ResourceNotFoundException", text, **asked("no-such", "LATEST"))
    text = f"Shard shardId-000000000009 in stream {name} under account {account} does not exist"
    k.refused("GetShardIterator", "ResourceNotFoundException", text, **{**asked(name, "LATEST"), "ShardId": "shardId-000000000009"})


@case("iterators", "a shard id that is none", "errors.md 7.1, recorded on AWS until 2020")
def _(k: Kit) -> None:
    name = k.stream()
    text = f"Could not find shard what in stream {name} under account {k.account(name)}."
    k.refused("GetShardIterator", "ResourceNotFoundException", text, **{**asked(name, "LATEST"), "ShardId": "what"})


@case("iterators", "a genuine token: base64 of 8 bytes and a multiple of 16", "errors.md 7.7, recorded on AWS until 2020")
def _(k: Kit) -> None:
    token = k.iterator(k.stream())
    try:
        raw = base64.b64decode(token, validate=True)
    except ValueError:
        raise Missing("not base64") from None
    same("base64 again", b64(raw), token)
    same("the first 8 bytes", raw[:8], bytes(7) + b"\1")
    holds("152 + 16 k bytes", len(raw) >= 152 and (len(raw) - 8) % 16 == 0, len(raw))


__all__: list[str] = []
