"""`python -m streamlet` is the `streamlet` command."""

from streamlet.cli import main

if __name__ == "__main__":
    main()
