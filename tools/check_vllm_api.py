"""Reads another vLLM release, without installing it, and says whether this package fits it.

    python tools/check_vllm_api.py vllm-0.33.0-....whl [more wheels or source folders]

Every vLLM name that vllm_dsocr imports must be there and take the calls it makes of it; every
method that it overrides must still be one, and ours must take what the other release passes. What
it uses beyond imports is listed in vllm_names.toml, and no private name may be used unlisted.
Prints what is missing, what does not fit, and what changed since the installed release. Exits with
1 when something is missing or does not fit. Nothing of either release is imported.
"""

from __future__ import annotations

import argparse
import ast
import tomllib
import zipfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

PACKAGE = Path(__file__).parent.parent / "vllm_dsocr"
LISTED = tomllib.loads(Path(__file__).with_name("vllm_names.toml").read_text(encoding="utf-8"))
Function = ast.FunctionDef | ast.AsyncFunctionDef
Found = tuple[str, ast.AST]  # the module that defines a name, and the definition


class Release:
    """The sources of one vLLM release: a wheel, or a folder that holds `vllm/`."""

    def __init__(self, path: Path) -> None:
        self._root = zipfile.Path(path) if path.is_file() else path
        self._modules: dict[str, ast.Module | None] = {}

    def module(self, name: str) -> ast.Module | None:
        if name not in self._modules:
            path = self._root / name.replace(".", "/")
            files = [path / "__init__.py", self._root / (name.replace(".", "/") + ".py")]
            found = next((file for file in files if file.is_file()), None)
            self._modules[name] = ast.parse(found.read_text(encoding="utf-8")) if found else None
        return self._modules[name]

    def find(self, module: str, name: str) -> Found | None:
        """Where a name is defined, through re-exports; None when it is not."""
        tree = self.module(module)
        if tree is None:
            return None
        for node in _top_level(tree):
            if name in _defined(node):
                return module, node
            if isinstance(node, ast.ImportFrom) and node.names[0].name == "*":
                if found := self.find(self._absolute(module, node), name):
                    return found
            elif isinstance(node, ast.ImportFrom):
                origin = next((a.name for a in node.names if (a.asname or a.name) == name), None)
                if origin:
                    found = self.find(self._absolute(module, node), origin)
                    return found or (module, node)  # from outside vLLM
        return self._lazy(module, tree, name) or self._submodule(module, name)

    def _absolute(self, module: str, node: ast.ImportFrom) -> str:
        if not node.level:
            return node.module or ""
        is_package = (self._root / module.replace(".", "/") / "__init__.py").is_file()
        parts = module.split(".")
        kept = parts[: len(parts) - node.level + is_package]
        return ".".join([*kept, *([node.module] if node.module else [])])

    def _lazy(self, module: str, tree: ast.Module, name: str) -> Found | None:
        """A name of a table {"LLM": ".entrypoints.llm:LLM"}, as `vllm/__init__.py` has one."""
        for table in (node for node in ast.walk(tree) if isinstance(node, ast.Dict)):
            for key, value in zip(table.keys, table.values, strict=True):
                target = getattr(value, "value", None)
                if getattr(key, "value", None) == name and isinstance(target, str):
                    relative, _, attribute = target.partition(":")
                    return self.find(module + relative, attribute)
        return None

    def _submodule(self, module: str, name: str) -> Found | None:
        tree = self.module(f"{module}.{name}")
        return (f"{module}.{name}", tree) if tree else None

    def has_attribute(self, module: str, owner: ast.AST, name: str) -> bool:
        """Whether a class has it as a method or field, or its instances are given it."""
        if not isinstance(owner, ast.ClassDef):
            return False
        given = (n for n in ast.walk(owner) if isinstance(n, ast.Attribute) and n.attr == name)
        if any(isinstance(n.ctx, ast.Store) for n in given):
            return True
        return self.method(module, owner, name) is not None

    def method(self, module: str, owner: ast.ClassDef, name: str) -> ast.AST | None:
        """What the instances of a class have under a name, looked up through its bases in vLLM."""
        own = next((node for node in owner.body if name in _defined(node)), None)
        if own:
            return own
        for base in owner.bases:
            found = self.find(module, _name(base))
            if found and isinstance(found[1], ast.ClassDef):
                inherited = self.method(found[0], found[1], name)
                if inherited:
                    return inherited
        return None


