"""Entry point of `python -m restorer`, which is the same as `restore`."""

from restorer.cli.app import main

if __name__ == "__main__":
    main()
