"""A client of labgrid's coordinator, as a process of its own: what it holds goes when its input ends.

    python -m harness.hardware.place_client ADDRESS OWNER list
    python -m harness.hardware.place_client ADDRESS OWNER make '{"NAME": {"match": "EXPORTER/GROUP/*", "tags": {…}}}'
    python -m harness.hardware.place_client ADDRESS OWNER choose '{"arch": "riscv64"}' WAIT_S
    python -m harness.hardware.place_client ADDRESS OWNER hold NAME WAIT_S

The coordinator keeps a place for a client that is gone, for ever. So who holds
one is this process, which a killed session leaves behind with its input at an
end, and which then gives the place back. It also keeps gRPC's threads and
labgrid's event loop out of the lab. OWNER is the session's process; the place is
held in the name `HOST/USER.OWNER`, so that others see whom they wait for, and
who comes next on the same host sees whether that process still lives.

It answers in lines of JSON: `{"say": …}` while it waits, then one of `done` (a
value), `error` (a text, and the status is 1); of a place that is held, `lost` (a
text) when its exporter or the coordinator is gone.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import os
import signal
import sys
import time
from typing import Any, NoReturn

import grpc
from labgrid.remote.client import ClientSession, ServerError
from labgrid.remote.common import Place
from labgrid.remote.generated import labgrid_coordinator_pb2 as messages

# A reservation that nobody asks after is dropped by the coordinator after a minute.
_REFRESH_S = 15.0
_REACH_S = 20.0


class _Refused(Exception):
    """What was asked for cannot be had; the text says why, and what to do next."""


class _Client(ClientSession):  # type: ignore[misc]  # labgrid is untyped
    """labgrid's client, which wakes who waits whenever the coordinator tells something."""

    def __init__(self, address: str, owner: int) -> None:
        super().__init__(address, asyncio.get_running_loop())
        self.owner = owner
        self.told = asyncio.Event()

    def getuser(self) -> str:
        return f"{super().getuser()}.{self.owner}"

    async def on_resource_changed(self, *args: Any) -> None:
        await super().on_resource_changed(*args)
        self.told.set()

    async def on_place_changed(self, *args: Any) -> None:
        await super().on_place_changed(*args)
        self.told.set()

    def offered(self) -> dict[tuple[str, str, str, str], Any]:
        """What exporters offer now, by path; what is gone stays in labgrid's own table, without its data."""
        return {
            (exporter, group, one.cls, name): one
            for exporter, groups in self.resources.items()
            for group, resources in groups.items()
            for name, one in resources.items()
            if one.data
        }

    def unmatched(self, place: Place) -> str | None:
        """What no exporter offers of what the place is made of: `EXPORTER/GROUP/CLASS`."""
        missing = place.unmatched(list(self.offered()))
        return None if missing is None else str(missing)

    def place(self, name: str) -> Place:
        if name not in self.places:
            known = ", ".join(sorted(self.places)) or "none"
            raise _Refused(f"wanted the place {name}; found at the coordinator {self.address}: {known}; {_LIST}")
        return self.places[name]

    async def change(self, seconds: float) -> None:
        """Wait for the coordinator to tell something, at most so long."""
        self.told.clear()
        with contextlib.suppress(asyncio.TimeoutError):
            await asyncio.wait_for(self.told.wait(), seconds)


_LIST = "next: `quoin lab status`, or `labgrid-client places`, has them all"


def _say(kind: str, value: Any) -> None:
    print(json.dumps({kind: value}), flush=True)


async def _list(client: _Client) -> dict[str, Any]:
    return {
        name: {
            "tags": place.tags,
            "acquired": place.acquired,
            "reserved": place.reservation,
            "missing": client.unmatched(place),
        }
        for name, place in client.places.items()
    }


