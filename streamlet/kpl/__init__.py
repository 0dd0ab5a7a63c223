"""How does the Kinesis Producer Library pack many records of a user into one of the stream?"""
