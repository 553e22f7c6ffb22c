"""Everything the ARI client raises.

AriError
 ├── RequestFailed          Asterisk answered, and the answer was no: `status`, `verb`, `reason`
 │    ├── NotFound            404: the resource is gone; on a call's own verb, the caller hung up
 │    ├── Conflict            409, 412: the resource is there but not in a state for this (left Stasis, name taken)
 │    ├── Invalid             any other 4xx: we asked wrongly; a fault of ours
 │    │    └── RequestTooLarge  never sent: Asterisk would cut the link, and the events with it
 │    ├── AllocationFailed    500 on originate: no such phone, or it is not registered; on play: not at this moment;
 │    │                       on dial: the channel is just being hung up
 │    └── ServerError         any other 5xx
 ├── Unreachable            no link to Asterisk, or it died while the request waited; whether it was done is unknown
 ├── RequestTimeout         linked, but no answer in time; whether it was done is unknown
 ├── ApplicationReplaced    fatal: another client took our application, we shall never hear an event again
 ├── MailboxOverflow        a call's inbox ran full: its events are no longer complete, the call must be given up
 └── MailboxClosed          the inbox was closed while somebody waited at it

"The caller hung up" (`NotFound`) and "we broke" (`Invalid`, `MailboxOverflow`) are never the same class.
"""


class AriError(Exception):
    """Base of all of them."""


class RequestFailed(AriError):
    """Asterisk answered with an error status."""

    def __init__(self, status: int, verb: str, reason: str) -> None:
        super().__init__(f"{verb} was answered with {status}: {reason}")
        self.status = status
        self.verb = verb
        """Resource and verb as ari-py names them, e.g. `channels.answer`."""
        self.reason = reason


class NotFound(RequestFailed):
    pass


class Conflict(RequestFailed):
    pass


class Invalid(RequestFailed):
    pass


class RequestTooLarge(Invalid):
    """The frame would exceed what Asterisk reads; it answers such a frame by closing the socket with 1009."""

    def __init__(self, verb: str, size: int, limit: int) -> None:
        super().__init__(413, verb, f"a frame of {size} bytes, of which Asterisk reads {limit}")


class AllocationFailed(RequestFailed):
    pass


class ServerError(RequestFailed):
    pass


class Unreachable(AriError):
    pass


class RequestTimeout(AriError):
    pass


class ApplicationReplaced(AriError):
    pass


class MailboxOverflow(AriError):
    pass


class MailboxClosed(AriError):
    pass


def refusal(status: int, verb: str, reason: str) -> RequestFailed:
    """The exception that says what an error status means for `verb`."""
    if status == 404:
        return NotFound(status, verb, reason)
    if status in (409, 412):
        return Conflict(status, verb, reason)
    if 400 <= status < 500:
        return Invalid(status, verb, reason)
    if status == 500 and "allocation failed" in reason.lower():
        return AllocationFailed(status, verb, reason)
    return ServerError(status, verb, reason)
