"""Create model directories: `python -m services.common.model make|convert …`."""

import argparse
import sys

from services.common.errors import PlatformError
from services.common.model.convert import convert_model
from services.common.model.tiny import make_tiny_model


def main(arguments: list[str] | None = None) -> int:
    """Return exit status 0, or 1 with the reason on standard error."""
    options = vars(_make_parser().parse_args(arguments))
    command = options.pop("command")
    out = options.pop("out")
    try:
        if command == "make":
            make_tiny_model(out, **options)
        else:
            convert_model(options["source"], out, options["block_size"])
    except PlatformError as error:
        sys.stderr.write(f"{error}\n")
        return 1
    sys.stdout.write(f"{out}\n")
    return 0


def _make_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m services.common.model", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    make = commands.add_parser("make", help="a tiny model with random weights")
    make.add_argument("--seed", type=int, default=0)
    make.add_argument("--hidden-size", type=int, default=96)
    make.add_argument("--layers", type=int, default=4)
    make.add_argument("--heads", type=int, default=4)
    make.add_argument("--moe", action="store_true", help="mixture-of-experts feed-forward layers")
    convert = commands.add_parser(
        "convert", help="a decoder, with a mask token and a block length added"
    )
    convert.add_argument(
        "--source", required=True, metavar="PATH", help="Hugging Face directory or GGUF file"
    )
    for command in (make, convert):
        command.add_argument("--out", required=True, metavar="DIR")
        command.add_argument("--block-size", type=int, default=4, metavar="B")
    return parser


if __name__ == "__main__":
    sys.exit(main())
