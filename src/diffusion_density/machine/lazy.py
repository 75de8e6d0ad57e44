"""Packages that import their public names at first use, so that importing one module does not import all of them.

The library lazy-loader cannot do this here: it offers no names for objects in nested modules such as ``schedules`` in
``process``, and a function such as ``density.formula`` would be hidden by the module that defines it.
"""

import sys
from collections.abc import Mapping
from importlib import import_module
from types import ModuleType


class LazyPackage(ModuleType):
    """A package with a table of public names, each the name of a module or of an object in a module.

    A function may have the name of the module that defines it. When Python imports that module, it sets the package's
    attribute of this name to the module, which would hide the function; here this is ignored. The module can still be
    imported by its full name.
    """

    _exports: Mapping[str, str]

    def __getattr__(self, name: str) -> object:
        if name.startswith("__") or name not in self._exports:
            raise AttributeError(f"module {self.__name__!r} has no attribute {name!r}")
        module, _, attribute = self._exports[name].partition(":")
        found = import_module(f"{self.__name__}.{module}")
        value = getattr(found, attribute) if attribute else found
        self.__dict__[name] = value
        return value

    def __setattr__(self, name: str, value: object) -> None:
        if ":" in self._exports.get(name, "") and isinstance(value, ModuleType):
            return
        super().__setattr__(name, value)

    def __dir__(self) -> list[str]:
        return sorted({*super().__dir__(), *self._exports})


def export(package: str, names: Mapping[str, str]) -> None:
    """Make ``package`` lazy.

    Args:
        package: ``__name__`` of the package that calls this.
        names: maps each public name to ``"module:object"`` or to ``"module"``, relative to the package.
    """
    module = sys.modules[package]
    module.__dict__["_exports"] = dict(names)
    module.__class__ = LazyPackage
