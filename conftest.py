"""Fixtures shared by every test, claim and benchmark of the workspace."""

from collections.abc import Iterator

import pytest


@pytest.fixture
def unchecked() -> Iterator[None]:
    """Switch run-time shape checks off, for tests that compile with ``fullgraph=True``."""
    import jaxtyping

    before = jaxtyping.config.jaxtyping_disable
    jaxtyping.config.update("jaxtyping_disable", True)  # noqa: FBT003
    yield
    jaxtyping.config.update("jaxtyping_disable", before)
