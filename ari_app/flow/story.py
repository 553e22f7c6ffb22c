"""What the rows of a call tell of its past: when it was answered, how long it waited, what was said last.

A running call and one that another controller takes up note the same rows, so they remember the same.
"""

from __future__ import annotations

from dataclasses import dataclass

from ari_app.flow.sop import RATED, SEEKING, Do, Heard, State

SPEAKING = frozenset(
    do
    for do in Do
    if do.name.startswith("SAY_")
    or do in (Do.ASK, Do.OFFER_OWN_NUMBER, Do.OFFER_CALLBACK_NUMBER, Do.OFFER_RATING, Do.ASK_REASON)
)
"""Actions that play something to the caller, or to both sides."""


HANDING_ON = (State.TALKING, State.TRANSFERRING_TO_AGENT)
"""From here a caller comes to the desk because an agent sent it there."""


def talk_changes(was: State, now: State, actions: tuple[Do, ...]) -> bool:
    """Whether what is talked from here on is billed anew: another state, or another agent in the same one."""
    return now is not was or Do.HAND_OVER in actions


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
    """When an agent's talk ended last."""
    second_since: float | None = None
    """Since when the second line is sought; None: it is not."""
    state_since: float = 0.0
    last_before_end: State | None = None
    at_ceiling: bool = False
    """The ceiling on the whole call cut something off."""
    recording: tuple[int, float] | None = None
    """The step that began to record a message that is not taken yet: its number, its moment."""
    messages: tuple[tuple[int, float, float], ...] = ()
    """Messages that were taken: the step that began each, its moment, and the moment it was taken."""
    rated: bool = False
    """The caller has keyed a score."""
    reason_since: float | None = None
    """Since when the caller may say why it was a low one; None: not now."""
    lost: bool = False
    """Asterisk died under the call."""
    kept: tuple[float, float] | None = None
    """The place that was left for a callback: since when, and the seconds in the queue before."""
    callback_asked_at: float | None = None
    """When the caller wanted one."""
    callback_noted: tuple[float, Heard] | None = None
    """When it was noted, and what was said of the time of day."""
    unreached: Heard | None = None
    """Why the person whom we called was not reached."""
    handed_on_place: float | None = None
    """Since when the caller waited who was then handed on by an agent, and who keeps that place; None: nobody was."""
    _place: tuple[float, float] | None = None

    def note(self, at: float, was: State, heard: Heard, now: State, actions: tuple[Do, ...]) -> None:
        """One step, in order."""
        if SPEAKING.intersection(actions):
            self.spoke = (self.rows, at, actions)
        if {Do.WHISPER, Do.WHISPER_SECOND, Do.TELL_NOT_REACHED}.intersection(actions):
            self.whispered = (self.rows, at)
        for do in actions:
            self._note_action(do, at)
        if now is State.ENDED or heard is Heard.CEILING_REACHED:
            self.last_before_end = self.last_before_end or was
            self.at_ceiling = self.at_ceiling or heard is Heard.CEILING_REACHED
        self.lost = self.lost or heard is Heard.LINE_LOST
        if heard is Heard.WANTS_CALLBACK:
            self.callback_asked_at = at
            self.kept = self._place if Do.LEAVE_QUEUE in actions else self.kept
        if now is State.ADMITTING and was in HANDING_ON:
            self.handed_on_place = self._place[0] if self._place is not None else at
        if Do.NOTE_CALLBACK in actions:
            self.callback_noted = (at, heard)
        if Do.TELL_NOT_REACHED in actions and heard is not Heard.RESUMED:
            self.unreached = heard
        if talk_changes(was, now, actions):
            self.state_since = at
        if now not in SEEKING:
            self.second_since = None
        self.rated = self.rated or heard in RATED
        if now is not State.RATING_REASON or Do.ASK_REASON in actions:
            self.reason_since = None
        self.rows += 1

    def _note_action(self, do: Do, at: float) -> None:
        match do:
            case Do.ANSWER | Do.MEET if self.answered_at is None:
                self.answered_at = at
            case Do.JOIN_QUEUE if self.waiting_since is None:
                self.waiting_since, self.waited_s = self.kept or (at, self.waited_s)
                self.closing_ended_at = None
            case Do.REJOIN_QUEUE if self.waiting_since is None:  # back to the place left for an agent who was gone
                self.waiting_since, self.waited_s = self._place or (at, self.waited_s)
            case Do.LEAVE_QUEUE if self.waiting_since is not None:
                self._place, self.kept = (self.waiting_since, self.waited_s), None
                self.waited_s += at - self.waiting_since
                self.waiting_since = None
            case Do.JOIN_AGENT:
                self.handed_on_place = None
            case Do.RECORD_MESSAGE:
                self.recording = (self.rows, at)
            case Do.SAY_LEAVE_MESSAGE | Do.SAY_MESSAGE_EMPTY | Do.SAY_MESSAGE_GIVEN_UP | Do.SAY_MESSAGE_FAILED:
                self.recording = None
            case Do.TAKE_MESSAGE if self.recording is not None:
                self.messages = (*self.messages, (*self.recording, at))
                self.recording = None
            case Do.HEAR_REASON:
                self.reason_since = at
            case Do.GIVE_FIVE_SECONDS:
                self.closing_ended_at = at
            case Do.SEEK_SECOND if self.second_since is None:
                self.second_since = at
            case Do.RELEASE_AGENT | Do.RELEASE_SECOND:
                self.released_at = at
