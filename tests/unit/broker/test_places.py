"""Do accounts and regions keep their streams apart, and are shared streams everybody's?"""

from __future__ import annotations

import json
from typing import Any

import pytest

from streamlet.broker import Broker
from streamlet.broker.errors import ApiError
from streamlet.broker.inline import AUTHORIZATION, InlineBroker

SHARD = "shardId-000000000000"
ONE, TWO = "111111111111", "222222222222"


def as_caller(world: InlineBroker, account: str, region: str, operation: str, **members: Any) -> Any:
    """The answer, or code and text of the refusal."""
    authorization = AUTHORIZATION.replace("AKIAEXAMPLE", account).replace("eu-west-1", region)
    answer = world.post(operation, json.dumps(members), authorization=authorization)
    body = json.loads(b"".join(answer.body) or b"{}")
    return body if answer.status == 200 else (body["__type"], body.get("message"))


def arn(account: str, region: str, name: str = "s") -> str:
    return f"arn:aws:kinesis:{region}:{account}:stream/{name}"


@pytest.fixture
def two() -> InlineBroker:
    """One account has `s` in eu-west-1 with one shard; `s` in us-east-1 with two; the other one `s` with three."""
    world = InlineBroker()
    for count, (account, region) in enumerate(((ONE, "eu-west-1"), (ONE, "us-east-1"), (TWO, "eu-west-1")), 1):
        assert as_caller(world, account, region, "CreateStream", StreamName="s", ShardCount=count) == {}
    return world


def shards(world: InlineBroker, account: str, region: str, **members: Any) -> Any:
    answer = as_caller(world, account, region, "ListShards", **members)
    return len(answer["Shards"]) if isinstance(answer, dict) else answer


def test_a_name_means_the_callers_own_stream(two: InlineBroker) -> None:
    assert [shards(two, *place, StreamName="s") for place in ((ONE, "eu-west-1"), (ONE, "us-east-1"), (TWO, "eu-west-1"))] == [1, 2, 3]
    text = f"Stream s under account {TWO} not found."
    assert shards(two, TWO, "us-east-1", StreamName="s") == ("ResourceNotFoundException", text)
    summaries = as_caller(two, ONE, "us-east-1", "ListStreams")["StreamSummaries"]
    assert [summary["StreamARN"] for summary in summaries] == [arn(ONE, "us-east-1")]
    as_caller(two, ONE, "us-east-1", "DeleteStream", StreamName="s")
    assert as_caller(two, ONE, "us-east-1", "ListStreams")["StreamNames"] == []
    assert shards(two, ONE, "eu-west-1", StreamName="s") == 1


def test_an_arn_says_whose_stream_it_is(two: InlineBroker) -> None:
    assert shards(two, ONE, "eu-west-1", StreamARN=arn(TWO, "eu-west-1")) == 3
    assert shards(two, TWO, "eu-west-1", StreamARN=arn(ONE, "eu-west-1")) == 1
    text = f"Stream s under account {ONE} not found."
    assert shards(two, ONE, "eu-west-1", StreamARN=arn(ONE, "us-east-1")) == ("ResourceNotFoundException", text)
    assert shards(two, ONE, "eu-west-1", StreamARN=arn("333333333333", "eu-west-1"))[1].startswith("Stream s under account 333333333333")
    described = as_caller(two, ONE, "eu-west-1", "DescribeStreamSummary", StreamARN=arn(TWO, "eu-west-1"))["StreamDescriptionSummary"]
    assert described["StreamARN"] == arn(TWO, "eu-west-1")


def test_iterators_and_page_tokens_lead_back_to_their_stream(two: InlineBroker) -> None:
    theirs = arn(TWO, "eu-west-1")
    as_caller(two, TWO, "eu-west-1", "PutRecord", StreamName="s", Data="dHdv", PartitionKey="k", ExplicitHashKey="0")
    asked = {"ShardId": SHARD, "ShardIteratorType": "TRIM_HORIZON", "StreamARN": theirs}
    iterator = as_caller(two, ONE, "eu-west-1", "GetShardIterator", **asked)["ShardIterator"]
    answer = as_caller(two, ONE, "eu-west-1", "GetRecords", ShardIterator=iterator)
    assert [record["Data"] for record in answer["Records"]] == ["dHdv"]
    assert as_caller(two, ONE, "eu-west-1", "GetRecords", ShardIterator=answer["NextShardIterator"], StreamARN=theirs)["Records"] == []
    assert as_caller(two, ONE, "eu-west-1", "GetRecords", ShardIterator=iterator, StreamARN=theirs + "x")[0] == "InvalidArgumentException"
    refused = ("InvalidArgumentException", "Invalid ShardIterator.")
    assert as_caller(two, ONE, "us-east-1", "GetRecords", ShardIterator=iterator) == refused
    token = as_caller(two, ONE, "eu-west-1", "ListShards", StreamARN=theirs, MaxResults=1)["NextToken"]
    assert shards(two, ONE, "eu-west-1", NextToken=token) == 2
    assert shards(two, ONE, "us-east-1", NextToken=token) == ("InvalidArgumentException", "Invalid NextToken.")


