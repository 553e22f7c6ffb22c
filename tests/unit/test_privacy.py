from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ari_app.privacy import mask


@pytest.mark.parametrize(
    ("value", "shown"),
    [("15400001234", "*********34"), ("张伟", "**"), ("1234", "****"), ("12345", "***45"), ("", "-"), (None, "-")],
)
def test_masks(value, shown):
    assert mask(value) == shown


@given(st.text(min_size=1, max_size=40))
def test_a_mask_keeps_the_length_and_at_most_two_characters(value):
    shown = mask(value)
    assert len(shown) == len(value)
    assert len(shown.rstrip("*")) == 0 or shown[:-2] == "*" * (len(value) - 2)
    if len(value) <= 4:
        assert set(shown) == {"*"}
