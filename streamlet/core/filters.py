"""Does a record pass the filter criteria? The event source mapping's pattern language, on the bytes of a payload.

How to think about it. A pattern has the shape of the data that it wants: objects in it stand for objects, and at each leaf is a
list of values and operators, of which one must hold. Keys of an object are ANDed, items of a list ORed, filters of the
criteria ORed, and `$or` ORs objects at one place.

    leaf item                                            holds for
    "text", 300, true, false, null                       the same value. Numbers by their text: 300, 300.0 and 3.0e2 differ
    {"anything-but": "x" | 5 | [of one kind]}            a scalar that is none of these. Numbers by value
    {"numeric": ["=", n]}, {"numeric": [">", a, "<=", b]}  a number, by value
    {"prefix": "x"}, {"suffix": "x"}                     a string
    {"equals-ignore-case": "x"}                          a string
    {"prefix" | "suffix": {"equals-ignore-case": "x"}}   a string
    {"exists": true | false}                             there is (not) a scalar at this key

What AWS refuses when a mapping is made is refused here when the criteria are built, with its place in the pattern. Data never
raises: what is not JSON in UTF-8 passes no filter.

How it is fast. The bytes are not turned into objects: for each object of the pattern there is a decoder that picks the keys
which the pattern names, as raw bytes, and skips the rest. That also keeps the text of numbers. Before anything is parsed, a
record in which a required value does not occur as bytes is dropped (unless it has escapes, with which it could be hidden).

Sources: Lambda developer guide (invocation-eventfiltering, with-kinesis-filtering); EventBridge user guide
(eb-create-pattern-operators: operators that pipes have, and pipes and mappings share a filter); for arrays and for what is no
valid pattern, the open source of EventBridge's engine (aws/event-ruler). CHOICES where Lambda is silent:

- Arrays in the data. A leaf holds if any scalar in the array does, arrays within arrays included (to `ARRAY_NESTING_MAX`).
  An object of the pattern holds if it holds as a whole for one object in the array; one that asks only for absence must hold
  for each of them. So far as event-ruler. Where a key stands both beside `$or` and inside it, each is judged by itself.
- `anything-but` holds for scalars of every type, null and booleans too; for an array if it holds for one scalar in it.
- `numeric` and numbers of `anything-but` compare to six decimals, within ±5e9 (EventBridge). Larger ones in data are no match.
- A pattern's object at a place where the data has a scalar, or nothing, meets no fields: only `exists: false` holds there.
- `$or` is the operator if it has two or more objects, none of which uses an operator's name as key; else it is an ordinary key.
- Case is ignored by lower-casing both sides. Lone surrogates, and numbers that are no JSON, make a payload "not JSON".
- Nesting of a pattern is bounded by `PATTERN_DEPTH_MAX`. EventBridge's bound on combinations of `$or` is not checked.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from operator import attrgetter
from typing import Any, Final, NoReturn

import msgspec

from streamlet.errors import ConfigurationError

__all__ = [
    "FILTERS_MAX",
    "FILTERS_QUOTA_MAX",
    "PATTERN_CHARS_MAX",
    "FilterCriteria",
    "compile_filters",
    "patterns_of_criteria",
]

FILTERS_MAX: Final = 5
FILTERS_QUOTA_MAX: Final = 10  # AWS raises the quota to this on request
PATTERN_CHARS_MAX: Final = 4096
PATTERN_DEPTH_MAX: Final = 64
ARRAY_NESTING_MAX: Final = 16
NUMBER_MAX: Final = 5_000_000_000
_DECIMALS: Final = 1_000_000  # six of them

_OPERATORS: Final = ("anything-but", "equals-ignore-case", "exists", "numeric", "prefix", "suffix")
# Operators of event buses that the filter of pipes and mappings does not have.
_BUS_ONLY: Final = frozenset({"wildcard", "cidr"})
# Keys that event-ruler reserves inside $or.
_RESERVED: Final = frozenset(
    {*_OPERATORS, *_BUS_ONLY, "exactly", "=", "<", "<=", ">", ">=", "regex", "not-wildcard", "not-equals-ignore-case"}
    | {"date-after", "date-on-or-after", "date-before", "date-on-or-before", "in-date-range"}
    | {"ip-address-in-range", "ip-address-not-in-range"}
)

_QUOTE, _OBJECT, _ARRAY, _BACKSLASH = 0x22, 0x7B, 0x5B, b"\\"
_NUMBER_STARTS: Final = frozenset(b"-0123456789")
_NEEDLES_MAX: Final = 4

_decode_list: Final = msgspec.json.Decoder(list[msgspec.Raw]).decode
_decode_text: Final = msgspec.json.Decoder(str).decode
_decode_raw: Final = msgspec.json.Decoder(msgspec.Raw).decode
_encode: Final = msgspec.json.encode

_Value = Any  # msgspec.Raw, or UNSET where the data has no such key
_Test = Callable[[Any], bool]


class _Number(str):
    """A number of the pattern, as it is written there."""

    __slots__ = ()


class _Rule(msgspec.Struct, frozen=True):
    """One compiled part. `test` takes the fields of an object, or a value. `only_absence`: it asks for nothing to be there.
    `needles`: one of these stands in every payload that passes, unless the payload has escapes. Empty: not known.
    `alternatives`: of an OR; over the objects of an array each of them is judged by itself."""

    test: _Test
    only_absence: bool = False
    needles: tuple[bytes, ...] = ()
    alternatives: tuple[_Rule, ...] = ()


class FilterCriteria:
    """Compiled filters. Made by `compile_filters`; equal if the patterns are. Safe for several threads."""

    __slots__ = ("_decode", "_needles", "_test", "patterns")

    patterns: tuple[str, ...]

    def __init__(self, patterns: tuple[str, ...], test: _Test, needles: tuple[bytes, ...]) -> None:
        self.patterns = patterns
        self._test, self._needles = test, needles

    def matches(self, data: bytes | memoryview) -> bool:
        """Does a payload (after base64, and after de-aggregation where that applies) pass? Never raises on any bytes."""
        if not self.patterns:
            return True
        if not isinstance(data, bytes):
            data = bytes(data)
        if self._needles:
            for needle in self._needles:
                if needle in data:
                    break
            else:
                if _BACKSLASH not in data:
                    return False
        try:
            if not data.isascii():
                str(data, "utf-8")  # what is skipped over is not checked when it is parsed
            # An object, as nearly always, is checked as a whole by the decoder that picks its keys.
            return self._test(data if data[:1] == b"{" else _decode_raw(data))
        except (ValueError, RecursionError):  # msgspec's errors, and UnicodeDecodeError, are ValueErrors
            return False

    def __eq__(self, other: object) -> bool:
        return isinstance(other, FilterCriteria) and self.patterns == other.patterns

    def __hash__(self) -> int:
        return hash(self.patterns)

    def __repr__(self) -> str:
        return f"FilterCriteria({', '.join(self.patterns)})"


def compile_filters(patterns: Sequence[str | Mapping[str, Any]], *, filters_max: int = FILTERS_MAX) -> FilterCriteria:
    """Filters from their patterns: JSON text, or the same as Python values. No pattern at all lets everything pass, as with AWS.

    `filters_max`: 5, or up to 10 if AWS raised your quota. Raises ConfigurationError, naming the place, for what AWS refuses.
    """
    if isinstance(patterns, str | bytes | Mapping) or not isinstance(patterns, Sequence):
        raise ConfigurationError(f"filters={patterns!r}: give a list of patterns, each as JSON text or as a dict")
    if isinstance(filters_max, bool) or not isinstance(filters_max, int) or not 1 <= filters_max <= FILTERS_QUOTA_MAX:
        raise ConfigurationError(f"filters_max={filters_max!r}: must be a whole number from 1 to {FILTERS_QUOTA_MAX}")
    if len(patterns) > filters_max:
        more = f", or {FILTERS_QUOTA_MAX} with a raised quota" if filters_max == FILTERS_MAX else ""
        raise ConfigurationError(f"{len(patterns)} filters: a mapping takes at most {filters_max}{more}; join some with $or")
    texts = tuple(_text_of(pattern, f"filter {number}") for number, pattern in enumerate(patterns, 1))
    level = _Level()
    rules = [_top(_parsed(text, f"filter {number}"), level, f"filter {number}", 1) for number, text in enumerate(texts, 1)]
    if not rules:
        return FilterCriteria((), _never, ())
    whole = _any(rules)
    return FilterCriteria(texts, level.over(whole), whole.needles)


def patterns_of_criteria(document: str | Mapping[str, Any]) -> list[str]:
    """The patterns of AWS's own form, `{"Filters": [{"Pattern": "…"}]}`, as text or parsed. Raises ConfigurationError."""
    try:
        criteria = json.loads(document) if isinstance(document, str) else document
    except (ValueError, RecursionError) as error:
        raise ConfigurationError(f"the filter criteria are no JSON ({error}); " + _CRITERIA_FORM) from error
    if not isinstance(criteria, Mapping) or not criteria.keys() <= {"Filters"}:
        raise ConfigurationError(f"filter criteria {criteria!r}: " + _CRITERIA_FORM)
    filters = criteria.get("Filters", [])
    if not isinstance(filters, list) or not all(
        isinstance(one, Mapping) and one.keys() == {"Pattern"} and isinstance(one["Pattern"], str) for one in filters
    ):
        raise ConfigurationError(f"filter criteria {criteria!r}: " + _CRITERIA_FORM)
    return [one["Pattern"] for one in filters]