async def _make(client: _Client, places: dict[str, Any]) -> None:
    """Make places, and wait until exporters offer all that they are made of."""
    for name, place in places.items():
        await client.stub.AddPlace(messages.AddPlaceRequest(name=name))
        await client.stub.AddPlaceMatch(messages.AddPlaceMatchRequest(placename=name, pattern=place["match"]))
        await client.stub.SetPlaceTags(messages.SetPlaceTagsRequest(placename=name, tags=place["tags"]))
    deadline = time.monotonic() + _REACH_S
    while True:
        await client.sync_with_coordinator()
        missing = [client.unmatched(client.place(name)) for name in places]
        if not any(missing):
            return
        if time.monotonic() > deadline:
            raise _Refused(f"no exporter offers {', '.join(filter(None, missing))} within {_REACH_S:g} s")
        await client.change(1.0)


class _Reservation:
    """A place in the queue for one of the places that have these tags."""

    def __init__(self, client: _Client, tags: dict[str, str]) -> None:
        self._client = client
        self._tags = tags
        self._token = ""

    async def wait(self, wait_s: float) -> str:
        """The place that was given to us."""
        stub, deadline, told = self._client.stub, time.monotonic() + wait_s, False
        wanted = {"main": messages.Reservation.Filter(filter=self._tags)}
        answer = await stub.CreateReservation(messages.CreateReservationRequest(filters=wanted, prio=0.0))
        self._token = answer.reservation.token
        while True:
            await self._client.sync_with_coordinator()
            if self._client.stopping.is_set():
                raise _Refused(f"the coordinator {self._client.address} is gone; next: is it up?")
            ours = [name for name, place in self._client.places.items() if place.reservation == self._token]
            if ours:
                return str(ours[0])
            names = [name for name, place in self._client.places.items() if _fits(name, place, self._tags)]
            holders = ", ".join(f"{name} has {self._client.places[name].acquired or 'a reservation'}" for name in names)
            if time.monotonic() >= deadline:
                raise _Refused(
                    f"wanted a place with {_words(self._tags)}; found: {holders}; next: wait for it, end that "
                    "process, or, where it is gone for good, `labgrid-client -p PLACE release --kick`"
                )
            if not told:
                told = True
                _say("say", f"waiting for a place with {_words(self._tags)}: {holders}")
            await self._client.change(min(_REFRESH_S, max(deadline - time.monotonic(), 0.0)))
            await stub.PollReservation(messages.PollReservationRequest(token=self._token))

    async def cancel(self) -> None:
        if self._token:
            with contextlib.suppress(grpc.RpcError):
                await self._client.stub.CancelReservation(messages.CancelReservationRequest(token=self._token))


def _words(tags: dict[str, str]) -> str:
    return " ".join(f"{key}={value}" for key, value in tags.items())


def _fits(name: str, place: Place, tags: dict[str, str]) -> bool:
    return tags.items() <= {**place.tags, "name": name}.items()


async def _choose(client: _Client, tags: dict[str, str], wait_s: float) -> str:
    if not any(_fits(name, place, tags) for name, place in client.places.items()):
        there = "; ".join(f"{name}: {_words(place.tags)}" for name, place in sorted(client.places.items()))
        raise _Refused(f"wanted a place with {_words(tags)}; found at {client.address}: {there or 'none'}; {_LIST}")
    reservation = _Reservation(client, tags)
    try:
        return await reservation.wait(wait_s)
    finally:
        await reservation.cancel()


async def _take_from_the_dead(client: _Client, place: Place) -> None:
    """Release a place whose holder was a process of this host and user that lives no more."""
    holder = str(place.acquired or "")
    host_and_user, _, pid = holder.rpartition(".")
    ours = f"{client.gethostname()}/{ClientSession.getuser(client)}"
    if host_and_user != ours or not pid.isdigit() or _lives(int(pid)):
        return
    _say("say", f"{place.name} was held by {holder}, which is gone: taken from it")
    await client.stub.ReleasePlace(messages.ReleasePlaceRequest(placename=place.name, fromuser=holder))
    answer = await client.stub.GetReservations(messages.GetReservationsRequest())
    for one in answer.reservations:
        if one.owner == holder:
            await client.stub.CancelReservation(messages.CancelReservationRequest(token=one.token))


