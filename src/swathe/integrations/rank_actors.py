"""The actors between the ranks of a trial and the trial: light ones, which load neither Ray Train nor PyTorch."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import Any

import ray


class Ended:
    """The answer that ends the ranks."""


class Channel:
    """The actor between the ranks and their trial; it dies with the trial's process.

    Ranks ask in turns, the same in each rank; the trial answers what rank 0 has asked, and all get the answer.
    """

    def __init__(self) -> None:
        self._items: asyncio.Queue[tuple[str, int, Any] | None] = asyncio.Queue()
        self._answers: dict[int, asyncio.Future[Any]] = {}
        self._left = False
        self._closed = asyncio.Event()

    async def ask(self, turn: int, rank: int, kind: str, payload: Any) -> Any:
        """Return the trial's answer to the question of a turn."""
        answer = self._answer(turn)
        if rank == 0:
            self._items.put_nowait((kind, turn, payload))
        return await asyncio.shield(answer)

    async def say(self, kind: str, payload: Any) -> None:
        """Take in what needs no answer."""
        self._items.put_nowait((kind, -1, payload))

    async def leave(self) -> None:
        """Let nobody wait for rank 0 any more."""
        self._left = True
        for answer in self._answers.values():
            if not answer.done():
                answer.set_result(Ended())

    async def next(self) -> tuple[str, int, Any] | None:
        """Return what was asked or said next; None when Ray Train is done."""
        return await self._items.get()

    async def answer(self, turn: int, value: Any) -> None:
        """Answer the question of a turn."""
        self._answer(turn).set_result(value)

    async def finish(self) -> None:
        """Take note that Ray Train is done."""
        self._items.put_nowait(None)

    async def close(self) -> None:
        """Let the guard go."""
        self._closed.set()

    async def closed(self) -> None:
        """Return when the trial is over; raises where its process is."""
        await self._closed.wait()

    def _answer(self, turn: int) -> asyncio.Future[Any]:
        if turn not in self._answers:
            self._answers[turn] = asyncio.get_running_loop().create_future()
            if self._left:
                self._answers[turn].set_result(Ended())
        return self._answers[turn]


class Guard:
    """An actor that outlives the trial's process, to give back what its ranks hold: Ray does so only at a sweep's end.

    Ray Train has such an actor, too, which asks Ray's dashboard; the clusters of a sweep have none.
    """

    def __init__(self, channel: Any) -> None:
        self._channel = channel
        self._groups: list[Any] = []

    async def hold(self, group: Any) -> None:
        """Take a placement group in care."""
        self._groups.append(group)

    async def watch(self) -> None:
        """Wait for the end of the trial, or of its process, and free everything; with that, its ranks end."""
        with suppress(ray.exceptions.RayActorError):
            await self._channel.closed.remote()
        await asyncio.to_thread(self._free)
        ray.actor.exit_actor()

    def _free(self) -> None:
        for group in self._groups:
            ray.util.remove_placement_group(group)
