"""How does what was acknowledged survive? A log of entries (entries.py), written by groups (journal.py), replayed (recovery.py)."""
