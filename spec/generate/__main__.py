"""`python -m tokenspeed.spec.generate`."""

from .files import main

if __name__ == "__main__":
    main()
