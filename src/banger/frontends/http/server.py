"""The operations over HTTP: find the op, call it, and give its result the form that its type asks for.

`serving` owns one task for each connection and ends them all when it is left; the listening socket is made, and its file removed, by the composition
root. While a stream of lines is under way the client's leaving is noticed at once and the op's iterator closed: machines that live as long as their
caller rely on it. A plain call, once begun, runs to its end whether or not somebody waits.
"""

from __future__ import annotations

import asyncio
import inspect
import logging
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, cast

from banger.frontends.http.bridge import PROTOCOL, bridge
from banger.frontends.http.routes import Route, Routes, body_object
from banger.frontends.http.talk import READ_BYTES, Malformed, Request, Talk
from banger.model import codec
from banger.model.build import build_key
from banger.model.errors import CODES, BadRequest, BangerError, DaemonStale, foreseen
from banger.model.event import Event
from banger.model.operation import Failure, Operation
from banger.ops import Op

if TYPE_CHECKING:
    from socket import socket

    from banger.daemon.duplex import Duplex

log = logging.getLogger("banger.http")
GRACE_SECONDS = 2.0


class Service:
    """All operations of one daemon. `stale` is asked whether to step down when a client's code is newer; None: never.

    `calls` is how many calls are under way, streams and upgraded connections among them: what is cut off if the daemon ends.
    """

    def __init__(self, ops: Mapping[str, Op], daemon: object, build: str, *, stale: Callable[[], bool] | None = None) -> None:
        self.ops, self.daemon, self.build, self.stale = ops, daemon, build, stale
        self.routes = Routes(ops)
        self.talks: dict[asyncio.Task[None], Talk] = {}
        self.calls = 0

    async def converse(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Serve one connection to its end; never raises but for cancellation."""
        talk = Talk(reader, writer, self.build)
        task = asyncio.current_task()
        assert task is not None
        self.talks[task] = talk
        try:
            while (request := await talk.request()) is not None:
                await self._serve(talk, request)
                if not talk.reusable():
                    break
        except Malformed as error:
            await _say(talk, error.status, BadRequest(str(error)))
        except (ConnectionError, TimeoutError) as error:
            log.debug("a connection broke off: %s", error)
        except Exception:
            log.exception("a connection failed")
        finally:
            del self.talks[task]
            writer.close()

    async def _serve(self, talk: Talk, request: Request) -> None:
        try:
            self._check_build(request.headers.get("banger-build", ""))
            if request.method == "GET" and request.target == "/openapi.json":
                return await self._describe(talk)
            route, path, query = self.routes.find(request.method, request.target)
            if query and not route.textual:
                raise BadRequest(f"{route.op.name} takes its parameters as a JSON object, not in the address")
            arguments = route.arguments_from(path, query if route.textual else body_object(request.body))
            if route.upgrades and request.headers.get("upgrade", "").lower() != PROTOCOL:
                raise BadRequest(f"{route.op.name} needs an upgraded connection", hint=f"send 'Connection: Upgrade' and 'Upgrade: {PROTOCOL}'")
        except BangerError as error:
            return await _say(talk, status_of(error), error)
        self.calls += 1
        try:
            await self._call(talk, route, arguments)
        finally:
            self.calls -= 1

    def _check_build(self, theirs: str) -> None:
        try:
            newer = bool(theirs) and build_key(theirs) > build_key(self.build)
        except ValueError:
            raise BadRequest("the header Banger-Build cannot be read") from None
        if newer and self.stale is not None and self.stale():
            raise DaemonStale(f"the daemon's code ({self.build}) is older than yours ({theirs}); it is stepping down", hint="ask again")

    async def _describe(self, talk: Talk) -> None:
        from banger.frontends.http.openapi import describe  # rarely asked for, and slow to make

        await talk.respond(200, codec.encode(describe(self.ops)))

    async def _call(self, talk: Talk, route: Route, arguments: dict[str, object]) -> None:
        """Call the op; its errors become responses, and nothing of an unforeseen one leaves the log."""
        try:
            result = route.op.function(self.daemon, **arguments)
            if inspect.isawaitable(result):
                result = cast("object", await result)
            if route.streams:
                await _stream(talk, route.op.name, cast("AsyncIterator[object]", result))
            elif route.upgrades:
                await self._bridge(talk, cast("Duplex", result))
            else:
                await talk.respond(204 if result is None else 200, b"" if result is None else codec.encode(result))
        except (ConnectionError, TimeoutError):
            if talk.responding():
                raise
            log.exception("%s failed", route.op.name)
            await _say(talk, 500, _unforeseen(route.op.name))
        except Exception as error:
            if not isinstance(error, BangerError):
                log.exception("%s failed", route.op.name)
            told = foreseen(error) or _unforeseen(route.op.name)
            await _say(talk, status_of(told), told)

    async def _bridge(self, talk: Talk, duplex: Duplex) -> None:
        try:
            first = await talk.switch(PROTOCOL)
        except BaseException:
            await duplex.aclose()
            raise
        await bridge(duplex, talk.reader, talk.writer, first)


def _unforeseen(name: str) -> BangerError:
    return BangerError(f"{name} failed in a way that nobody foresaw", hint="the daemon's log has the details: banger daemon status")


def status_of(error: BangerError) -> int:
    """The HTTP status of an error."""
    return CODES.get(error.code, CODES["internal"])[0]


def failure(error: BangerError) -> Failure:
    """An error as it travels."""
    return Failure(code=error.code, message=str(error), hint=error.hint, stage=error.stage, tail=error.tail)


async def _say(talk: Talk, status: int, error: BangerError) -> None:
    """An error as a response; a peer that has gone does not hear it."""
    if talk.responding():
        return
    try:
        await talk.respond(status, codec.encode({"error": failure(error)}))
    except (ConnectionError, TimeoutError) as gone:
        log.debug("nobody heard the error %r: %s", error.code, gone)


async def _stream(talk: Talk, name: str, items: AsyncIterator[object]) -> None:
    """Send the items as lines until they end or the client leaves; the iterator is closed in either case before anything else happens."""
    try:
        async with asyncio.TaskGroup() as group:
            sender = group.create_task(_send_lines(talk, name, items))
            watcher = group.create_task(talk.gone())
            await asyncio.wait({sender, watcher}, return_when=asyncio.FIRST_COMPLETED)
            sender.cancel()
            watcher.cancel()
    finally:
        close = getattr(items, "aclose", None)
        if close is not None:
            await close()


async def _send_lines(talk: Talk, name: str, items: AsyncIterator[object]) -> None:
    last: BangerError | None = None
    try:
        await talk.begin_lines()
        async for item in items:
            await talk.line(codec.encode({_key(item): item}))
    except ConnectionError:
        return
    except BangerError as error:
        last = error
    except Exception as error:
        log.exception("%s failed", name)
        last = foreseen(error) or _unforeseen(name)
    try:
        if last is not None:
            await talk.line(codec.encode({"error": failure(last)}))
        await talk.end_lines()
    except ConnectionError:
        return


def _key(item: object) -> str:
    if isinstance(item, Operation):
        return "operation"
    return "event" if isinstance(item, Event) else "result"


@asynccontextmanager
async def serving(service: Service, listener: socket) -> AsyncIterator[asyncio.Server]:
    """Serve on a listening socket for the duration of the block. At its end: no new connections, a moment for calls under way, then all are cut."""
    async with asyncio.TaskGroup() as connections:

        def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            connections.create_task(service.converse(reader, writer))

        server = await asyncio.start_unix_server(accept, sock=listener, limit=READ_BYTES)
        try:
            yield server
        finally:
            server.close()
            for task in [task for task, talk in service.talks.items() if talk.idle]:
                task.cancel()
            if service.talks:
                await asyncio.wait(set(service.talks), timeout=GRACE_SECONDS)
            for task in list(service.talks):
                task.cancel()
