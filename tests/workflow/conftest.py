"""Fixtures of the workflow's tests."""

from pathlib import Path

import pytest

from repository import Repository, copy


@pytest.fixture
def repository(tmp_path: Path) -> Repository:
    """A fresh copy without results."""
    return copy(tmp_path / "repository")
