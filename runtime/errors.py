"""Every error that isoform raises on purpose: one tree, one root.

    IsoformError
    ├── UsageError          a flag or an argument that makes no sense
    ├── MissingExtraError   a stage's packages are not installed
    ├── SpecError           a network description that no network can have
    ├── SignatureError      a signature file or object that cannot be used
    ├── BundleError         a bundle directory that cannot be used
    ├── InputError          samples or an image of the wrong form
    ├── DataError           a data set on disk that cannot be read
    ├── RecipeError         a training recipe that cannot be run
    ├── CheckpointError     a training checkpoint that cannot be continued
    ├── CompileError        compiling failed, or its result disagrees with torch
    ├── EngineError         ONNX Runtime refused the graph
    ├── StoreError          the server's database cannot be used
    └── ConflictError       somebody else changed it first

A message says what was expected, what came, where, and what to do. The command line prints
it on one line and exits with 2; the server answers with a 4xx and the same text.
This module imports nothing.
"""

__all__ = [
    "BundleError",
    "CheckpointError",
    "CompileError",
    "ConflictError",
    "DataError",
    "EngineError",
    "InputError",
    "IsoformError",
    "MissingExtraError",
    "RecipeError",
    "SignatureError",
    "SpecError",
    "StoreError",
    "UsageError",
]


class IsoformError(Exception):
    """The root: catch this to catch everything isoform raises on purpose. Its text is one printable line."""

    def __str__(self) -> str:
        """The message; line breaks and bytes that are no text, as in odd file names, are escaped."""
        return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in super().__str__())


class UsageError(IsoformError):
    """A command-line flag or a function argument that makes no sense."""


class MissingExtraError(IsoformError):
    """A stage's packages are not installed; the message has the pip command."""


class SpecError(IsoformError):
    """A network description that no network can have: a size out of range, a kind unknown."""


class SignatureError(IsoformError):
    """A signature that is damaged, malformed, not finite, or made for other templates."""


class BundleError(IsoformError):
    """A bundle directory that is incomplete, damaged, or not compiled."""


class InputError(IsoformError):
    """Samples of the wrong shape, type or range, or an image file that is not one."""


class DataError(IsoformError):
    """A data set on disk, or a download, that is missing, damaged or of another format."""


class RecipeError(IsoformError):
    """A training recipe with an unknown field, or a value out of its range."""


class CheckpointError(IsoformError):
    """A checkpoint that belongs to another recipe, or is damaged."""


class CompileError(IsoformError):
    """Compiling failed, or the compiled graph disagrees with the trained network."""


class EngineError(IsoformError):
    """ONNX Runtime refused the graph or the session options."""


class StoreError(IsoformError):
    """The server's database cannot be opened, or does not answer."""


class ConflictError(IsoformError):
    """Another revision is newest than the one that was expected: read it, and decide anew."""
