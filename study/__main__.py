"""Run one part of the study: `python3 -m study NAME --help` says what each takes."""

from __future__ import annotations

import importlib
import sys

from compete.files import InputError, require, run_script

PARTS = {
    "conditions": "train the open questions' conditions, many paired seeds each",
    "mechanism": "train networks that are looked into",
    "movement": "memory traffic by ByteDMD",
    "speed": "time beside that of the matrix products",
    "write": "tables, figures and the numbers in the pages; nothing is trained",
}


def main() -> int:
    """Hand the rest of the command line to the part that is named; the exit status."""
    name, *rest = sys.argv[1:] or ["--help"]
    if name in ("-h", "--help"):
        print("usage: python3 -m study NAME ...\n")
        print("\n".join(f"  {part:12}{text}" for part, text in PARTS.items()))
        return 0
    require(name in PARTS, f"{name}: no such part of the study; there are {', '.join(PARTS)}")
    sys.argv[0] = f"python3 -m study {name}"  # as usage and errors call it
    try:
        part = importlib.import_module(f"study.{name}")
    except ModuleNotFoundError as missing:
        advice = "python3 -m pip install -r requirements-study.txt"
        raise InputError(f"{missing.name} is missing: {advice}") from None
    return part.main(rest)


if __name__ == "__main__":
    run_script(main)
