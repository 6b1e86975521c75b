"""zoo-train, as `python -m trainer`."""

import sys

if __name__ == "__main__" and not sys.flags.safe_path:
    sys.path.pop(0)  # `python -m` puts the current directory there, whose files are none of this program's

from trainer.commands.main import app as app
from trainer.commands.main import main

if __name__ == "__main__":
    main()
