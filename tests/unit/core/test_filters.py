"""The pattern language: tables from the guide, what AWS refuses, hostile data, and a naive second reading of the rules."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from streamlet.core.filters import ARRAY_NESTING_MAX, PATTERN_DEPTH_MAX, FilterCriteria, compile_filters, patterns_of_criteria
from streamlet.errors import ConfigurationError

BIG = 5_000_000_000


def leaf(*items: Any) -> FilterCriteria:
    return compile_filters([{"data": {"a": list(items)}}])


# ── the guide's tables ───────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("items", "passes", "fails"),
    [
        # equals: case-sensitive, by type, numbers by their text
        ('["Alice"]', ['"Alice"', '"\\u0041lice"'], ['"alice"', '"Alice "', "null", '["alice"]', '{"Alice":"Alice"}', '"A"']),
        ('["a","b"]', ['"a"', '"b"'], ['"c"', '"ab"']),
        ('["é\\"/\\\\"]', ['"é\\"/\\\\"', '"\\u00e9\\u0022\\/\\u005c"'], ['"e"']),
        ("[5]", ["5"], ['"5"', "5.0", "50", "05e0"]),
        ("[300]", ["300"], ["300.0", "3.0e2", "3e2", "-300"]),
        ("[300.0]", ["300.0"], ["300", "3.0e2", "300.00"]),
        ("[3.0e2]", ["3.0e2"], ["300", "300.0", "3.0E2"]),
        ("[123456789012345678901234567890]", ["123456789012345678901234567890"], ["123456789012345678901234567891", "1.2345678901234568e29"]),
        ("[true]", ["true"], ["false", '"true"', "1"]),
        ("[null]", ["null", "[1,null]"], ['"null"', '""', "0", "[]", "{}"]),
        ('[""]', ['""'], ['" "', "null", "[]"]),
        # not
        ('[{"anything-but":["x","y"]}]', ['"z"', '""', "1", "null", "true", '["x","z"]'], ['"x"', '"y"', '"\\u0078"', "{}", "[]", '["x","y"]']),
        ('[{"anything-but":"x"}]', ['"X"'], ['"x"']),
        ('[{"anything-but":5}]', ["6", '"5"', "null", "5e99", "5.000001"], ["5", "5.0", "5e0", "0.05E+2"]),
        ('[{"anything-but":[100,200]}]', ["300"], ["100", "2e2"]),
        # numeric: by value, numbers only
        ('[{"numeric":["=",100]}]', ["100", "100.0", "1e2", "[1,100]"], ['"100"', "100.1", "null"]),
        ('[{"numeric":[">",10,"<=",20]}]', ["10.000001", "20", "2e1"], ["10", "20.000001", "10.0", '"15"']),
        ('[{"numeric":[">=",10,"<",20]}]', ["10", "19.999999"], ["9.999999", "20", "2e1"]),
        ('[{"numeric":["<",0]}]', ["-1", "-5e9", "-0.000001"], ["0", "-0", "-5.1e9", "-1e400"]),
        ('[{"numeric":[">",0]}]', ["5e9", "0.000001"], ["5000000000.1", "1e400", "9" * 400]),
        ('[{"numeric":["<=",0]}]', ["0", "-0.0"], ["1"]),
        ('[{"numeric":["=",0.3]}]', ["0.30000000000000004", "0.3", "3e-1"], ["0.300001"]),
        ('[{"numeric":["=",0.000248]}]', ["0.000248", "248e-6"], ["0.000249", "0.000247"]),
        # exists: leaves only
        ('[{"exists":true}]', ["1", "null", '""', "[1]", "[[false]]"], ["{}", '{"b":1}', "[]", "[{}]"]),
        ('[{"exists":false}]', ["{}", '{"b":1}', "[]", "[{}]"], ["1", "null", "[1]"]),
        ('[{"exists":false},"x"]', ["{}", '"x"'], ['"y"', "1"]),
        # strings
        ('[{"prefix":"us-"}]', ['"us-east-1"', '"us-"', '["eu","us-1"]'], ['"US-east-1"', '"u"', "1", "null"]),
        ('[{"prefix":""}]', ['""', '"x"'], ["1"]),
        ('[{"suffix":".png"}]', ['"a.png"', '".png"', '"\\u002epng"'], ['".PNG"', '"png"', "5"]),
        ('[{"equals-ignore-case":"alice"}]', ['"ALICE"', '"alice"', '"\\u0041LICE"'], ['"alic"', "null"]),
        ('[{"equals-ignore-case":"ÄB"}]', ['"äb"'], ['"ab"']),
        ('[{"prefix":{"equals-ignore-case":"EventB"}}]', ['"eventbridge"'], ['"event"']),
        ('[{"suffix":{"equals-ignore-case":"TBridge"}}]', ['"eventbridge"'], ['"bridge"', "1"]),
        ('["x",{"numeric":[">",5]}]', ['"x"', "6"], ['"y"', "5"]),
        ('["x",{"numeric":[">",5]},null]', ['"x"', "6", "null"], ['"y"', "5", "true"]),
        # arrays: any scalar in it, arrays within it included
        ('["c"]', ['["a","c"]', '[["a"],[["c"]]]', '[{"a":1},"c"]'], ['[{"a":"c"}]', "[]"]),
    ],
)  # fmt: skip
def test_a_leaf(items: str, passes: list[str], fails: list[str]) -> None:
    criteria = compile_filters([f'{{"data":{{"a":{items}}}}}'])
    for values, expected in ((passes, True), (fails, False)):
        for value in values:
            for data in (f'{{"a":{value}}}', f' {{ "z" : [1,{{"a":9}}] , "\\u0061" : {value} }} '):
                if value == "05e0":
                    assert not criteria.matches(data.encode())
                    continue
                json.loads(data)  # the table means what it says
                assert criteria.matches(data.encode()) is expected, data
                assert criteria.matches(memoryview(data.encode())) is expected, data


@pytest.mark.parametrize(
    ("pattern", "passes", "fails"),
    [
        # keys are ANDed, a missing key is no match, null is not missing
        ({"a": ["x"], "b": [1]}, ['{"a":"x","b":1}'], ['{"a":"x"}', '{"b":1}', '{"a":"x","b":2}', "{}"]),
        ({"a": [None]}, ['{"a":null}'], ["{}"]),
        ({"a": {"b": {"c": ["x"]}}}, ['{"a":{"b":{"c":"x"}}}'], ['{"a":{"b":"x"}}', '{"a":{"c":"x"}}', '{"c":"x"}', '{"a":null}']),
        ({"a.b": ["x"]}, ['{"a.b":"x"}'], ['{"a":{"b":"x"}}']),
        ({'q"\\\n': ["x"], "b": [1]}, ['{"q\\"\\\\\\n":"x","b":1}'], ['{"q":"x","b":1}', '{"b":1}']),
        ({'q"': [{"exists": False}]}, ["{}"], ['{"q\\"":1}']),
        ({"q\\": ["x"]}, ['{"q\\\\":"x"}'], ["{}"]),
        ({"": ["x"]}, ['{"":"x"}'], ["{}"]),
        # $or: ANDed with its neighbours, nested, with ANDs in it
        ({"$or": [{"a": ["x"]}, {"b": ["y"]}]}, ['{"a":"x"}', '{"b":"y"}'], ['{"a":"y","b":"x"}', "{}"]),
        ({"c": [1], "$or": [{"a": ["x"]}, {"b": ["y"]}]}, ['{"a":"x","c":1}'], ['{"a":"x"}', '{"c":1}']),
        ({"$or": [{"a": [1], "b": [2]}, {"c": [3], "$or": [{"d": [4]}, {"e": [5]}]}]},
         ['{"a":1,"b":2}', '{"c":3,"e":5}'], ['{"a":1}', '{"c":3}', '{"b":2,"d":4}']),
        ({"o": {"$or": [{"a": [1]}, {"b": [{"exists": False}]}]}},
         ['{"o":{"a":1,"b":1}}', '{"o":{}}', "{}", '{"o":[]}', '{"o":[{"a":1,"b":2},{"b":3}]}'],
         ['{"o":{"a":2,"b":1}}', '{"o":[{"b":1},{}]}']),
        # one that is not the operator is a key
        ({"$or": {"a": ["x"]}}, ['{"$or":{"a":"x"}}'], ['{"a":"x"}']),
        ({"$or": [{"prefix": "x"}, {"numeric": ["=", 1]}]}, ['{"$or":"xy"}', '{"$or":1}'], ['{"prefix":"x"}']),
        # objects in an array: one of them as a whole; absence in all of them
        ({"l": {"b": ["x"], "c": ["y"]}}, ['{"l":[{"b":"x"},{"b":"x","c":"y"}]}', '{"l":[[{"b":"x","c":"y"}]]}'],
         ['{"l":[{"b":"x"},{"c":"y"}]}', '{"l":["x","y"]}', '{"l":[]}']),
        ({"l": {"b": [{"exists": False}]}}, ['{"l":[{},{"c":1}]}', "{}", '{"l":1}', '{"l":[]}', '{"l":[1,{}]}'], ['{"l":[{},{"b":1}]}']),
        ({"l": {"b": ["x"], "c": [{"exists": False}]}}, ['{"l":[{"b":"x"},{"b":"w","c":1}]}'], ['{"l":[{"b":"x","c":1},{}]}']),
        ({"l": {"m": {"n": [1]}}}, ['{"l":[{"m":[{"n":2},{"n":1}]}]}'], ['{"l":[{"m":{}},{"n":1}]}']),
    ],
)  # fmt: skip
def test_objects_and_or(pattern: Any, passes: list[str], fails: list[str]) -> None:
    criteria = compile_filters([{"data": pattern}])
    for values, expected in ((passes, True), (fails, False)):
        for value in values:
            assert criteria.matches(value.encode()) is expected, value


def test_a_payload_may_be_an_array() -> None:
    criteria = leaf("x")
    assert criteria.matches(b' [{"a":1},{"a":"x"}]')
    assert not criteria.matches(b'["a","x"]')
    assert leaf({"exists": False}).matches(b"5")


def test_filters_are_ored_and_none_lets_everything_pass() -> None:
    criteria = compile_filters(['{"data":{"a":[1]}}', '{"data":{"b":{"c":["x"]}}}', '{"$or":[{"data":{"d":[1]}},{"data":{"d":[2]}}]}'])
    assert [criteria.matches(data) for data in (b'{"a":1}', b'{"b":{"c":"x"}}', b'{"d":2}', b'{"a":2,"b":{"c":"y"},"d":3}')] == [
        True, True, True, False,
    ]  # fmt: skip
    assert compile_filters([]).matches(b"\xff")


def test_a_key_that_stands_twice_in_a_pattern_counts_last() -> None:
    """Developer guide, invocation-eventfiltering."""
    criteria = compile_filters(['{"data":{"a":["x"],"a":["y"]},"data":{"b":[{"prefix":"q","prefix":"z"}]}}'])
    assert criteria.matches(b'{"b":"z"}')
    assert not criteria.matches(b'{"a":"y","b":"q"}')


def test_a_pattern_may_be_python_values() -> None:
    assert leaf(300).matches(b'{"a":300}')
    assert not leaf(300.0).matches(b'{"a":300}')
    assert leaf(300) == compile_filters(['{"data":{"a":[300]}}'])
    assert hash(leaf(1)) == hash(leaf(1))
    assert leaf(1) != leaf(2)
    assert leaf(1) != "x"
    assert repr(leaf("x")) == 'FilterCriteria({"data":{"a":["x"]}})'


def test_awss_own_form() -> None:
    assert patterns_of_criteria('{"Filters":[{"Pattern":"{\\"data\\":{\\"a\\":[1]}}"}]}') == ['{"data":{"a":[1]}}']
    assert patterns_of_criteria({}) == patterns_of_criteria({"Filters": []}) == []
    for bad in ("", "[]", '{"filters":[]}', '{"Filters":{}}', '{"Filters":[{}]}', '{"Filters":[{"Pattern":1}]}', "[" * 100_000):
        with pytest.raises(ConfigurationError, match="the form is"):
            patterns_of_criteria(bad)


# ── what AWS refuses ─────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("pattern", "where", "why"),
    [
        ("simple string", "filter 1: ", "is not valid JSON"),
        ("", "filter 1: ", "is not valid JSON"),
        ('{"data":{"a":["x"]}', "filter 1: ", "is not valid JSON"),
        ('{"data":{"a":["x"]}} x', "filter 1: ", "is not valid JSON"),
        ('{"data":{"a":[NaN]}}', "filter 1: ", "NaN is no JSON"),
        ('{"data":{"a":[-Infinity]}}', "filter 1: ", "-Infinity is no JSON"),
        ('{"data":{"a":["\\ud800"]}}', r"data\.a\[0\]: ", "a lone surrogate is no text"),
        ('{"data":{"\\ud800":["x"]}}', "data", "a lone surrogate is no text"),
        ("\ud800", "filter 1: ", "is not valid JSON"),
        ("[]", "filter 1: ", "a pattern is an object"),
        ("null", "filter 1: ", "a pattern is an object"),
        ("{}", "filter 1: ", "empty objects are not allowed"),
        ('{"partitionKey":["1"]}', "filter 1: partitionKey: ", "put what you match on under data"),
        ('{"kinesis":{"data":{"a":[1]}}}', "filter 1: kinesis: ", "filtered by its payload alone"),
        ('{"data":["x"]}', "filter 1: data: ", "must be an object"),
        ('{"data":"x"}', "filter 1: data: ", "must be an object"),
        ('{"data":{}}', "filter 1: data: ", "empty objects are not allowed"),
        ('{"data":{"a":{}}}', r"filter 1: data\.a: ", "empty objects are not allowed"),
        ('{"data":{"a":[]}}', r"filter 1: data\.a: ", "empty lists are not allowed"),
        ('{"data":{"a":"x"}}', r"filter 1: data\.a: ", r'must be an object or a list; write \["x"\]'),
        ('{"data":{"a":3.0e2}}', r"filter 1: data\.a: ", r"write \[3.0e2\]"),
        ('{"data":{"a":null}}', r"filter 1: data\.a: ", r"write \[null\]"),
        ('{"data":{"a":["x",["y"]]}}', r"data\.a\[1\]: ", "not a list"),
        ('{"data":{"a":[{}]}}', r"data\.a\[0\]: ", "match expression name not found"),
        ('{"data":{"a":[{"prefix":"x","suffix":"y"}]}}', r"data\.a\[0\]: ", "only one key is allowed in a match expression, not prefix, suffix"),
        ('{"data":{"a":[{"starts":"x"}]}}', r"data\.a\[0\]\.starts: ", "unrecognized match type; use one of anything-but"),
        ('{"data":{"a":[{"wildcard":"x*"}]}}', r"data\.a\[0\]\.wildcard: ", "event source mappings do not"),
        ('{"data":{"a":[{"cidr":"10.0.0.0/8"}]}}', r"data\.a\[0\]\.cidr: ", "event source mappings do not"),
        ('{"data":{"a":[{"exists":"false"}]}}', r"data\.a\[0\]: ", "must be either true or false"),
        ('{"data":{"a":[{"exists":1}]}}', r"data\.a\[0\]: ", "must be either true or false"),
        ('{"data":{"a":[{"prefix":1}]}}', r"data\.a\[0\]\.prefix: ", "must be a string, not 1"),
        ('{"data":{"a":[{"suffix":null}]}}', r"data\.a\[0\]\.suffix: ", "must be a string, not null"),
        ('{"data":{"a":[{"prefix":{"suffix":"x"}}]}}', r"data\.a\[0\]\.prefix: ", "must be a string, or"),
        ('{"data":{"a":[{"equals-ignore-case":["x"]}]}}', r"data\.a\[0\]\.equals-ignore-case: ", "must be a string"),
        ('{"data":{"a":[{"anything-but":[]}]}}', r"data\.a\[0\]\.anything-but: ", "an empty list excludes nothing"),
        ('{"data":{"a":[{"anything-but":null}]}}', r"anything-but: ", "strings only or numbers only"),
        ('{"data":{"a":[{"anything-but":["x",1]}]}}', r"anything-but: ", r'not \["x", 1\]'),
        ('{"data":{"a":[{"anything-but":[true]}]}}', r"anything-but: ", "strings only or numbers only"),
        ('{"data":{"a":[{"anything-but":{"prefix":"x"}}]}}', r"anything-but: ", "event buses take operators here"),
        ('{"data":{"a":[{"anything-but":6e9}]}}', r"anything-but: ", "must be between -5.0E9 and 5.0E9"),
        ('{"data":{"a":[{"numeric":5}]}}', r"data\.a\[0\]\.numeric: ", "must be a list such as"),
        ('{"data":{"a":[{"numeric":[]}]}}', r"numeric: ", "must be a list such as"),
        ('{"data":{"a":[{"numeric":[">"]}]}}', r"numeric: ", "must be a list such as"),
        ('{"data":{"a":[{"numeric":["!=",5]}]}}', r"numeric: ", 'unrecognized operator "!="'),
        ('{"data":{"a":[{"numeric":[5,">"]}]}}', r"numeric: ", "unrecognized operator 5"),
        ('{"data":{"a":[{"numeric":[[],5]}]}}', r"numeric: ", "unrecognized operator"),
        ('{"data":{"a":[{"numeric":[">","5"]}]}}', r"numeric: ", 'value of > must be numeric, not "5"'),
        ('{"data":{"a":[{"numeric":["<",5,">",1]}]}}', r"numeric: ", "a range is written from below"),
        ('{"data":{"a":[{"numeric":["=",5,"<",9]}]}}', r"numeric: ", "a range is written from below"),
        ('{"data":{"a":[{"numeric":[">",5,"<",5]}]}}', r"numeric: ", "bottom must be less than top"),
        ('{"data":{"a":[{"numeric":[">",5,"<",4]}]}}', r"numeric: ", "bottom must be less than top"),
        ('{"data":{"a":[{"numeric":[">",5000000000.1]}]}}', r"numeric: ", "must be between -5.0E9 and 5.0E9"),
        ('{"data":{"a":[{"numeric":[">",1e999]}]}}', r"numeric: ", "must be between -5.0E9 and 5.0E9"),
        ('{"$or":[{"data":{"a":[1]}}]}', r"filter 1: \$or: ", "needs two objects or more"),
        ('{"$or":[{"data":{"a":[1]}},1]}', r"filter 1: \$or\[1\]: ", "a pattern is an object"),
        ('{"$or":[{"data":{"a":[1]}},{"x":[1]}]}', r"filter 1: \$or\[1\]: x: ", "put what you match on under data"),
        ('{"data":{"$or":[{"a":[1]}]}}', r"data\.\$or\[0\]\.a: ", "unrecognized match type"),
        ('{"data":{"$or":[{"a":[1]},{}]}}', r"data\.\$or\[1\]: ", "empty objects are not allowed"),
        ('{"data":{"$or":[{"a":[1]},{"b":{"prefix":[1]}}]}}', r"data\.\$or\[1\]\.b\.prefix: ", "cannot be a key inside"),
        ('{"data":' * (PATTERN_DEPTH_MAX + 5) + "[1]" + "}" * (PATTERN_DEPTH_MAX + 5), "data", "is nested deeper than"),
        ('{"$or":[' * 300 + "1" + ",1]}" * 300, r"\$or\[0\]", "is nested deeper than"),
        ('{"data":{"a":"\\ud800"}}', r"data\.a: ", r"write \[.*ud800"),
        ("[" * 4000, "filter 1: ", "is nested deeper than"),
    ],
)  # fmt: skip
def test_what_aws_refuses_names_its_place(pattern: str, where: str, why: str) -> None:
    with pytest.raises(
        ConfigurationError, match=rf"(?s)^Invalid filter pattern definition: filter 1: .*{where.removeprefix('filter 1: ')}.*{why}"
    ):
        compile_filters([pattern])


def test_the_limits() -> None:
    longest = '{"data":{"a":["%s"]}}' % ("x" * (4096 - 19))
    assert len(longest) == 4096
    assert compile_filters([longest]).matches(b'{"a":"%s"}' % (b"x" * (4096 - 19)))
    with pytest.raises(ConfigurationError, match=r"filter 2: 4,097 characters; 4,096 are allowed"):
        compile_filters(['{"data":{"a":[1]}}', longest + " "])
    one: dict[str, Any] = {"data": {"a": [1]}}
    compile_filters([one] * 5)
    with pytest.raises(ConfigurationError, match="6 filters: a mapping takes at most 5, or 10 with a raised quota"):
        compile_filters([one] * 6)
    compile_filters([one] * 10, filters_max=10)
    with pytest.raises(ConfigurationError, match="11 filters: a mapping takes at most 10"):
        compile_filters([one] * 11, filters_max=10)
    for bad in (0, 11, True, "5"):
        with pytest.raises(ConfigurationError, match="from 1 to 10"):
            compile_filters([one], filters_max=bad)  # type: ignore[arg-type]
    deep: Any = [1]
    for _ in range(PATTERN_DEPTH_MAX):
        deep = {"a": deep}
    assert compile_filters([{"data": deep}]).matches(b'{"a":' * PATTERN_DEPTH_MAX + b"1" + b"}" * PATTERN_DEPTH_MAX)
    with pytest.raises(ConfigurationError, match="nested deeper"):
        compile_filters([{"data": {"a": deep}}])


@pytest.mark.parametrize("bad", ["x", {"data": {"a": [1]}}, None, 5])
def test_filters_are_a_list(bad: Any) -> None:
    with pytest.raises(ConfigurationError, match="give a list of patterns"):
        compile_filters(bad)


@pytest.mark.parametrize("bad", [None, 5, b'{"data":{"a":[1]}}', {"data": {"a": {1, 2}}}, {"data": {"a": [float("nan")]}}])
def test_a_pattern_is_text_or_a_dict(bad: Any) -> None:
    with pytest.raises(ConfigurationError, match="Invalid filter pattern definition: filter 1: "):
        compile_filters([bad])


# ── hostile data ─────────────────────────────────────────────────────────────────────────────────────────────────

# Most of them would pass `a` in ["x"], absence of `b`, or anything but "q", were they JSON.
NOT_JSON = [
    b"", b" ", b"x", b"\xff", b"\xef\xbb\xbf{}", b'{"a":"x"', b'{"a":"x"} {}', b'{"a":"x",}', b'{"a":"x","c":NaN}', b"NaN",
    b'{"a":"x","c":01}', b'{"a":"x","c":1.}', b'{"a":"x","c":"\xff"}', b'{"a":"x","c":"\xed\xa0\x80"}', b'{"a":"x","c":"\x01"}',
    b'{"a":"x","c":"\\q"}', b'{"a":"x","c":"\\ud800"}', b"{'a':'x'}", b'{"a":"x"}\x00', b'{"a":"x","c":tru}', b'\x00', b'{"a":"x"',
    b'{"a":"x","c":[1 2]}', b'{"a":"\xff"}', '{"a":"x"}'.encode("utf-16"), b'["x', b'[{"a":"x"}', b"{" * 3000,
]  # fmt: skip


@pytest.mark.parametrize("data", NOT_JSON)
def test_what_is_not_json_passes_no_filter(data: bytes) -> None:
    for criteria in (leaf("x"), leaf({"anything-but": "q"}), compile_filters([{"data": {"b": [{"exists": False}]}}])):
        assert criteria.matches(data) is False


@pytest.mark.parametrize(
    "data",
    [
        b"[" * 100_000,
        b'{"a":' * 100_000,
        b'{"a":' + b"[" * 100_000 + b"]" * 100_000 + b"}",
        b'{"c":' + b"[" * 100_000 + b"]" * 100_000 + b"}",
        b'{"a":' + b"[" * 500 + b'"y"' + b"]" * 500 + b"}",
        b'{"a":' + b"9" * 1_000_000 + b"}",
        b'{"a":-' + b"9" * 1_000_000 + b"e999999999999}",
        b'{"a":1e-999999999}',
        b'{"a":"' + b"\\u0061" * 100_000 + b'"}',
    ],
    ids=lambda data: repr(data[:12]),
)
def test_hostile_data_does_not_raise(data: bytes) -> None:
    for items in (["x"], [{"numeric": [">", 1]}], [{"prefix": "x"}], [5], [{"equals-ignore-case": "x"}]):
        assert leaf(*items).matches(data) is False
    compile_filters([{"data": {"a": {"b": ["x"]}}}]).matches(data)


def test_arrays_are_opened_to_a_bound() -> None:
    """Each level is parsed anew: without the bound a payload of brackets would cost its length times its depth."""

    def nested(depth: int) -> bytes:
        return b'{"a":' + b"[" * depth + b'"x"' + b"]" * depth + b"}"

    assert leaf("x").matches(nested(ARRAY_NESTING_MAX))
    assert not leaf("x").matches(nested(ARRAY_NESTING_MAX + 1))


@given(st.binary(max_size=60))
@example(b"[]")
@example(b"{}")
def test_any_bytes(data: bytes) -> None:
    criteria = compile_filters([{"data": {"a": [{"exists": False}], "b": {"c": [{"exists": False}]}}}])
    try:
        json.loads(data.decode(), parse_constant=lambda _: 1 / 0)
        good = b"\\ud" not in data.lower()
    except (ValueError, ZeroDivisionError, RecursionError):
        good = False
    if not good:
        assert not criteria.matches(data)
    elif data[:1] not in b'{["':
        assert criteria.matches(data)


# ── a naive second reading ───────────────────────────────────────────────────────────────────────────────────────


class Text(str):
    """A number, as it is written."""

    __slots__ = ()


def flat(value: list[Any]) -> list[Any]:
    return [leaf for item in value for leaf in (flat(item) if isinstance(item, list) else [item])]


def scalar_holds(item: Any, value: Any) -> bool:
    number = float(value) if isinstance(value, Text) and abs(float(value)) <= BIG else None
    text = value if isinstance(value, str) and not isinstance(value, Text) else None
    if not isinstance(item, dict):
        return type(item) is type(value) and item == value
    ((operator, operand),) = item.items()
    match operator:
        case "exists":
            return bool(operand)
        case "anything-but":
            excluded = operand if isinstance(operand, list) else [operand]
            if isinstance(excluded[0], Text):
                return number is None or all(abs(number - float(one)) > 1e-7 for one in excluded)
            return text not in excluded
        case "prefix" | "suffix":
            if text is None:
                return False
            if isinstance(operand, dict):
                operand, text = operand["equals-ignore-case"].lower(), text.lower()
            return text.find(operand) == 0 if operator == "prefix" else text[max(0, len(text) - len(operand)) :] == operand
        case "equals-ignore-case":
            return text is not None and text.lower() == operand.lower()
        case "numeric":
            checks = {"=": "__eq__", "<": "__lt__", "<=": "__le__", ">": "__gt__", ">=": "__ge__"}
            return number is not None and all(
                getattr(round(number, 6), checks[op])(float(bound)) for op, bound in zip(operand[::2], operand[1::2], strict=True)
            )
    raise AssertionError(operator)


def only_absence(pattern: Any) -> bool:
    if isinstance(pattern, list):
        return all(item == {"exists": False} for item in pattern)
    return all(
        all(map(only_absence, value)) if key == "$or" else only_absence(value) for key, value in pattern.items()
    )  # fmt: skip


def holds(pattern: Any, value: Any) -> bool:
    """`...` is a value that is not there."""
    if isinstance(pattern, list):
        scalars = [one for one in flat([value]) if one is not ... and not isinstance(one, dict)]
        return any(scalar_holds(item, one) for item in pattern for one in scalars) or (not scalars and {"exists": False} in pattern)
    if isinstance(value, list) and any(isinstance(one, dict) for one in flat(value)):
        objects = [one for one in flat(value) if isinstance(one, dict)]
        if pattern.keys() == {"$or"}:
            return any(holds(part, value) for part in pattern["$or"])
        return (all if only_absence(pattern) else any)(holds(pattern, one) for one in objects)
    fields = value if isinstance(value, dict) else {}
    return all(
        any(holds(part, fields) for part in inner) if key == "$or" else holds(inner, fields.get(key, ...))
        for key, inner in pattern.items()
    )  # fmt: skip


KEYS = st.sampled_from(["a", "b", "c\n"])
TEXTS = st.sampled_from(["", "x", "X", "xy", "yx", 'q"\\/é', "5", "null"])
NUMBERS = st.sampled_from(["0", "-0", "5", "5.0", "5e0", "50E-1", "-7.5", "7.5", "5000000000", "5e9", "6e9", "1e400", "0.1234567"])
SMALL_NUMBERS = NUMBERS.filter(lambda text: abs(float(text)) <= BIG)
STRINGS = TEXTS.map(json.dumps) | TEXTS.map(lambda text: json.dumps(text, ensure_ascii=False).replace("/", "\\/")) | TEXTS.map(
    lambda text: '"' + "".join(f"\\u{ord(c):04x}" for c in text) + '"'
)  # fmt: skip
SCALARS = STRINGS | NUMBERS | st.sampled_from(["true", "false", "null"])


def an_object(values: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    return st.dictionaries(KEYS, values, max_size=3).map(
        lambda d: "{" + " , ".join(f"{json.dumps(key)} :{value}" for key, value in d.items()) + "}"
    )  # fmt: skip


VALUES = st.recursive(
    SCALARS, lambda inner: st.lists(inner, max_size=3).map(lambda items: "[" + ",".join(items) + "]") | an_object(inner), max_leaves=8
)


def quoted(name: str, operand: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    return operand.map(lambda text: f'{{"{name}":{text}}}')


def a_range(bounds: list[str]) -> str:
    low, high = sorted(bounds, key=float)
    return f'[">",{low},"<=",{high}]'


ITEMS = (
    SCALARS
    | quoted("exists", st.sampled_from(["true", "false"]))
    | quoted("prefix", STRINGS | quoted("equals-ignore-case", STRINGS))
    | quoted("suffix", STRINGS | quoted("equals-ignore-case", STRINGS))
    | quoted("equals-ignore-case", STRINGS)
    | quoted("anything-but", STRINGS | SMALL_NUMBERS | st.lists(STRINGS, min_size=1, max_size=2).map(lambda s: f"[{','.join(s)}]"))
    | quoted("anything-but", st.lists(SMALL_NUMBERS, min_size=1, max_size=2).map(lambda s: f"[{','.join(s)}]"))
    | quoted("numeric", st.tuples(st.sampled_from(["=", "<", "<=", ">", ">="]), SMALL_NUMBERS).map(lambda t: f'["{t[0]}",{t[1]}]'))
    | quoted("numeric", st.lists(SMALL_NUMBERS, min_size=2, max_size=2, unique_by=float).map(a_range))
)
LEAVES = st.lists(ITEMS, min_size=1, max_size=3).map(lambda items: "[" + ",".join(items) + "]")


def a_pattern(inner: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    plain = st.dictionaries(KEYS, inner, min_size=1, max_size=2).map(lambda d: {json.dumps(key): value for key, value in d.items()})
    with_or = st.tuples(st.lists(plain.map(joined), min_size=2, max_size=3), st.just({}) | plain).map(
        lambda t: {**t[1], '"$or"': "[" + ",".join(t[0]) + "]"}
    )
    return (plain | with_or).map(joined)


def joined(members: dict[str, str]) -> str:
    return "{" + ",".join(f"{key}:{value}" for key, value in members.items()) + "}"


PATTERNS = a_pattern(LEAVES | a_pattern(LEAVES | a_pattern(LEAVES))).filter(lambda text: len(text) < 4000)


def parsed(text: str) -> Any:
    return json.loads(text, parse_int=Text, parse_float=Text)


@settings(max_examples=80)
@given(st.lists(PATTERNS, min_size=1, max_size=3), st.lists(an_object(VALUES) | VALUES, min_size=1, max_size=4))
def test_the_naive_reading_agrees(patterns: list[str], payloads: list[str]) -> None:
    """Parse everything, walk everything: the same verdicts as of the decoders that skip, the prefilter and the raw tokens."""
    criteria = compile_filters([f'{{"data":{pattern}}}' for pattern in patterns])
    for payload in payloads:
        value = parsed(payload)
        assert criteria.matches(payload.encode()) == any(holds(parsed(pattern), value) for pattern in patterns), payload
