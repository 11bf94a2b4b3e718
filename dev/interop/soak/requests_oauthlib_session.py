"""requests-oauthlib: a session that refreshes by itself, after the expiry."""

import os

from requests_oauthlib import OAuth2Session
from stay import call_api, stay
from steps import ISSUER, announce, ask

announce("requests-oauthlib")
registered = ask("client", name="requests-oauthlib", options=["--public", "--first-party", "--scope", "read"])
client_id, redirect_uri = registered["client_id"], registered["redirect_uri"]
token_url = f"{ISSUER}/oauth/token"


def store(token):
    session.token = token


session = OAuth2Session(
    client_id,
    redirect_uri=redirect_uri,
    scope=["read"],
    pkce="S256",
    auto_refresh_url=token_url,
    auto_refresh_kwargs={"client_id": client_id},
    token_updater=store,
)
url, _ = session.authorization_url(f"{ISSUER}/oauth/authorize")
returned = ask("visit", url=url, until=redirect_uri)["url"]
# The redirect URI is a loopback address without TLS.
os.environ["OAUTHLIB_INSECURE_TRANSPORT"] = "1"
session.fetch_token(token_url, authorization_response=returned, include_client_id=True)


def log_out():
    form = {"token": session.token["refresh_token"], "client_id": client_id}
    response = session.post(f"{ISSUER}/oauth/revoke", data=form, withhold_token=True)
    assert response.status_code == 200, response.text


stay(lambda: call_api(session), log_out)
