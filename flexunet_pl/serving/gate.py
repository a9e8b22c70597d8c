"""What stands before a service: a key, a largest body, and a count of all requests."""

import secrets
from collections.abc import Mapping

from starlette.datastructures import Headers
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from flexunet_pl.serving.limits import Limits
from flexunet_pl.serving.metrics import Metrics

OPEN_PATHS = ("/health",)  # answered without a key, so that a load balancer can ask


class Gate:
    """Middleware that refuses requests without the key or with too large a body, and counts all of them."""

    def __init__(self, app: ASGIApp, limits: Limits, metrics: Metrics, api_key: str | None) -> None:
        """Stand before ``app``."""
        self.app, self.limits, self.metrics, self.api_key = app, limits, metrics, api_key

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request, or let ``app`` do so."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return

        async def counted(message: Message) -> None:
            if message["type"] == "http.response.start":
                route = scope.get("route")
                path = "other" if route is None else getattr(route, "path", "other")
                self.metrics.requests.labels(path, message["status"]).inc()
            await send(message)

        headers = Headers(scope=scope)
        app: ASGIApp = self.app
        if self.api_key is not None and scope["path"] not in OPEN_PATHS and not has_key(headers, self.api_key):
            app = failure(401, "the key is missing or wrong; send it as X-API-Key")
        elif int(headers.get("content-length", "0")) > self.limits.max_bytes:
            app = failure(413, too_large(self.limits))
        await app(scope, receive, counted)


def has_key(headers: Headers, api_key: str) -> bool:
    """Return whether the headers bear the key; takes as long for a wrong one as for a right one."""
    given = headers.get("x-api-key") or headers.get("authorization", "").removeprefix("Bearer ")
    return secrets.compare_digest(given.encode(), api_key.encode())


def failure(status: int, message: str, headers: Mapping[str, str] | None = None) -> JSONResponse:
    """Return an answer that says what went wrong."""
    return JSONResponse({"error": message}, status, dict(headers or {}))


def too_large(limits: Limits) -> str:
    """Return what is said of too large a body."""
    return f"the body has more than {limits.max_bytes} bytes; send fewer or smaller images"
