"""The data-plane client: what botocore does for these calls, at a tenth of its cost.

    client      which calls does streamlet make, and what do they answer?
    wire        what do the bodies look like?
    sigv4       how is a request signed?
    session     whose credentials, which region, which endpoint? (aiobotocore decides)
    transport   how does a request get there? (aiohttp, behind a small Protocol)
    retry       what does a failure mean, and is it worth asking again?

Modules here import aiobotocore, botocore and aiohttp inside functions only.
"""
