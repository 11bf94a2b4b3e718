"""Verifies access tokens of Matchbook with PyJWT (pip install 'PyJWT[crypto]')."""

import ssl
import sys

import jwt

ISSUER = "https://localhost:5001"  # tokens.issuer
AUDIENCE = "https://localhost:5001"  # tokens.audience
JWKS_URL = "https://localhost:5001/.well-known/jwks.json"
CA_FILE = "data/tls/ca.pem"  # remove this for a public certificate

# Caches the key set for half of `keys.publish_ahead`, which is five minutes by default.
# An unknown `kid` fetches it again, at most every ten seconds.
keys = jwt.PyJWKClient(
    JWKS_URL,
    lifespan=300,
    cooldown_duration=10,
    timeout=5,
    ssl_context=ssl.create_default_context(cafile=CA_FILE),
)


def verify(token: str) -> dict:
    """Returns the claims of a valid access token, or raises `jwt.PyJWTError`."""
    key = keys.get_signing_key_from_jwt(token)
    # The key names its algorithm, so the token cannot choose it.
    decoded = jwt.decode_complete(
        token,
        key,
        algorithms=[key.algorithm_name],
        issuer=ISSUER,
        audience=AUDIENCE,
        leeway=5,
        options={"require": ["iss", "aud", "sub", "exp", "iat", "jti", "sid"]},
    )
    # RFC 9068: no other kind of token is accepted in place of an access token.
    if decoded["header"].get("typ", "").lower().removeprefix("application/") != "at+jwt":
        raise jwt.InvalidTokenError("not an access token")
    return decoded["payload"]


if __name__ == "__main__":
    try:
        claims = verify(sys.stdin.read().strip())
    except jwt.PyJWTError as error:
        sys.exit(f"rejected: {error}")
    print(f"user {claims['sub']}, session {claims['sid']}, until {claims['exp']}")
