"""What the rows of a call tell of its past: when it was answered, how long it waited, what was said last.

A running call and one that another controller takes up note the same rows, so they remember the same.
"""

from __future__ import annotations

from dataclasses import dataclass

from ari_app.flow.sop import Do, Heard, State

SPEAKING = frozenset(
    do for do in Do if do.name.startswith("SAY_") or do in (Do.ASK, Do.OFFER_OWN_NUMBER)
)  # fmt: skip
"""Actions that play something to the caller, or to both sides."""


@dataclass
class Story:
    """All moments are Unix seconds."""

    rows: int = 0
    """Steps so far; the next one's number."""
    answered_at: float | None = None
    waiting_since: float | None = None
    """When the caller joined the queue; None outside it."""
    waited_s: float = 0.0
    """Seconds in the queue before `waiting_since`."""
    spoke: tuple[int, float, tuple[Do, ...]] | None = None
    """The last step that said something: its number, its moment, its actions."""
    whispered: tuple[int, float] | None = None
    """The last step that whispered to an agent: its number, its moment."""
    closing_ended_at: float | None = None
    """When the caller was given five seconds to hang up. SOP-6."""
    released_at: float | None = None
    """When the last talk ended."""
    state_since: float = 0.0
    last_before_end: State | None = None
    at_ceiling: bool = False
    """The ceiling on the whole call cut something off."""
    lost: bool = False
    """Asterisk died under the call."""
    _place: tuple[float, float] | None = None

    def note(self, at: float, was: State, heard: Heard, now: State, actions: tuple[Do, ...]) -> None:
        """One step, in order."""
        if SPEAKING.intersection(actions):
            self.spoke = (self.rows, at, actions)
        if Do.WHISPER in actions:
            self.whispered = (self.rows, at)
        for do in actions:
            self._note_action(do, at)
        if now is State.ENDED or heard is Heard.CEILING_REACHED:
            self.last_before_end = self.last_before_end or was
            self.at_ceiling = self.at_ceiling or heard is Heard.CEILING_REACHED
        self.lost = self.lost or heard is Heard.LINE_LOST
        if now is not was:
            self.state_since = at
        self.rows += 1

    def _note_action(self, do: Do, at: float) -> None:
        match do:
            case Do.ANSWER if self.answered_at is None:
                self.answered_at = at
            case Do.JOIN_QUEUE if self.waiting_since is None:
                self.waiting_since, self.closing_ended_at = at, None
            case Do.REJOIN_QUEUE if self.waiting_since is None:  # back to the place left for an agent who was gone
                self.waiting_since, self.waited_s = self._place or (at, self.waited_s)
            case Do.LEAVE_QUEUE if self.waiting_since is not None:
                self._place = (self.waiting_since, self.waited_s)
                self.waited_s += at - self.waiting_since
                self.waiting_since = None
            case Do.GIVE_FIVE_SECONDS:
                self.closing_ended_at = at
            case Do.RELEASE_AGENT:
                self.released_at = at
