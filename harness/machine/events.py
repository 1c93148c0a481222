"""What happens to an emulated machine, outside its console."""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


class Kind(enum.Enum):
    """Where an event comes from."""

    QMP = "qmp"
    STDERR = "stderr"
    EXIT = "exit"
    LAB = "lab"


@dataclass(frozen=True, slots=True)
class Event:
    """One event: `name` is QMP's (`RESET`, `SHUTDOWN`), a line of stderr, how QEMU ended, or words of the lab."""

    kind: Kind
    name: str
    at_s: float
    data: Mapping[str, Any] = field(default_factory=dict)

    def __str__(self) -> str:
        details = ", ".join(f"{key}={value}" for key, value in self.data.items())
        text = f"{self.name} ({details})" if details else self.name
        return text if self.kind is Kind.LAB else f"qemu {self.kind.value}: {text}"
