"""What goes wrong with a load."""

from dynafast.errors import DynafastError


class LoadError(DynafastError):
    """A load could not be given, or its answers were not right."""
