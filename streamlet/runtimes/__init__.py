"""Where everything meets: each runtime puts the engine, or what stands for it, together.

aws_lambda   Lambda's event source mapping polls and retries; we decode, run handlers, report partial failures
worker       a long-lived process: our engine with its own leases
consumer     a loop of your own over the same engine
"""
