"""`streamlet doctor`: what do the leases say, and how does a shard that has stopped get going again?

A prepared range whose files come out differently stops its shard, rightly: to go on by itself could double or lose rows. When
the old handler cannot be restored, a person may decide to abandon the range. This command does so, and says what may double.
"""

from __future__ import annotations

from pathlib import Path

import click
from msgspec.structs import replace
from rich.console import Console
from rich.table import Table

from streamlet.cli.commands import exit_codes
from streamlet.core.prepared import PreparedRange
from streamlet.errors import ConfigurationError, StoreError
from streamlet.ports import Lease, LeaseStore
from streamlet.stores import open_store

__all__ = ["abandon", "command"]


def abandon(store: LeaseStore, key: str) -> PreparedRange:
    """Forget a lease's prepared range; reading goes on from its checkpoint. Returns what was abandoned.

    The write is conditional and moves the counter, so a worker that still holds the lease loses it and cannot commit the range
    any more. Raises ConfigurationError if there is nothing to abandon, StoreError if the lease moved meanwhile.
    """
    lease = store.read(key)
    if lease is None:
        raise ConfigurationError(f"there is no lease of {key!r}; the table has {', '.join(row.key for row in store.scan()) or 'none'}")
    if lease.pending is None or lease.pending_state is None:
        raise ConfigurationError(f"{key} holds no prepared range: there is nothing to abandon")
    prepared = PreparedRange.decode(lease.pending_state)
    freed = replace(lease, owner=None, pending=None, pending_state=None, counter=lease.counter + 1)
    if not store.write(freed, if_counter=lease.counter):
        raise StoreError(f"the lease of {key} was written by a worker at this very moment; stop the workers, then try again")
    return prepared


def _show(leases: list[Lease], console: Console) -> None:
    table = Table(title="Leases", title_justify="left")
    for heading in ("shard", "owner", "checkpoint", "prepared"):
        table.add_column(heading, overflow="fold")
    for lease in leases:
        prepared = "" if lease.pending is None else f"up to {lease.pending}"
        table.add_row(lease.key, lease.owner or "", str(lease.checkpoint), prepared)
    console.print(table)


@click.command("doctor", short_help="look at leases; abandon a prepared range")
@click.argument("app")
@click.argument("stream")
@click.option(
    "--state", envvar="STREAMLET_STATE", metavar="URL", help="Where the leases are: sqlite:///FILE; default that of a local worker."
)
@click.option("--abandon-prepared", metavar="SHARD", help="Forget the prepared range of this shard. It is said what may double.")
@exit_codes
def command(app: str, stream: str, state: str | None, abandon_prepared: str | None) -> int:
    """Show the leases of APP on STREAM.

    Example: streamlet doctor orders orders --state sqlite:///orders.streamlet.db
    """
    url = state or f"sqlite:///{app}.streamlet.db"
    if url.startswith("sqlite:///") and not Path(url.removeprefix("sqlite:///")).is_file():
        raise ConfigurationError(f"{url}: there is no such file; name the worker's own with --state")
    store = open_store(url, f"{app}.{stream}")
    store.open()
    try:
        if abandon_prepared is None:
            _show(store.scan(), Console(width=max(120, Console().width)))
            return 0
        prepared = abandon(store, abandon_prepared)
    finally:
        store.close()
    click.echo(f"{abandon_prepared}: the prepared range {prepared.first} … {prepared.last} is abandoned; reading goes on before it.")
    if prepared.files:
        click.echo("Rows of these files may double: if a file is there, remove it before a worker starts.")
        for file in prepared.files:
            click.echo(f"  {file.key} ({file.rows:,} rows)")
    if prepared.given_up:
        click.echo(f"{len(prepared.given_up)} failure documents of the range may have been sent; they may come again.")
    return 0
