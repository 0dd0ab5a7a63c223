"""Facts: the values that everything else speaks of. No I/O, no clock, no policy.

position    where in a shard: a sequence number with its sub-sequence number, and the four sentinels
record      one record, as a handler sees it
batch       consecutive records of one shard
arn         the partition that an ARN begins with
shard       a shard, its hash key range and its parents
"""
