"""mozilla-django-oidc: a Django app. It has no refresh: a middleware renews the session of the app
by authorization requests with `prompt=none`."""

import json
import os
import secrets
import tempfile
import threading
from urllib.parse import urlencode

import django
import requests
from django.conf import settings
from django.core.servers.basehttp import ThreadedWSGIServer, WSGIRequestHandler
from steps import ISSUER, REFRESHES, announce, ask, expiry, step

EMAIL = "django@example.com"
GROUP = "staff"

announce("mozilla-django-oidc")
# The library finds a user by the email address.
ask("user", name=EMAIL, groups=[GROUP])
server = ThreadedWSGIServer(("127.0.0.1", 0), WSGIRequestHandler)
origin = f"http://127.0.0.1:{server.server_port}"
folder = tempfile.TemporaryDirectory()
client = ask(
    "client",
    name="mozilla-django-oidc",
    options=["--confidential", "--first-party", "--post-logout-redirect-uri", f"{origin}/goodbye/"],
    redirectUri=f"{origin}/oidc/callback/",
)
metadata = requests.get(f"{ISSUER}/.well-known/openid-configuration", timeout=60).json()


def logout_url(request):
    """Returns the URL to which the app sends the browser to log out at the server."""
    parameters = {
        "id_token_hint": request.session["oidc_id_token"],
        "post_logout_redirect_uri": f"{origin}/goodbye/",
    }
    return f"{metadata['end_session_endpoint']}?{urlencode(parameters)}"


settings.configure(
    ALLOWED_HOSTS=["127.0.0.1"],
    DEBUG_PROPAGATE_EXCEPTIONS=True,
    SECRET_KEY=secrets.token_urlsafe(),
    ROOT_URLCONF=__name__,
    USE_TZ=True,
    DATABASES={
        "default": {
            "ENGINE": "django.db.backends.sqlite3",
            "NAME": os.path.join(folder.name, "app.db"),
        }
    },
    DEFAULT_AUTO_FIELD="django.db.models.BigAutoField",
    INSTALLED_APPS=[
        "django.contrib.auth",
        "django.contrib.contenttypes",
        "django.contrib.sessions",
        "mozilla_django_oidc",
    ],
    MIDDLEWARE=[
        "django.contrib.sessions.middleware.SessionMiddleware",
        "django.contrib.auth.middleware.AuthenticationMiddleware",
        "mozilla_django_oidc.middleware.SessionRefresh",
    ],
    AUTHENTICATION_BACKENDS=[f"{__name__}.Backend"],
    LOGIN_REDIRECT_URL="/",
    LOGIN_REDIRECT_URL_FAILURE="/failure/",
    LOGOUT_REDIRECT_URL="/goodbye/",
    ALLOW_LOGOUT_GET_METHOD=True,
    OIDC_RP_CLIENT_ID=client["client_id"],
    OIDC_RP_CLIENT_SECRET=client["client_secret"],
    OIDC_RP_SCOPES="openid profile email groups",
    OIDC_RP_SIGN_ALGO="RS256",
    OIDC_OP_AUTHORIZATION_ENDPOINT=metadata["authorization_endpoint"],
    OIDC_OP_TOKEN_ENDPOINT=metadata["token_endpoint"],
    OIDC_OP_USER_ENDPOINT=metadata["userinfo_endpoint"],
    OIDC_OP_JWKS_ENDPOINT=metadata["jwks_uri"],
    OIDC_OP_LOGOUT_URL_METHOD=f"{__name__}.logout_url",
    OIDC_USE_PKCE=True,
    OIDC_STORE_ACCESS_TOKEN=True,
    OIDC_STORE_ID_TOKEN=True,
    OIDC_RENEW_ID_TOKEN_EXPIRY_SECONDS=1,
    # A request for an icon carries no cookie of the server, so its renewal would fail.
    OIDC_EXEMPT_URLS=["/goodbye/", "/failure/", "/favicon.ico"],
)
django.setup()

# These need the settings.
from django.contrib.auth.models import Group  # noqa: E402
from django.core.management import call_command  # noqa: E402
from django.core.wsgi import get_wsgi_application  # noqa: E402
from django.http import JsonResponse  # noqa: E402
from django.urls import include, path  # noqa: E402
from mozilla_django_oidc.auth import OIDCAuthenticationBackend  # noqa: E402


class Backend(OIDCAuthenticationBackend):
    """Keeps the groups of the user as groups of Django."""

    def create_user(self, claims):
        return self.update_user(super().create_user(claims), claims)

    def update_user(self, user, claims):
        groups = [Group.objects.get_or_create(name=name)[0] for name in claims["groups"]]
        user.groups.set(groups)
        return user


def home(request):
    user = request.user
    values = {"page": "home", "email": getattr(user, "email", None)}
    if user.is_authenticated:
        values["groups"] = [group.name for group in user.groups.all()]
        values["access_token"] = request.session["oidc_access_token"]
        values["id_token"] = request.session["oidc_id_token"]
    return JsonResponse(values)


def named(name):
    """Returns a page that says whether the user is logged in at the app."""
    return lambda request: JsonResponse({"page": name, "isLoggedIn": request.user.is_authenticated})


urlpatterns = [
    path("", home),
    path("goodbye/", named("goodbye")),
    path("failure/", named("failure")),
    path("oidc/", include("mozilla_django_oidc.urls")),
]
call_command("migrate", verbosity=0)
server.set_app(get_wsgi_application())
threading.Thread(target=server.serve_forever, daemon=True).start()


def open_page(url):
    """Opens a page in Chromium. Returns its JSON, and how often the user has typed the password."""
    visited = ask("visit", url=url, untilText='"page"')
    text = visited["text"]
    page = json.loads(text[text.index("{") : text.rindex("}") + 1])
    return page | {"passwords": visited["passwords"]}


def log_in():
    page = open_page(f"{origin}/oidc/authenticate/")
    assert page.get("email") == EMAIL, page
    assert page["groups"] == [GROUP], page
    return page


def renew():
    before = open_page(f"{origin}/")
    assert before.get("email") == EMAIL, before
    for _ in range(REFRESHES):
        expiry(before["access_token"])
        page = open_page(f"{origin}/")
        assert page.get("email") == EMAIL, page
        assert page["passwords"] == 1, page
        # The library has used the new access token for the claims.
        assert page["access_token"] != before["access_token"]
        before = page
    return "the app stays logged in without a password"


def log_out():
    before = log_in()
    page = open_page(f"{origin}/oidc/logout/")
    assert page["page"] == "goodbye" and not page["isLoggedIn"], page
    page = log_in()
    assert page["passwords"] == before["passwords"] + 1, page
    return "the next login asks for the password"


def log_out_elsewhere():
    page = log_in()
    parameters = {
        "id_token_hint": page["id_token"],
        "post_logout_redirect_uri": f"{origin}/goodbye/",
    }
    # Not by the app, which still has its session.
    page = open_page(f"{metadata['end_session_endpoint']}?{urlencode(parameters)}")
    assert page["page"] == "goodbye" and page["isLoggedIn"], page
    page = open_page(f"{origin}/")
    assert page["page"] == "failure" and not page["isLoggedIn"], page
    return "`login_required`, and the app ends its session"


step("login in Chromium, code with PKCE and `nonce`, userinfo", lambda: log_in() and None)
step(f"expiry and renewal with `prompt=none` × {REFRESHES}", renew)
step("RP-initiated logout", log_out)
step("renewal with `prompt=none` after a logout at the server", log_out_elsewhere)
