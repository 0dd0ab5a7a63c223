"""The public face is tested like behaviour."""

from __future__ import annotations

import pytest

import streamlet


def test_all_is_sorted_and_complete() -> None:
    assert streamlet.__all__ == sorted(streamlet.__all__)
    assert set(streamlet._LAZY) <= set(streamlet.__all__)
    public = {
        name
        for name, value in vars(streamlet).items()
        if not name.startswith("_") and getattr(value, "__module__", "").startswith("streamlet")
    }
    assert public <= set(streamlet.__all__) | {"App"}


@pytest.mark.parametrize("name", streamlet.__all__)
def test_every_name_is_there_and_documented(name: str) -> None:
    value = getattr(streamlet, name)
    assert (value.__doc__ or "").strip(), name
    assert name in dir(streamlet)


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no attribute 'Nope'"):
        _ = streamlet.Nope
