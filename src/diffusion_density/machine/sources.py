"""The source files that a module depends on, and their hash, so that a rule reruns if its code changes and only then.

Imports are read from the syntax tree; nothing is executed. An import inside a function counts. An import under ``if
TYPE_CHECKING:`` does not count, and ``import_module("…")`` cannot be followed. A package that only declares what it
exports (see `lazy`) is skipped: importing a name from it leads to the module that defines the name, and importing the
package itself leads to everything that it exports.
"""

import ast
import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

SOURCE_ROOT = Path(__file__).parents[2]
LAZY = "diffusion_density.machine.lazy"


def sources_hash(module: str, root: Path = SOURCE_ROOT) -> str:
    """SHA-256 over the names and bytes of `source_files`.

    Args:
        module: full name, such as ``"diffusion_density.process.mixtures"``.
        root: the folder that holds the package.
    """
    digest = hashlib.sha256()
    for path in source_files(module, root):
        content = path.read_bytes()
        digest.update(f"{path.relative_to(root).as_posix()} {len(content)}\n".encode())
        digest.update(content)
    return digest.hexdigest()


def source_files(module: str, root: Path = SOURCE_ROOT) -> list[Path]:
    """The sorted files of ``module`` and of everything that it imports from its own package, directly or indirectly.

    Raises `ModuleNotFoundError` if there is no such module.
    """
    tree = _Tree(root)
    todo = list(tree.whole(module))
    if not todo:
        raise ModuleNotFoundError(f"{root} holds no module {module}")
    seen: set[str] = set()
    while todo:
        name = todo.pop()
        if name not in seen:
            seen.add(name)
            todo += tree.imports(name)
            todo += _parents(name)
    files = (tree.file(name) for name in seen if not tree.is_passive(name))
    return sorted(file for file in files if file is not None)


class _Tree:
    """The modules below one folder, by name."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self._files: dict[str, Path | None] = {}

    def file(self, module: str) -> Path | None:
        if module not in self._files:
            base = self.root.joinpath(*module.split("."))
            candidates = (base / "__init__.py", base.with_suffix(".py"))
            self._files[module] = next((path for path in candidates if path.is_file()), None)
        return self._files[module]

    def is_package(self, module: str) -> bool:
        file = self.file(module)
        return file is not None and file.name == "__init__.py"

    def is_passive(self, module: str) -> bool:
        """Whether this is a package that has only a docstring and a declaration of what it exports."""
        return self.is_package(module) and self._content(module).is_declaration

    def imports(self, module: str) -> set[str]:
        """The modules of the same root that ``module`` imports when it runs."""
        if self.is_passive(module):
            return set()
        return {found for node in self._content(module).running for found in self._named(node, module)}

    def _exports(self, package: str) -> dict[str, set[str]]:
        """The modules behind each name of a package, by all its imports, also those under ``TYPE_CHECKING``."""
        found: dict[str, set[str]] = {}
        for node in self._content(package).every:
            if isinstance(node, ast.ImportFrom) and (origin := self._origin(node, package)) != LAZY:
                for alias in node.names:
                    found[alias.asname or alias.name] = self._members(origin, alias.name)
        return found

    def _named(self, node: ast.Import | ast.ImportFrom, module: str) -> set[str]:
        if isinstance(node, ast.Import):
            return {found for alias in node.names for found in self.whole(alias.name)}
        origin = self._origin(node, module)
        return {found for alias in node.names for found in self._members(origin, alias.name)}

    def _origin(self, node: ast.ImportFrom, module: str) -> str:
        if not node.level:
            return node.module or ""
        package = module.split(".") if self.is_package(module) else module.split(".")[:-1]
        return ".".join([*package[: len(package) - node.level + 1], *([node.module] if node.module else [])])

    def _members(self, origin: str, name: str) -> set[str]:
        """The modules behind ``from origin import name``."""
        if self.file(f"{origin}.{name}"):
            return self.whole(f"{origin}.{name}")
        if self.is_package(origin) and name in (exports := self._exports(origin)):
            return exports[name]
        return self.whole(origin)

    def whole(self, module: str) -> set[str]:
        """The module and, for a package, everything that it exports; empty if it is not below this root."""
        if self.file(module) is None:
            return set()
        if not self.is_package(module):
            return {module}
        return {module}.union(*self._exports(module).values())

    def _content(self, module: str) -> "_Content":
        file = self.file(module)
        if file is None:
            return _Content([], [], False)
        status = file.stat()
        return _content(file, status.st_mtime_ns, status.st_size)


@dataclass(frozen=True)
class _Content:
    """The imports of a file that run, all its imports, and whether it only declares what a package exports."""

    running: list[ast.Import | ast.ImportFrom]
    every: list[ast.Import | ast.ImportFrom]
    is_declaration: bool


@cache
def _content(file: Path, modified: int, size: int) -> _Content:  # noqa: ARG001 (they make the cache see changes)
    tree = ast.parse(file.read_bytes(), file)
    running, every = (
        [node for node in nodes if isinstance(node, ast.Import | ast.ImportFrom)]
        for nodes in (_running(tree.body), ast.walk(tree))
    )
    return _Content(running, every, all(map(_is_declaration, tree.body)))


def _parents(module: str) -> list[str]:
    parts = module.split(".")
    return [".".join(parts[:end]) for end in range(1, len(parts))]


def _running(statements: list[ast.stmt]) -> Iterator[ast.AST]:
    """Every node except those under ``if TYPE_CHECKING:``."""
    todo: list[ast.AST] = list(statements)
    while todo:
        node = todo.pop()
        if isinstance(node, ast.If) and _is_type_checking(node.test):
            todo += node.orelse
        else:
            yield node
            todo += ast.iter_child_nodes(node)


def _is_type_checking(test: ast.expr) -> bool:
    return ast.unparse(test) in {"TYPE_CHECKING", "typing.TYPE_CHECKING"}


def _is_declaration(statement: ast.stmt) -> bool:
    """Whether a statement only documents the package or declares what it exports."""
    match statement:
        case ast.Expr(value=ast.Constant(value=str())):
            return True
        case ast.Expr(value=ast.Call(func=ast.Name(id="export"))):
            return True
        case ast.Assign(targets=[ast.Name(id="__all__")]):
            return True
        case ast.ImportFrom(module="typing" | "diffusion_density.machine.lazy"):
            return True
        case ast.If(test=test, orelse=[]):
            return _is_type_checking(test)
    return False
