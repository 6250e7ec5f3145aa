"""`python -m alignax`, where the command `alignax` is not on the path."""

from alignax.cli import main

if __name__ == "__main__":
    main()
