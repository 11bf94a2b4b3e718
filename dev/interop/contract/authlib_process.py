"""A process that shares a token file with others, without a lock, and refreshes by Authlib."""

import json
import os
import sys
import threading
import time

from authlib.integrations.base_client import OAuthError
from authlib.integrations.requests_client import OAuth2Session
from requests import RequestException

ISSUER, TOKEN_FILE = os.environ["ISSUER"], os.environ["TOKEN_FILE"]
MARGIN = float(os.environ["MARGIN"])


def report(**line):
    print(json.dumps(line), flush=True)


def end_with_parent():
    sys.stdin.read()
    os._exit(0)


threading.Thread(target=end_with_parent, daemon=True).start()
session = OAuth2Session(os.environ["CLIENT_ID"], os.environ["CLIENT_SECRET"])
report(ready=True)
while True:
    with open(TOKEN_FILE) as file:
        stored = json.load(file)
    if stored["expires_at"] - time.time() > MARGIN:
        time.sleep(0.2)
        continue
    try:
        tokens = session.refresh_token(
            f"{ISSUER}/oauth/token", refresh_token=stored["refresh_token"]
        )
        names = ("access_token", "refresh_token")
        new = {name: tokens[name] for name in names}
        new["expires_at"] = time.time() + tokens["expires_in"]
        own = f"{TOKEN_FILE}.{os.getpid()}"
        with open(own, "w") as file:
            json.dump(new, file)
        os.replace(own, TOKEN_FILE)
        report(refreshed=True)
    except OAuthError as error:
        if error.error == "invalid_grant":
            report(login=error.description)
            break
        report(failed=error.error)
        time.sleep(1)
    except RequestException as error:
        report(failed=type(error).__name__)
        time.sleep(1)
