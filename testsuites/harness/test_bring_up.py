"""docs/bring-up.md names nothing that is not there: commands, board files, suites, and what the doctor says."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest

from harness.board import known_boards, read_board
from harness.cli import VERBS, parser
from support.wired import TOP

pytestmark = pytest.mark.requirement("DOC-18", "DOC-19", "DOC-23")
TEXT = (TOP / "docs" / "bring-up.md").read_text(encoding="utf-8")
# Behind two blanks a command's line explains it.
COMMANDS = [re.split(r"\s{2,}|\s#", line)[0] for line in re.findall(r"^    (\S.*)$", TEXT, re.MULTILINE)]
BOARDS = known_boards(TOP / "boards")


def words_of(start: str) -> list[list[str]]:
    found = [shlex.split(line)[len(shlex.split(start)) :] for line in COMMANDS if line.startswith(start)]
    assert found, start
    return found


def test_each_quoin_command_is_one() -> None:
    named = set()
    for words in words_of("./quoin"):
        args, rest = parser().parse_known_args(words)
        named.add(args.verb)
        assert not rest or VERBS[args.verb].PASSES_ON, words
        board = getattr(args, "board", None)
        assert board is None or set([board] if isinstance(board, str) else board) <= set(BOARDS), words
        assert all((TOP / word).exists() for word in words if "/" in word), words
    assert named >= {"setup", "boards", "doctor", "flash", "console", "power", "run", "lab"}


def test_each_pytest_command_names_a_board_and_suites_that_are_there() -> None:
    for words in words_of(".venv/bin/python -m pytest"):
        assert words[0] == "--board"
        assert words[1] in BOARDS or "=" in words[1], words
        assert words[2:]
        assert all((TOP / word).is_dir() for word in words[2:]), words


def test_each_board_that_is_prepared_has_its_file_its_wires_and_its_pins() -> None:
    named = set(re.findall(r"boards/([\w-]+)\.yaml", TEXT))
    assert named == {"raspberrypi4", "raspberrypi5", "visionfive2", "pc-x86_64"}
    pins = re.findall(r"^\| `([\w-]+)` \|.*115200 8N1 \|$", TEXT, re.MULTILINE)
    assert set(pins) == named
    for name in named:
        board = read_board(TOP / "boards" / f"{name}.yaml")
        assert board.wires is not None
        assert board.wires.firmware
        assert board.wires.image_id
        assert f"**`{name}`" in TEXT  # how its boot loader is set up


def test_what_the_doctor_says_is_what_it_says() -> None:
    folders = ("cli", "hardware", "console")
    sources = "".join(path.read_text() for name in folders for path in (TOP / "harness" / name).glob("*.py"))
    table = TEXT[TEXT.index("| it says | it is |") : TEXT.index("## 6.")]
    said = re.findall(r"^\| `([^`]+)` \|", table, re.MULTILINE)
    assert len(said) >= 8
    for text in said:
        for piece in re.split(r"[:(…\d]", text.partition(": picocom")[0]):
            assert piece.strip() in sources, text


def test_each_page_that_it_leads_to_is_there() -> None:
    for name in re.findall(r"\]\(([\w./-]+)\)", TEXT):
        assert (Path(TOP) / "docs" / name).is_file(), name
