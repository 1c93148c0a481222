"""Links between emulated boards, with what goes wrong on real ones: delay, loss, reordering, a narrow pipe, a cut.

A `NetworkLink` is a switch for network cards, a `SerialLink` a line between two further serial ports. Each board
has a socket of its own here, to which its QEMU connects (`-netdev stream` with four bytes of length before each
frame, or a chardev); so a board may be switched off and on, and finds its link again.

Chance is drawn from a generator for each way from one board to another, seeded, the same number of draws for each
frame: what becomes of the tenth frame of a way depends on the seed and the conditions alone, and not on the
host's load. Delay and bandwidth are by the host's monotonic clock; an emulated guest's is about the same.

Source of the framing: QEMU 7.2 net/stream.c, net_stream_receive.
"""

from __future__ import annotations

import asyncio
import random
import re
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterable
from dataclasses import dataclass, field, replace
from typing import ClassVar

from harness.board import Board
from harness.machine import loop
from harness.machine.errors import Misuse
from harness.machine.scratch import Scratch

_TIMEOUT_S = 10.0
_LENGTH_BYTES = 4
# Frames, or bytes of a serial line, that wait on one way; as many as Linux's netem holds unless told.
_QUEUE = 1000
# Bytes that QEMU has not taken: the guest does not read its card.
_UNREAD = 1 << 20
# Their addresses differ in the last byte, where 0 is nobody's.
_MOST_CARDS = 255
_UNITS = {
    "delay": {"ms": 1e-3, "us": 1e-6, "s": 1.0},
    "loss": {"%": 1e-2},
    "reorder": {"%": 1e-2},
    "bandwidth": {"k": 1e3, "M": 1e6, "G": 1e9, "": 1.0},
}


@dataclass(frozen=True, slots=True)
class Conditions:
    """What a link does to all that passes: seconds, shares from 0 to 1, bits a second (0: as fast as it can)."""

    delay: float = 0.0
    loss: float = 0.0
    reorder: float = 0.0
    bandwidth: float = 0.0

    def changed(self, text: str) -> Conditions:
        """These conditions with those of `delay=5ms,loss=1%,reorder=10%,bandwidth=10M` that `text` names.

        Raises Misuse for anything else.
        """
        found: dict[str, float] = {}
        # What tests call is not checked by types everywhere.
        for word in filter(None, (word.strip() for word in str(text).split(","))):
            key, _, value = word.partition("=")
            match = re.fullmatch(r"(\d+(?:\.\d+)?)([a-zA-Z%]*)", value)
            number, unit = (float(match[1]), match[2]) if match else (-1.0, "")
            units = _UNITS.get(key, {})
            if number == 0 and units:
                units = {unit: 0.0, **units}
            if unit not in units or number < 0 or (unit == "%" and number > 100):
                raise Misuse(
                    "wanted conditions of a link such as 'delay=5ms,loss=1%,reorder=10%,bandwidth=10M'; "
                    f"found {word!r}; next: delay takes s, ms or us, loss and reorder a percentage, "
                    "bandwidth bits a second (k, M, G)"
                )
            found[key] = number * units[unit]
        return replace(self, **found)


@dataclass(slots=True)
class Counts:
    """What became of the frames (of a serial line: bytes) of one way.

    `reordered` are among the delivered, or still `waiting`; `dropped` are those for which a queue had no room, or
    that nobody was there to take.
    """

    sent: int = 0
    delivered: int = 0
    lost: int = 0
    cut: int = 0
    reordered: int = 0
    dropped: int = 0

    @property
    def waiting(self) -> int:
        """Under way, or held back to be overtaken."""
        return self.sent - self.delivered - self.lost - self.cut - self.dropped


