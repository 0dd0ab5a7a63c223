"""The asyncio engine: carries out what core decides.

leases       who holds which shard; every lease write, on a thread of its own
invoke       one call of a handler, and what came of it
ranges       a sink's open range: prepare, put, commit, and completing what another worker prepared
pump         one task per shard: read, batch, settle, checkpoint
supervisor   the one TaskGroup; shard sync, lease events, drain
"""
