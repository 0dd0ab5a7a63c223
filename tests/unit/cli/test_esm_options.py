"""What do the options of `streamlet esm` mean that are more than a number?"""

from __future__ import annotations

import click
import pytest

from streamlet.cli.esm import command


@pytest.mark.parametrize(
    "value", ["1769860800", "1769860800.0", "2026-01-31T12:00:00Z", "2026-01-31T12:00:00", "2026-01-31T13:00:00+01:00", "2026-01-31 12:00"]
)
def test_a_time_is_taken_as_the_aws_cli_takes_it(value: str) -> None:
    [option] = [one for one in command.params if one.name == "timestamp_s"]
    assert option.process_value(click.Context(command), value) == 1_769_860_800.0
