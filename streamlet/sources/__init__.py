"""Where records come from: adapters of ports.Source.

polling   GetRecords, paced and adaptive
"""
