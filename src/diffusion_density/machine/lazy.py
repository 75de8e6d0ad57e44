"""Packages that import their public names at first use, so that importing one module does not import them all."""

import sys
from collections.abc import Mapping
from importlib import import_module
from types import ModuleType


class LazyPackage(ModuleType):
    """A package with a table of public names, each the name of a module or of an object in one.

    A function may bear the name of the module that defines it: importing that module binds it on the package,
    which would hide the function, so such a binding is dropped. The module stays importable by its full name.
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
        package: ``__name__`` of the package, which is being imported.
        names: public name to ``"module:object"``, or to ``"module"``, relative to the package.
    """
    module = sys.modules[package]
    module.__dict__["_exports"] = dict(names)
    module.__class__ = LazyPackage
