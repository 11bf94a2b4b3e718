"""Gives the requests of Schemathesis valid credentials, so that they do not all end with 401.

Each second request of an operation gets new ones, because many operations use them up; the
others keep the values that Schemathesis generates. The environment has the URL of the server,
an account, and a backend.
"""

import collections
import os

import requests
import schemathesis

URL = os.environ["MATCHBOOK_URL"]
ACCOUNT = {"name": os.environ["MATCHBOOK_NAME"], "password": os.environ["MATCHBOOK_PASSWORD"]}
BACKEND = (os.environ["MATCHBOOK_BACKEND"], os.environ["MATCHBOOK_BACKEND_SECRET"])

turns = collections.Counter()


def guest():
    return requests.get(f"{URL}/register", timeout=30).json()


def guest_tokens():
    return requests.get(f"{URL}/token", params={"userId": guest()}, timeout=30).json()


def account_tokens():
    """Logs the account in, or a guest if a request has changed or deleted the account."""
    response = requests.post(f"{URL}/login", json=ACCOUNT, timeout=30)
    return response.json() if response.ok else guest_tokens()


@schemathesis.hook
def before_call(context, case, kwargs):
    operation = case.operation
    turn = turns[operation.label]
    turns[operation.label] += 1
    if turn % 2 == 1:
        return
    schemes = {name for way in operation.definition.raw.get("security", []) for name in way}
    headers = {name: value for name, value in (case.headers or {}).items() if name.lower() != "authorization"}
    if "bearer" in schemes:
        tokens = account_tokens() if turn % 8 == 0 else guest_tokens()
        headers["Authorization"] = "Bearer " + tokens["token"]
        case.headers = headers
    if "backend" in schemes:
        case.headers = headers
        kwargs["auth"] = BACKEND
    form = "application/x-www-form-urlencoded"
    if operation.path in ("/refresh", "/logout") and case.media_type == form and isinstance(case.body, dict):
        case.body = {**case.body, "refresh_token": guest_tokens()["refreshToken"]}
    if operation.path == "/token":
        case.query = {"userId": guest()}
