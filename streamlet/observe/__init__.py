"""Listeners: what hooks tell, for people and machines. `logs` puts events into words; metrics and traces come beside it."""
