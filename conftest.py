"""What holds for every test: the same examples in every run, and no verdict by time."""

from __future__ import annotations

from hypothesis import settings

settings.register_profile("streamlet", derandomize=True, deadline=None)
settings.load_profile("streamlet")
