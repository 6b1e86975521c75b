"""zoo-train, as `python -m trainer`."""

import sys

if __name__ == "__main__" and not sys.flags.safe_path:
    sys.path.pop(0)  # `python -m` puts the current directory there, whose files are none of this program's


def main() -> None:
    """The installed command."""
    try:
        from trainer.commands.main import main as run  # which takes long enough for a Ctrl-C

        run()
    except KeyboardInterrupt:
        sys.exit(130)


if __name__ == "__main__":
    main()
