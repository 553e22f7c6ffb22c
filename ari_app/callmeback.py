"""A caller's side of a callback: the number that is read back, the place that is kept, what is noted.

What the caller keys lies on the caller's channel (``SANLING_CALLBACK_NUMBER``), for whoever takes the call up.
"""

from __future__ import annotations

from ari_app import cases
from ari_app.cases import Person
from ari_app.flow.callbacks import Window, Wish, is_answered_by
from ari_app.flow.sop import Heard, Need, Progress
from ari_app.flow.story import Story
from ari_app.line import Line
from ari_app.store import models

VARIABLE = "SANLING_CALLBACK_NUMBER"
WINDOWS = {Heard.SAID_MORNING: Window.MORNING, Heard.SAID_AFTERNOON: Window.AFTERNOON}
NEED_CODES = {Need.MILESTONE: "milestone", Need.MATERIAL: "material", Need.TIME: "time", Need.PRESSING: "pressing"}


class CallMeBack:
    """One call's. `own` is the number that the caller shows."""

    def __init__(self, line: Line, own: str | None) -> None:
        self._line = line
        self._callbacks = line.hotline.callbacks
        self._own = own
        self._keyed: str | None = None
        self.person: Person | None = None
        """Who was proven when an open one was looked for last."""
        self.was_moved = False
        """Whether what was noted last was an open callback, told and moved."""

    def open_one(self, person: Person | None) -> Wish | None:
        """This caller's open callback."""
        self.person = person
        return self._callbacks.held_by(self._line.id) or self._callbacks.open_for(self._own, *ids_of(person))

    # ---------------------------------------------------------------- the number

    def number(self, person: Person | None) -> str | None:
        """Whom we would call: what was keyed, else what an open callback says, else the caller's own number."""
        wish = self.open_one(person)
        known = self._keyed or (wish.number if wish else None) or self._own
        return known if cases.can_be_called(known) else None

    def words(self, person: Person | None) -> tuple[str, ...]:
        """The number read back; nothing if there is none."""
        number = self.number(person)
        if number is None:
            return ()
        told = ("callback-open",) if self._is_open_before(person) else ()
        return (*told, "callback-number-is", *spoken(number), "callback-confirm")

    def _is_open_before(self, person: Person | None) -> bool:
        wish = self.open_one(person)
        return wish is not None and wish.id != self._line.id

    async def enter(self, keys: str) -> bool:
        """Takes a number that was keyed; False if nobody can be called there."""
        number = cases.normalise_number(keys)
        if not cases.can_be_called(number):
            return False
        self._keyed = number
        with self._line.gone_is_hung_up():
            await self._line.hotline.client.channels.setChannelVar(
                channelId=self._line.id, variable=VARIABLE, value=number or ""
            )
        return True

    def recall(self, keyed: str) -> None:
        """What another controller heard keyed."""
        self._keyed = keyed if cases.can_be_called(keyed) else None

    # ---------------------------------------------------------------- the callback

    def note(self, story: Story, progress: Progress, person: Person | None) -> None:
        """Enters the callback, or moves the one that is open; nobody is called while the caller is on this line."""
        number = self.number(person)
        if number is None or story.callback_noted is None:
            return
        at, said = story.callback_noted
        window = WINDOWS.get(said, Window.ANY)
        wish = self.open_one(person) or self._callbacks.open_for(number, *ids_of(person))
        self.was_moved = wish is not None and wish.id != self._line.id
        if wish is None:
            wish = self._callbacks.asked(
                models.Callback(
                    id=self._line.id, at=at, number=number, reason="asked",
                    since=story.kept[0] if story.kept else story.callback_asked_at, window=window.value,
                    role=progress.role.value, need=NEED_CODES[progress.need] if progress.need else None,
                    party_id=person.party_id if person else None, lawyer_id=person.lawyer_id if person else None,
                ),
                asked_from=self._own,
                on_the_line=True,
            )  # fmt: skip
        elif (wish.number, wish.window) != (number, window):
            self._callbacks.moved(wish, number, window)
        if wish is not None:
            self._callbacks.returned(self._callbacks.now(wish), self._line.id)

    def keeps_place_since(self, waiting_since: float, person: Person | None) -> float:
        """Who has an open callback waits at its place, and is not called meanwhile."""
        wish = self.open_one(person)
        if wish is None:
            return waiting_since
        self._callbacks.returned(wish, self._line.id)
        return min(waiting_since, wish.since)

    def take_up(self, person: Person | None) -> None:
        """In a call of an earlier controller: nobody calls back meanwhile."""
        wish = self.open_one(person)
        if wish is not None:
            self._callbacks.returned(wish, self._line.id)

    def ended(self, *, served: bool) -> None:
        """The call is over: whom an agent has spoken with need not be called any more."""
        wish = self._callbacks.held_by(self._line.id)
        if wish is not None:
            party, lawyer = ids_of(self.person)
            answered = is_answered_by(wish, number=self._own, party_id=party, lawyer_id=lawyer)
            self._callbacks.hung_up(wish, self._line.id, served=served and answered)


def ids_of(person: Person | None) -> tuple[int | None, int | None]:
    """As party and as lawyer."""
    return (person.party_id, person.lawyer_id) if person else (None, None)


def spoken(number: str) -> tuple[str, ...]:
    """Prompts that say `number` in groups as it is said: 138 00 13 80 00; a landline two by two.

    >>> spoken("13800138000")
    ('digits-138', 'digits-00', 'digits-13', 'digits-80', 'digits-00')
    >>> spoken("02150001234")
    ('digits-0', 'digits-21', 'digits-50', 'digits-00', 'digits-12', 'digits-34')
    """
    head = 3 if cases.is_mobile(number) else len(number) % 2
    groups = [number[:head]] if head else []
    groups += [number[i : i + 2] for i in range(head, len(number), 2)]
    return tuple(f"digits-{group}" for group in groups)