_CRITERIA_FORM: Final = """the form is {"Filters": [{"Pattern": "{\\"data\\": {\\"key\\": [\\"value\\"]}}"}]}"""


# ── reading a pattern ────────────────────────────────────────────────────────────────────────────────────────────


def _refuse(where: str, why: str) -> NoReturn:
    # The first words are AWS's whole answer; the rest says what it does not say. A lone surrogate could not be printed.
    message = f"Invalid filter pattern definition: {where}: {why}"
    raise ConfigurationError(message.encode("utf-8", "backslashreplace").decode())


def _text_of(pattern: object, where: str) -> str:
    if isinstance(pattern, Mapping):
        try:
            pattern = json.dumps(pattern, allow_nan=False, ensure_ascii=False, separators=(",", ":"))
        except (TypeError, ValueError, RecursionError) as error:
            _refuse(where, f"cannot be written as JSON ({error})")
    if not isinstance(pattern, str):
        _refuse(where, f"{pattern!r} is no pattern; give JSON text, or a dict")
    if len(pattern) > PATTERN_CHARS_MAX:
        _refuse(where, f"{len(pattern):,} characters; {PATTERN_CHARS_MAX:,} are allowed, so split it into several filters")
    return pattern


def _parsed(text: str, where: str) -> Any:
    try:
        text.encode()
        # Of a key that stands twice in an object the last one wins (the guide), as in Python's dictionaries.
        return json.loads(text, parse_int=_Number, parse_float=_Number, parse_constant=_no_constant)
    except RecursionError:
        _too_deep(where)
    except ValueError as error:
        _refuse(where, f"is not valid JSON ({error})")


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is no JSON")


