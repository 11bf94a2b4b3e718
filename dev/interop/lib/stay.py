"""What a program of soak.mjs uses to stay logged in (see stay.mjs)."""

import sys

from steps import ISSUER, ask, say


class LoginNeeded(Exception):
    """The program can go on only if the user logs in again."""


def spare(faults, reason):
    """Names the faults from which this program is spared, with the reason."""
    say({"spared": {"faults": faults, "reason": reason}})


def stay(use, log_out):
    """Calls `use` at each turn until the driver ends the run, then `log_out`."""
    while ask("turn")["turn"] != "logout":
        try:
            use()
            say({"used": True})
        except LoginNeeded as error:
            say({"login": str(error)})
            sys.exit(1)
        except Exception as error:
            say({"failed": repr(error)})
    log_out()
    say({"loggedOut": True})


def call_api(session):
    """Calls the API of the server by a session that refreshes by itself."""
    try:
        status = session.get(f"{ISSUER}/user", timeout=30).status_code
    except Exception as error:
        if getattr(error, "error", None) == "invalid_grant":
            raise LoginNeeded("invalid_grant") from error
        raise
    if status != 200:
        raise RuntimeError(f"the API responds with {status}")
