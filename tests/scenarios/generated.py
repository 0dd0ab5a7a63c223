"""Which scenarios, beyond the recorded ones, are runtimes held to?

Small ones, drawn from a seed: at most twelve records in one to four shards, every parameter and every kind of rule, and on purpose the
combinations that are easy to get wrong. Each theme forces one of them, the rest is drawn. All of them come to an end, and none stands
on the edge of a time limit, where a little latency would change the outcome.

`depends_on` tells which readings of what the reference leaves open a scenario's outcome rests on. If a runtime differs in a scenario
that rests on none, one of the two is wrong; otherwise they may have read the reference differently.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import replace
from typing import Any, Final

from tests.scenarios.compare import NormalForm, normal
from tests.scenarios.interpreter import ALTERNATIVES, Choices, Endless, interpret
from tests.scenarios.scenarios import Mapping, Record, Rule, Scenario, Shard

__all__ = ["COUNT", "SEED", "depends_on", "generated"]

COUNT: Final = 336
SEED: Final = 20_251_125
QUIET_S: Final = 5000.0
"""Longer than any batch takes: what comes after it is no part of what was before."""

Draft = dict[str, Any]
Theme = Callable[[random.Random, Draft], None]


def generated(count: int = COUNT, seed: int = SEED) -> list[Scenario]:
    """The scenarios of a seed, the themes in turn."""
    draw = random.Random(seed)
    themes = list(THEMES.items())
    scenarios: list[Scenario] = []
    while len(scenarios) < count:
        name, theme = themes[len(scenarios) % len(themes)]
        scenario = replace(drawn(draw, theme), name=f"{len(scenarios):03} {name}", source=f"generated: seed {seed}")
        if is_fit(scenario):
            scenarios.append(scenario)
    return scenarios


def is_fit(scenario: Scenario) -> bool:
    """Whether it ends, and ends the same with some latency; and ends with partial responses, too, which every user of the SDK has."""
    outcome = _outcome(scenario, Choices())
    if _outcome(replace(scenario, mapping=replace(scenario.mapping, report=True)), Choices()) is None:
        return False
    return outcome is not None and all(outcome == _outcome(scenario, late) for late in ALTERNATIVES["latency"])


def depends_on(scenario: Scenario) -> frozenset[str]:
    """The names of the choices (`interpreter.ALTERNATIVES`) that change what happens in a scenario."""
    outcome = _outcome(scenario, Choices())
    return frozenset(name for name, others in ALTERNATIVES.items() if any(_outcome(scenario, other) != outcome for other in others))


def _outcome(scenario: Scenario, choices: Choices) -> NormalForm | None:
    try:
        return normal(scenario, interpret(scenario, choices))
    except Endless:
        return None


# --- themes: each forces what the name says


def bisect(draw: random.Random, draft: Draft) -> None:
    draft["mapping"] |= {"bisect": True, "batch_size": draw.choice([4, 5, 7, 100])}
    draft["rules"].insert(0, Rule(action="raise", on=draw.choice(draft["labels"]), times=draw.choice([None, None, 2, 4])))


def report(draw: random.Random, draft: Draft) -> None:
    draft["mapping"] |= {"report": True}
    draft["rules"].insert(0, _report(draw, draft["labels"]))


def bisect_and_report(draw: random.Random, draft: Draft) -> None:
    bisect(draw, draft)
    report(draw, draft)
    draw.shuffle(draft["rules"])


def bisect_after_a_retry(draw: random.Random, draft: Draft) -> None:
    draft["mapping"] |= {"bisect": True, "report": True, "retries": draw.choice([1, 2, 3]), "batch_size": draw.choice([3, 5, 100])}
    first = draft["labels"][0]
    draft["rules"] = [
        Rule(action="report", on=first, labels=(first,), times=1),
        Rule(action="raise", on=draw.choice(draft["labels"]), times=draw.choice([None, 3])),
    ]


def bisect_and_throttle(draw: random.Random, draft: Draft) -> None:
    bisect(draw, draft)
    draft["rules"].insert(0, Rule(action="throttle", on=draw.choice(draft["labels"]), times=draw.choice([1, 2, 3])))


def invalid_response(draw: random.Random, draft: Draft) -> None:
    draft["mapping"] |= {"report": True}
    value = draw.choice(INVALID)
    draft["rules"].insert(0, Rule(action="return", on=draw.choice(draft["labels"]), times=draw.choice([None, 1, 2]), value=value))


def mixed_response(draw: random.Random, draft: Draft) -> None:
    draft["mapping"] |= {"report": True}
    label = draw.choice(draft["labels"])
    value = {"batchItemFailures": [{"itemIdentifier": {"$sequence": label}}, {"itemIdentifier": draw.choice(["", None, "none-such"])}]}
    draft["rules"].insert(0, Rule(action="return", on=label, times=draw.choice([1, 2]), value=value))


def too_old_when_read(draw: random.Random, draft: Draft) -> None:
    draft["mapping"] |= {"max_age_s": 60}
    _stagger(draw, draft, [-200.0, -100.0, -30.0, 0.0])


def too_old_while_retrying(draw: random.Random, draft: Draft) -> None:
    draft["mapping"] |= {"max_age_s": draw.choice([60, 90]), "retries": draw.choice([-1, 2, 3, 5]), "batch_size": draw.choice([3, 100])}
    draft["mapping"] |= {"report": draw.random() < 0.4}
    draft["duration_s"] = draw.choice([20.0, 40.0, 70.0])
    _stagger(draw, draft, [-55.0, -30.0, -10.0, 0.0])
    poison = draw.choice(draft["labels"])
    draft["rules"].insert(0, Rule(action=draw.choice(["raise", "raise", "report"]), on=poison, labels=(poison,)))


def too_old_in_parts(draw: random.Random, draft: Draft) -> None:
    too_old_while_retrying(draw, draft)
    bisect(draw, draft)


def throttle(draw: random.Random, draft: Draft) -> None:
    draft["rules"].insert(0, Rule(action="throttle", on=draw.choice([None, *draft["labels"]]), times=draw.choice([1, 2, 5])))
    draft["rules"].append(Rule(action="raise", on=draw.choice(draft["labels"])))


def refusing_destination(draw: random.Random, draft: Draft) -> None:
    draft["refusals"] = draw.choice([1, 2, 3])
    draft["mapping"] |= {"retries": draw.choice([0, 1, 2])}
    draft["rules"].insert(0, Rule(action="raise", on=draw.choice(draft["labels"])))


def factor(draw: random.Random, draft: Draft) -> None:
    draft["mapping"] |= {"factor": draw.choice([2, 3]), "batch_size": draw.choice([1, 2, 3, 100])}
    draft["rules"].insert(0, Rule(action="raise", on=draw.choice(draft["labels"]), times=draw.choice([None, 1, 2])))


def factor_with_everything(draw: random.Random, draft: Draft) -> None:
    factor(draw, draft)
    draft["mapping"] |= {"bisect": True, "report": True, "passes": _passed(draw, draft["labels"])}
    draft["rules"].insert(0, _report(draw, draft["labels"]))


def filtered(draw: random.Random, draft: Draft) -> None:
    draft["mapping"] |= {"passes": _passed(draw, draft["labels"]), "batch_size": draw.choice([2, 3, 100])}


def window(draw: random.Random, draft: Draft) -> None:
    draft["mapping"] |= {"window_s": draw.choice([30, 60]), "batch_size": draw.choice([2, 3, 5, 100])}
    _stagger(draw, draft, draw.choice([[0.0, 0.0, 10.0, 20.0], [0.0, 0.0, 10.0, 20.0], [0.0, QUIET_S, QUIET_S + 10.0]]))


def bursts(draw: random.Random, draft: Draft) -> None:
    draft["mapping"] |= {"window_s": draw.choice([0, 0, 5]), "batch_size": draw.choice([2, 3, 5])}
    _stagger(draw, draft, [0.0, QUIET_S, 2 * QUIET_S])


def tumbling(draw: random.Random, draft: Draft) -> None:
    draft["mapping"] |= {"tumbling_s": 60, "factor": 1, "window_s": 0, "batch_size": draw.choice([1, 2, 3]), "retries": draw.choice([1, 2])}
    draft["mapping"] |= {"report": draw.random() < 0.6, "max_age_s": -1}
    if draft["mapping"]["report"]:
        draft["rules"].insert(0, _report(draw, draft["labels"]))
    if draw.random() < 0.2:
        draft["rules"].insert(0, Rule(action="return", on=draw.choice([None, *draft["labels"]]), times=1, value={"state": None}))
    _stagger(draw, draft, [-150.0, -90.0, -30.0, QUIET_S])


def tumbling_live(draw: random.Random, draft: Draft) -> None:
    """Windows that close while records arrive, with a batching window, ages and a filter."""
    tumbling(draw, draft)
    draft["mapping"] |= {"window_s": draw.choice([0, 5, 20, 100]), "bisect": draw.random() < 0.4, "max_age_s": draw.choice([-1, -1, 70])}
    draft["mapping"] |= {
        "passes": _passed(draw, draft["labels"]) if draw.random() < 0.3 else None,
        "batch_size": draw.choice([1, 2, 4, 100]),
    }
    _stagger(draw, draft, [-80.0, -30.0, 0.0, 10.0, 40.0, 70.0, 100.0, 150.0])
    draft["rules"].insert(0, _failing(draw, draft["labels"]))


def too_large_a_state(draw: random.Random, draft: Draft) -> None:
    draw.choice([tumbling, tumbling_live])(draw, draft)
    on = draw.choice(draft["labels"])
    draft["rules"].insert(
        draw.randint(0, len(draft["rules"])), Rule(action="grow", on=on, labels=draw.choice([(), (on,)]), times=draw.choice([None, 1, 2]))
    )
    if draw.random() < 0.5:
        draft["rules"].insert(0, Rule(action="raise", times=1))  # which a final call may be hit by, too


def crash(draw: random.Random, draft: Draft) -> None:
    draft["mapping"] |= {"factor": 1, "batch_size": draw.choice([1, 2, 3, 5, 100])}
    draft["rules"].insert(0, _failing(draw, draft["labels"]))
    draft["rules"].insert(draw.choice([0, 1]), Rule(action="crash", on=draw.choice(draft["labels"]), times=draw.choice([1, 1, 2])))


def crash_with_everything(draw: random.Random, draft: Draft) -> None:
    crash(draw, draft)
    draft["mapping"] |= {
        "bisect": True,
        "report": draw.random() < 0.7,
        "retries": draw.choice([0, 1, 2]),
        "max_age_s": draw.choice([-1, 60]),
    }
    draft["mapping"] |= {"passes": _passed(draw, draft["labels"]) if draw.random() < 0.6 else None, "window_s": draw.choice([0, 0, 5])}
    draft["refusals"] = draw.choice([0, 0, 1])
    _stagger(draw, draft, [-50.0, -30.0, 0.0, 3.0, 20.0])


def crash_in_a_window(draw: random.Random, draft: Draft) -> None:
    draw.choice([tumbling, tumbling_live, too_large_a_state])(draw, draft)
    draft["rules"].insert(0, Rule(action="crash", on=draw.choice([None, *draft["labels"]]), times=1))


def reshard(draw: random.Random, draft: Draft) -> None:
    """A split, a merge, or one after the other; anything else may come with it."""
    ages = draw.random() < 0.3
    draft["mapping"] |= {"batch_size": draw.choice([1, 2, 3, 100]), "window_s": draw.choice([0, 0, 30]), "max_age_s": 60 if ages else -1}
    draft["rules"].insert(0, _failing(draw, draft["labels"]))
    if draw.random() < 0.3:
        draft["mapping"] |= {"factor": 1}
        draft["rules"].insert(0, Rule(action="crash", on=draw.choice(draft["labels"]), times=1))
    else:
        draft["mapping"] |= {"factor": draw.choice([1, 2, 3])}
    _lineage(draw, draft)


def reshard_in_a_window(draw: random.Random, draft: Draft) -> None:
    draw.choice([tumbling, tumbling_live])(draw, draft)
    if draw.random() < 0.3:
        draft["rules"].insert(0, Rule(action="crash", on=draw.choice(draft["labels"]), times=1))
    _lineage(draw, draft)


def too_old_with_everything(draw: random.Random, draft: Draft) -> None:
    """Ages with bisect, partial responses, a filter, slots and throttles; retries may end when the age does."""
    too_old_in_parts(draw, draft)
    draft["mapping"] |= {"passes": _passed(draw, draft["labels"]), "factor": draw.choice([1, 1, 2]), "retries": draw.choice([0, 1, 2, -1])}
    draft["mapping"] |= {"report": True, "window_s": draw.choice([0, 5])}
    draft["duration_s"] = draw.choice([5.0, 15.0, 40.0])
    draft["rules"].insert(0, _report(draw, draft["labels"]))
    draft["rules"].insert(0, Rule(action="throttle", on=draw.choice(draft["labels"]), times=draw.choice([1, 3, 6])))
    draft["refusals"] = draw.choice([0, 1, 3])


def payload(draw: random.Random, draft: Draft) -> None:
    draft["records"] = [Record(label=f"r{number}", size_bytes=1_000_000) for number in range(1, draw.choice([5, 6, 8]) + 1)]
    draft["mapping"] |= {"batch_size": draw.choice([3, 5, 100]), "factor": 1}
    draft["lineage"] = None


THEMES: Final[dict[str, Theme]] = {
    "bisect": bisect,
    "report": report,
    "bisect and report": bisect_and_report,
    "bisect after a retry": bisect_after_a_retry,
    "bisect and throttle": bisect_and_throttle,
    "invalid response": invalid_response,
    "mixed response": mixed_response,
    "too old when read": too_old_when_read,
    "too old while retrying": too_old_while_retrying,
    "too old in parts": too_old_in_parts,
    "throttle": throttle,
    "refusing destination": refusing_destination,
    "factor": factor,
    "factor with everything": factor_with_everything,
    "filter": filtered,
    "window": window,
    "bursts": bursts,
    "tumbling window": tumbling,
    "tumbling, live": tumbling_live,
    "too large a state": too_large_a_state,
    "crash": crash,
    "crash with everything": crash_with_everything,
    "crash in a window": crash_in_a_window,
    "reshard": reshard,
    "reshard in a window": reshard_in_a_window,
    "too old with everything": too_old_with_everything,
    "payload bound": payload,
}

INVALID: Final[tuple[Any, ...]] = (
    {"batchItemFailures": [{"itemIdentifier": ""}]},
    {"batchItemFailures": [{"itemIdentifier": None}]},
    {"batchItemFailures": [{"foo": "1"}]},
    {"batchItemFailures": [{"itemIdentifier": 123}]},
    {"batchItemFailures": [{"itemIdentifier": "none-such"}]},
)
EMPTY: Final[tuple[Any, ...]] = ([], None, {}, "", {"batchItemFailures": []}, {"batchItemFailures": None})


# --- drawing


def drawn(draw: random.Random, theme: Theme) -> Scenario:
    """A scenario, not yet known to be fit."""
    count = draw.randint(3, 12)
    labels = [f"r{index + 1}" for index in range(count)]
    draft: Draft = {
        "labels": labels,
        "records": [Record(label=label, key=f"k{draw.randrange(4)}") for label in labels],
        "lineage": draw.choice([None, None, None, SIDE_BY_SIDE]),
        "rules": _rules(draw, labels),
        "duration_s": draw.choice([0.0, 0.0, 1.0, 3.0]),
        "refusals": draw.choice([None, 0, 0, 0, 1]),
        "mapping": {
            "batch_size": draw.choice([1, 2, 3, 4, 6, 100]),
            "factor": draw.choice([1, 1, 1, 2]),
            "bisect": draw.random() < 0.3,
            "report": draw.random() < 0.4,
            "retries": draw.choice([0, 1, 2, 3, -1]),
            "max_age_s": draw.choice([-1, -1, -1, 3600]),
            "passes": _passed(draw, labels) if draw.random() < 0.15 else None,
        },
    }
    theme(draw, draft)
    mapping = Mapping(**draft["mapping"])
    return Scenario(
        name="",
        source="",
        shards=_shards(draw, draft["records"], draft["lineage"] or ((),)),
        mapping=mapping,
        rules=tuple(draft["rules"]),
        lanes={f"k{index}": index % mapping.factor for index in range(4)},
        duration_s=draft["duration_s"],
        refusals=draft["refusals"],
    )


Lineage = tuple[tuple[int, ...], ...]
"""The parents of each shard, by their place."""
SIDE_BY_SIDE: Final[Lineage] = ((), ())
LINEAGES: Final[tuple[Lineage, ...]] = (
    ((), (0,)),
    ((), (0,), (0,)),
    ((), (), (0, 1)),
    ((), (0,), (1,)),
    ((), (), (0, 1), (2,)),
)


def _lineage(draw: random.Random, draft: Draft) -> None:
    draft["lineage"] = draw.choice([lineage for lineage in LINEAGES if len(lineage) <= len(draft["records"])])


def _shards(draw: random.Random, records: list[Record], lineage: Lineage) -> tuple[Shard, ...]:
    """The records shared out in order, at least one for each. A shard with children ends with its last record, or a little later, and
    what its children hold is not from before that."""
    cuts = sorted(draw.sample(range(1, len(records)), len(lineage) - 1))
    shares = [records[start:stop] for start, stop in zip([0, *cuts], [*cuts, len(records)], strict=True)]
    closed = {parent for parents in lineage for parent in parents}
    shards: list[Shard] = []
    for index, (share, parents) in enumerate(zip(shares, lineage, strict=True)):
        begins = max((shards[parent].ends_s or 0.0 for parent in parents), default=share[0].arrival_s)
        own = tuple(replace(record, arrival_s=max(record.arrival_s, begins)) for record in share)
        ends_s = own[-1].arrival_s + draw.choice([0.0, 7.0, 25.0]) if index in closed else None
        shards.append(Shard(name=f"s{index}", records=own, parents=tuple(f"s{parent}" for parent in parents), ends_s=ends_s))
    return tuple(shards)


def _failing(draw: random.Random, labels: list[str]) -> Rule:
    on = draw.choice(labels)
    return Rule(action=draw.choice(["raise", "raise", "report"]), on=on, labels=(on,), times=draw.choice([None, 1, 2]))


def _rules(draw: random.Random, labels: list[str]) -> list[Rule]:
    return [draw.choice(KINDS)(draw, labels) for _ in range(draw.randint(0, 2))]


def _report(draw: random.Random, labels: list[str]) -> Rule:
    named = tuple(draw.sample(labels, draw.randint(1, min(3, len(labels)))))
    return Rule(action="report", on=draw.choice([None, *named]), labels=named, times=draw.choice([None, 1, 2]))


KINDS: Final[tuple[Callable[[random.Random, list[str]], Rule], ...]] = (
    lambda draw, labels: Rule(action="raise", on=draw.choice(labels), times=draw.choice([None, 1, 2, 3])),
    lambda draw, _: Rule(action="raise", times=draw.choice([1, 2])),
    lambda draw, labels: Rule(action="throttle", on=draw.choice([None, *labels]), times=draw.choice([1, 2, 3])),
    _report,
    lambda draw, labels: Rule(action="return", on=draw.choice(labels), times=draw.choice([None, 1, 2]), value=draw.choice(INVALID)),
    lambda draw, labels: Rule(action="return", on=draw.choice(labels), value=draw.choice(EMPTY)),
)


def _passed(draw: random.Random, labels: list[str]) -> tuple[str, ...]:
    return tuple(label for label in labels if draw.random() < 0.6)


def _stagger(draw: random.Random, draft: Draft, times: list[float]) -> None:
    """The arrivals of a draft: the times given, in order."""
    arrivals = sorted(draw.choice(times) for _ in draft["records"])
    draft["records"] = [replace(record, arrival_s=arrival) for record, arrival in zip(draft["records"], arrivals, strict=True)]
