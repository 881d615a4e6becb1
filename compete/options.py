"""Options as fields of a dataclass, each with its default, its help and what it may be."""

from __future__ import annotations

import argparse
import math
import numbers
import os
from collections.abc import Callable
from dataclasses import Field, field, fields
from pathlib import Path
from typing import Any

from compete.files import require

# What an option may be: a test, and the same in words.
Limit = tuple[Callable[[Any], bool], str]
POSITIVE_COUNT: Limit = (lambda n: 1 <= n <= 1_000_000, "1 or more, up to 1000000")
COUNT: Limit = (lambda n: 0 <= n <= 1_000_000, "0 or more, up to 1000000")
POSITIVE: Limit = (lambda x: 0 < x < math.inf, "above 0")
NOT_NEGATIVE: Limit = (lambda x: 0 <= x < math.inf, "0 or more")
SHARE: Limit = (lambda x: 0 <= x < 1, "at least 0 and below 1")


def option(default: Any, description: str, limit: Limit | None = None, **keywords: Any) -> Any:
    """A `Config` field: its default, its line of help, its limit, and what argparse needs."""
    return field(
        default=default, metadata={"help": description, "limit": limit, "argparse": keywords}
    )


def flag(name: str) -> str:
    """The command-line spelling of a `Config` field."""
    return "--" + name.replace("_", "-")


def kind(item: Field[Any]) -> type:
    """The type of a field's values, where they are not None."""
    return item.metadata["argparse"].get("type", type(item.default))


def path(text: str) -> Path:
    """A file's name from the command line, in which ~ is the home folder."""
    return Path(os.path.expanduser(text))


def folder(text: str) -> str:
    """A folder's whole name, the same for a worker that stands elsewhere."""
    return os.path.abspath(os.path.expanduser(text))


# What a value may be instead of the type itself, and how that is called.
ALSO = {
    int: (numbers.Integral, "a whole number"),
    float: (numbers.Real, "a number"),
    bool: (bool, "true or false"),
    str: (str, "text"),
    tuple: ((tuple, list), "a list of words"),
    path: ((Path, str), "a file's name"),
}


def check_options(options: Any) -> None:
    """Raise `InputError` for a field of a dataclass of options that is not what it may be.

    The command line has checked types and choices already; from Python anything may come.
    """
    for item in fields(options):
        name, value = flag(item.name), getattr(options, item.name)
        if value is None and item.default is None:
            continue
        types, words = ALSO.get(kind(item), ALSO[str])
        is_kind = isinstance(value, types) and isinstance(value, bool) == (types is bool)
        require(is_kind, f"{name} must be {words}, not {value!r}")
        choices = item.metadata["argparse"].get("choices")
        require(not choices or value in choices, f"{name}: {value!r} is none of {choices}")
        if item.metadata["limit"]:
            is_allowed, limit = item.metadata["limit"]
            require(is_allowed(value), f"{name} must be {limit}, not {value}")


def add_options(group: Any, options: type, several: bool = False) -> None:
    """Give a parser's group an option for each field of a dataclass of options.

    With `several` a number may have several values: then it is parsed as a list.
    """
    for item in fields(options):
        keywords = dict(item.metadata["argparse"])
        description = item.metadata["help"]
        if isinstance(item.default, bool):
            keywords["action"] = "store_true"
        elif item.default is not None:
            words = " ".join(item.default) if isinstance(item.default, tuple) else item.default
            description += f" (default {words})"
            if not isinstance(item.default, tuple | str):
                keywords["type"] = kind(item)
                keywords.setdefault("metavar", "X" if isinstance(item.default, float) else "N")
        if several and kind(item) in (int, float):
            keywords["nargs"] = "+"
        group.add_argument(flag(item.name), default=item.default, help=description, **keywords)


class OneLineParser(argparse.ArgumentParser):
    """An argument parser whose errors are one line, and which takes no abbreviations."""

    def __init__(self, **keywords: Any) -> None:
        """Keywords are those of `argparse.ArgumentParser`."""
        super().__init__(allow_abbrev=False, **keywords)

    def error(self, message: str) -> Any:
        self.exit(2, f"{self.prog}: {message}\n")
