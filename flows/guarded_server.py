"""Prefect's server behind a guard: `usam up` runs it in the background.

    python -m flows.guarded_server --port 4200

Prefect asks whoever comes for the secret that its settings name. The guard refuses before that what
a web page from elsewhere can make a browser send: another host's name that was made to point here,
another page's origin, JSON that calls itself text.
"""

import argparse
import hmac
import json
import re
from typing import Any
from urllib.parse import parse_qs

import uvicorn
from fastapi import Request
from fastapi.requests import HTTPConnection
from fastapi.responses import HTMLResponse, JSONResponse, Response
from prefect.server.api.server import create_app
from prefect.settings import get_current_settings

from flows.local_server import OPEN, encoded

_OWN_NAMES = re.compile(r"(127\.0\.0\.1|localhost|\[::1\])(:\d+)?", re.IGNORECASE)
"""Any port: a person may have passed it on, by SSH say; a foreign page cannot choose the name."""

_LONGEST_FORM = 1024
_POLICY_VIOLATION = 1008
_POLICY = b"frame-ancestors 'none'; connect-src 'self' data: blob:"
# No other page may show this one in a frame, and this one tells nobody else: Prefect's pages load a
# recorder of sessions from elsewhere before anybody has told them not to.
_HEADERS = [(b"content-security-policy", _POLICY), (b"referrer-policy", b"no-referrer")]
# Prefect's pages look for the secret here, and ask for it where it is missing or old. Unlike a
# cookie it is sent to no other port of this machine, and with no request of another page.
_ENTER = """\
<!doctype html>
<title>usam</title>
<script>
localStorage.setItem("prefect-password", {token});
location.replace("/");
</script>
"""


class Guard:
    """An ASGI application before Prefect's server; the browser's file posts the secret to it."""

    def __init__(self, app: Any, secret: str) -> None:
        self._app = app
        self._secret = secret

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Answer one request or websocket, or let Prefect do so."""
        if scope["type"] not in ("http", "websocket"):  # starting and stopping
            await self._app(scope, receive, send)
            return
        refusal = _refusal(HTTPConnection(scope), scope.get("method", ""), scope["path"])
        if refusal and scope["type"] == "websocket":
            await send({"type": "websocket.close", "code": _POLICY_VIOLATION, "reason": ""})
        elif refusal:
            await refusal(scope, receive, send)
        elif scope["path"] == OPEN:
            answer = await self._enter(Request(scope, receive))
            await answer(scope, receive, _with_headers(send))
        else:
            await self._app(scope, receive, _with_headers(send))

    async def _enter(self, request: Request) -> Response:
        form = b""
        async for part in request.stream():
            form += part
            if len(form) > _LONGEST_FORM:
                return _refused(413, "expected a form with the secret")
        given = parse_qs(form.decode(errors="replace")).get("secret", [""])[0]
        if not hmac.compare_digest(given.encode(), self._secret.encode()):
            return _refused(403, "this file is of an earlier start; open the one `usam up` names")
        token = json.dumps(encoded(self._secret))
        return HTMLResponse(_ENTER.format(token=token), headers={"Cache-Control": "no-store"})


def _refusal(asked: HTTPConnection, method: str, path: str) -> Response | None:
    hosts = asked.headers.getlist("host")
    if len(hosts) != 1 or not _OWN_NAMES.fullmatch(hosts[0]):
        return _refused(400, "expected the host 127.0.0.1 or localhost")
    if path == OPEN:  # from a file, which has no origin; the secret itself is asked for
        return None if method == "POST" else _refused(405, "expected POST")
    if any(origin != f"http://{hosts[0]}" for origin in asked.headers.getlist("origin")):
        return _refused(403, "expected a request of this server's own page")
    length = asked.headers.get("content-length", "0")
    kind = asked.headers.get("content-type", "").partition(";")[0].strip().lower()
    if (length != "0" or "transfer-encoding" in asked.headers) and kind != "application/json":
        return _refused(415, "expected a body of the type application/json")
    return None


def _refused(status: int, words: str) -> Response:
    return JSONResponse({"detail": words}, status)


def _with_headers(send: Any) -> Any:
    async def sent(message: Any) -> None:
        if message["type"] == "http.response.start":
            message = {**message, "headers": [*message["headers"], *_HEADERS]}
        await send(message)

    return sent


def main() -> None:
    """Read the command line, and serve until told to stop."""
    parser = argparse.ArgumentParser(prog="python -m flows.guarded_server")
    parser.add_argument("--port", type=int, required=True)
    given = parser.parse_args()
    server = get_current_settings().server
    if server.api.auth_string is None:
        parser.error("expected a secret in PREFECT_SERVER_API_AUTH_STRING")
    uvicorn.run(
        Guard(create_app(final=True), server.api.auth_string.get_secret_value()),
        host="127.0.0.1",
        port=given.port,
        timeout_keep_alive=server.api.keepalive_timeout,
        ws_ping_interval=server.api.websocket_ping_interval,
        ws_ping_timeout=server.api.websocket_ping_timeout,
        log_level=server.logging_level.lower(),
        proxy_headers=False,
    )


if __name__ == "__main__":
    main()
