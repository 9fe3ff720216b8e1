"""The structure of the package, checked from its sources: no models are imported or trained here."""

import ast
import graphlib
import re
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "hf_dmt"
MODULES = sorted(PACKAGE.rglob("*.py"))
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))

# In the order of control; a room may import itself and the rooms after it.
ROOMS = ["commands", "training", "models", "hub", "report", "data", "method"]

# The rooms inside four of them, in the same order; "." are the files that lie in none.
NESTED_ROOMS = {
    "commands": [".", "comparing"],
    "training": [".", "inputs", "run", "scoring", "labeling", "settings"],
    "models": ["weights", ".", "networks"],
    "data": ["splitting", "drawing", "labels", "reading", "."],
}

MOST_MODULES = 12  # in one folder, besides __init__.py

# Import names that differ from the name of the distribution that brings them.
DISTRIBUTIONS = {
    "PIL": "pillow",
    "pillow_heif": "pillow-heif",
    "huggingface_hub": "huggingface-hub",
    "sklearn": "scikit-learn",
    "yaml": "pyyaml",
}


def imported_modules(path: Path) -> Iterator[tuple[int, str]]:
    """Yield (line, dotted module) for every import in the file, those inside functions included.

    Relative imports are resolved. `from package import name` yields `package.name`: it may be a module.
    """
    package = list(path.relative_to(ROOT).with_suffix("").parts[:-1])
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield node.lineno, alias.name
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            for alias in node.names:
                yield node.lineno, ".".join([*base, *filter(None, [node.module]), alias.name])


def imported_files(path: Path) -> set[Path]:
    """The files of the package that a file imports, those for type checking only included."""
    found = set()
    for _, module in imported_modules(path):
        parts = module.split(".")
        while parts and not (file := ROOT.joinpath(*parts).with_suffix(".py")).is_file():
            if (file := ROOT.joinpath(*parts) / "__init__.py").is_file():
                break
            parts.pop()
        if parts and file.is_relative_to(PACKAGE) and file != path:
            found.add(file)
    return found


def room_of(path: Path) -> str:
    """The room a file stands in; "" for files directly in the package."""
    inside = path.relative_to(PACKAGE).parts
    return inside[0] if len(inside) > 1 else ""


def describe(path: Path, line: int, what: str) -> str:
    return f"{path.relative_to(ROOT)}:{line} {what}"


def test_every_room_exists_and_every_folder_is_a_room() -> None:
    """Guards against a new folder that none of the rules below covers."""
    folders = {path.relative_to(PACKAGE).parts[0] for path in MODULES if path.parent != PACKAGE}
    assert folders == set(ROOMS)


def test_imports_point_down_the_room_list() -> None:
    """Guards against an import upwards in the list: it merges two packages, and neither can be read, tested or reused
    alone."""
    wrong = []
    for path in MODULES:
        room = room_of(path)
        if not room:
            continue  # hf_dmt/__init__.py gathers the public names of all rooms
        for line, module in imported_modules(path):
            parts = module.split(".")
            if parts[0] != "hf_dmt":
                continue
            target = parts[1] if len(parts) > 1 else ""
            if target not in ROOMS or ROOMS.index(target) < ROOMS.index(room):
                wrong.append(describe(path, line, f"({room}) imports {module}"))
    assert not wrong, "imports may only go " + " -> ".join(ROOMS) + ":\n" + "\n".join(wrong)


def test_no_files_import_each_other_in_a_circle() -> None:
    """Files in a cycle are one file: none can be read, tested or changed without the others."""
    sorter = graphlib.TopologicalSorter({path: imported_files(path) for path in MODULES})
    try:
        sorter.prepare()
    except graphlib.CycleError as circle:
        names = [path.relative_to(PACKAGE).as_posix() for path in circle.args[1]]
        pytest.fail("files import each other in a circle: " + " -> ".join(reversed(names)))


@pytest.mark.parametrize("room", NESTED_ROOMS)
def test_imports_point_down_the_rooms_inside_a_room(room: str) -> None:
    """As between the big rooms: after an import upwards, two folders can only be understood together."""
    order = NESTED_ROOMS[room]

    def nested(path: Path) -> str:
        return str(path.parent.relative_to(PACKAGE / room)).split("/")[0]

    files = [path for path in MODULES if room_of(path) == room]
    assert {nested(path) for path in files} == set(order), "every folder has its place in NESTED_ROOMS"
    wrong = [
        f"{path.relative_to(PACKAGE)} imports {target.relative_to(PACKAGE)}"
        for path in files
        for target in imported_files(path)
        if room_of(target) == room and order.index(nested(target)) < order.index(nested(path))
    ]
    assert not wrong, f"inside {room} imports may only go " + " -> ".join(order) + ":\n" + "\n".join(wrong)


def test_no_folder_has_too_many_modules() -> None:
    """With more than a dozen files, a folder is hard to navigate."""
    counts = Counter(path.parent for path in MODULES if path.name != "__init__.py")
    too_many = {folder.relative_to(ROOT).as_posix(): n for folder, n in counts.items() if n > MOST_MODULES}
    assert not too_many


