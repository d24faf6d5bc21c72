"""`python -m banger` is the CLI."""

from banger.frontends.cli.main import main

if __name__ == "__main__":
    main()
