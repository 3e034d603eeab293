"""`python -m tokenspeed`: the same as the command `tokenspeed`."""

from .cli import main

if __name__ == "__main__":
    main()
