"""Bytes to values. `json` turns what `decode=` says into a decoder."""
