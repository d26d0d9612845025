"""How operations of the stores are watched."""

from collections.abc import Callable
from contextlib import AbstractContextManager

# What is around an operation, named by its kind, to see how long it takes and how it ends.
InstrumentationHook = Callable[[str], AbstractContextManager[object]]
