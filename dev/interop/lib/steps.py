"""What a program in Python uses to talk to run.mjs: one JSON object per line."""

import json
import os
import sys
import time
import traceback
from importlib.metadata import version

import requests

ISSUER = os.environ["ISSUER"]
REFRESHES = int(os.environ["REFRESHES"])


def say(line):
    print(json.dumps(line), flush=True)


def announce(name):
    """Announces the program with the installed version of its package."""
    say({"program": name, "version": version(name)})


def skip(program, reason):
    """Ends a program that cannot be had here. It is listed as skipped."""
    say({"program": program, "version": "", "skipped": reason})
    sys.exit(0)


def ask(what, **values):
    """Asks run.mjs for something, and waits for the response."""
    say({"ask": what, **values})
    response = json.loads(sys.stdin.readline())
    if "error" in response:
        raise RuntimeError(response["error"])
    return response


def command(*args):
    """Runs a command of the server, and returns what it prints."""
    return ask("command", args=args)["output"]


def step(tried, run):
    """Runs a step and reports its result. The program ends if the step fails."""
    try:
        say({"tried": tried, "result": run() or "passed", "passed": True})
    except Exception as error:
        say({"tried": tried, "result": repr(error), "passed": False})
        traceback.print_exc()
        sys.exit(1)


def api_status(access_token):
    """Returns the status of the API of the server for an access token."""
    headers = {"Authorization": f"Bearer {access_token}"}
    return requests.get(f"{ISSUER}/user", headers=headers, timeout=60).status_code


def expiry(access_token):
    """Waits until the API rejects an access token."""
    for _ in range(600):
        if api_status(access_token) == 401:
            return
        time.sleep(0.1)
    raise AssertionError("the access token does not expire")


def refresh_repeatedly(tokens, refresh):
    """Waits for the expiry of the access token and refreshes, as many times as configured."""
    for _ in range(REFRESHES):
        expiry(tokens["access_token"])
        before = tokens["refresh_token"]
        tokens = refresh(before)
        assert tokens["refresh_token"] != before
        assert api_status(tokens["access_token"]) == 200
    return tokens


def rejected(code, call):
    """Asserts that a call fails with an error of OAuth."""
    try:
        outcome = call()
    except Exception as error:
        assert getattr(error, "error", None) == code, repr(error)
        return
    raise AssertionError(f"expected {code}, got {outcome}")
