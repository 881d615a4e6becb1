from __future__ import annotations

import sys
from pathlib import Path

import pytest
from hypothesis import settings

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import compete_to_compute

# The same examples every time, none kept on disk, and no failure because the machine was busy.
settings.register_profile("repeatable", derandomize=True, deadline=None, database=None)
settings.load_profile("repeatable")


@pytest.fixture(scope="session")
def mnist() -> compete_to_compute.Mnist:
    return compete_to_compute.load_mnist()
