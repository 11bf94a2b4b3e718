"""A server with django-oauth-toolkit on SQLite: adds users and logs each in at its token endpoint.

oauth_server.py FOLDER PASSWORD USERS EXPORT writes FOLDER/users.jsonl with the script EXPORT, and FOLDER/tokens.json
with what the clients hold.
"""

import contextlib
import json
import sys
from pathlib import Path

import django
from django.conf import settings
from django.contrib.auth.hashers import PBKDF2PasswordHasher
from django.urls import include, path


class FastHasher(PBKDF2PasswordHasher):
    iterations = 1000


if not settings.configured:
    folder, password, users, export = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3]), Path(sys.argv[4])
    settings.configure(
        ALLOWED_HOSTS=["testserver"],
        DATABASES={"default": {"ENGINE": "django.db.backends.sqlite3", "NAME": folder / "oauth.db"}},
        INSTALLED_APPS=["django.contrib.auth", "django.contrib.contenttypes", "oauth2_provider"],
        MIDDLEWARE=[],
        OAUTH2_PROVIDER={"REFRESH_TOKEN_EXPIRE_SECONDS": 30 * 24 * 3600, "SCOPES": {"read": "Read"}},
        PASSWORD_HASHERS=["__main__.FastHasher"],
        ROOT_URLCONF="__main__",
        SECRET_KEY="of a test",
        USE_TZ=True,
    )
    django.setup()

urlpatterns = [path("o/", include("oauth2_provider.urls", namespace="oauth2_provider"))]


def main():
    from django.contrib.auth.models import User
    from django.core.management import call_command
    from django.test import Client
    from oauth2_provider.models import Application

    call_command("migrate", verbosity=0)
    Application.objects.create(
        client_id="app", client_type="public", authorization_grant_type="password", name="app"
    )
    client, tokens = Client(), {}
    for n in range(users):
        name = f"user{n}"
        User.objects.create_user(name, password=password, first_name="User", last_name=str(n))
        form = {"grant_type": "password", "client_id": "app", "username": name, "password": password}
        response = client.post("/o/token/", form)
        assert response.status_code == 200, response.content
        tokens[name] = response.json()["refresh_token"]
    # One client has refreshed since: its first token is not valid any more.
    form = {"grant_type": "refresh_token", "client_id": "app", "refresh_token": tokens["user0"]}
    response = client.post("/o/token/", form)
    assert response.status_code == 200, response.content
    tokens["rotated"], tokens["user0"] = tokens["user0"], response.json()["refresh_token"]
    with open(folder / "users.jsonl", "w") as file, contextlib.redirect_stdout(file):
        exec(compile(export.read_text(), export, "exec"), {})
    (folder / "tokens.json").write_text(json.dumps(tokens))


if __name__ == "__main__":
    main()
