"""Listeners: what hooks tell, for people and machines. `logs` puts events into words, `counts` adds up under the names of AWS's metrics."""