def own_names(tree: ast.AST) -> set[str]:
    """What a file defines: functions, classes, variables, and attributes that it sets."""
    nodes = list(ast.walk(tree))
    set_here = {n.attr for n in nodes if isinstance(n, ast.Attribute) and not _is_read(n)}
    return set_here.union(*map(_defined, nodes))


def private_names(tree: ast.AST) -> Iterator[tuple[str, int]]:
    """(name, line) of every private attribute that the file reads."""
    for node in ast.walk(tree):
        name = node.attr if isinstance(node, ast.Attribute) and _is_read(node) else ""
        if name.startswith("_") and not name.startswith("__"):
            yield name, node.lineno


def _is_read(node: ast.Attribute) -> bool:
    return isinstance(node.ctx, ast.Load)


def _top_level(tree: ast.Module) -> Iterator[ast.AST]:
    """Statements of a module, those under `if` and `try` included."""
    for node in ast.walk(tree):
        if isinstance(node, (ast.Module, ast.If, ast.Try, ast.ExceptHandler)):
            yield from (
                child for child in ast.iter_child_nodes(node) if isinstance(child, ast.stmt)
            )


def _defined(node: ast.AST) -> set[str]:
    if isinstance(node, (ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)):
        return {node.name}
    targets = getattr(node, "targets", None) or [getattr(node, "target", None)]
    return {target.id for target in targets if isinstance(target, ast.Name)}


def _name(node: ast.expr) -> str:
    """Of a base class or a called thing, without type parameters."""
    node = node.value if isinstance(node, ast.Subscript) else node
    return node.id if isinstance(node, ast.Name) else ""


@dataclass(frozen=True)
class Parameters:
    """What can be passed: names in order, those that must be, and whether anything else may."""

    names: tuple[str, ...]
    required: frozenset[str]
    any_more: bool = False

    @classmethod
    def of(cls, function: Function) -> Parameters:
        spec = function.args
        positional = [*spec.posonlyargs, *spec.args]
        optional = positional[len(positional) - len(spec.defaults) :]
        keywords = [a for a, d in zip(spec.kwonlyargs, spec.kw_defaults, strict=True) if d]
        names = [argument.arg for argument in (*positional, *spec.kwonlyargs)]
        names = [name for name in names if name not in ("self", "cls")]
        required = set(names) - {argument.arg for argument in (*optional, *keywords)}
        return cls(tuple(names), frozenset(required), bool(spec.vararg or spec.kwarg))

    def takes(self, call: ast.Call) -> bool:
        """Whether a call, as it is written, can be made."""
        given = {keyword.arg for keyword in call.keywords}
        unclear = None in given or any(isinstance(item, ast.Starred) for item in call.args)
        if self.any_more or unclear:
            return True
        given |= set(self.names[: len(call.args)])
        return len(call.args) <= len(self.names) and self.required <= given <= set(self.names)

    def takes_all_of(self, caller: Parameters) -> bool:
        """Whether an override with these parameters takes whatever the method may be passed."""
        return self.any_more or set(caller.names) <= set(self.names)

    def change_to(self, later: Parameters) -> str:
        gone = [f"-{name}" for name in self.names if name not in later.names]
        return ", ".join([*gone, *(f"+{name}" for name in later.names if name not in self.names)])


def parameters(release: Release, module: str, node: ast.AST) -> Parameters | None:
    """Of a function, or of what makes an instance of a class; None for other things."""
    if isinstance(node, Function):
        return Parameters.of(node)
    if not isinstance(node, ast.ClassDef):
        return None
    init = release.method(module, node, "__init__")
    if isinstance(init, Function):
        return Parameters.of(init)
    fields = [item for item in node.body if isinstance(item, ast.AnnAssign)]
    required = {item.target.id for item in fields if item.value is None}
    names = tuple(item.target.id for item in fields)
    return Parameters(names, frozenset(required)) if names and not node.bases else None


def imports(tree: ast.Module) -> Iterator[tuple[str, str, str]]:
    """(module, name, local name) of everything imported from vLLM."""
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "vllm":
            for alias in node.names:
                yield node.module, alias.name, alias.asname or alias.name


