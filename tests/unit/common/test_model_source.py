"""Directories and hub names; nothing here touches the network."""

import subprocess
import sys
from pathlib import Path

import huggingface_hub.constants
import pytest

from services.common.errors import PlatformError
from services.common.model_source import resolve_model


def test_a_directory_is_itself(tmp_path: Path) -> None:
    assert resolve_model(str(tmp_path)) == tmp_path.resolve()


def test_a_directory_has_no_revision(tmp_path: Path) -> None:
    with pytest.raises(PlatformError, match="is a directory and has no revision 'v1'"):
        resolve_model(str(tmp_path), "v1")


@pytest.mark.parametrize("name", ["no/such/directory", "someone/unheard-of"])
def test_a_name_that_cannot_be_fetched_is_refused(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))

    with pytest.raises(PlatformError, match=f"{name}.*is not a directory") as caught:
        resolve_model(name)

    assert (caught.value.code, caught.value.param) == ("model_invalid", "model")


def test_card_and_source_import_no_torch() -> None:
    code = "import sys, services.common.model_card, services.common.model_source; print('torch' in sys.modules)"

    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)

    assert done.stdout.strip() == "False"
