// The scenario of every client, with the AWS SDK for JavaScript v3 as it comes: HTTP/2 by NodeHttp2Handler.
// node scenario.mjs ENDPOINT; prints `ok` and what was seen as one line of JSON, or throws.
import assert from "node:assert/strict";
import { setTimeout as sleep } from "node:timers/promises";
import * as sdk from "@aws-sdk/client-kinesis";

const client = new sdk.KinesisClient({
  endpoint: process.argv[2],
  region: "us-east-1",
  credentials: { accessKeyId: "local", secretAccessKey: "local" },
  maxAttempts: 1,
});
const handler = client.config.requestHandler.constructor.name;
const ask = (name, input) => client.send(new sdk[`${name}Command`](input));
const StreamName = "javascript";
const text = (records) => records.map((record) => new TextDecoder().decode(record.Data));
const number = (n) => `shardId-${String(n).padStart(12, "0")}`;

async function read(shard, ShardIteratorType = "TRIM_HORIZON", more = {}) {
  const first = await ask("GetShardIterator", { StreamName, ShardId: number(shard), ShardIteratorType, ...more });
  const values = [];
  let token = first.ShardIterator;
  let children;
  while (token) {
    const page = await ask("GetRecords", { ShardIterator: token });
    values.push(...text(page.Records));
    children = page.ChildShards?.map((child) => child.ShardId);
    if (page.NextShardIterator && page.Records.length === 0) break;
    token = page.NextShardIterator;
  }
  return { values, children };
}
const settled = () => sdk.waitUntilStreamExists({ client, maxWaitTime: 30, minDelay: 1, maxDelay: 1 }, { StreamName });

// Create.
await ask("CreateStream", { StreamName, ShardCount: 2 });
await settled();
// Put, and iterate in every way.
const at = (hash, value) => ({ StreamName, Data: new TextEncoder().encode(value), PartitionKey: "k", ExplicitHashKey: String(hash) });
const latest = await ask("GetShardIterator", { StreamName, ShardId: number(0), ShardIteratorType: "LATEST" });
const one = await ask("PutRecord", at(0, "one"));
await sleep(5);
const Records = [at(1, "two"), at(2n ** 128n - 1n, "three")].map(({ StreamName: _, ...record }) => record);
const many = await ask("PutRecords", { StreamName, Records });
assert.equal(many.FailedRecordCount, 0);
assert.deepEqual((await read(0)).values, ["one", "two"]);
assert.deepEqual((await read(1)).values, ["three"]);
assert.deepEqual(text((await ask("GetRecords", { ShardIterator: latest.ShardIterator })).Records), ["one", "two"]);
const StartingSequenceNumber = one.SequenceNumber;
assert.deepEqual((await read(0, "AT_SEQUENCE_NUMBER", { StartingSequenceNumber })).values, ["one", "two"]);
assert.deepEqual((await read(0, "AFTER_SEQUENCE_NUMBER", { StartingSequenceNumber })).values, ["two"]);
const page = await ask("GetRecords", { ShardIterator: (await ask("GetShardIterator", { StreamName, ShardId: number(0), ShardIteratorType: "TRIM_HORIZON" })).ShardIterator });
assert.deepEqual((await read(0, "AT_TIMESTAMP", { Timestamp: page.Records[1].ApproximateArrivalTimestamp })).values, ["two"]);
// Fan out while the shard is resharded: subscribe, receive, follow to its end.
const { StreamDescription } = await ask("DescribeStream", { StreamName });
const { Consumer } = await ask("RegisterStreamConsumer", { StreamARN: StreamDescription.StreamARN, ConsumerName: "c" });
const ConsumerARN = Consumer.ConsumerARN;
while ((await ask("DescribeStreamConsumer", { ConsumerARN })).ConsumerDescription.ConsumerStatus !== "ACTIVE") await sleep(20);
const subscription = await ask("SubscribeToShard", { ConsumerARN, ShardId: number(0), StartingPosition: { Type: "TRIM_HORIZON" } });
const pushed = [];
let children;
let split = false;
for await (const { SubscribeToShardEvent: event } of subscription.EventStream) {
  pushed.push(...text(event.Records));
  children = event.ChildShards?.map((child) => child.ShardId) ?? children;
  if (pushed.length === 2 && !split) {
    split = true;
    await ask("PutRecord", at(0, "four"));
    await ask("SplitShard", { StreamName, ShardToSplit: number(0), NewStartingHashKey: String(2n ** 126n) });
  }
}
assert.deepEqual(pushed, ["one", "two", "four"]);
assert.deepEqual(children, [number(2), number(3)]);
// Reshard, and read through the lineage.
await settled();
assert.deepEqual(await read(0), { values: ["one", "two", "four"], children: [number(2), number(3)] });
await ask("MergeShards", { StreamName, ShardToMerge: number(2), AdjacentShardToMerge: number(3) });
await settled();
assert.deepEqual((await read(2)).children, [number(4)]);
await ask("UpdateShardCount", { StreamName, TargetShardCount: 4, ScalingType: "UNIFORM_SCALING" });
await settled();
const open = (await ask("ListShards", { StreamName, ShardFilter: { Type: "AT_LATEST" } })).Shards;
assert.equal(open.length, 4);
// Errors are the SDK's own classes.
await assert.rejects(ask("DescribeStream", { StreamName: "no-such" }), sdk.ResourceNotFoundException);
// Clean up.
await ask("DeregisterStreamConsumer", { ConsumerARN });
await ask("DeleteStream", { StreamName });
await sdk.waitUntilStreamNotExists({ client, maxWaitTime: 30, minDelay: 1, maxDelay: 1 }, { StreamName });
client.destroy();
console.log(JSON.stringify({ ok: true, handler, pushed, children }));
