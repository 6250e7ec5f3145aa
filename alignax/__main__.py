"""`python -m alignax`, where the command `alignax` is not on the path."""

from alignax.cli import command

if __name__ == "__main__":
    command()
