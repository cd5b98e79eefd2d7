"""Compiled kernels hand addresses of arrays on. numba frees an array after its last mention, and
does not know that somebody still reads at an address: so whoever made it mentions it once more."""

import ast
from pathlib import Path

import pytest

import laminogram

SOURCE = Path(laminogram.__file__).parent
FILES = sorted([*SOURCE.rglob("_*_numba.py"), *(SOURCE / "stack/kernels/token").glob("*.py")])


def root(node):
    """The variable that an expression looks into."""
    while isinstance(node, ast.Attribute | ast.Subscript):
        node = node.value
    return node.id if isinstance(node, ast.Name) else None


def assigned(function):
    """Pairs of a name and what it is assigned."""
    for node in ast.walk(function):
        if not isinstance(node, ast.Assign):
            continue
        for target in node.targets:
            if isinstance(target, ast.Tuple) and isinstance(node.value, ast.Tuple):
                yield from zip(target.elts, node.value.elts, strict=True)
            else:
                yield target, node.value


def made(function):
    """Arrays that a function makes, by the names that it gives them and views of them."""
    owners = {}
    for target, value in assigned(function):
        if isinstance(target, ast.Name) and isinstance(value, ast.Call):
            if root(value.func) not in ("carray", "numbers", "load", "add"):
                owners[target.id] = target.id
        elif isinstance(target, ast.Name) and isinstance(value, ast.Subscript):
            if root(value) in owners:
                owners[target.id] = owners[root(value)]
        elif isinstance(target, ast.Name) and isinstance(value, ast.IfExp):
            for one in (value.body, value.orelse):
                if root(one) in owners:
                    owners[target.id] = target.id
    return owners


def let_go(source):
    """`function: array` where the address of an array outlives the array's last mention."""
    found = []
    for function in ast.walk(ast.parse(source)):
        if not isinstance(function, ast.FunctionDef):
            continue
        owners = made(function)
        last = {}
        for node in ast.walk(function):
            if isinstance(node, ast.Name) and node.id in owners:
                owner = owners[node.id]
                last[owner] = max(last.get(owner, 0), node.lineno)
        for statement in ast.walk(function):
            if isinstance(statement, ast.Assign | ast.Expr | ast.AugAssign):
                for node in ast.walk(statement):
                    taken = isinstance(node, ast.Attribute) and node.attr == "ctypes"
                    owner = owners.get(root(node)) if taken else None
                    if owner is not None and last[owner] <= statement.end_lineno:
                        found.append(f"{function.name}: {owner}")
    return found


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_an_array_is_held_for_as_long_as_its_address(path):
    assert not let_go(path.read_text())


def test_what_is_let_go_is_seen():
    source = """
def f(n, job):
    held, lost = np.empty(n), np.empty(n)
    view = lost[:2]
    y = np.empty(n) if n else 0
    place = y.ctypes.data if n else job
    call(held.ctypes.data, job.ctypes.data)
    call(view.ctypes.data)
    hold(held)
"""
    assert let_go(source.replace("y = np.empty(n) if n else 0", "y = np.empty(n)")) == [
        "f: y",
        "f: lost",
    ]
