"""The helper's side: listens for calls, knows who calls, takes what the rules allow, and logs each call with the operation that it is made for.

Nothing that a caller sends is believed: the kernel says who it is (SO_PEERCRED), a message has a bounded size and must come within a bounded time, and
each argument has its type from the Protocol's signature and its rule from `model/rules.py`. What has no rule is not served. A call that was accepted
is carried out, also when its caller has gone: calls are idempotent and short.
"""

from __future__ import annotations

import asyncio
import logging
import socket
import struct
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import msgspec

from banger.host.calls import LIMIT, Answer, Method, Request, failed, methods, read_request
from banger.host.pinned import pinned
from banger.model import codec
from banger.model.errors import BadRequest, BangerError, TimedOut
from banger.model.event import operation
from banger.model.rules import Owner, Rule, Rules, shown

log = logging.getLogger(__name__)
#: How long a caller may take to send its message or to take the answer; how long a call may take; how many callers are heard at once.
MESSAGE_SECONDS, CALL_SECONDS, CALLERS = 2.0, 25.0, 64


@dataclass(frozen=True, slots=True)
class Served:
    """One interface: the real thing, its methods, and the rules for those that are served."""

    thing: object
    methods: Mapping[str, Method]
    rules: Rules


def served(protocol: type, thing: object, rules: Rules) -> Served:
    """An interface as far as the rules go; each parameter of a served method has one (a programmer's error otherwise)."""
    found = {name: method for name, method in methods(protocol).items() if name in rules}
    assert set(found) == set(rules), f"rules for methods that {protocol.__name__} does not have"
    for name, method in found.items():
        assert set(rules[name]) == set(method.arguments.__struct_fields__), f"{method.name}: a parameter without a rule"
    return Served(thing, found, rules)


class Servant:
    """Answers the one owner's calls."""

    def __init__(self, owner: Owner, interfaces: Mapping[str, Served]) -> None:
        self.owner, self.interfaces = owner, interfaces
        self.room = asyncio.Semaphore(CALLERS)
        self.turn = {name: asyncio.Lock() for name in interfaces}

    async def serve(self, listener: socket.socket, stopping: asyncio.Event) -> None:
        """Until told to stop; calls under way are finished."""
        listener.setblocking(False)
        async with asyncio.TaskGroup() as callers:
            accepting = callers.create_task(self._accept(listener, callers))
            await stopping.wait()
            accepting.cancel()

    async def _accept(self, listener: socket.socket, callers: asyncio.TaskGroup) -> None:
        loop = asyncio.get_running_loop()
        while True:
            await self.room.acquire()
            try:
                caller, _ = await loop.sock_accept(listener)
            except OSError as error:  # the caller has gone already, or we are out of descriptors
                log.warning("cannot accept: %s", error)
                self.room.release()
                await asyncio.sleep(0.05)
                continue
            callers.create_task(self._hear(caller))

    async def _hear(self, caller: socket.socket) -> None:
        """One caller, one call."""
        loop = asyncio.get_running_loop()
        try:
            with caller:
                caller.setblocking(False)
                self._know(caller)
                async with asyncio.timeout(MESSAGE_SECONDS):
                    data = await loop.sock_recv(caller, LIMIT + 1)
                answer = codec.encode(await self.answer(data))
                async with asyncio.timeout(MESSAGE_SECONDS):
                    await loop.sock_sendall(caller, answer)
        except BadRequest as error:
            log.warning("refused: %s", error)
        except TimeoutError:
            log.warning("refused: a caller was too slow")
        except OSError as error:
            log.warning("a caller has gone: %s", error)
        finally:
            self.room.release()

    def _know(self, caller: socket.socket) -> None:
        """Refuse everybody but the owner; credentials are those of the moment the connection was made (unix(7))."""
        pid, uid, _ = struct.unpack("3i", caller.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i")))
        if uid != self.owner.uid:
            caller.send(codec.encode(failed(BadRequest("the helper serves another user"))))
            raise BadRequest(f"process {pid} of user {uid} is not the owner's")

    async def answer(self, data: bytes) -> Answer:
        """Carry out the call in a message, or say why not; never raises."""
        try:
            return await self._carry_out(data)
        except BangerError as error:
            log.warning("failed: %s", error)
            return failed(error)
        except OSError as error:
            log.warning("failed: %s", error)
            return failed(error)
        except Exception as error:
            log.exception("failed, and nobody foresaw it")
            return failed(error)

    async def _carry_out(self, data: bytes) -> Answer:
        request = read_request(data)
        interface = self.interfaces.get(request.interface)
        method = interface.methods.get(request.method) if interface else None
        if interface is None or method is None:
            raise BadRequest(f"{shown(request.interface)} {shown(request.method)} is not served")
        arguments = method.unpack(bytes(request.arguments))
        judge(method.name, arguments, interface.rules[request.method], self.owner)
        operation.set(request.op)
        log.info("%s %s %s", request.op or "-", method.name, shown({name: str(value) for name, value in arguments.items()}))
        return Answer(result=msgspec.Raw(codec.encode(await self._call(request, interface, method, arguments))))

    async def _call(self, request: Request, interface: Served, method: Method, arguments: Mapping[str, object]) -> object:
        """One call of an interface at a time; files are pinned for as long as it takes."""
        with ExitStack() as pins:
            ready = {name: pins.enter_context(pinned(value, self.owner)) if isinstance(value, Path) else value for name, value in arguments.items()}
            call = getattr(interface.thing, request.method)
            async with self.turn[request.interface]:
                try:
                    async with asyncio.timeout(CALL_SECONDS):
                        return await call(**ready) if method.waits else call(**ready)
                except TimeoutError:
                    raise TimedOut(f"{method.name} took longer than {CALL_SECONDS:g} s") from None


def judge(name: str, arguments: Mapping[str, object], rules: Mapping[str, Rule], owner: Owner) -> None:
    """BadRequest names the first argument that breaks its rule."""
    for parameter, value in arguments.items():
        if trouble := rules[parameter](value, owner):
            raise BadRequest(f"{name}: {parameter} {trouble}")
