"""What counts as an error of the flow that is measured."""

from __future__ import annotations

import pytest

from tests.bench.houses import is_of_an_earlier_run

DRIFT = "12:00:00 ERROR sanling.drift: call sanling-1700000000.7: Asterisk had it, the ledger does not know it"
BROKEN = "12:00:00 ERROR sanling.call: call sanling-1700000000.7: broken in WAITING"


@pytest.mark.parametrize(
    ("line", "opened_at", "earlier"),
    [(DRIFT, 1700000001.0, True), (DRIFT, 1700000000.9, False), (BROKEN, 1700000001.0, False)],
    ids=["before", "in the same second", "not drift's"],
)
def test_what_drift_says_of_an_earlier_overload_is_no_error_of_this_run(
    line: str, opened_at: float, earlier: bool
) -> None:
    assert is_of_an_earlier_run(line, opened_at) == earlier