class Report:
    """Findings about one release; `fits` until something is missing or does not fit."""

    def __init__(self, old: Release, new: Release) -> None:
        self.old, self.new = old, new
        self.lines: set[str] = set()
        self.fits = True
        self.num_uses = 0

    def check(self, tree: ast.Module, file: str) -> None:
        """One file of ours: its imports, its calls of what it imports, its overrides."""
        local = {alias: (module, name) for module, name, alias in imports(tree)}
        for module, name in local.values():
            self.num_uses += 1
            if self.new.find(module, name) is None and module not in LISTED["optional"]:
                self._misfit(f"missing  {module}:{name}", file)
        for node in ast.walk(tree):
            if isinstance(node, ast.Call) and _name(node.func) in local:
                self._check_call(node, *local[_name(node.func)], file)
            elif isinstance(node, ast.ClassDef):
                for base in (local[b] for b in map(_name, node.bases) if b in local):
                    self._check_overrides(node, *base, file)

    def check_listed(self, names: Mapping[str, str]) -> None:
        """`module:Class.name`, each with what it is used for."""
        for place, use in names.items():
            self.num_uses += 1
            module, _, path = place.partition(":")
            owner, _, name = path.partition(".")
            found = self.new.find(module, owner)
            if not found or not self.new.has_attribute(*found, name):
                self._misfit(f"missing  {place}", use)

    def _check_call(self, call: ast.Call, module: str, name: str, file: str) -> None:
        self.num_uses += 1
        old, new = self.old.find(module, name), self.new.find(module, name)
        before = parameters(self.old, *old) if old else None
        after = parameters(self.new, *new) if new else None
        if after and not after.takes(call):
            self._misfit(f"misfit   {module}:{name}", f"{file}:{call.lineno} calls it otherwise")
        elif before and after and before != after:
            self.lines.add(f"changed  {module}:{name}: {before.change_to(after)}")

    def _check_overrides(self, ours: ast.ClassDef, module: str, base: str, file: str) -> None:
        """Constructors are ours to call, so they may take what they like."""
        for item in ours.body:
            if not isinstance(item, Function) or item.name == "__init__":
                continue
            old = self._method(self.old, module, base, item.name)
            new = self._method(self.new, module, base, item.name)
            label = f"{module}:{base}.{item.name}"
            self.num_uses += old is not None
            if old and not new:
                self._misfit(f"missing  {label}", f"{file} overrides it")
            elif new and not Parameters.of(item).takes_all_of(Parameters.of(new)):
                self._misfit(f"misfit   {label}", f"{file} does not take what it is passed")
            elif old and new and (change := Parameters.of(old).change_to(Parameters.of(new))):
                self.lines.add(f"changed  {label}: {change}")

    def _method(self, release: Release, module: str, base: str, name: str) -> Function | None:
        found = release.find(module, base)
        if not found or not isinstance(found[1], ast.ClassDef):
            return None
        method = release.method(*found, name)
        return method if isinstance(method, Function) else None

    def _misfit(self, finding: str, where: str) -> None:
        self.lines.add(f"{finding} ({where})")
        self.fits = False


def unlisted() -> Iterator[tuple[str, int, str]]:
    """(file, line, name) of private names that the plugin uses and the list does not have."""
    files = sorted((PACKAGE / "plugin").rglob("*.py"))
    trees = {file: ast.parse(file.read_text(encoding="utf-8")) for file in files}
    known = {place.rpartition(".")[2] for place in LISTED["names"]} | set(LISTED["elsewhere"])
    known = known.union(*map(own_names, trees.values()))
    for file, tree in trees.items():
        for name, line in private_names(tree):
            if name not in known:
                yield str(file.relative_to(PACKAGE.parent)), line, name


def installed() -> Release:
    spec = find_spec("vllm")
    if spec is None or spec.origin is None:
        raise SystemExit("vLLM is not installed, so there is nothing to compare with")
    return Release(Path(spec.origin).parent.parent)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("releases", nargs="+", type=Path, help="wheels or source folders of vLLM")
    parser.add_argument("--against", type=Path, help="instead of the installed vLLM")
    arguments = parser.parse_args()
    old = Release(arguments.against) if arguments.against else installed()
    all_fit = True
    for file, line, name in unlisted():
        print(f"unlisted {name} ({file}:{line}), add it to vllm_names.toml")
        all_fit = False
    for path in arguments.releases:
        report = Report(old, Release(path))
        for file in sorted(PACKAGE.rglob("*.py")):
            tree = ast.parse(file.read_text(encoding="utf-8"))
            report.check(tree, str(file.relative_to(PACKAGE.parent)))
        report.check_listed(LISTED["names"])
        print(f"{path.name}: {report.num_uses} uses, {'fits' if report.fits else 'DOES NOT FIT'}")
        for line in sorted(report.lines, reverse=True):
            print(f"  {line}")
        all_fit &= report.fits
    return 0 if all_fit else 1


if __name__ == "__main__":
    raise SystemExit(main())
