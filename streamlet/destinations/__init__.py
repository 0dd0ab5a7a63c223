"""Where records go that were given up: Lambda's on-failure document, to a file (SQS, SNS and S3 come behind the same port)."""
