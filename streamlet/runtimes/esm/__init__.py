"""How does a plain Lambda function run here as it would behind an event source mapping?

runtime_api   what Lambda's own client asks: an HTTP server per sandbox
output        what a function prints, as bounded lines
memory        how much a sandbox and what it started take
leftovers     what has left its sandbox, and what a killed host leaves behind
guard         the process that ends it then
sandbox       one process that takes one invocation at a time, with limits that are enforced from outside
host          sandboxes on demand, kept warm; as many as may run at once
mapping       a batch as an event, a response as an outcome: the engine's view of the function
once          has the stream been drained?
asynchronous  retries, age, dead letters and destinations of asynchronous invocations
tree          what a person reads of it: invocations as a tree
"""
