"""An SMTP server for tests: prints each accepted mail as a line of JSON.

Arguments: a JSON object with `port`, and optionally `certificate` and `key` (STARTTLS is
required), `smtps` (TLS from the first byte, in place of STARTTLS), `user` and `password` (a
login is required).

A recipient `unknown@…` is rejected, `later@…` is rejected at the first attempt, and a mail to
`echo@…` is rejected with the text of the mail in the response.
"""

import asyncio
import email
import email.policy
import json
import ssl
import sys

from aiosmtpd.smtp import SMTP, AuthResult

options = json.loads(sys.argv[1])
seen = set()


class Handler:
    async def handle_RCPT(self, server, session, envelope, address, rcpt_options):
        name = address.split("@")[0]
        if name == "unknown":
            return "550 5.1.1 no such mailbox here"
        if name == "later" and address not in seen:
            seen.add(address)
            return "451 4.3.0 try again later"
        envelope.rcpt_tos.append(address)
        return "250 OK"

    async def handle_DATA(self, server, session, envelope):
        message = email.message_from_bytes(envelope.content, policy=email.policy.default)
        text = message.get_content()
        if envelope.rcpt_tos[0].startswith("echo@"):
            return "554 5.7.1 rejected: " + " ".join(text.split())[:400]
        mail = {
            "from": envelope.mail_from,
            "to": envelope.rcpt_tos,
            "subject": message["subject"],
            "sender": message["from"],
            "automatic": message["auto-submitted"],
            "text": text,
            "tls": session.ssl is not None or server.transport.get_extra_info("cipher") is not None,
            "user": session.auth_data.decode() if session.authenticated else None,
        }
        print("mail " + json.dumps(mail), flush=True)
        return "250 OK"


def authenticate(server, session, envelope, mechanism, data):
    expected = (options["user"].encode(), options["password"].encode())
    success = (data.login, data.password) == expected
    return AuthResult(success=success, auth_data=data.login)


def tls_context():
    if "certificate" not in options:
        return None
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(options["certificate"], options["key"])
    return context


def protocol():
    arguments = {"enable_SMTPUTF8": True, "hostname": "localhost"}
    starttls = context is not None and not options.get("smtps")
    if starttls:
        arguments |= {"tls_context": context, "require_starttls": True}
    if "user" in options:
        arguments |= {"authenticator": authenticate, "auth_required": True}
        # aiosmtpd knows only of the TLS that STARTTLS begins.
        arguments |= {"auth_require_tls": starttls}
    return SMTP(Handler(), **arguments)


async def main():
    loop = asyncio.get_running_loop()
    tls = context if options.get("smtps") else None
    server = await loop.create_server(protocol, "127.0.0.1", options["port"], ssl=tls)
    print("ready", flush=True)
    await server.serve_forever()


context = tls_context()
asyncio.run(main())
