"""Does the careful path say what the service says? Texts of reference/errors.md sections 5 and 6."""

from __future__ import annotations

import base64
import random
from typing import Any

import pytest

from streamlet.broker import ApiError
from streamlet.broker.ops import OPERATIONS
from streamlet.broker.schema import Member, are_blobs, blob_size, check, is_blob

TBN = "class com.amazon.coral.value.json.numbers.TruncatingBigNumber"
KINDS = {
    "string": Member("M", "string"),
    "integer": Member("M", "integer"),
    "boolean": Member("M", "boolean"),
    "timestamp": Member("M", "timestamp"),
    "blob": Member("M", "blob"),
    "list": Member("M", "list", element=(0, 10)),
    "map": Member("M", "map"),
    "structure": Member("M", "structure"),
}
LIST = "Start of list found where not expected"
OBJECT = "Start of structure or map found where not expected."


def refusal(members: tuple[Member, ...], value: Any) -> str:
    with pytest.raises(ApiError) as caught:
        check(members, value)
    return f"{caught.value.code}: {caught.value.text}"


@pytest.mark.parametrize(
    ("kind", "value", "text"),
    [
        ("string", 1, f"{TBN} can not be converted to an String"),
        ("string", True, "class java.lang.Boolean can not be converted to an String"),
        ("integer", "1", "class java.lang.String can not be converted to an Integer"),
        ("integer", False, "class java.lang.Boolean can not be converted to an Integer"),
        ("boolean", "maybe", "'MAYBE' can not be converted to an Boolean"),
        ("boolean", 1, f"{TBN} can not be converted to an Boolean"),
        ("timestamp", "now", "class java.lang.String can not be converted to milliseconds since epoch"),
        ("timestamp", True, "class java.lang.Boolean can not be converted to milliseconds since epoch"),
        ("blob", 1.5, f"{TBN} can not be converted to a Blob"),
        ("blob", True, "class java.lang.Boolean can not be converted to a Blob"),
        ("blob", "abc", "'abc' can not be converted to a Blob: Base64 encoded length is expected a multiple of 4 bytes but found: 3"),
        ("blob", "ab!=", "'ab!=' can not be converted to a Blob: Invalid Base64 character: '!'"),
        ("blob", "a=bc", "'a=bc' can not be converted to a Blob: Invalid Base64 character: '='"),
        ("blob", "YR==", "'YR==' can not be converted to a Blob: Invalid last non-pad Base64 character dectected"),
        ("list", "a", "Expected list or null"),
        ("map", 1, "Expected map or null"),
        ("structure", True, "Expected null"),
        *[(kind, [], LIST) for kind in KINDS if kind != "list"],
        *[(kind, {}, OBJECT) for kind in KINDS if kind not in {"map", "structure"}],
    ],
)
def test_a_wrong_type_is_told_in_the_services_words(kind: str, value: Any, text: str) -> None:
    assert refusal((KINDS[kind],), {"M": value}) == f"SerializationException: {text}"


def test_null_is_absent_and_unknown_members_are_ignored() -> None:
    assert check((KINDS["string"],), {"M": None, "Other": [1]}) == {}


def test_integers_are_cut_and_clamped() -> None:
    member = Member("Limit", "integer", low=1, high=10_000)
    assert check((member,), {"Limit": 7.9}) == {"Limit": 7}
    text = refusal((member,), {"Limit": 1e30})
    assert text == (
        "ValidationException: 1 validation error detected: Value '2147483647' at 'limit' failed to satisfy constraint: "
        "Member must have value less than or equal to 10000"
    )


def test_the_documented_example_of_two_items() -> None:
    """errors.md section 6.2, last paragraph."""
    assert refusal(OPERATIONS["GetRecords"].members, {"Limit": -3}) == (
        "ValidationException: 2 validation errors detected: Value '-3' at 'limit' failed to satisfy constraint: "
        "Member must have value greater than or equal to 1; Value null at 'shardIterator' failed to satisfy constraint: "
        "Member must not be null"
    )


def test_an_empty_name_breaks_pattern_and_length() -> None:
    text = refusal(OPERATIONS["DescribeStreamSummary"].members, {"StreamName": ""})
    assert text.endswith(
        "2 validation errors detected: Value '' at 'streamName' failed to satisfy constraint: "
        "Member must satisfy regular expression pattern: [a-zA-Z0-9_.-]+; Value '' at 'streamName' failed to satisfy constraint: "
        "Member must have length greater than or equal to 1"
    )


def test_at_most_ten_items_are_counted() -> None:
    text = refusal(OPERATIONS["PutRecords"].members, {"Records": [{}] * 11})
    assert "10 validation errors detected" in text
    assert "'records.10.member.data'" in text
    assert "records.11" not in text


def test_enum_in_the_services_order() -> None:
    text = refusal(OPERATIONS["GetShardIterator"].members, {"ShardId": "0", "ShardIteratorType": "x", "StreamName": "s"})
    assert text.endswith(
        "Value 'x' at 'shardIteratorType' failed to satisfy constraint: Member must satisfy enum value set: "
        "[AFTER_SEQUENCE_NUMBER, LATEST, AT_TIMESTAMP, AT_SEQUENCE_NUMBER, TRIM_HORIZON]"
    )


def test_elements_keys_and_values_are_reported_on_their_container() -> None:
    text = refusal(OPERATIONS["RemoveTagsFromStream"].members, {"TagKeys": ["", "b"], "StreamName": "s"})
    assert text.endswith(
        "Value '[, b]' at 'tagKeys' failed to satisfy constraint: Member must satisfy constraint: "
        "[Member must have length less than or equal to 128, Member must have length greater than or equal to 1]"
    )
    text = refusal(OPERATIONS["AddTagsToStream"].members, {"Tags": {"": "v" * 257}, "StreamName": "s"})
    assert "Map keys must satisfy constraint: [Member must have length less than or equal to 128" in text
    assert "Map value must satisfy constraint: [Member must have length less than or equal to 256" in text


def test_the_fast_blob_check_agrees_with_decoding_and_encoding_again() -> None:
    """On thousands of good, damaged and random texts."""
    rng = random.Random(7)
    alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/="
    texts = ["", "=", "==", "====", "A===", "YQ==YQ==", "YWI=", "YWJ=", "é234", "YQ=\n"]
    for _ in range(3000):
        good = base64.b64encode(rng.randbytes(rng.randrange(9))).decode()
        damaged = list(good)
        if damaged:
            damaged[rng.randrange(len(damaged))] = rng.choice(alphabet + " \n-_é")
        texts += [good, "".join(damaged), "".join(rng.choices(alphabet, k=rng.randrange(9)))]
    for text in texts:
        try:
            canonical = base64.b64encode(base64.b64decode(text, validate=True)).decode() == text
        except ValueError:
            canonical = False
        assert is_blob(text) is canonical, text
        if canonical:
            assert blob_size(text) == len(base64.b64decode(text))


def test_one_bad_text_among_many_is_seen() -> None:
    texts = ["YWFh", "YQ==", "YWI="] * 30
    assert are_blobs(texts)
    for place in range(0, 90, 7):
        # "==" in the middle and too few "=" at the end would balance each other, if only their sum were looked at.
        assert not are_blobs([*texts[:place], "Y=Q=", *texts[place:]])
