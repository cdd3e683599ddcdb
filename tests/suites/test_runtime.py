"""The suite of prepull's runtime over the fake; over containerd it is in ``tests/peers/test_prepull.py``."""

from __future__ import annotations

import pytest

from testkit.agent_dependencies import FakeRuntime
from testkit.suites.runtime import RuntimeSuite

NAME = "docker.io/library/app:1"


class TestFakeRuntime(RuntimeSuite):
    @pytest.fixture
    def runtime(self) -> FakeRuntime:
        return FakeRuntime({NAME: "sha256:1"})

    @pytest.fixture
    def name(self) -> str:
        return NAME

    @pytest.fixture
    def absent(self) -> str:
        return "docker.io/library/none:1"