def _too_deep(where: str) -> NoReturn:
    _refuse(where, f"is nested deeper than {PATTERN_DEPTH_MAX} levels; match on fewer")


def _top(pattern: Any, level: _Level, where: str, depth: int) -> _Rule:
    """The outermost object, whose keys are properties of a Kinesis record: only `data` is left of them today."""
    if depth > PATTERN_DEPTH_MAX:
        _too_deep(where)
    if not isinstance(pattern, dict):
        _refuse(where, 'a pattern is an object, as in {"data": {"key": ["value"]}}')
    if not pattern:
        _refuse(where, 'empty objects are not allowed; ask for something, as in {"data": {"key": ["value"]}}')
    rules = []
    for key, value in pattern.items():
        if key == "data":
            if not isinstance(value, dict):
                _refuse(f"{where}: data", 'must be an object in the shape of the JSON payload, as in {"key": ["value"]}')
            rules.append(_object(value, level, f"{where}: data", 1, in_or=False))
        elif key == "$or" and isinstance(value, list):
            if len(value) < 2:
                _refuse(f"{where}: $or", "needs two objects or more")
            rules.append(_any([_top(item, level, f"{where}: $or[{index}]", depth + 1) for index, item in enumerate(value)]))
        else:
            _refuse(f"{where}: {key}", "a Kinesis record is filtered by its payload alone; put what you match on under data")
    return _all(rules)


