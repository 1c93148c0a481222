"""`quoin bisect`: since when does a test fail, over revisions of kernel and lab, or over versions of QEMU?

A test that fails now and then passes now and then on what is bad, too. So each step runs it as often as the
failure rate asks for: a bad one is to be taken for good, in any of the steps, no more often than the wanted
confidence allows. One failure is enough to call a step bad, so the good end is tried first, just as often.
"""

from __future__ import annotations

import argparse
import math
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

SUMMARY = "find the revision of kernel or lab, or the QEMU, since which a test fails; flaky ones too"
PASSES_ON = True
# What an axis changes; the rest of the tree stays as it is at HEAD.
_PATHS = {"tree": (), "kernel": ("kernel-src",), "lab": ("harness",)}
_MEASURED = 10
# Runs that the host spoilt are run again, up to so many times as many as are wanted.
_PATIENCE = 3
# Lines of pytest that say why no test ran.
_WORDS = 5
_UNTRIED = (
    "{} is said to be {}, and the test cannot be run there, as told above; "
    "correct the test's id and pytest's arguments, or name another revision"
)
_FORGIVEN = frozenset({"starved", "lab-fault"})


@dataclass(frozen=True, slots=True)
class Candidate:
    """A commit, or a folder with an emulator."""

    name: str
    words: str = ""

    def __str__(self) -> str:
        return f"{self.name[:12] if len(self.name) == 40 else self.name} {self.words}".strip()


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """What is tried, and how sure the answer is to be."""
    parser.add_argument("test", metavar="TEST", help="a test's id, as a failure's `run just this` has it")
    parser.add_argument("--good", metavar="REV", help="a revision at which it does not fail")
    parser.add_argument("--bad", metavar="REV", default="HEAD", help="one at which it fails (HEAD)")
    parser.add_argument("--over", choices=(*_PATHS, "qemu"), default="tree", help="what changes (tree: all of it)")
    parser.add_argument(
        "--qemu", nargs="+", default=[], metavar="DIR", help="with --over qemu: folders of emulators, good to bad"
    )
    parser.add_argument("--confidence", type=_share, default=0.95, metavar="SHARE", help="of the answer (0.95)")
    parser.add_argument(
        "--flake-rate", type=_share, metavar="SHARE", help=f"how often bad ones fail (measured in {_MEASURED} runs)"
    )
    parser.epilog = "Other arguments go to pytest, such as --board qemu-riscv64."


def run(args: argparse.Namespace, rest: Sequence[str]) -> int:
    """Measure the rate, try the good end, halve until one is left."""
    from harness.board import LabError
    from harness.build.artifacts import TOP

    if args.over == "qemu":
        if len(args.qemu) < 2:
            raise LabError("--over qemu wants --qemu with two folders or more, the good one first, the bad one last")
        missing = [folder for folder in args.qemu if not Path(folder).is_dir()]
        if missing:
            raise LabError(f"wanted folders with emulators, found none at {', '.join(missing)}")
        candidates = [Candidate(str(Path(folder).resolve())) for folder in args.qemu]
    elif args.good is None:
        raise LabError("wanted a revision at which the test passes; name it: --good REV")
    else:
        candidates = commits(TOP, args.good, args.bad, _PATHS[args.over])
    if args.confidence == 1:
        raise LabError("no number of runs makes sure of a test that may pass by chance; wanted --confidence below 1")
    with trials(TOP, candidates, args.over, [args.test, *rest]) as trial:
        found = bisect(candidates, trial, rate=args.flake_rate, confidence=args.confidence)
    for one in found:
        print(one)
    return 0


def bisect(
    candidates: Sequence[Candidate],
    trial: Callable[[Candidate], bool | None],
    *,
    rate: float | None,
    confidence: float,
) -> list[Candidate]:
    """The first bad of `candidates`, of which the first is good and the last is bad; several where what is between
    cannot be tried. `trial` runs the test once: whether it passed, None where it cannot run.

    Raises LabError where the ends are not what they are said to be.
    """
    from harness.board import LabError

    known = False
    steps = math.ceil(math.log2(max(len(candidates) - 1, 1)))
    if rate is None:
        failures = 0
        for _ in range(_MEASURED):
            passed = trial(candidates[-1])
            if passed is None:
                raise LabError(_UNTRIED.format(candidates[-1], "bad"))
            failures += not passed
        if failures == 0:
            raise LabError(
                f"{candidates[-1]} is said to be bad and did not fail in {_MEASURED} runs; "
                "name another --bad, or tell --flake-rate"
            )
        from harness.plugin.soak import wilson

        rate = wilson(failures, _MEASURED)[0]
        print(f"bisect: {candidates[-1]} failed in {failures} of {_MEASURED} runs; at least {rate:.0%} is assumed")
        known = True
    count = repeats(rate, steps + 2, confidence)  # both ends are tried, too
    print(f"bisect: {count} runs each, about {steps} steps", flush=True)

    def bad(candidate: Candidate) -> bool | None:
        for number in range(1, count + 1):
            passed = trial(candidate)
            if not passed:
                said = "cannot be tried" if passed is None else f"failed in run {number}"
                print(f"bisect: {candidate}: {said}", flush=True)
                return None if passed is None else True
        print(f"bisect: {candidate}: passed {count} times", flush=True)
        return False

    def is_bad(end: Candidate, said: str) -> bool:
        answer = bad(end)
        if answer is None:
            raise LabError(_UNTRIED.format(end, said))
        return answer

    if not known and not is_bad(candidates[-1], "bad"):
        raise LabError(f"{candidates[-1]} is said to be bad, and is not; name another --bad, or a lower --flake-rate")
    if is_bad(candidates[0], "good"):
        raise LabError(f"{candidates[0]} is said to be good, and is not; name an older --good")
    found = first_bad(candidates, bad)
    what = "the first bad one" if len(found) == 1 else f"one of these {len(found)}, between which none can be tried,"
    print(f"bisect: {what} is, with {confidence:.0%} confidence:")
    return found


