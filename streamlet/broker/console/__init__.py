"""What does a person see of the broker, and what may he do, in a browser?

page       which path is answered by what; the only face to the rest of the broker
guard      may this request see or change anything?
views      facts, streams, shards and rates as plain data
browse     records across shards, in bounded steps
payloads   what a payload says: JSON, text, Avro, aggregates, hex
avro       Avro's binary encoding, with all work counted
meter      who reads what, and how far behind
ticks      server-sent events
static/    the page itself, without a build step
"""

from __future__ import annotations

from streamlet.broker.console.page import Console

__all__ = ["Console"]