@dataclass(slots=True)
class Way:
    """From one board to another: what is under way and when each arrives, in order; `free_s`: when the last is sent."""

    source: int
    target: int
    chance: random.Random
    counts: Counts = field(default_factory=Counts)
    queue: deque[tuple[float, bytes]] = field(default_factory=deque)
    held: bytes | None = None
    free_s: float = 0.0
    _last_s: float = 0.0

    def clear(self) -> None:
        """Forget what is under way."""
        self.queue.clear()
        self.held = None
        self.free_s = self._last_s = 0.0

    def arrival_s(self, now_s: float, bits: int, conditions: Conditions) -> float:
        """When `bits` that are handed in now arrive: after what is being sent, and never before what came earlier."""
        self.free_s = max(now_s, self.free_s) + (bits / conditions.bandwidth if conditions.bandwidth else 0.0)
        self._last_s = max(self.free_s + conditions.delay, self._last_s)
        return self._last_s


class Link:
    """Joins `nodes` boards, numbered from 0. `tell` hears of each change of its state.

    All state lives on the lab's I/O thread; when a method that changes something returns, it holds for all that is
    sent from then on, and after a cut nothing arrives that was under way.
    """

    kind: ClassVar[str]
    bits: ClassVar[int]  # of a byte on the wire

    def __init__(self, nodes: int, conditions: str = "", *, seed: int = 1) -> None:
        self.conditions = self._checked(Conditions().changed(conditions))
        self.tell: Callable[[str], None] = lambda text: None
        self._sides = [0] * nodes
        self._ways = {
            (a, b): Way(a, b, random.Random(f"{seed}:{a}:{b}")) for a in range(nodes) for b in range(nodes) if a != b
        }
        self._writers: dict[int, asyncio.StreamWriter] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._waiting: list[asyncio.Future[None]] = []
        self._scratch = Scratch()
        try:
            self._servers = loop.run(self._listen(nodes), _TIMEOUT_S)
        except BaseException:
            self._scratch.close()
            raise

    def arguments(self, node: int, board: Board) -> tuple[str, ...]:
        """QEMU's arguments that join board number `node`."""
        raise NotImplementedError

    def path(self, node: int) -> str:
        """The socket of board number `node`."""
        return str(self._scratch.path / f"{self.kind}{node}")

    def set(self, conditions: str) -> None:
        """Change those conditions that are named, as in `set("loss=20%,delay=0")`. Raises Misuse."""
        changed = self._checked(self.conditions.changed(conditions))

        async def change() -> None:
            self.conditions = changed

        loop.run(change(), _TIMEOUT_S)
        self.tell(conditions)

    def partition(self, *groups: Iterable[int]) -> None:
        """Let only boards of one group hear each other; boards that are named in none are a group together.

        Raises Misuse for a board that there is not, and for one in two groups.
        """
        sides = [0] * len(self._sides)
        for number, group in enumerate(groups, 1):
            for node in group if isinstance(group, Iterable) else (-1,):
                if node not in range(len(sides)) or sides[node] not in (0, number):
                    raise Misuse(
                        f"wanted groups of boards from 0 to {len(sides) - 1}, each in one at most; "
                        f"found: partition({', '.join(map(repr, groups))})"
                    )
                sides[node] = number

        async def change() -> None:
            self._sides = sides
            for way in self._ways.values():
                if self._apart(way):
                    way.counts.cut += len(way.queue) + (way.held is not None)
                    way.clear()
            self._news()

        loop.run(change(), _TIMEOUT_S)
        self.tell("heals" if not groups else "parts " + " | ".join(",".join(map(str, group)) for group in groups))

    def cut(self) -> None:
        """Let nobody hear anybody."""
        self.partition(*([node] for node in range(len(self._sides))))

    def heal(self) -> None:
        """Let everybody hear everybody again."""
        self.partition()

    def counts(self, source: int, target: int) -> Counts:
        """What became of all that board `source` has sent to board `target` so far. Raises Misuse, as `wait` does."""
        way = self._way(source, target)

        async def read() -> Counts:
            return replace(way.counts)

        return loop.run(read(), _TIMEOUT_S)

    def wait(self, source: int, target: int, until: Callable[[Counts], bool], timeout_s: float) -> Counts:
        """The counters of a way as soon as `until` is true of them. Raises TimeoutError."""
        counts = self._way(source, target).counts

        async def look() -> Counts:
            await self._until(lambda: until(counts))
            return replace(counts)

        return loop.run(look(), timeout_s)

    def _way(self, source: int, target: int) -> Way:
        if (source, target) not in self._ways:
            raise Misuse(
                f"wanted the way from one board to another, 0 to {len(self._sides) - 1}; "
                f"found: from {source!r} to {target!r}"
            )
        return self._ways[source, target]

    def wait_joined(self, timeout_s: float) -> None:
        """Wait until all boards are on and have found their socket. Raises TimeoutError."""
        loop.run(self._until(lambda: len(self._writers) == len(self._sides)), timeout_s)

    def close(self) -> None:
        """Take the link away."""
        try:
            loop.run(self._close(), _TIMEOUT_S)
        finally:
            self._scratch.close()

    def _checked(self, conditions: Conditions) -> Conditions:
        return conditions

    def _pieces(self, source: int, reader: asyncio.StreamReader) -> AsyncIterator[bytes]:
        """What board number `source` sends, in the pieces that have a fate of their own."""
        raise NotImplementedError

    def _wrapped(self, piece: bytes) -> bytes:
        return piece

    def _targets(self, source: int, piece: bytes) -> Iterable[int]:
        """Whom a piece is for."""
        return [target for target in range(len(self._sides)) if target != source]

    async def _listen(self, nodes: int) -> list[asyncio.Server]:
        def joins(node: int) -> Callable[[asyncio.StreamReader, asyncio.StreamWriter], None]:
            def join(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
                task = asyncio.get_running_loop().create_task(self._serve(node, reader, writer))
                self._tasks.add(task)
                task.add_done_callback(self._tasks.discard)

            return join

        return [await asyncio.start_unix_server(joins(node), self.path(node)) for node in range(nodes)]

    async def _until(self, done: Callable[[], bool]) -> None:
        while not done():
            self._waiting.append(asyncio.get_running_loop().create_future())
            await self._waiting[-1]

    def _news(self) -> None:
        """Let those who wait look again."""
        for waiting in self._waiting:
            if not waiting.done():
                waiting.set_result(None)
        self._waiting.clear()

    async def _serve(self, node: int, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._writers[node] = writer
        self._news()
        try:
            async for piece in self._pieces(node, reader):
                for target in self._targets(node, piece):
                    self._offer(self._ways[node, target], piece)
                self._news()
        except (asyncio.IncompleteReadError, ConnectionError):
            pass  # the board is off
        finally:
            if self._writers.get(node) is writer:
                del self._writers[node]
            writer.close()

    async def _close(self) -> None:
        for server in self._servers:
            server.close()
        for way in self._ways.values():
            way.clear()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def _apart(self, way: Way) -> bool:
        """Whether nothing passes: boards of no group are on side 0."""
        return self._sides[way.source] != self._sides[way.target]

    def _offer(self, way: Way, piece: bytes) -> None:
        counts = way.counts
        counts.sent += 1
        # Both are drawn each time: whoever changes one condition leaves the other's choices as they were.
        loss, reorder = way.chance.random(), way.chance.random()
        if self._apart(way):
            counts.cut += 1
        elif loss < self.conditions.loss:
            counts.lost += 1
        elif way.held is None and reorder < self.conditions.reorder:
            way.held = piece  # until the next one has passed it, however long that takes
        else:
            self._send(way, piece)
            if way.held is not None:
                held, way.held = way.held, None
                counts.reordered += 1
                self._send(way, held)

    def _send(self, way: Way, piece: bytes) -> None:
        if len(way.queue) >= _QUEUE:
            way.counts.dropped += 1
            return
        here = asyncio.get_running_loop()
        arrival_s = way.arrival_s(here.time(), self.bits * len(piece), self.conditions)
        way.queue.append((arrival_s, piece))
        if len(way.queue) == 1:
            self._pass(way)

    def _pass(self, way: Way) -> None:
        """Hand over what has arrived, and come again when the next has."""
        here = asyncio.get_running_loop()
        while way.queue:
            arrival_s, piece = way.queue[0]
            if arrival_s > here.time():
                here.call_at(arrival_s, self._pass, way)
                return
            way.queue.popleft()
            writer = self._writers.get(way.target)
            if writer is None or writer.transport.get_write_buffer_size() > _UNREAD:
                way.counts.dropped += 1
            else:
                writer.write(self._wrapped(piece))
                way.counts.delivered += 1
        self._news()


class NetworkLink(Link):
    """A switch: it learns who is where by the senders' addresses, and floods what it does not know."""

    kind, bits = "net", 8

    def __init__(self, nodes: int, conditions: str = "", *, seed: int = 1, card: str = "virtio-net-pci") -> None:
        if nodes > _MOST_CARDS:
            raise Misuse(f"wanted at most {_MOST_CARDS} boards on one switch; found: {nodes}")
        self.card = card
        self._homes: dict[bytes, int] = {}
        super().__init__(nodes, conditions, seed=seed)

    @staticmethod
    def address(node: int) -> str:
        """The hardware address of the card of board number `node`, in QEMU's own range."""
        return f"52:54:00:00:00:{node + 1:02x}"

    def arguments(self, node: int, board: Board) -> tuple[str, ...]:
        netdev = f"stream,id=link,server=off,addr.type=unix,addr.path={self.path(node)}"
        # Without its ROM: firmware would try to boot from it.
        return "-netdev", netdev, "-device", f"{self.card},netdev=link,mac={self.address(node)},romfile="

    async def _pieces(self, source: int, reader: asyncio.StreamReader) -> AsyncIterator[bytes]:
        while True:
            yield await reader.readexactly(int.from_bytes(await reader.readexactly(_LENGTH_BYTES), "big"))

    def _wrapped(self, piece: bytes) -> bytes:
        return len(piece).to_bytes(_LENGTH_BYTES, "big") + piece

    def _targets(self, source: int, piece: bytes) -> Iterable[int]:
        self._homes[piece[6:12]] = source  # Ethernet: destination, source
        home = self._homes.get(piece[:6])
        if home is None:
            return super()._targets(source, piece)
        return [home] if home != source else []


class SerialLink(Link):
    """A line between the second serial ports of two boards; its pieces are bytes, of ten bits on the wire.

    On x86_64 that port is COM2. The other machines have none that a guest may use, so theirs is a PCI card
    (`pci-serial`, a 16550A).
    """

    kind, bits = "uart", 10

    def __init__(self, nodes: int, conditions: str = "", *, seed: int = 1) -> None:
        if nodes != 2:
            raise Misuse(f"wanted 2 boards at the ends of a serial line, found {nodes}; next: take link= for more")
        super().__init__(nodes, conditions, seed=seed)

    def arguments(self, node: int, board: Board) -> tuple[str, ...]:
        port = "isa-serial,index=1" if board.arch == "x86_64" else "pci-serial"
        return "-chardev", f"socket,id=uart,path={self.path(node)}", "-device", f"{port},chardev=uart"

    def _checked(self, conditions: Conditions) -> Conditions:
        if conditions.reorder:
            raise Misuse("wanted delay, loss or bandwidth of a serial line, found reorder: its bytes keep their order")
        return conditions

    async def _pieces(self, source: int, reader: asyncio.StreamReader) -> AsyncIterator[bytes]:
        # A line makes its sender wait: what has been taken of it goes out before more is taken.
        here, way = asyncio.get_running_loop(), self._ways[source, 1 - source]
        while data := await reader.read(_QUEUE // 2):
            for byte in data:
                yield bytes([byte])
            await asyncio.sleep(max(way.free_s - here.time(), 0.0))
