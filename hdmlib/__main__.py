"""``python -m hdmlib`` and the command ``hdmlib``: start the command line, or name the extra that it needs."""

import sys

from hdmlib.extras import requires_extra


def main() -> None:
    """Run the command line; exit status 2 and one line without the training extra."""
    try:
        with requires_extra("train", "the command line of hdmlib"):
            from hdmlib.cli import app
    except ImportError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
    app()


if __name__ == "__main__":
    main()
