from __future__ import annotations

import sys
from pathlib import Path

import pytest
from hypothesis import settings

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from compete_to_compute import Mnist, load_mnist  # before numpy, so that BLAS has one thread

# The same examples every time, none kept on disk, and no failure because the machine was busy.
settings.register_profile(
    "repeatable", derandomize=True, deadline=None, database=None, max_examples=60
)
settings.load_profile("repeatable")


@pytest.fixture(scope="session")
def mnist() -> Mnist:
    return load_mnist()
