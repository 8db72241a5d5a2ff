"""`python -m haversack` is the command `haversack`."""

from __future__ import annotations

from haversack.cli import main

if __name__ == "__main__":
    main()
