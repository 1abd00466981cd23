"""Generate services/common/pb from proto/; with --check, fail when the committed stubs are
outdated.
"""

import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PROTO = ROOT / "proto"
STUBS = ROOT / "services" / "common" / "pb"
IMPORT = re.compile(r"^(from|import) dirl\.v1", re.MULTILINE)


def generate(target: Path) -> None:
    """Run protoc and move the generated imports below services.common.pb."""
    sources = [str(path.relative_to(PROTO)) for path in sorted(PROTO.rglob("*.proto"))]
    outputs = [f"--{kind}_out={target}" for kind in ("python", "grpc_python", "mypy", "mypy_grpc")]
    command = [sys.executable, "-m", "grpc_tools.protoc", f"-I{PROTO}", *outputs, *sources]
    subprocess.run(command, check=True, cwd=PROTO, env=_with_plugins())
    for path in target.rglob("*.py*"):
        path.write_text(_rebase(path.read_text()))
    for package in (target, target / "dirl", target / "dirl" / "v1"):
        (package / "__init__.py").write_text(
            '"""Generated from proto/ by scripts/gen_proto.py; never edited."""\n'
        )


def _with_plugins() -> dict[str, str]:
    """Return an environment in which protoc finds the mypy plugins of this interpreter."""
    return {
        **os.environ,
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}",
    }


def _rebase(text: str) -> str:
    text = IMPORT.sub(r"\1 services.common.pb.dirl.v1", text)
    # The stubs of mypy-protobuf also refer to other files by their full module path.
    return re.sub(r"(?<![\w./\"])dirl\.v1\.(\w+_pb2)", r"services.common.pb.dirl.v1.\1", text)


def _differences(fresh: Path) -> list[str]:
    names = {
        p.relative_to(base)
        for base in (fresh, STUBS)
        for p in base.rglob("*.py*")
        if "__pycache__" not in p.parts
    }
    return [str(n) for n in sorted(names) if _read(fresh / n) != _read(STUBS / n)]


def _read(path: Path) -> str | None:
    return path.read_text() if path.exists() else None


def main() -> int:
    """Generate the stubs, or compare them with the committed ones."""
    with tempfile.TemporaryDirectory() as scratch:
        fresh = Path(scratch) / "pb"
        fresh.mkdir()
        generate(fresh)
        if "--check" in sys.argv[1:]:
            stale = _differences(fresh)
            for name in stale:
                print(
                    f"services/common/pb/{name} is out of date: run `make proto`", file=sys.stderr
                )
            return 1 if stale else 0
        shutil.rmtree(STUBS, ignore_errors=True)
        shutil.copytree(fresh, STUBS)
    return 0


if __name__ == "__main__":
    sys.exit(main())
