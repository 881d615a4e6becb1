"""The machine and the software that figures come from."""

from __future__ import annotations

import functools
import os
import platform
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np


@functools.cache
def blas() -> dict[str, Any]:
    """Give numpy's BLAS one thread, and tell its name, kernel and threads.

    More threads would change the last bits, and models side by side with one each are quicker. The
    kernel decides the last bits too.
    """
    import threadpoolctl

    controller = threadpoolctl.ThreadpoolController()
    controller.limit(limits=1, user_api="blas")
    pool = next((p for p in controller.info() if p["user_api"] == "blas"), {})
    return {
        "blas": f"{pool.get('internal_api', 'unknown')} {pool.get('version')}",
        "blas_kernel": pool.get("architecture"),
        "blas_threads": pool.get("num_threads"),
    }


def available_cores() -> int:
    """Cores this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def environment(script: Path) -> dict[str, Any]:
    """Software and machine that figures come from, and the commit of the script's repository."""
    return {
        "python": platform.python_version(),
        "numpy": np.__version__,
        **blas(),
        "platform": platform.platform(),
        "processor": processor(),
        "cores": available_cores(),
        "git_commit": git_commit(script),
    }


def processor() -> str:
    """The processor's name, where the system tells it."""
    with suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def git_commit(script: Path) -> str | None:
    """The commit of the repository whose top folder has the script, "-dirty" if one was changed.

    None for a script that is installed, or copied into a repository of something else.
    """
    import subprocess

    folder = script.resolve().parent
    # A hook or a worktree's shell may name another repository by such variables.
    variables = {name: value for name, value in os.environ.items() if name[:4] != "GIT_"}

    def git(*arguments: str) -> list[str]:
        command = ["git", "-C", str(folder), *arguments]
        answer = subprocess.check_output(
            command, stderr=subprocess.DEVNULL, timeout=5, env=variables, text=True
        )
        return answer.splitlines()

    try:
        top, commit = git("rev-parse", "--show-toplevel", "--short=12", "HEAD")
        if Path(top).resolve() != folder or not git("ls-files", script.name):
            return None
        changed = git("status", "--porcelain", "--untracked-files=no", "--", "*.py")
        return commit + ("-dirty" if changed else "")
    except (OSError, ValueError, subprocess.SubprocessError):
        return None