def _object(pattern: dict[str, Any], level: _Level, where: str, depth: int, *, in_or: bool) -> _Rule:
    if depth > PATTERN_DEPTH_MAX:
        _too_deep(where)
    if not pattern:
        _refuse(where, 'empty objects are not allowed; to ask that a key is there, write {"key": [{"exists": true}]}')
    rules = []
    for key, value in pattern.items():
        here = f"{where}.{key}"
        if key == "$or" and _is_relation(value):
            rules.append(_any([_object(item, level, f"{here}[{index}]", depth + 1, in_or=True) for index, item in enumerate(value)]))
            continue
        if in_or and key in _RESERVED:
            _refuse(here, "is a word of the pattern language, which cannot be a key inside $or; use a filter of its own")
        if isinstance(value, dict):
            inner = _Level()
            whole = _object(value, inner, here, depth + 1, in_or=in_or)
            rule = _Rule(inner.over(whole), whole.only_absence, whole.needles)
        elif isinstance(value, list):
            rule = _leaf(value, here)
        else:
            _refuse(here, f"must be an object or a list; write [{_shown(value)}] to ask for this value")
        rules.append(level.at(key, rule, here))
    return _all(rules)


def _is_relation(value: Any) -> bool:
    return isinstance(value, list) and len(value) >= 2 and all(isinstance(item, dict) and not item.keys() & _RESERVED for item in value)


def _shown(value: Any) -> str:
    if isinstance(value, list):
        return f"[{', '.join(map(_shown, value))}]"
    return str(value) if isinstance(value, _Number) else json.dumps(value, ensure_ascii=False)


# ── putting rules together ───────────────────────────────────────────────────────────────────────────────────────


def _all(rules: list[_Rule]) -> _Rule:
    if len(rules) == 1:
        return rules[0]
    tests = tuple(rule.test for rule in rules)

    def test(fields: Any) -> bool:
        for one in tests:  # noqa: SIM110  twice as fast as all(…), on the hot path
            if not one(fields):
                return False
        return True

    # The sharpest of those that are known: fewest to look for, then the longest.
    known = [rule.needles for rule in rules if rule.needles]
    needles = min(known, key=lambda found: (len(found), -min(map(len, found)))) if known else ()
    return _Rule(test, all(rule.only_absence for rule in rules), needles)


def _any(rules: list[_Rule]) -> _Rule:
    if len(rules) == 1:
        return rules[0]
    tests = tuple(rule.test for rule in rules)

    def test(fields: Any) -> bool:
        for one in tests:  # noqa: SIM110  twice as fast as any(…), on the hot path
            if one(fields):
                return True
        return False

    known = all(rule.needles for rule in rules)
    needles = tuple(dict.fromkeys(needle for rule in rules for needle in rule.needles)) if known else ()
    return _Rule(test, all(rule.only_absence for rule in rules), needles if len(needles) <= _NEEDLES_MAX else (), tuple(rules))


class _Level:
    """One object of the data: the keys that the pattern names there, and the decoder that picks them."""

    def __init__(self) -> None:
        self._attributes: dict[str, str] = {}

    def at(self, key: str, rule: _Rule, where: str) -> _Rule:
        """The rule for the value of `key` as a rule for the object's fields."""
        try:
            key.encode()
        except UnicodeEncodeError:
            _refuse(where, "a lone surrogate is no text")
        fetch, on_value = attrgetter(self._attributes.setdefault(key, f"k{len(self._attributes)}")), rule.test
        return _Rule(lambda fields: on_value(fetch(fields)), rule.only_absence, rule.needles)

    def over(self, rule: _Rule) -> _Test:
        """From a rule for an object's fields to a test of the value where the object should be."""
        decode, nothing = self._decoder()
        test_fields = rule.test
        if_absent = test_fields(nothing)
        alternatives = rule.alternatives or (rule,)

        def test_value(value: _Value) -> bool:
            if value is msgspec.UNSET:
                return if_absent
            first = memoryview(value)[0]
            if first == _OBJECT:
                return test_fields(decode(value))
            if first != _ARRAY:
                return if_absent
            objects = [decode(item) for item in _items(value, 1) if memoryview(item)[0] == _OBJECT]
            if not objects:
                return if_absent
            return any((all if one.only_absence else any)(map(one.test, objects)) for one in alternatives)

        return test_value

    def _decoder(self) -> tuple[Callable[[Any], Any], Any]:
        """Picks the fields of an object; and the fields of an object that has none of them."""
        plain = all(key.isprintable() and not {'"', "\\"} & set(key) for key in self._attributes)
        fields_type = msgspec.defstruct(
            "Fields",
            [
                (name, msgspec.Raw, msgspec.field(default=msgspec.UNSET, name=key if plain else None))
                for key, name in self._attributes.items()
            ],
            frozen=True,
            gc=False,
        )
        if plain:
            return msgspec.json.Decoder(fields_type).decode, fields_type()
        # msgspec does not take such names for fields: slower, through a dictionary.
        every = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode
        attributes = self._attributes

        def decode(value: Any) -> Any:
            found = every(value)
            return fields_type(**{name: found[key] for key, name in attributes.items() if key in found})

        return decode, fields_type()


