"""How satisfied the caller was: asked of one who was served, after the agent has left and before the closing question.

The score is a row beside the step in which it was keyed, written in one with it; a low one opens a work order for the
team leader. The reason is a segment of the call's recording: who speaks it is recorded anyway (REC-1). KPI-7, SOP-6.
"""

from __future__ import annotations

from typing import Literal

from ari_app import orders
from ari_app.cases import Person
from ari_app.flow.sop import RATED, Heard, Progress, State
from ari_app.flow.story import Story
from ari_app.flow.survey import asks, is_low
from ari_app.line import Line
from ari_app.rules import Survey as Rules
from ari_app.spoken import Spoken
from ari_app.store import models
from ari_app.store.models import Table

MUST_ANSWER = "leader"
HOUR_S = 3600.0

Surveyed = Literal["rated", "silent", "invalid", "person", "left", "not_asked"]
SURVEYED: dict[Heard, Surveyed] = {
    **dict.fromkeys(RATED, "rated"),
    Heard.NO_ENTRY: "silent",
    Heard.ENTRY_INVALID: "invalid",
    Heard.ENTRY_CLEARED: "invalid",
    Heard.WANTS_A_PERSON: "person",
    Heard.RATING_NOT_ASKED: "not_asked",
}
"""What the question came to, by what was heard when it was left; else the caller left."""


class Survey:
    """One call's."""

    def __init__(self, line: Line) -> None:
        self._line = line
        self._house = line.hotline
        self.spoken = Spoken(line)

    @property
    def answer_within_s(self) -> float:
        return self._rules.answer_within_s

    def asks(self, story: Story) -> bool:
        """Whether this caller is asked now: by lot, and never twice about one call."""
        return not story.rated and asks(self._line.id, self._rules.share)

    async def hear_reason(self, story: Story) -> None:
        """Until a key, a pause, or the time is up, counted from when the question had been asked."""
        passed_s = self._house.clock() - (story.reason_since or self._house.clock())
        await self.spoken.listen(
            begins_within_s=self._rules.reason_begins_within_s - passed_s,
            at_most_s=self._rules.reason_at_most_s - passed_s,
        )

    def rows(self, was: Progress, heard: Heard, now: Progress, at: float, story: Story, agent: str) -> list[Table]:
        """What a step that is about to be noted in `story` leaves in the ledger beside itself. `agent`: who served."""
        n = story.rows
        if was.state is State.RATING and now.state is not State.RATING:
            self._house.metrics.surveyed(SURVEYED.get(heard, "left"))
            score = RATED.get(heard)
            if score is not None:
                self._house.metrics.rated(agent, score)
                return [models.Rating(call_id=self._line.id, n=n, at=at, agent=agent, score=score)]
        since, nothing_said = story.reason_since, heard in (Heard.NO_ENTRY, Heard.RESUMED)
        if was.state is State.RATING_REASON and now.state is not was.state and since is not None and not nothing_said:
            spoken_s = self.spoken.spoken_s
            return [
                models.Segment(
                    call_id=self._line.id, n=n, kind="reason", at=since, seconds=max(at - since, 0.0), spoken_s=spoken_s
                )
            ]
        return []

    def open_order(self, heard: Heard, at: float, n: int, person: Person | None, progress: Progress) -> None:
        """A low score: the team leader looks after it. `n`: of the step in which it was keyed."""
        score = RATED.get(heard)
        if score is not None and is_low(score):
            orders.open_order(
                self._house.ledger, kind=orders.Kind.RATING, at=at, due_at=at + self._rules.low_due_h * HOUR_S,
                must_answer=MUST_ANSWER, call_id=self._line.id, name=f"rating-{n}", person=person,
                case_id=person.case_id if person is not None else None, need=progress.need,
            )  # fmt: skip

    @property
    def _rules(self) -> Rules:
        return self._house.desk.rules.now.survey
