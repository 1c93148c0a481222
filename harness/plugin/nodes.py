"""`nodes`: several machines in one test, with links between them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, overload

import pytest

if TYPE_CHECKING:
    from harness.board import Board
    from harness.console import Session
    from harness.machine.link import Link, NetworkLink, SerialLink


# As one board that is larger than the budget, two have the host alone, and are slow.
_ALWAYS = 2


@dataclass(frozen=True, slots=True)
class Nodes(Sequence["Session"]):
    """The sessions of a test's machines, in order, and what joins them."""

    sessions: tuple[Session, ...]
    links: tuple[NetworkLink | None, SerialLink | None]

    @property
    def link(self) -> NetworkLink:
        """The network that `link=` has asked for."""
        link, _ = self.links
        assert link is not None, "nodes(…) makes a network where link= gives its conditions; '' is a perfect one"
        return link

    @property
    def uart(self) -> SerialLink:
        """The serial line that `uart=` has asked for."""
        _, uart = self.links
        assert uart is not None, "nodes(…) makes a serial line where uart= gives its conditions; '' is a perfect one"
        return uart

    @overload
    def __getitem__(self, index: int) -> Session: ...
    @overload
    def __getitem__(self, index: slice) -> tuple[Session, ...]: ...
    def __getitem__(self, index: int | slice) -> Session | tuple[Session, ...]:
        return self.sessions[index]

    def __len__(self) -> int:
        return len(self.sessions)


@pytest.fixture
def nodes(board: Board, boot: Callable[..., Session]) -> Iterator[Callable[..., Nodes]]:
    """Boots several machines of this board together, each of this test's own.

    `nodes(n, link=None, uart=None, seed=1, card="virtio-net-pci", ready=True, ...)`: `link` are the conditions of
    a network, such as `"delay=5ms,loss=1%"`, `uart` those of a line between second serial ports; None leaves it
    out. All else goes to `boot`. The answer is a row of Sessions with `link` and `uart`, at `ready` unless
    `ready=False`. Skips on a physical board, whose cables are not ours. Raises Misuse for other conditions, and for
    fewer machines than one, or more than have room: with all of their vCPUs within the budget, but always two.
    """
    with ExitStack() as stack:

        def start(
            n: int,
            link: str | None = None,
            uart: str | None = None,
            *,
            seed: int = 1,
            card: str = "virtio-net-pci",
            ready: bool = True,
            smp: int | None = None,
            args: tuple[str, ...] = (),
            **options: Any,
        ) -> Nodes:
            from harness.board import admission
            from harness.machine import Misuse
            from harness.machine.link import NetworkLink, SerialLink

            if board.wires is not None:
                pytest.skip(f"{board.name} is a physical board: its cables are none of the lab's links")
            if not isinstance(n, int) or n < 1:
                raise Misuse(f"wanted one machine of {board.name} or more; found: nodes({n!r})")
            vcpus, budget = smp or board.smp, admission().budget
            if n > (most := max(_ALWAYS, budget // vcpus)):
                raise Misuse(
                    f"wanted at most {most} machines of {board.name} with {vcpus} CPUs each, for this host has a "
                    f"budget of {budget} vCPUs; found: nodes({n}); next: fewer, smp=1, or a host with more cores"
                )
            network = None if link is None else NetworkLink(n, link, seed=seed, card=card)
            line = None if uart is None else SerialLink(n, uart, seed=seed)
            there: list[Link] = [one for one in (network, line) if one is not None]
            for one in there:
                stack.callback(one.close)
            # Machines of a thread count as the largest of them, because they run in turn; these run together.
            stack.enter_context(admission().lease(n * vcpus))
            sessions: list[Session] = []
            for number in range(n):
                joined = tuple(word for one in there for word in one.arguments(number, board))
                session = boot(smp=smp, args=(*args, *joined), ready=False, **options)
                stack.callback(session.close)
                sessions.append(session)
            for one in there:
                one.tell = _teller(one, sessions)
                one.tell(f"seed {seed}: {(link if one is network else uart) or 'perfect'}")
            if ready:
                for session in sessions:
                    session.wait_ready()
            return Nodes(tuple(sessions), (network, line))

        yield start


def _teller(link: Link, sessions: Sequence[Session]) -> Callable[[str], None]:
    """Notes what happens to a link in the consoles of its boards, where the report shows it on their clock."""

    def tell(text: str) -> None:
        for number, session in enumerate(sessions):
            session.broker.note(f"{link.kind} of {len(sessions)} boards, this is {number}: {text}")

    return tell
