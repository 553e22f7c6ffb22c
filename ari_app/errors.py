"""Everything Sanling raises on purpose.

SanlingError
 ├── SettingsInvalid      a setting is wrong; the message names it and says what to write
 ├── SetUpFailed          the machine lacks something; the message is the command that mends it
 ├── PromptAltered        approved wording or its audio is not what was sealed (SCR-1)
 ├── StoreUnavailable     the database cannot be reached or is not at this version
 ├── LedgerContradiction  a ledger does not replay to the end it recorded
 └── CallBroken           one call failed inside us; its caller is apologised to, its neighbours never notice

The ARI client has a tree of its own in ``ari_app.ari.errors``.
"""


class SanlingError(Exception):
    """Base of every error a user of Sanling may see; its text is a full sentence for a person."""


class SettingsInvalid(SanlingError):
    pass


class SetUpFailed(SanlingError):
    pass


class PromptAltered(SanlingError):
    pass


class StoreUnavailable(SanlingError):
    pass


class LedgerContradiction(SanlingError):
    pass


class CallBroken(SanlingError):
    pass
