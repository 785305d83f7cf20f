"""Wrong calls of everything that a package exports are refused with the names of the arguments.

Exported: `exported`.
"""

import sys
from inspect import Parameter, isclass, isfunction, signature
from typing import Any

from icltheory import checks

_TOOLKIT = ("icltheory", "numeric")
_OPEN = (Parameter.VAR_POSITIONAL, Parameter.VAR_KEYWORD)


def exported(value: Any) -> Any:
    """A function or class of this toolkit as its package exports it, with `checks.named` applied.

    The wrapper takes the place of the function in its module too, so that it can be pickled. Modules
    that imported the function before keep it bare. A class keeps its identity: its `__init__`, or
    that of the base it has it from, is replaced. Exceptions, functions that take any argument, and
    other values stay as they are.

    >>> from icltheory.chains import NoisyDecoding
    >>> exported(NoisyDecoding)(0.5, 0.1, step=4)
    Traceback (most recent call last):
    icltheory.errors.InvalidInput: NoisyDecoding has no argument 'step'; meant steps? It takes: step_size, noise_std, steps, samples, label_noise_var, noise_where, scaled_noise.
    """
    if isclass(value) and not issubclass(value, BaseException):
        owner = next(base for base in value.__mro__ if "__init__" in vars(base))
        if _plain(owner.__init__) and owner.__module__.startswith(_TOOLKIT):
            owner.__init__ = checks.named(owner.__init__)
    elif _plain(value):
        home = sys.modules[value.__module__]
        if getattr(home, value.__name__, None) is value:
            call: Any = checks.named(value)
            for name in ("cache_clear", "cache_info"):
                if hasattr(value, name):
                    setattr(call, name, getattr(value, name))
            setattr(home, value.__name__, call)
            return call
    return value


def _plain(value: Any) -> bool:
    """Whether it is a function with named arguments alone that is not wrapped already."""
    cached = hasattr(value, "cache_info")
    if not (cached or isfunction(value)) or getattr(value, "__globals__", None) is vars(checks):
        return False
    return all(p.kind not in _OPEN for p in signature(value).parameters.values())
