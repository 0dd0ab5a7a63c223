"""The smallest function: deploy it with the handler `app.lambda_handler`, and an event source mapping on the stream `orders` with
FunctionResponseTypes: [ReportBatchItemFailures]."""

from streamlet import App, Record

app = App("orders")
lambda_handler = app.lambda_handler


@app.on_record("orders")
async def handle(record: Record) -> None:
    print(record.partition_key, record.value)
