"""Decisions, pure: no I/O, no clock, no async, no logging. Time and outcomes are arguments; decisions are return values.

failure      what does a failed batch lead to?
batching     when does a batch close?
checkpoint   how far is everything settled?
lineage      which shards may be read now?
leasing      which leases should this worker take?
packing      which records go into the next PutRecords?
rolling      when does a sink's open range close?
"""
