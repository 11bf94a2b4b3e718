"""Authlib: a web app with a server, which keeps its secret."""

# docs: authlib-import
import secrets

import requests
from authlib.integrations.requests_client import OAuth2Session

# docs: end
from steps import (
    ISSUER,
    REFRESHES,
    announce,
    api_status,
    ask,
    expiry,
    refresh_repeatedly,
    rejected,
    step,
)

announce("Authlib")
registered = ask("client", name="authlib", options=["--confidential", "--first-party", "--scope", "read"])
client_id, client_secret = registered["client_id"], registered["client_secret"]
redirect_uri = registered["redirect_uri"]
issuer = ISSUER
# docs: authlib-session
metadata = requests.get(f"{issuer}/.well-known/oauth-authorization-server", timeout=60).json()
session = OAuth2Session(
    client_id,
    client_secret,
    scope="read",
    redirect_uri=redirect_uri,
    code_challenge_method="S256",
)
# docs: end


def log_in():
    # docs: authlib-login
    verifier = secrets.token_urlsafe(48)
    url, state = session.create_authorization_url(
        metadata["authorization_endpoint"], code_verifier=verifier
    )
    # docs: end
    callback_url = ask("visit", url=url, until=redirect_uri)["url"]
    # docs: authlib-callback
    token = session.fetch_token(
        metadata["token_endpoint"],
        authorization_response=callback_url,
        state=state,
        code_verifier=verifier,
    )
    # docs: end
    return token


def refresh(refresh_token):
    # docs: authlib-refresh
    token = session.refresh_token(metadata["token_endpoint"], refresh_token=refresh_token)
    # docs: end
    return token


def login():
    assert api_status(log_in()["access_token"]) == 200


def wrong_secret():
    wrong = OAuth2Session(client_id, "wrong")
    token = session.token["refresh_token"]
    rejected(
        "invalid_client",
        lambda: wrong.refresh_token(metadata["token_endpoint"], refresh_token=token),
    )
    refresh(token)
    return "`invalid_client`, and the session continues"


def replay():
    last = session.token
    expiry(last["access_token"])
    rejected("invalid_grant", lambda: refresh(first))
    rejected("invalid_grant", lambda: refresh(last["refresh_token"]))
    return "`invalid_grant`, and the session has ended"


def revocation():
    token = log_in()
    # docs: authlib-logout
    response = session.revoke_token(metadata["revocation_endpoint"], token["refresh_token"])
    # docs: end
    assert response.status_code == 200
    assert api_status(token["access_token"]) == 401
    rejected("invalid_grant", lambda: refresh(token["refresh_token"]))
    return "both tokens are rejected"


step("login in Chromium, code with PKCE", login)
first = session.token["refresh_token"]
step(f"expiry and refresh × {REFRESHES}", lambda: refresh_repeatedly(session.token, refresh) and None)
step("wrong secret", wrong_secret)
step("replay of the first refresh token", replay)
step("second login and revocation", revocation)
