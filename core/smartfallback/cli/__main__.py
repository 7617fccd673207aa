"""``python -m smartfallback.cli``: the same as the command ``smartfallback``."""

import sys

from smartfallback.cli.app import main

if __name__ == "__main__":
    sys.argv[0] = "smartfallback"
    main()
