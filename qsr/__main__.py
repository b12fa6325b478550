"""`python -m qsr` is the command `qsr`."""

from qsr.cli.main import main

if __name__ == "__main__":
    main()
