"""Boards: files, facts, variants, needs, and room for them on this host."""

from harness.board.admission import Admission, Place, admission
from harness.board.errors import AdmissionError, BoardError, LabError, LeaseError, NeedsError
from harness.board.files import find_boards, known_boards, read_board
from harness.board.leases import Holder, Lease, holder_of, stale_of
from harness.board.model import Board, Wires, memory_mib, memory_text
from harness.board.needs import lacks
from harness.board.yaml_file import read_yaml

__all__ = [
    "Admission",
    "AdmissionError",
    "Board",
    "BoardError",
    "Holder",
    "LabError",
    "Lease",
    "LeaseError",
    "NeedsError",
    "Place",
    "Wires",
    "admission",
    "find_boards",
    "holder_of",
    "known_boards",
    "lacks",
    "memory_mib",
    "memory_text",
    "read_board",
    "read_yaml",
    "stale_of",
]
