"""YAML files that people write: what cannot be read is told with file and line."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from harness.board.errors import LabError


class _Loader(yaml.SafeLoader):
    """One that knows the place of a value that looks like a date or a number, and is none."""

    def construct_object(self, node: yaml.Node, deep: bool = False) -> Any:
        try:
            return super().construct_object(node, deep)
        except (ValueError, TypeError, OverflowError) as error:
            raise yaml.MarkedYAMLError(problem=str(error), problem_mark=node.start_mark) from error


def read_yaml(path: Path) -> Any:
    """What a YAML file says. Raises LabError for one that is none, and OSError where it cannot be read."""
    data = path.read_bytes()
    line = 1
    try:
        return yaml.load(data.decode("utf-8"), _Loader)
    except UnicodeDecodeError as error:
        line, why = data.count(b"\n", 0, error.start) + 1, f"byte {data[error.start]:#04x} is no UTF-8"
    except yaml.MarkedYAMLError as error:
        line = 1 if error.problem_mark is None else error.problem_mark.line + 1
        why = str(error.problem)
    except yaml.reader.ReaderError as error:
        line = data.decode("utf-8").count("\n", 0, error.position) + 1
        why = f"{error.reason}: {chr(error.character)!r}"
    except RecursionError:
        why = "it is nested too deeply"
    raise LabError(f"{path}:{line}: not YAML: {why}; next: mend that line")
