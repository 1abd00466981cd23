"""Where LMDeploy cannot run, choosing it is refused before anything is opened, with every reason
and how to fix it.
"""

import importlib.metadata
import os
import re
import subprocess
import sys

import pytest
import torch

from services.common.errors import PlatformError
from services.rollout.engines import lmdeploy_check

NO_CUDA = "there is no CUDA device"


def test_a_replica_with_the_engine_lmdeploy_ends_at_once_without_a_cuda_device() -> None:
    if torch.cuda.is_available():
        pytest.skip("this machine has a CUDA device")
    env = {**os.environ, "DIRL_ROLLOUT_ENGINE": "lmdeploy"}

    done = subprocess.run(
        [sys.executable, "-m", "services.rollout"],
        env=env,
        capture_output=True,
        text=True,
        timeout=120,
    )

    assert done.returncode == 1
    assert NO_CUDA in done.stderr
    assert "leave DIRL_ROLLOUT_ENGINE at torch" in done.stderr


def test_an_lmdeploy_that_is_not_installed_is_named_with_the_command_that_installs_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def absent(name: str) -> str:
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(importlib.metadata, "version", absent)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)

    with pytest.raises(PlatformError, match=re.escape(lmdeploy_check.INSTALL)) as caught:
        lmdeploy_check.require_lmdeploy()

    assert caught.value.code == "preflight_failed"
    assert NO_CUDA not in str(caught.value)
