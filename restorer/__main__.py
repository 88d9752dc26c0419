"""`python -m restorer` is `restore`."""

from restorer.cli.app import main

if __name__ == "__main__":
    main()
