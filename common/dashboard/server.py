"""The page's server: static files, one request as JSON, and the view of the site as Server-Sent Events."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from functools import partial
from importlib.resources import files

import msgspec
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response, StreamingResponse
from starlette.routing import Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from common.dashboard.site import View
from common.store.queries import RoutedRequest

Look = Callable[[], View]
Find = Callable[[str], RoutedRequest | None]
_INTERVAL_S = 1.0
_MOST_READERS = 32
_TYPES = {"dashboard.css": "text/css", "dashboard.js": "text/javascript", "icon.svg": "image/svg+xml"}
_HEADERS = (
    (b"content-security-policy", b"default-src 'self'; frame-ancestors 'none'; base-uri 'none'; form-action 'none'"),
    (b"referrer-policy", b"no-referrer"),
    (b"x-content-type-options", b"nosniff"),
)


class Broadcast:
    """The newest event, made once for all readers; a slow reader skips what it has missed."""

    def __init__(self, look: Look) -> None:
        self._look = look
        self._event = b""
        self._turn = 0
        self._changed = asyncio.Condition()
        self.readers = 0

    async def run(self) -> None:
        """Look at the site, again and again."""
        while True:
            view = await asyncio.to_thread(self._look)
            async with self._changed:
                self._event = b"data: " + msgspec.json.encode(view) + b"\n\n"
                self._turn += 1
                self._changed.notify_all()
            await asyncio.sleep(_INTERVAL_S)

    async def events(self) -> AsyncIterator[bytes]:
        """Give the newest event, and each that follows."""
        self.readers += 1
        try:
            seen = 0
            while True:
                async with self._changed:
                    await self._changed.wait_for(partial(self._is_newer, seen))
                    seen, event = self._turn, self._event
                yield event
        finally:
            self.readers -= 1

    def _is_newer(self, seen: int) -> bool:
        return self._turn > seen


class SecurityHeaders:
    """Adds headers that keep the page to itself."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                message = {**message, "headers": [*message["headers"], *_HEADERS]}
            await send(message)

        await self._app(scope, receive, send_with_headers)


def make_app(look: Look, find: Find, *, on_failure: Callable[[BaseException], None], hosts: list[str]) -> Starlette:
    """Make the application.

    Args:
        look: Gives the view; called from one thread at a time.
        find: Gives a request; called from any thread.
        on_failure: Told when the site can no longer be looked at.
        hosts: Names that a browser may ask for; others are refused, so that no foreign page reads along.
    """
    broadcast = Broadcast(look)

    async def page(_request: Request) -> Response:
        return _static("index.html", "text/html")

    async def asset(request: Request) -> Response:
        name = request.path_params["name"]
        return _static(name, _TYPES[name]) if name in _TYPES else PlainTextResponse("not found", 404)

    async def events(_request: Request) -> Response:
        if broadcast.readers >= _MOST_READERS:
            return PlainTextResponse("too many readers", 503)
        headers = {"cache-control": "no-store"}
        return StreamingResponse(broadcast.events(), media_type="text/event-stream", headers=headers)

    async def one(request: Request) -> Response:
        found = await asyncio.to_thread(find, request.path_params["request_id"])
        if found is None:
            return PlainTextResponse("the log holds no such request", 404)
        return Response(msgspec.json.encode(found), media_type="application/json")

    @asynccontextmanager
    async def lifespan(_app: Starlette) -> AsyncIterator[None]:
        looking = asyncio.create_task(broadcast.run())
        looking.add_done_callback(partial(_report, on_failure))
        yield
        looking.cancel()

    routes = [
        Route("/", page),
        Route("/requests/{request_id}", page),
        Route("/static/{name}", asset),
        Route("/api/events", events),
        Route("/api/requests/{request_id}", one),
    ]
    middleware = [Middleware(SecurityHeaders), Middleware(TrustedHostMiddleware, allowed_hosts=hosts)]
    return Starlette(routes=routes, middleware=middleware, lifespan=lifespan)


def _report(on_failure: Callable[[BaseException], None], looking: "asyncio.Task[None]") -> None:
    if not looking.cancelled() and (failure := looking.exception()) is not None:
        on_failure(failure)


def _static(name: str, media_type: str) -> Response:
    content = files("common.dashboard").joinpath("static", name).read_bytes()
    return Response(content, media_type=media_type, headers={"cache-control": "no-cache"})
