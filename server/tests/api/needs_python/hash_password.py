"""Prints a line for `users import` for each format in which passlib, Django and Werkzeug hash a password."""

import json
import logging
import sys

import django
from django.conf import settings

logging.getLogger("passlib").setLevel(logging.CRITICAL)
hashers = ["PBKDF2", "PBKDF2SHA1", "Argon2", "BCryptSHA256", "BCrypt", "Scrypt"]
settings.configure(PASSWORD_HASHERS=[f"django.contrib.auth.hashers.{name}PasswordHasher" for name in hashers])
django.setup()

from django.contrib.auth.hashers import make_password  # noqa: E402
from passlib import hash as passlib  # noqa: E402
from werkzeug.security import generate_password_hash  # noqa: E402

password = sys.argv[1]
# Lambdas: passlib loads the library of an algorithm at its first use, once.
formats = {
    "passlib-argon2id": lambda text: passlib.argon2.using(type="ID").hash(text),
    "passlib-argon2i": lambda text: passlib.argon2.using(type="I").hash(text),
    "passlib-scrypt": lambda text: passlib.scrypt.using(rounds=14).hash(text),
    "passlib-pbkdf2-sha1": lambda text: passlib.pbkdf2_sha1.hash(text),
    "passlib-pbkdf2-sha256": lambda text: passlib.pbkdf2_sha256.hash(text),
    "passlib-pbkdf2-sha512": lambda text: passlib.pbkdf2_sha512.hash(text),
    "passlib-bcrypt": lambda text: passlib.bcrypt.using(rounds=10).hash(text),
    "passlib-bcrypt-2a": lambda text: passlib.bcrypt.using(rounds=10, ident="2a").hash(text),
    "werkzeug-scrypt": lambda text: generate_password_hash(text, method="scrypt"),
    "werkzeug-pbkdf2": lambda text: generate_password_hash(text, method="pbkdf2"),
    "werkzeug-pbkdf2-sha512": lambda text: generate_password_hash(text, method="pbkdf2:sha512:1000"),
}
for hasher in ["pbkdf2_sha256", "pbkdf2_sha1", "argon2", "bcrypt_sha256", "bcrypt", "scrypt"]:
    formats[f"django-{hasher}"] = lambda text, hasher=hasher: make_password(text, hasher=hasher)
for name, hash_password in formats.items():
    print(json.dumps({"name": name, "password_hash": hash_password(password)}))