def _never(_: Any) -> bool:
    return False


def _items(array: Any, depth: int) -> Iterator[Any]:
    """What is in an array, arrays within it opened. Each level is parsed anew, hence the bound: hostile nesting stays linear."""
    for item in _decode_list(array):
        if memoryview(item)[0] != _ARRAY:
            yield item
        elif depth < ARRAY_NESTING_MAX:
            yield from _items(item, depth + 1)


# ── leaves ───────────────────────────────────────────────────────────────────────────────────────────────────────

# A test of one scalar: its JSON text, and for a string its characters, else None.
_ScalarTest = Callable[[bytes, str | None], bool]


def _leaf(items: list[Any], where: str) -> _Rule:
    """The list at a key: of its items one must hold for the value there, or for one scalar of the array there."""
    if not items:
        _refuse(where, 'empty lists are not allowed; to ask that the key is there, write [{"exists": true}]')
    tokens: set[bytes] = set()
    tests: list[_ScalarTest] = []
    present = absent = False
    for index, item in enumerate(items):
        here = f"{where}[{index}]"
        if isinstance(item, dict):
            operator, operand = _operator(item, here)
            if operator == "exists":
                if not isinstance(operand, bool):
                    _refuse(here, f"exists match pattern must be either true or false, not {_shown(operand)}")
                present, absent = present or operand, absent or not operand
            else:
                tests.append(_OPERATIONS[operator](operand, here))
        elif isinstance(item, list):
            _refuse(here, "match value must be a string, number, true, false, null or an operator, not a list")
        else:
            tokens.add(_token(item, here))
    # Only plain values can be looked for before parsing. `null` and the like are too common to tell records apart.
    sought = tuple(sorted(tokens)) if not tests and not present and not absent else ()
    if len(sought) > _NEEDLES_MAX or any(token in {b"null", b"true", b"false"} for token in sought):
        sought = ()
    only_absence = absent and not (tokens or tests or present)
    return _Rule(_leaf_test(frozenset(tokens), tuple(tests), present=present, absent=absent), only_absence, sought)


def _leaf_test(tokens: frozenset[bytes], tests: tuple[_ScalarTest, ...], *, present: bool, absent: bool) -> _Test:
    def holds(token: bytes) -> bool:
        if present or token in tokens:
            return True
        if token[0] != _QUOTE:
            return any(test(token, None) for test in tests)
        if not tests and _BACKSLASH not in token:
            return False
        text = _decode_text(token)
        return _encode(text) in tokens or any(test(token, text) for test in tests)

    def test_value(value: _Value) -> bool:
        if value is msgspec.UNSET:
            return absent
        first = memoryview(value)[0]
        if first == _OBJECT:
            return absent  # no leaf stands here
        if first != _ARRAY:
            return holds(bytes(value))
        nothing = True
        for item in _items(value, 1):
            if memoryview(item)[0] != _OBJECT:
                if holds(bytes(item)):
                    return True
                nothing = False
        return absent and nothing

    return test_value


def _operator(item: dict[str, Any], where: str) -> tuple[str, Any]:
    if not item:
        _refuse(where, f"match expression name not found; use one of {', '.join(_OPERATORS)}")
    if len(item) > 1:
        _refuse(where, f"only one key is allowed in a match expression, not {', '.join(item)}; list them one by one")
    operator, operand = next(iter(item.items()))
    if operator in _BUS_ONLY:
        _refuse(f"{where}.{operator}", f"event buses have it, event source mappings do not; use one of {', '.join(_OPERATORS)}")
    if operator not in _OPERATORS:
        _refuse(f"{where}.{operator}", f"unrecognized match type; use one of {', '.join(_OPERATORS)}")
    return operator, operand


def _token(item: Any, where: str) -> bytes:
    """The JSON text that a scalar of the data has if it is equal to this one, and has no escapes that it could do without."""
    if isinstance(item, _Number):
        return item.encode()
    try:
        return _encode(item)
    except ValueError:
        _refuse(where, "a lone surrogate is no text")


