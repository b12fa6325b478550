"""`python -m qsr.cli.fit`: another spelling of `qsr train`."""

import sys

from .main import main

if __name__ == "__main__":
    main(["train", *sys.argv[1:]])
