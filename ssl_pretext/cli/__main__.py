"""Makes `python -m ssl_pretext.cli` the same program as `ssl-pretext`."""

import sys

from ssl_pretext.cli import main

if __name__ == "__main__":
    sys.exit(main())
