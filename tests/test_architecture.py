"""The plan of the package: which folder may import which, and how large a function may be."""

import ast
from pathlib import Path

import support

PACKAGE = support.ROOT / "dinado_jax"
# From low to high: a folder, or a module of the root, imports only what comes before it.
LAYERS = [
    "errors",
    "utils",
    "config",
    "distributed",
    "ops",
    "data",
    "models",
    "adapters",
    "classifiers",
    "automata",
    "hmm",
    "decoding",
    "guides",
    "controls",
    "generation",
    "scoring",
    "hidden_states",
    "metrics",
    "tasks",
    "constraints",
    "oracles",
    "search",
    "evaluation",
    "language_model",
    "loading",
    "guarantee",
    "rollouts",
    "objectives",
    "training",
    "recurrence",
    "denoising",
    "stages",
    "exact",
    "bench",
    "cli",
    "__init__",
    "__main__",
]
STORIES = {  # read from top to bottom, up to 90 lines
    "training/loop.py": {"fit"},
    **{f"stages/{name}.py": {name} for name in ("sft", "rollout", "train", "generate", "evaluate")},
}
MODULES = sorted(PACKAGE.rglob("*.py"))


def tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


def layer(parts: tuple[str, ...]) -> str:
    return parts[0].removesuffix(".py")


def imported(path: Path) -> set[str]:
    """The layers that a module imports from, at its top or inside a function."""
    found = set()
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.ImportFrom) and node.module and node.level == 0:
            names = [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
        elif isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        else:
            continue
        parts = [name.split(".") for name in names]
        found |= {part[1] for part in parts if part[0] == "dinado_jax" and len(part) > 1}
    return found & set(LAYERS)


def functions(path: Path):
    """Every function of a module with whether it and all around it are public."""

    def within(node, public):
        for child in ast.iter_child_nodes(node):
            if isinstance(child, (ast.FunctionDef, ast.ClassDef)):
                known = public and not child.name.startswith("_")
                if isinstance(child, ast.FunctionDef):
                    yield child, known
                    known = False  # what a function defines is its own
                yield from within(child, known)
            else:
                yield from within(child, public)

    yield from within(tree(path), True)


def test_every_module_has_a_layer():
    assert {layer(path.relative_to(PACKAGE).parts) for path in MODULES} <= set(LAYERS)


def test_the_root_holds_at_most_eight_files():
    assert len(list(PACKAGE.glob("*.py"))) <= 8


def test_no_layer_imports_a_higher_one():
    upward = []
    for path in MODULES:
        own = layer(path.relative_to(PACKAGE).parts)
        upward += [
            f"{path.relative_to(PACKAGE)} -> {other}"
            for other in imported(path)
            if LAYERS.index(other) > LAYERS.index(own)
        ]
    assert not upward


def test_no_two_modules_import_each_other():
    names = {
        path: ".".join(("dinado_jax", *path.relative_to(PACKAGE).with_suffix("").parts))
        for path in MODULES
    }
    known = {name: path for path, name in names.items()}
    edges = {}
    for path in MODULES:
        edges[path] = set()
        for node in ast.walk(tree(path)):
            if isinstance(node, ast.ImportFrom) and node.module:
                whole = [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
                edges[path] |= {known[name] for name in whole if name in known}
    while edges:
        free = [path for path, others in edges.items() if not (others - {path}) & edges.keys()]
        assert free, f"a circle among {sorted(str(path.relative_to(PACKAGE)) for path in edges)}"
        for path in free:
            del edges[path]


def test_functions_are_short_and_take_few_parameters():
    odd = []
    for path in MODULES:
        name = path.relative_to(PACKAGE).as_posix()
        for function, _ in functions(path):
            arguments = function.args
            parameters = [*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs]
            count = len([each for each in parameters if each.arg not in ("self", "cls")])
            lines = function.end_lineno - function.lineno + 1
            most = 90 if function.name in STORIES.get(name, ()) else 60
            if count > 8:
                odd.append(f"{name}:{function.name} takes {count} parameters")
            if lines > most:
                odd.append(f"{name}:{function.name} has {lines} lines")
    assert not odd


def test_public_functions_and_classes_are_documented():
    bare = []
    for path in MODULES:
        module = tree(path)
        name = path.relative_to(PACKAGE).as_posix()
        if module.body and not ast.get_docstring(module):
            bare.append(name)
        for node in module.body:
            public = isinstance(node, (ast.FunctionDef, ast.ClassDef)) and node.name[0] != "_"
            if public and not ast.get_docstring(node):
                bare.append(f"{name}:{node.name}")
    assert not bare


def test_public_functions_are_annotated():
    bare = []
    for path in MODULES:
        for function, public in functions(path):
            arguments = function.args
            parameters = [*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs]
            named = [each for each in parameters if each.arg not in ("self", "cls")]
            whole = function.returns is not None or function.name == "__init__"
            if public and not (whole and all(each.annotation for each in named)):
                bare.append(f"{path.relative_to(PACKAGE)}:{function.name}")
    assert not bare
