"""requests-oauthlib: a command-line tool, which listens on a free port for the redirect."""

# docs: command-line-import
from http.server import BaseHTTPRequestHandler, HTTPServer
from threading import Thread
from urllib.parse import parse_qs, urlparse

from requests_oauthlib import OAuth2Session

# docs: end
from oauthlib.oauth2 import InvalidClientError, InvalidGrantError
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

announce("requests-oauthlib")
issuer = ISSUER
client_id = ask(
    "client",
    name="requests-oauthlib",
    options=["--public", "--first-party", "--scope", "read"],
    redirectUri="http://127.0.0.1/callback",
)["client_id"]


def open_browser(url):
    ask("visit", url=url, until=redirect_uri)


# docs: command-line-listener
class Callback(BaseHTTPRequestHandler):
    def do_GET(self):
        self.server.parameters = parse_qs(urlparse(self.path).query)
        self.send_response(200)
        self.end_headers()
        self.wfile.write(b"You are logged in. You can close this window.")

    def log_message(self, *_):
        pass


# docs: end
def log_in():
    global session, redirect_uri
    # docs: command-line-login
    listener = HTTPServer(("127.0.0.1", 0), Callback)
    Thread(target=listener.handle_request).start()
    redirect_uri = f"http://127.0.0.1:{listener.server_port}/callback"
    session = OAuth2Session(client_id, redirect_uri=redirect_uri, scope=["read"], pkce="S256")
    url, state = session.authorization_url(f"{issuer}/oauth/authorize")
    open_browser(url)
    if listener.parameters["state"] != [state] or listener.parameters["iss"] != [issuer]:
        raise RuntimeError("the response belongs to another request")
    token = session.fetch_token(
        f"{issuer}/oauth/token",
        code=listener.parameters["code"][0],
        include_client_id=True,
    )
    # docs: end
    listener.server_close()
    return token


def refresh(refresh_token):
    # docs: command-line-refresh
    token = session.refresh_token(
        f"{issuer}/oauth/token", refresh_token=refresh_token, client_id=client_id
    )
    # docs: end
    return token


def revoke(refresh_token):
    # docs: command-line-logout
    form = {"token": refresh_token, "client_id": client_id}
    response = session.post(f"{issuer}/oauth/revoke", data=form, withhold_token=True)
    # docs: end
    return response


def login():
    assert api_status(log_in()["access_token"]) == 200


def wrong_secret():
    token = session.token["refresh_token"]
    call = lambda: session.refresh_token(  # noqa: E731
        f"{issuer}/oauth/token", refresh_token=token, auth=(client_id, "wrong")
    )
    rejected(InvalidClientError.error, call)
    refresh(token)
    return "`invalid_client`, and the session continues"


def replay():
    last = session.token
    expiry(last["access_token"])
    rejected(InvalidGrantError.error, lambda: refresh(first))
    rejected(InvalidGrantError.error, lambda: refresh(last["refresh_token"]))
    return "`invalid_grant`, and the session has ended"


def revocation():
    token = log_in()
    response = revoke(token["refresh_token"])
    assert response.status_code == 200, response.text
    assert api_status(token["access_token"]) == 401
    rejected(InvalidGrantError.error, lambda: refresh(token["refresh_token"]))
    return "both tokens are rejected"


step("login in Chromium, code with PKCE, redirect to a free port", login)
first = session.token["refresh_token"]
step(f"expiry and refresh × {REFRESHES}", lambda: refresh_repeatedly(session.token, refresh) and None)
step("secret of a public client", wrong_secret)
step("replay of the first refresh token", replay)
step("second login and revocation", revocation)
