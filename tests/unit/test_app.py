"""What an App accepts, and what it says about what it does not."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest

from streamlet import App, ConfigurationError, EventSourceMapping, FileDestination, HandlerError, Record
from streamlet.sinks.memory import MemorySink
from streamlet.spec import ConsumerSpec


def consumer(app: App) -> ConsumerSpec:
    (spec,) = app.consumers
    return spec


def test_options_may_come_one_by_one_or_as_one_value() -> None:
    one, two = App("one"), App("two")
    one.on_record("s", batch_size=7)(lambda record: None)
    two.on_record("s", mapping=EventSourceMapping(batch_size=7))(lambda record: None)
    assert consumer(one).mapping == consumer(two).mapping


def test_the_defaults_are_lambdas_but_nothing_is_skipped() -> None:
    mapping = EventSourceMapping()
    assert (mapping.batch_size, mapping.batching_window_s, mapping.maximum_retry_attempts, mapping.maximum_record_age_s) == (100, 0, -1, -1)
    assert (mapping.bisect_batch_on_function_error, mapping.starting_position) == (False, "TRIM_HORIZON")


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"batchsize": 5}, "did you mean batch_size"),
        ({"colour": "red"}, "known are"),
        ({"batch_size": 0}, "batch_size=0"),
        ({"batch_size": 10_001}, "10,000"),
        ({"batch_size": True}, "batch_size=True"),
        ({"batch_size": "many"}, "batch_size='many'"),
        ({"batching_window_s": 301}, "batching_window_s=301"),
        ({"parallelization_factor": 11}, "from 1 to 10"),
        ({"starting_position": "BEGINNING"}, "TRIM_HORIZON"),
        ({"starting_position": "AT_TIMESTAMP"}, "go together"),
        ({"starting_position_timestamp": 5.0}, "go together"),
        ({"maximum_retry_attempts": -2}, "maximum_retry_attempts=-2"),
        ({"maximum_record_age_s": 59}, "60"),
        ({"on_failure": "failed.jsonl", "maximum_retry_attempts": 1}, "is no destination"),
        ({"on_failure": FileDestination("f.jsonl")}, "never reached"),
    ],
)
def test_an_option_that_makes_no_sense_is_refused_when_the_app_is_built(options: dict[str, Any], says: str) -> None:
    with pytest.raises(ConfigurationError, match=says):
        App("a").on_record("s", **options)(lambda record: None)


def test_both_ways_at_once_are_refused() -> None:
    with pytest.raises(ConfigurationError, match="one of the two ways"):
        App("a").on_record("s", mapping=EventSourceMapping(), batch_size=5)(lambda record: None)


def generator(record: Record) -> Any:
    yield record


async def async_generator(record: Record) -> AsyncIterator[Record]:
    yield record


@pytest.mark.parametrize(
    ("handler", "says"),
    [
        (5, "needs a function"),
        (generator, "does not yield"),
        (async_generator, "does not yield"),
        (lambda: None, "cannot be called with one record"),
        (lambda a, b: None, "cannot be called with one record"),
    ],
)
def test_a_handler_that_is_no_handler_is_refused(handler: Any, says: str) -> None:
    with pytest.raises(HandlerError, match=says):
        App("a").on_record("s")(handler)


def test_a_stream_has_one_handler_and_a_decorator_needs_its_stream() -> None:
    app = App("a")
    app.on_record("s")(lambda record: None)
    with pytest.raises(ConfigurationError, match="already"):
        app.on_batch("s")(lambda batch: None)
    with pytest.raises(ConfigurationError, match="needs the name of a stream"):
        app.on_record(lambda record: None)  # type: ignore[arg-type]


@pytest.mark.parametrize("name", ["", "a b", "a/b"])
def test_a_name_must_do_for_a_table(name: str) -> None:
    with pytest.raises(ConfigurationError, match="App name"):
        App(name)


def test_a_sink_must_be_a_sink() -> None:
    with pytest.raises(ConfigurationError, match="is no sink"):
        App("a").deliver("s", sink="s3://bucket")  # type: ignore[arg-type]
    App("a").deliver("s", sink=MemorySink())


def test_the_environment_overrides_options(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STREAMLET_BATCH_SIZE", "42")
    monkeypatch.setenv("STREAMLET_BISECT_BATCH_ON_FUNCTION_ERROR", "true")
    app = App("a")
    app.on_record("s", batch_size=7, maximum_retry_attempts=3)(lambda record: None)
    mapping = consumer(app).mapping
    assert (mapping.batch_size, mapping.bisect_batch_on_function_error, mapping.maximum_retry_attempts) == (42, True, 3)
    assert mapping.enabled


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("STREAMLET_BATCH_SIZE", "many"),
        ("STREAMLET_BATCH_SIZE", "0"),
        ("STREAMLET_BISECT_BATCH_ON_FUNCTION_ERROR", "maybe"),
        ("STREAMLET_ENABLED", "off"),
    ],
)
def test_an_override_that_makes_no_sense_is_named(monkeypatch: pytest.MonkeyPatch, name: str, value: str) -> None:
    monkeypatch.setenv(name, value)
    with pytest.raises(ConfigurationError, match=f"(?i){name}|batch_size"):
        App("a").on_record("s")(lambda record: None)


def test_a_lifespan_is_an_async_generator_function() -> None:
    with pytest.raises(HandlerError, match="async generator"):
        App("a").lifespan(lambda app: None)  # type: ignore[arg-type,return-value]


class AClass:
    def __init__(self, batch: Any) -> None: ...


class AnAsyncGenerator:
    async def __call__(self, record: Record) -> AsyncIterator[Record]:
        yield record


@pytest.mark.parametrize(("handler", "says"), [(AClass, "is a class"), (AnAsyncGenerator(), "does not yield")])
def test_what_would_never_run_is_refused(handler: Any, says: str) -> None:
    with pytest.raises(HandlerError, match=says):
        App("a").on_batch("s")(handler)


def test_delivering_into_nothing_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="keep nothing"):
        App("a").deliver("s", sink=None)  # type: ignore[arg-type]
    with pytest.raises(ConfigurationError, match="is no sink"):
        App("a").deliver("s", sink=MemorySink)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("stream", "says"),
    [("a b", "cannot be the name"), ("arn:aws:kinesis:us-east-1:000000000000:stream/s", "not its ARN"), (3, "cannot be")],
)
def test_a_stream_is_named_by_its_name(stream: Any, says: str) -> None:
    with pytest.raises(ConfigurationError, match=says):
        App("a").on_record(stream)


@pytest.mark.parametrize(
    "options",
    [
        {"batch_size": 2.5},
        {"maximum_retry_attempts": 1.5},
        {"bisect_batch_on_function_error": "no"},
        {"enabled": "yes"},
        {"starting_position": "AT_TIMESTAMP", "starting_position_timestamp": "2020"},
        {"starting_position": "AT_TIMESTAMP", "starting_position_timestamp": float("nan")},
    ],
)
def test_values_of_the_wrong_type_are_refused(options: dict[str, Any]) -> None:
    with pytest.raises(ConfigurationError, match=list(options)[-1]):
        App("a").on_record("s", **options)(lambda record: None)
