"""portctl says which ports of a server are open, to whom, and proves that it is so."""

__version__ = "0.1.0"
