"""Authlib: a session that refreshes by itself, 5 s before the expiry."""

import secrets

import requests
from authlib.integrations.requests_client import OAuth2Session
from stay import call_api, stay
from steps import ISSUER, announce, ask

announce("Authlib")
registered = ask("client", name="authlib", options=["--confidential", "--first-party"])
redirect_uri = registered["redirect_uri"]
metadata = requests.get(f"{ISSUER}/.well-known/openid-configuration", timeout=60).json()
session = OAuth2Session(
    registered["client_id"],
    registered["client_secret"],
    scope="openid profile offline_access",
    redirect_uri=redirect_uri,
    code_challenge_method="S256",
    token_endpoint=metadata["token_endpoint"],
    leeway=5,
    update_token=lambda token, **_: None,
)
verifier = secrets.token_urlsafe(48)
url, state = session.create_authorization_url(
    metadata["authorization_endpoint"], code_verifier=verifier
)
session.fetch_token(
    metadata["token_endpoint"],
    authorization_response=ask("visit", url=url, until=redirect_uri)["url"],
    state=state,
    code_verifier=verifier,
)


def log_out():
    response = session.revoke_token(metadata["revocation_endpoint"], session.token["refresh_token"])
    assert response.status_code == 200, response.text


stay(lambda: call_api(session), log_out)
