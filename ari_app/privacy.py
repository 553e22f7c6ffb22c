"""Personal data in logs: masked, always the same way."""


def mask(value: str | None) -> str:
    """What a log may show of a phone number, name or case number: its length and its last two characters.

    >>> mask("15400001234")
    '*********34'
    >>> mask("")
    '-'
    """
    if not value:
        return "-"
    return "*" * (len(value) - 2) + value[-2:] if len(value) > 4 else "*" * len(value)
