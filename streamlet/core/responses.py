"""What does a function's response say about its batch?

With ReportBatchItemFailures a function may answer that part of its batch failed. What it answers is any JSON:

    response                                                        the batch
    null, "", [], {}                                                succeeded
    {"batchItemFailures": null} or []                               succeeded
    {"batchItemFailures": [{"itemIdentifier": N}, …]}               failed from the lowest of the numbers on
      one of them null, "", not in the batch, or under another key  failed as a whole, as a response that says nothing
    any other list, text, number or object                          succeeded: nothing in it speaks of failures
    (the feature is off)                                            succeeded, whatever it says

A whole batch that fails by its response is a failure without a function error: the failure document says `null` there, where
an exception says "Unhandled". Numbers are compared as integers.

Sources: Lambda developer guide, services-kinesis-batchfailurereporting, and recordings on AWS (November 2025) of every row but
the last but one. CHOICE there: the guide lists what counts as success and as failure, and other shapes are in neither list; a
function that was written before the feature, and returns a report or a count, is taken to have succeeded.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any, Final

from streamlet.core.failure import FailedFrom, Succeeded

__all__ = ["BAD_RESPONSE", "outcome_of"]

_NUMBER: Final = re.compile(r"[0-9]{1,129}")
BAD_RESPONSE: Final = "the response names no record of the batch"


def outcome_of(response: Any, sequence_numbers: Sequence[str], *, start: int = 0, reports_failures: bool = True) -> Succeeded | FailedFrom:
    """The outcome of an invocation that ended without an error. `response` is decoded JSON; `start` is the first record's index."""
    if not reports_failures or not isinstance(response, dict):
        return Succeeded()
    failures = response.get("batchItemFailures")
    if failures is None or failures == []:
        return Succeeded()
    whole = FailedFrom(start, None, f"{BAD_RESPONSE}: {str(response)[:200]}")
    if not isinstance(failures, list):
        return whole
    places = {int(number): place for place, number in enumerate(sequence_numbers, start)}
    lowest = None
    for failure in failures:
        identifier = failure.get("itemIdentifier") if isinstance(failure, dict) else None
        if not isinstance(identifier, str) or not _NUMBER.fullmatch(identifier) or int(identifier) not in places:
            return whole
        place = places[int(identifier)]
        lowest = place if lowest is None else min(lowest, place)
    assert lowest is not None, "an empty list is a success"
    return FailedFrom(lowest, None, f"batchItemFailures: {sequence_numbers[lowest - start]}")
