"""`quoin build`: kernel, programs and boot images."""

from __future__ import annotations

import argparse
from collections.abc import Sequence

SUMMARY = "build the kernel, its programs and the boot images"
PASSES_ON = False


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Which architectures, and which profile."""
    from harness.build.artifacts import ARCHES

    parser.add_argument("arch", nargs="*", metavar="ARCH", help=f"of {', '.join(ARCHES)}; all of them without one")
    parser.add_argument("--debug-kernel", action="store_true", help="lock order, poisoning and assertions compiled in")
    parser.add_argument("--own-target", action="store_true", help="for the targets specified in kernel-src/targets")


def run(args: argparse.Namespace, rest: Sequence[str]) -> int:
    """Build each architecture in turn."""
    from harness.build.artifacts import ARCHES
    from harness.build.errors import BuildError

    unknown = [name for name in args.arch if name not in ARCHES]
    if unknown:
        raise BuildError(f"architectures of {', '.join(ARCHES)}", ", ".join(unknown), next_step="quoin build --help")
    arches = [arch for arch in ARCHES if not args.arch or arch in args.arch]
    build_all(arches, debug=args.debug_kernel, own_target=args.own_target)
    return 0


def build_all(arches: Sequence[str], *, debug: bool, own_target: bool = False) -> None:
    """Build every one of `arches`, showing progress. Raises BuildError."""
    import harness.build as builder

    for arch in builder.ARCHES:
        if arch in arches:
            builder.build(arch, "debug" if debug else "release", own_target=own_target, on_line=say)


def say(line: str) -> None:
    """One line of progress, at once."""
    print(line, flush=True)
