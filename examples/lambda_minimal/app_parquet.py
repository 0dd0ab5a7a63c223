"""The same with Parquet: build_zip.py --parquet takes this one. ORDERS_URL names where the files go, as s3://bucket/orders."""

import os
from typing import Any

from streamlet import App, Batch, ParquetSink

app = App("orders")
lambda_handler = app.lambda_handler


@app.on_batch("orders", sink=ParquetSink(os.environ["ORDERS_URL"], schema={"id": "int64", "item": "string"}))
def handle(batch: Batch) -> list[Any]:
    return batch.values
