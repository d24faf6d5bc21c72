"""banger: a real Linux machine in one command. Importing the package costs nothing; see ARCHITECTURE.md for the layers."""

__version__ = "0.1.0"