def _string(operand: Any, operator: str, where: str) -> str:
    if isinstance(operand, _Number) or not isinstance(operand, str):
        _refuse(f"{where}.{operator}", f"must be a string, not {_shown(operand)}")
    _token(operand, where)
    return operand


def _affix(operator: str) -> Callable[[Any, str], _ScalarTest]:
    def build(operand: Any, where: str) -> _ScalarTest:
        ignore_case = isinstance(operand, dict)
        if ignore_case:
            if operand.keys() != {"equals-ignore-case"}:
                _refuse(f"{where}.{operator}", 'must be a string, or {"equals-ignore-case": "…"}')
            operand = operand["equals-ignore-case"]
        affix = _string(operand, operator, where)
        check = str.startswith if operator == "prefix" else str.endswith
        if not ignore_case:
            return lambda _, text: text is not None and check(text, affix)
        lower = affix.lower()
        return lambda _, text: text is not None and check(text.lower(), lower)

    return build


def _ignore_case(operand: Any, where: str) -> _ScalarTest:
    lower = _string(operand, "equals-ignore-case", where).lower()
    return lambda _, text: text is not None and text.lower() == lower


def _anything_but(operand: Any, where: str) -> _ScalarTest:
    here = f"{where}.anything-but"
    if isinstance(operand, dict):
        _refuse(here, "event buses take operators here, event source mappings take strings or numbers; list the values")
    values = operand if isinstance(operand, list) else [operand]
    if not values:
        _refuse(here, "an empty list excludes nothing; name what is excluded")
    if all(isinstance(value, _Number) for value in values):
        numbers = frozenset(_pattern_number(value, here) for value in values)
        return lambda token, _: _number(token) not in numbers
    if all(isinstance(value, str) and not isinstance(value, _Number) for value in values):
        texts = frozenset(_string(value, "anything-but", where) for value in values)
        return lambda _, text: text not in texts
    _refuse(here, f"must be a string, a number, or a list of strings only or numbers only, not {_shown(operand)}")


def _numeric(operand: Any, where: str) -> _ScalarTest:
    here = f"{where}.numeric"
    if not isinstance(operand, list) or len(operand) not in {2, 4}:
        _refuse(here, 'must be a list such as ["=", 5], [">", 0] or [">=", 0, "<", 10]')
    for operator, bound in zip(operand[::2], operand[1::2], strict=True):
        if isinstance(operator, _Number) or operator not in ("=", "<", "<=", ">", ">="):
            _refuse(here, f"unrecognized operator {_shown(operator)}; use one of = < <= > >=")
        if not isinstance(bound, _Number):
            _refuse(here, f"value of {operator} must be numeric, not {_shown(bound)}")
    first = _pattern_number(operand[1], here)
    low, high = -NUMBER_MAX * _DECIMALS, NUMBER_MAX * _DECIMALS
    match operand[0]:
        case "=":
            low = high = first
        case ">":
            low = first + 1
        case ">=":
            low = first
        case "<":
            high = first - 1
        case "<=":
            high = first
    if len(operand) == 4:
        if operand[0] not in {">", ">="} or operand[2] not in {"<", "<="}:
            _refuse(here, "a range is written from below: > or >= first, then < or <=")
        second = _pattern_number(operand[3], here)
        if second <= first:
            _refuse(here, f"bottom must be less than top, but {operand[1]} is not less than {operand[3]}")
        high = second - 1 if operand[2] == "<" else second

    def test(token: bytes, _: str | None) -> bool:
        number = _number(token)
        return number is not None and low <= number <= high

    return test


def _pattern_number(text: _Number, where: str) -> int:
    number = _number(text.encode())
    if number is None:
        _refuse(where, f"{text}: numbers that are compared must be between -5.0E9 and 5.0E9; use a string, or plain equality")
    return number


def _number(token: bytes) -> int | None:
    """Millionths; None for what is no number, or too large for the language."""
    if token[0] not in _NUMBER_STARTS:
        return None
    value = float(token)
    return round(value * _DECIMALS) if -NUMBER_MAX <= value <= NUMBER_MAX else None


_OPERATIONS: Final[Mapping[str, Callable[[Any, str], _ScalarTest]]] = {
    "anything-but": _anything_but,
    "equals-ignore-case": _ignore_case,
    "numeric": _numeric,
    "prefix": _affix("prefix"),
    "suffix": _affix("suffix"),
}