def repeats(rate: float, steps: int, confidence: float) -> int:
    """How many passes call a step good: a bad one fails in each run with probability `rate`, independently.

    It passes n times with (1 - rate)^n; none of `steps` bad ones does with (1 - (1 - rate)^n)^steps, which is
    to be at least `confidence`.
    """
    if rate >= 1:
        return 1
    missed = 1 - confidence ** (1 / steps)
    return max(1, math.ceil(math.log(missed) / math.log(1 - rate) - 1e-9))


def first_bad(candidates: Sequence[Candidate], bad: Callable[[Candidate], bool | None]) -> list[Candidate]:
    """Halve between the first, which is good, and the last, which is bad; what cannot be tried is gone round."""
    good, end = 0, len(candidates) - 1
    untried: set[int] = set()
    while True:
        between = [number for number in range(good + 1, end) if number not in untried]
        if not between:
            return list(candidates[good + 1 : end + 1])
        middle = min(between, key=lambda number: abs(number - (good + end) / 2))
        answer = bad(candidates[middle])
        if answer is None:
            untried.add(middle)
        elif answer:
            end = middle
        else:
            good = middle


def commits(top: Path, good: str, bad: str, paths: Sequence[str]) -> list[Candidate]:
    """The good revision, and those after it up to the bad one that touch `paths`, on the way of first parents."""
    from harness.board import LabError

    told = _git(top, "rev-list", "--first-parent", "--reverse", "--format=%s", f"{good}..{bad}", "--", *paths)
    lines = told.splitlines()
    found = [
        Candidate(line.removeprefix("commit "), words) for line, words in zip(lines[::2], lines[1::2], strict=True)
    ]
    if not found:
        raise LabError(f"nothing changes {' or '.join(paths) or 'the tree'} between {good} and {bad}; is good older?")
    return [Candidate(_git(top, "rev-parse", f"{good}^{{commit}}").strip(), "(good)"), *found]


@contextmanager
def trials(
    top: Path, candidates: Sequence[Candidate], over: str, arguments: Sequence[str]
) -> Iterator[Callable[[Candidate], bool | None]]:
    """How a candidate is tried: in one worktree for all, so that only what has changed is compiled again."""
    from harness.cli.revisions import worktree

    if over == "qemu":
        yield lambda one: attempt(top, arguments, {"PATH": f"{one.name}{os.pathsep}{os.environ['PATH']}"})
        return
    head = candidates[0].name if over == "tree" else _git(top, "rev-parse", "HEAD").strip()
    with worktree(top, head) as tree:

        def trial(one: Candidate) -> bool | None:
            if over == "tree":
                _git(tree, "checkout", "--quiet", "--force", "--detach", one.name)
            for path in _PATHS[over]:
                shutil.rmtree(tree / path, ignore_errors=True)
                _git(tree, "checkout", "--quiet", one.name, "--", path)
            return attempt(tree, arguments, {"PYTHONPATH": str(tree), "PYTHONDONTWRITEBYTECODE": "1"})

        yield trial


def attempt(tree: Path, arguments: Sequence[str], env: Mapping[str, str]) -> bool | None:
    """Run the test once in `tree`: whether it passed, None where it cannot run there, which is told in pytest's words.

    A failure that the quarantine forgives is one all the same. What the host spoilt is run again. Raises LabError where
    nothing else comes.
    """
    from harness.board import LabError
    from harness.build.process import bound
    from harness.cli.suites import end, read_junit

    junit, log = tree / "build" / "bisect.xml", tree / "build" / "bisect.log"
    junit.parent.mkdir(exist_ok=True)
    options = ["-q", "-rs", "-p", "no:cacheprovider", f"--junitxml={junit}"]
    command = bound([sys.executable, "-m", "pytest", *options, *arguments])
    for _ in range(_PATIENCE):
        junit.unlink(missing_ok=True)
        kept = {key: value for key, value in os.environ.items() if not key.startswith("PYTEST_")}
        with log.open("wb") as file:
            process = subprocess.Popen(
                command,
                cwd=tree,
                env=kept | dict(env),
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=subprocess.STDOUT,
                process_group=0,
            )
            try:
                status = process.wait()
            finally:
                end(process)
        told = read_junit(junit) if junit.exists() else []
        ran = [result for result in told if result.outcome != "skipped" or result.xfailed]
        if status not in (0, 1) or not ran:
            words = log.read_text(errors="replace").strip().splitlines()[-_WORDS:]
            print("\n".join([f"bisect: no test ran (pytest's status {status}):", *(f"  {line}" for line in words)]))
            return None
        failed = [result.verdict for result in ran if result.outcome != "passed"]
        if not failed or not _FORGIVEN.issuperset(failed):
            return not failed
    raise LabError(f"the host spoils each run ({', '.join(failed)}); free it, and begin again; log: {log}")


def _git(where: Path, *arguments: str) -> str:
    from harness.board import LabError

    done = subprocess.run(["git", *arguments], cwd=where, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise LabError(f"git {' '.join(arguments[:2])} in {where}: {done.stderr.strip() or done.returncode}")
    return done.stdout


def _share(text: str) -> float:
    try:
        value = float(text.removesuffix("%")) / (100 if text.endswith("%") else 1)
    except ValueError:
        value = 0.0
    if not 0 < value <= 1:
        raise argparse.ArgumentTypeError(f"wants a share above 0 and up to 1, such as 0.95 or 95%, not {text!r}")
    return value
