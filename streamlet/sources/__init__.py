"""Where records come from: adapters of ports.Source.

polling   GetRecords, paced and adaptive
watched   any of them, with somebody who looks on
"""
