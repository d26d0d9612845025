"""The hook that observes the operations of stores."""

from collections.abc import Callable
from contextlib import AbstractContextManager

# Takes the kind of an operation; the context manager wraps it, to observe its time and outcome.
InstrumentationHook = Callable[[str], AbstractContextManager[object]]
