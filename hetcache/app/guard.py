"""What stands before the page: who may ask for what, and what a browser is told never to do."""

from __future__ import annotations

import base64
import hmac
import re
import secrets
from collections.abc import Awaitable, Callable, MutableMapping
from http.cookies import CookieError, SimpleCookie
from typing import Any
from urllib.parse import urlsplit

from hetcache.app.options import LOOPBACK, AppOptions

Message = MutableMapping[str, Any]
Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

COOKIE = "hetcache"
COOKIE_AGE_S = 30 * 86400
POLICY = "; ".join(
    (
        "default-src 'self'",
        # The page's library compiles templates.
        "script-src 'self' 'unsafe-inline' 'unsafe-eval' blob:",
        "style-src 'self' 'unsafe-inline'",
        "img-src 'self' data: blob:",
        "media-src 'self' data: blob:",
        "font-src 'self' data:",
        "connect-src 'self'",
        "frame-src 'self'",
        "frame-ancestors 'self'",
        "object-src 'none'",
        "base-uri 'self'",
        "form-action 'self'",
    )
)
"""Nothing outside this server is asked for, whatever a library's page says."""

CLOSED = (
    "file upload upload_progress proxy deep_link runs stream component_server api_info info openapi.json docs redoc"
).split()
LIBRARY_FILES = re.compile(rf"^/(gradio_api/)?({'|'.join(map(re.escape, CLOSED))})\b")
"""Doors of the page's library through which files of all sessions, or of the server, go in and out: closed."""

PERMITTED_METHODS = {"GET", "HEAD", "POST"}


class Guard:
    """ASGI middleware around the whole server: password, origin, closed doors, the session's cookie, and headers. The
    secret of the session is in `scope["session_secret"]` for what is inside."""

    def __init__(self, app: App, options: AppOptions) -> None:
        self._app = app
        self._options = options

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
            return
        if scope["type"] != "http":
            # Nothing here talks through sockets.
            return
        headers = {name.decode("latin-1").lower(): value.decode("latin-1") for name, value in scope["headers"]}
        refusal = self._refusal(scope, headers)
        if refusal is not None:
            await _answer(send, *refusal)
            return
        secret = _secret_in(headers.get("cookie", ""))
        is_new = secret is None
        if secret is None:
            secret = secrets.token_hex(24)
            cookies = (b"cookie", f"{COOKIE}={secret}".encode())
            scope["headers"] = [*(pair for pair in scope["headers"] if pair[0].lower() != b"cookie"), cookies]
        scope["session_secret"] = secret

        async def with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message.get("headers", []), *_headers(secret if is_new else None)]
            await send(message)

        await self._app(scope, receive, with_headers)

    def _refusal(self, scope: Scope, headers: dict[str, str]) -> tuple[int, str, dict[str, str]] | None:
        """(status, words, headers) of the answer to what may not be asked, or None."""
        credentials = self._options.credentials
        if credentials is not None and not _knows(headers.get("authorization", ""), credentials):
            return 401, "name and password, please", {"WWW-Authenticate": 'Basic realm="HetCache", charset="UTF-8"'}
        host = headers.get("host", "")
        name = urlsplit(f"//{host}").hostname or ""
        if credentials is None and name not in LOOPBACK:
            # Another site's name that leads here: its scripts would count as ours.
            return 403, f"this page is at {LOOPBACK[0]} alone", {}
        if scope["method"] not in PERMITTED_METHODS:
            return 405, "not here", {}
        origin = headers.get("origin")
        if scope["method"] == "POST" and origin is not None and urlsplit(origin).netloc != host:
            return 403, "asked from another site", {}
        if LIBRARY_FILES.match(scope["path"]):
            return 404, "not here", {}
        return None


def _knows(authorization: str, credentials: str) -> bool:
    kind, _, value = authorization.partition(" ")
    try:
        given = base64.b64decode(value, validate=True)
    except ValueError:
        return False
    return kind.lower() == "basic" and hmac.compare_digest(given, credentials.encode())


def _secret_in(cookie: str) -> str | None:
    try:
        morsel = SimpleCookie(cookie).get(COOKIE)
    except CookieError:
        return None
    if morsel is None or not re.fullmatch(r"[0-9a-f]{48}", morsel.value):
        return None
    return morsel.value


def _headers(new_secret: str | None) -> list[tuple[bytes, bytes]]:
    headers = {
        "Content-Security-Policy": POLICY,
        "X-Content-Type-Options": "nosniff",
        "Referrer-Policy": "no-referrer",
        "Cross-Origin-Resource-Policy": "same-origin",
    }
    if new_secret is not None:
        headers["Set-Cookie"] = f"{COOKIE}={new_secret}; Path=/; Max-Age={COOKIE_AGE_S}; HttpOnly; SameSite=Strict"
    return [(name.lower().encode(), value.encode()) for name, value in headers.items()]


async def _answer(send: Send, status: int, words: str, headers: dict[str, str]) -> None:
    pairs = [(name.lower().encode(), value.encode()) for name, value in headers.items()]
    start = [(b"content-type", b"text/plain; charset=utf-8"), *pairs]
    await send({"type": "http.response.start", "status": status, "headers": start})
    await send({"type": "http.response.body", "body": f"{words}\n".encode()})