def test_a_shared_stream_is_everybodys_until_they_have_their_own(two: InlineBroker) -> None:
    two.front.call("CreateStream", {"StreamName": "shared", "ShardCount": 4})
    two.front.call("CreateStream", {"StreamName": "s", "ShardCount": 4})
    for account, region in ((ONE, "eu-west-1"), ("333333333333", "ap-south-1")):
        summary = as_caller(two, account, region, "DescribeStreamSummary", StreamName="shared")["StreamDescriptionSummary"]
        assert (summary["StreamARN"], summary["OpenShardCount"]) == (arn(account, region, "shared"), 4)
        assert as_caller(two, account, region, "CreateStream", StreamName="shared")[0] == "ResourceInUseException"
        assert as_caller(two, account, region, "ListStreams")["StreamNames"] == ["s", "shared"]
    assert shards(two, ONE, "eu-west-1", StreamName="s") == 1
    assert shards(two, ONE, "ap-south-1", StreamName="s") == 4
    as_caller(two, ONE, "eu-west-1", "DeleteStream", StreamName="s")
    assert shards(two, ONE, "eu-west-1", StreamName="s") == 4


def test_the_regions_partition_is_in_the_arn() -> None:
    world = InlineBroker()
    as_caller(world, ONE, "cn-north-1", "CreateStream", StreamName="s")
    found = as_caller(world, ONE, "cn-north-1", "DescribeStreamSummary", StreamName="s")["StreamDescriptionSummary"]["StreamARN"]
    assert found == f"arn:aws-cn:kinesis:cn-north-1:{ONE}:stream/s"
    assert shards(world, ONE, "cn-north-1", StreamARN=found) == 4


def test_limits_count_per_account_and_region() -> None:
    world = InlineBroker(shards_max=3)
    assert as_caller(world, ONE, "eu-west-1", "CreateStream", StreamName="s", ShardCount=3) == {}
    assert as_caller(world, TWO, "eu-west-1", "CreateStream", StreamName="s", ShardCount=3) == {}
    text = as_caller(world, ONE, "eu-west-1", "CreateStream", StreamName="t", ShardCount=1)[1]
    assert text.startswith(
        f"This request would exceed the shard limit for the account {ONE} in eu-west-1. Current shard count for the account: 3."
    )
    limits = as_caller(world, ONE, "eu-west-1", "DescribeLimits")
    assert (limits["ShardLimit"], limits["OpenShardCount"], limits["OnDemandStreamCount"]) == (3, 3, 0)
    assert as_caller(world, ONE, "us-east-1", "DescribeLimits")["OpenShardCount"] == 0


def test_the_brokers_owner_finds_every_stream_whose_name_is_unique() -> None:
    broker = Broker(streams={"shared": 1})
    broker.create_stream("mine", 2, account=ONE, region="eu-west-1")
    broker.create_stream("both", region="eu-west-1")
    broker.create_stream("both", region="us-west-2")
    assert broker.call("ListStreams")["StreamNames"] == ["both", "both", "mine", "shared"]
    found = broker.call("DescribeStreamSummary", StreamName="mine")["StreamDescriptionSummary"]
    assert found["StreamARN"] == arn(ONE, "eu-west-1", "mine")
    assert len(broker.split_shard("mine", 0)) == 2
    with pytest.raises(ApiError, match="not found"):
        broker.call("DescribeStreamSummary", StreamName="both")
    broker.delete_stream("both", region="eu-west-1")
    assert broker.call("DescribeStreamSummary", StreamName="both")["StreamDescriptionSummary"]["StreamARN"].startswith(
        "arn:aws:kinesis:us-west-2"
    )
    with pytest.raises(ApiError, match="not found"):
        broker.call("DescribeStreamSummary", StreamName="mine", account=TWO)
    iterator = broker.call("GetShardIterator", StreamName="mine", ShardId=SHARD, ShardIteratorType="LATEST")["ShardIterator"]
    assert b'"Records":[]' in b"".join(broker.call("GetRecords", ShardIterator=iterator))


def test_a_region_of_any_length_gives_iterators_that_can_be_read(world: InlineBroker) -> None:
    name = "n" * 128
    region = "r" * 64
    as_caller(world, "111111111111", region, "CreateStream", StreamName=name, ShardCount=1)
    where = {"StreamName": name, "ShardId": "0", "ShardIteratorType": "LATEST"}
    token = as_caller(world, "111111111111", region, "GetShardIterator", **where)["ShardIterator"]
    assert len(token) <= 512
    assert as_caller(world, "111111111111", region, "GetRecords", ShardIterator=token)["Records"] == []
    # A longer one is no region: the caller is taken for one of the default region.
    answer = as_caller(world, "111111111111", "r" * 65, "CreateStream", StreamName=name, ShardCount=1)
    assert not answer
