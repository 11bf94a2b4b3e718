"""Exports the users and live refresh tokens of Django with django-oauth-toolkit, a JSON object per line.

python manage.py shell -v 0 < docs/examples/export_django.py > users.jsonl
"""

import json
import sys
from datetime import timedelta

from django.contrib.auth import get_user_model
from oauth2_provider.models import get_refresh_token_model
from oauth2_provider.settings import oauth2_settings

lifetime = oauth2_settings.REFRESH_TOKEN_EXPIRE_SECONDS
if isinstance(lifetime, (int, float)):
    lifetime = timedelta(seconds=lifetime)

tokens = {}
for token in get_refresh_token_model().objects.filter(revoked__isnull=True).iterator():
    entry = {"sha256": token.token_checksum}
    # Without a lifetime, Matchbook uses its own `sessions.idle_lifetime`.
    if lifetime:
        entry["expires_at"] = (token.created + lifetime).isoformat()
    tokens.setdefault(token.user_id, []).append(entry if lifetime else token.token_checksum)

for user in get_user_model().objects.iterator():
    line = {
        "name": user.get_username(),
        "created_at": user.date_joined.isoformat(),
        "disabled": not user.is_active,
        "is_admin": user.is_superuser,
        "refresh_token_sha256": tokens.get(user.pk, []),
    }
    if user.has_usable_password():
        line["password_hash"] = user.password
    if user.get_full_name():
        line["display_name"] = user.get_full_name()
    sys.stdout.write(json.dumps(line) + "\n")