def test_method_imports_torch_and_the_standard_library_only() -> None:
    """`method/` is what readers compare with the paper and what other projects may copy, so it must need nothing but
    torch."""
    allowed = {"torch", "hf_dmt", *sys.stdlib_module_names}
    wrong = [
        describe(path, line, f"imports {module}")
        for path in MODULES
        if room_of(path) == "method"
        for line, module in imported_modules(path)
        if module.split(".")[0] not in allowed
    ]
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize(
    ("library", "allowed"),
    [
        ("transformers", ["__init__.py", "models/", "report/", "hub/", "training/", "commands/"]),
        ("huggingface_hub", ["hub/"]),
    ],
)
def test_libraries_stay_in_their_places(library: str, allowed: list[str]) -> None:
    """Guards against downloads in two places: they can get two revisions of one repository, whose models do not belong
    together."""
    wrong = [
        describe(path, line, f"imports {module}")
        for path in MODULES
        if not path.relative_to(PACKAGE).as_posix().startswith(tuple(allowed))
        for line, module in imported_modules(path)
        if module.split(".")[0] == library
    ]
    assert not wrong, f"{library} may be imported in {allowed} only:\n" + "\n".join(wrong)


def test_every_imported_distribution_is_declared() -> None:
    """Guards against a package that is here only because another one installs it, and that is missing on the user's
    machine."""
    extras = PYPROJECT["project"]["optional-dependencies"]
    lines = PYPROJECT["project"]["dependencies"] + [line for name in extras if name != "test" for line in extras[name]]
    declared = {re.split(r"[<>=~!\[; ]", line)[0].lower() for line in lines}
    wrong = []
    for path in MODULES:
        for line, module in imported_modules(path):
            name = module.split(".")[0]
            if name in sys.stdlib_module_names or name == "hf_dmt":
                continue
            if DISTRIBUTIONS.get(name, name) not in declared:
                wrong.append(describe(path, line, f"imports {name}, which pyproject.toml does not declare"))
    assert not wrong, "\n".join(wrong)


def test_every_data_file_is_shipped() -> None:
    """Guards against a template outside the package-data patterns: it works in a checkout but is missing from the
    wheel."""
    patterns = PYPROJECT["tool"]["setuptools"]["package-data"]["hf_dmt"]
    inside = [path.relative_to(PACKAGE) for path in PACKAGE.rglob("*") if path.is_file()]
    left_out = [
        path.as_posix()
        for path in inside
        if path.suffix not in {".py", ".pyc"} and not any(path.match(pattern) for pattern in patterns)
    ]
    assert not left_out, f"no pattern of {patterns} covers {left_out}"


def test_no_file_is_called_utils() -> None:
    """Guards against a module without a subject: it collects helpers that nobody finds and that are written twice."""
    drawers = {"utils", "helpers", "common", "misc"}
    assert not [path.relative_to(ROOT).as_posix() for path in MODULES if path.stem.strip("_") in drawers]


def test_no_file_is_longer_than_400_lines() -> None:
    """A longer file covers two subjects, and the list of files no longer describes the method."""
    lengths = {path: len(path.read_text(encoding="utf-8").splitlines()) for path in MODULES}
    too_long = {path.relative_to(ROOT).as_posix(): length for path, length in lengths.items() if length > 400}
    assert not too_long


def test_importing_the_package_imports_nothing_slow() -> None:
    """Guards against `hf-dmt --help` waiting seconds for torch, and a run waiting for libraries that only some runs
    use."""
    command = [
        sys.executable,
        "-c",
        "import sys, hf_dmt; print({'torch', 'transformers', 'datasets'} & set(sys.modules))",
    ]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "set()"
    slow = {"evaluate", "gradio", "matplotlib", "sklearn", "timm", "imagehash"}
    early = [
        describe(path, node.lineno, ast.unparse(node))
        for path in MODULES
        for node in ast.parse(path.read_text(encoding="utf-8")).body  # the statements that an import runs
        if isinstance(node, (ast.Import, ast.ImportFrom))
        and slow
        & {name.split(".")[0] for name in (getattr(node, "module", None), *(a.name for a in node.names)) if name}
    ]
    assert not early


def test_no_text_names_a_folder_of_one_machine() -> None:
    """Guards against a path from the author's disk in an example or a default, which works for nobody else."""
    folders = [ROOT / name for name in ("hf_dmt", "scripts", "tests", "docs", "model_cards", ".ci")]
    texts = [path for folder in folders for path in folder.rglob("*") if path.is_file()]
    texts += [path for path in ROOT.iterdir() if path.is_file() and path.name != ".git"]  # a worktree's
    # Put together here so that this file does not find itself; /home/user and /Users/you are examples.
    folders_of_one = "|".join(["root", "work", "home/(?!user)", "Users/(?!you)"])
    machine = re.compile(rf"(?<![\w.$}}])/(?:{folders_of_one})\b")
    kinds = {"", ".cff", ".ipynb", ".jinja", ".json", ".md", ".py", ".svg", ".toml", ".txt", ".yaml", ".yml"}
    found = []
    for path in texts:
        if path.suffix not in kinds:
            continue
        for number, text in enumerate(path.read_text(encoding="utf-8", errors="replace").splitlines(), 1):
            if machine.search(text):
                found.append(describe(path, number, text.strip()[:100]))
    assert not found, "\n".join(found)
