"""The demo's results over several seeds, one JSON object per seed; each run starts and stops the
whole platform.
"""

import argparse
import subprocess
import sys
import tempfile


def run(seed: int) -> int:
    """Print the demo's own JSON line; its exit status."""
    with tempfile.TemporaryDirectory(prefix="dirl-bench-") as directory:
        command = [
            sys.executable,
            "-m",
            "services.api.cli",
            "demo",
            "--seed",
            str(seed),
            "--data-dir",
            directory,
        ]
        done = subprocess.run(
            [*command, "--exit", "--json"], stdout=subprocess.PIPE, text=True, check=False
        )
    lines = done.stdout.strip().splitlines()
    print(
        lines[-1] if lines else f'{{"seed": {seed}, "exit_status": {done.returncode}}}', flush=True
    )
    return done.returncode


def main() -> int:
    """Entry point."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    return max(run(seed) for seed in parser.parse_args().seeds)


if __name__ == "__main__":
    sys.exit(main())
