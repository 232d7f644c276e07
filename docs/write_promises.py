"""Writes docs/reference/promises.md: what the tests say that they prove.

Run::

    python docs/write_promises.py > docs/reference/promises.md
"""

import ast
import sys
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

TESTS = Path(__file__).parents[1] / "tests"
SECTIONS = ("Kill and power", "Stored bytes", "The machine", "Bad input", "Nobody let in", "Numbers")


def main() -> None:
    """Print the page."""
    found: dict[str, list[tuple[str, str]]] = defaultdict(list)
    for path in sorted(TESTS.rglob("test_*.py")):
        for section, what, test in find_promises(ast.parse(path.read_text())):
            found[section].append((what, f"{path.relative_to(TESTS.parent)}::{test}"))
    if wrong := found.keys() - set(SECTIONS):
        raise SystemExit(f"no such section: {', '.join(wrong)}")
    lines = [
        f"# What is promised, and the test of each: {sum(map(len, found.values()))}",
        "",
        "Written by `docs/write_promises.py` from tests' marks; what they mean: [trust](../explanation/trust.md).",
    ]
    for section in SECTIONS:
        lines += ["", f"## {section}", "", "| what holds | test |", "|---|---|"]
        lines += [f"| {what.rstrip('.')} | `{test}` |" for what, test in sorted(found[section])]
    sys.stdout.write("\n".join(lines) + "\n")


def find_promises(tree: ast.Module) -> Iterator[tuple[str, str, str]]:
    """Find the marks of a file: section, sentence and the test that bears them."""
    assigned = [node for node in tree.body if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name)]
    constants = {node.targets[0].id: node.value for node in assigned if isinstance(node.value, ast.Constant)}
    functions = [node for node in tree.body if isinstance(node, ast.FunctionDef)]
    marked = [(node.name, node.decorator_list) for node in functions]
    marked += [(node.targets[0].id, [node.value]) for node in assigned]
    for name, where in marked:
        for call in (call for part in where for call in ast.walk(part) if isinstance(call, ast.Call)):
            if isinstance(call.func, ast.Attribute) and call.func.attr == "promise":
                spelled = [constants.get(part.id, part) if isinstance(part, ast.Name) else part for part in call.args]
                section, what = map(ast.literal_eval, spelled)
                yield section, what, name


if __name__ == "__main__":
    main()
