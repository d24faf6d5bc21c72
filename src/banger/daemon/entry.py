"""What an image runs by itself in a machine: process 1 starts it, once a boot, and the agent tells how it is with it (docs/wire.md, `command`).

Nothing of it is stored: each conversation asks anew, so a daemon that takes a machine over learns it, and starts nothing twice. Owns the task that
waits for the end; that is over with the conversation.
"""

from __future__ import annotations

import asyncio
import json
import logging

from banger import wire
from banger.daemon.guests import Conversation, GuestStream
from banger.model.errors import BangerError
from banger.model.vm import Entrypoint, EntrypointState

log = logging.getLogger(__name__)
LONGEST_PROBLEM, LONGEST_SIGNAL = 1000, 16


class Entry:
    """One machine's: `seen` is how it is, None as long as nobody knows, or nothing was to be started."""

    def __init__(self, name: str, tasks: asyncio.TaskGroup) -> None:
        self.name, self.tasks = name, tasks
        self.seen: Entrypoint | None = None
        self.stream: GuestStream | None = None
        #: The conversation in which it was asked.
        self.asked: Conversation | None = None
        self.over = asyncio.Event()

    async def attend(self, conversation: Conversation) -> None:
        """Hear from now on how it is with it; returns once it has started, or cannot. What the agent does not tell is noted, and no reason to fail.

        Once in a conversation; whoever gives up before there is an answer leaves the question to the next.
        """
        if self.asked is conversation:
            return
        self.over = asyncio.Event()
        try:
            self.stream = stream = await conversation.open({"op": "command"})
        except BangerError as error:
            log.warning("what the image of %s runs is not known: %s", self.name, error)
            self.asked = conversation
            return
        self.asked = conversation
        while stream.waiting:  # credit may come before what has opened the stream
            if await self._hear(conversation, stream):
                return
        self.tasks.create_task(self._await_end(conversation, stream), name=f"entrypoint of {self.name}")

    async def _await_end(self, conversation: Conversation, stream: GuestStream) -> None:
        while not await self._hear(conversation, stream):
            pass

    async def _hear(self, conversation: Conversation, stream: GuestStream) -> bool:
        """Take the next frame; whether it was the last. The end of the conversation says nothing about the command."""
        frame = await stream.receive()
        if frame is None or conversation.broken is not None or self.stream is not stream:
            return True
        if frame.kind in (wire.OPENED, wire.END):
            self.seen = _seen(frame.kind, frame.payload)
        if frame.kind != wire.END:
            return False
        if self.seen is not None:
            log.info("what the image of %s runs %s", self.name, self.trouble())
        self.over.set()
        return True

    def trouble(self) -> str:
        """How it ended, in words, or why it did not start; empty as long as it runs."""
        seen = self.seen
        if seen is None or seen.state is EntrypointState.RUNNING:
            return ""
        if seen.state is EntrypointState.FAILED:
            return f"does not start: {seen.problem}"
        return f"was ended by {seen.signal}" if seen.state is EntrypointState.KILLED else f"has ended with status {seen.status}"

    async def end(self, signal: int, patience: float) -> None:
        """If it runs, send it this signal and wait up to `patience` seconds until it has ended."""
        stream = self.stream
        if stream is None or stream.over or self.seen is None or self.seen.state is not EntrypointState.RUNNING:
            return
        await stream.send(wire.CONTROL, json.dumps({"signal": str(signal)}).encode())
        try:
            async with asyncio.timeout(patience):
                await self.over.wait()
        except TimeoutError:
            log.info("what the image of %s runs has not ended within %g s of signal %d", self.name, patience, signal)

    def forget(self) -> None:
        """The machine is down."""
        self.seen = self.stream = self.asked = None


def _seen(kind: int, payload: bytes) -> Entrypoint | None:
    """What a frame of a hostile guest's says; None where nothing was to be started, or for what says nothing."""
    try:
        answer = wire.decode_json(payload)
    except wire.WireError as error:
        return _failed(str(error))
    if kind == wire.OPENED:
        return Entrypoint(state=EntrypointState.RUNNING, pid=_number(answer.get("pid")))
    good, bad = answer.get("ok"), answer.get("error")
    if isinstance(good, dict):
        if isinstance(name := good.get("signal"), str):
            return Entrypoint(state=EntrypointState.KILLED, signal=name[:LONGEST_SIGNAL])
        return Entrypoint(state=EntrypointState.EXITED, status=_number(good.get("exit")))
    if isinstance(bad, dict) and bad.get("code") == "not-found":
        return None
    return _failed(str(bad.get("message")) if isinstance(bad, dict) else "no reason given")


def _failed(problem: str) -> Entrypoint:
    return Entrypoint(state=EntrypointState.FAILED, problem=problem[:LONGEST_PROBLEM])


def _number(value: object) -> int:
    return value if isinstance(value, int) and 0 <= value < 1 << 31 else 0
