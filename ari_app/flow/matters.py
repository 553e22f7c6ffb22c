"""Second calls on the same matter, and first-call resolution (KPI-2). Pure functions over what the ledger tells.

A matter is a caller, a case and a need. Who calls again about it within seven days of having been served was not
helped the first time: that call is answered sooner, by the same agent if possible, and the first one did not resolve
the matter. A caller whose identity is not proven, whose case is not known or who named no need has no matter: nobody
is held to a guess.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, replace

from ari_app.flow.sop import Need

WITHIN_S = 7 * 86_400.0
"""A call on the same matter so soon after a served one is a second call. KPI-2."""


@dataclass(frozen=True)
class Matter:
    """What one call was about. `at`, `until`: Unix seconds of its beginning and its end."""

    call_id: str
    at: float
    until: float
    agent: str | None = None
    """Who talked with the caller last; None: nobody."""
    party_id: int | None = None
    lawyer_id: int | None = None
    case_id: int | None = None
    need: Need | None = None

    @property
    def key(self) -> tuple[int | None, int | None, int, Need] | None:
        """Equal for calls on the same matter; None if it is not known which it is."""
        if self.case_id is None or self.need is None or (self.party_id is None and self.lawyer_id is None):
            return None
        return self.party_id, self.lawyer_id, self.case_id, self.need


def second_of(call: Matter, earlier: Iterable[Matter], within_s: float = WITHIN_S) -> Matter | None:
    """The last served call on the same matter, if `call` came within `within_s` of its end: then it is a second one."""
    if call.key is None:
        return None
    same = (
        one
        for one in earlier
        if one.key == call.key
        and one.agent is not None
        and one.call_id != call.call_id
        and 0 <= call.at - one.until <= within_s
    )
    return max(same, key=lambda one: (one.until, one.call_id), default=None)


def last_agent(earlier: Iterable[Matter]) -> str | None:
    """The agent who talked with this caller last, about whatever it was."""
    served = (one for one in earlier if one.agent is not None)
    last = max(served, key=lambda one: (one.until, one.call_id), default=None)
    return last.agent if last is not None else None


@dataclass(frozen=True)
class Resolution:
    """Of one agent's served calls whose matter is known and whose seven days are over: how many there were, and after
    how many no second call came.
    """

    judged: int = 0
    resolved: int = 0

    @property
    def share(self) -> float | None:
        """First-call resolution, 0 to 1; None if nothing can be judged yet."""
        return self.resolved / self.judged if self.judged else None


def judged(
    calls: Iterable[Matter], since: float, before: float, within_s: float = WITHIN_S
) -> list[tuple[Matter, bool]]:
    """The served calls of known matter whose seven days ended from `since` on and before `before` (Unix seconds), each
    with whether it resolved its matter: no second call came within them. KPI-2.

    A call is judged when its days are over, also if the second call came sooner: else the calls of the last week would
    count only if they failed.
    """
    by_matter: defaultdict[object, list[Matter]] = defaultdict(list)
    for one in calls:
        if one.key is not None:
            by_matter[one.key].append(one)
    return [
        (one, not any(later.call_id != one.call_id and 0 <= later.at - one.until <= within_s for later in same))
        for same in by_matter.values()
        for one in same
        if one.agent is not None and since <= one.until + within_s < before
    ]


def resolution(verdicts: Iterable[tuple[Matter, bool]]) -> dict[str, Resolution]:
    """First-call resolution of each agent, from what ``judged()`` found."""
    found: defaultdict[str, Resolution] = defaultdict(Resolution)
    for one, resolved in verdicts:
        was = found[one.agent or ""]
        found[one.agent or ""] = replace(was, judged=was.judged + 1, resolved=was.resolved + resolved)
    return dict(found)