def _lives(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    return True


def _dead(client: _Client, place: Place) -> _Refused | None:
    missing = client.unmatched(place)
    if missing is None:
        return None
    return _Refused(
        f"lab fault at the place {place.name}: its exporter {missing.split('/')[0]} is not there: nobody offers "
        f"{missing} at the coordinator {client.address}; next: start labgrid-exporter on its host again, or here "
        "`quoin lab down` and `quoin lab up`"
    )


async def _hold(client: _Client, name: str, wait_s: float) -> None:
    """Hold a place until the input ends; tells `done` with its resources, and `lost` when they go."""
    place = client.place(name)
    if (fault := _dead(client, place)) is not None:
        raise fault
    await _take_from_the_dead(client, place)
    reservation = _Reservation(client, {"name": name})
    loop = asyncio.get_running_loop()
    ended = loop.create_future()

    def see_input() -> None:
        if not os.read(0, 4096):
            loop.remove_reader(0)
            ended.set_result(None)

    loop.add_reader(0, see_input)
    try:
        waiting = asyncio.ensure_future(reservation.wait(wait_s))
        await asyncio.wait([waiting, ended], return_when=asyncio.FIRST_COMPLETED)
        if ended.done():
            waiting.cancel()
            return
        waiting.result()
        await client.stub.AcquirePlace(messages.AcquirePlaceRequest(placename=name))
        try:
            await client.sync_with_coordinator()
            paths = [tuple(path) for path in place.acquired_resources]
            offered = client.offered()
            _say("done", [_resource(path[3], offered[path]) for path in paths if path in offered])
            await _watch(client, place, ended)
        finally:
            with contextlib.suppress(grpc.RpcError):
                request = messages.ReleasePlaceRequest(
                    placename=name, fromuser=f"{client.gethostname()}/{client.getuser()}"
                )
                await client.stub.ReleasePlace(request)
    finally:
        await reservation.cancel()


def _resource(name: str, one: Any) -> dict[str, Any]:
    return {"cls": one.cls, "name": name, "args": one.args, "extra": one.extra, "avail": one.avail}


async def _watch(client: _Client, place: Place, ended: asyncio.Future[None]) -> None:
    stopping = asyncio.ensure_future(client.stopping.wait())
    lost = None
    while not ended.done() and lost is None:
        told = asyncio.ensure_future(client.told.wait())
        await asyncio.wait([told, ended, stopping], return_when=asyncio.FIRST_COMPLETED)
        told.cancel()
        client.told.clear()
        if client.stopping.is_set():
            lost = f"lab fault at the place {place.name}: its coordinator {client.address} is gone; next: is it up?"
        elif (fault := _dead(client, place)) is not None:
            lost = str(fault)
    stopping.cancel()
    if lost is not None:
        _say("lost", lost)
        await ended


async def _serve(address: str, owner: int, what: str, words: list[str]) -> Any:
    client = _Client(address, owner)
    try:
        await asyncio.wait_for(client.start(), _REACH_S)
    except (TimeoutError, ServerError) as error:
        raise _Refused(
            f"wanted labgrid's coordinator at {address}; found: nobody answers there; next: `quoin lab up` starts one "
            "here, and LG_COORDINATOR names one elsewhere"
        ) from error
    try:
        match what:
            case "list":
                return await _list(client)
            case "make":
                return await _make(client, json.loads(words[0]))
            case "choose":
                return await _choose(client, json.loads(words[0]), float(words[1]))
            case "hold":
                return await _hold(client, words[0], float(words[1]))
        raise _Refused(f"no {what}: list, make, choose or hold")
    except grpc.aio.AioRpcError as error:
        raise _Refused(f"the coordinator {address} says: {error.details()}") from error
    finally:
        await client.stop()
        await client.close()


def main() -> NoReturn:
    """The command line."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a terminal's Ctrl-C is the lab's, which then ends the input
    logging.disable()  # what matters is in the answer
    address, owner, what, *words = sys.argv[1:]
    try:
        value = asyncio.run(_serve(address, int(owner), what, words))
    except _Refused as error:
        _say("error", str(error))
        sys.exit(1)
    if what != "hold":
        _say("done", value)
    sys.exit(0)


if __name__ == "__main__":
    main()
