"""The house rules, held by the standard library alone: who may import whom, sizes, docstrings, packaging lists."""

import ast
import collections
import functools
import json
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]
MODULE = ROOT / "DeepAttentionReg"
ENGINE = MODULE / "DeepAttentionRegEngine"
LIB = MODULE / "DeepAttentionRegLib"
TESTING, TRAINING = ROOT / "Testing", ROOT / "training"

MAX_FILE_LINES = 400
MAX_MODULE_FILE_LINES = 600
MAX_FUNCTION_LINES = 50
MAX_NESTING, MAX_PARAMETERS = 3, 7

# Packages, lowest first: each imports from those above it in its list, and from itself.
# typing_extensions comes with torch, and is for those who check types alone.
NUMPY, TORCH = {"numpy", "SimpleITK"}, {"numpy", "SimpleITK", "torch", "typing_extensions"}
ENGINE_LAYERS: dict[str, set[str]] = {
    "protocol": set(),
    **dict.fromkeys(("volume", "maps", "landmarks", "phantom"), NUMPY),
    **dict.fromkeys(("deform", "constraints", "networks", "registration", "evidence"), TORCH),
}
LIB_LAYERS = ("engine", "nodes", "tasks", "views", "evidence", "report", "Parameters", "panel")
TRAINING_LAYERS = ("configs", "data", "objectives", "run", "measure", "calibration")
LIGHT = {"protocol", "volume", "maps", "landmarks", "phantom"}  # what the process of the panel may load
MAX_FOLDER_MODULES = 20
SLICER_PACKAGES = {"slicer", "vtk", "vtkmodules", "qt", "ctk", "numpy", "SimpleITK", "scipy"}

BLOCKS = (ast.If, ast.For, ast.AsyncFor, ast.While, ast.With, ast.AsyncWith, ast.Try, ast.Match)
FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef)
TEXT_SUFFIXES = {".py", ".md", ".json", ".ui", ".txt", ".toml", ".cff", ".cmake", ".csv", ".svg", ".yml"}


def python_files(*folders: Path) -> list[Path]:
    return sorted(path for folder in folders for path in folder.rglob("*.py"))


SHIPPED = python_files(MODULE)
ENGINE_FILES = python_files(ENGINE)
SLICER_FILES = [MODULE / "DeepAttentionReg.py", *python_files(LIB)]
TRAINING_FILES = python_files(TRAINING)
EVERY_FILE = python_files(MODULE, TESTING, TRAINING)


def offenders(paths: list[Path], check: Callable[[Path], object]) -> dict[str, object]:
    """Return what a check finds, by file, for the files where it finds anything."""
    return {path.relative_to(ROOT).as_posix(): found for path in paths if (found := check(path))}


@functools.cache
def tree_of(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"), filename=str(path), feature_version=(3, 10))


def nodes(path: Path, *kinds: type[ast.AST]) -> list[ast.AST]:
    """Return the nodes of these kinds at any depth of a file."""
    return [node for node in ast.walk(tree_of(path)) if isinstance(node, kinds)]


def imported(path: Path) -> Iterator[tuple[int, str]]:
    """Yield (level of a relative import, dotted name) of every import in a file, those inside functions too."""
    for node in nodes(path, ast.Import, ast.ImportFrom):
        if isinstance(node, ast.Import) or node.module is None:
            yield from ((getattr(node, "level", 0), alias.name) for alias in node.names)
        else:
            yield node.level, node.module


def roots(path: Path) -> set[str]:
    """Return the first names of the absolute imports outside the standard library."""
    return {name.split(".")[0] for level, name in imported(path) if level == 0} - set(sys.stdlib_module_names)


def packages_used(path: Path, package: Path) -> set[str]:
    """Return the first names below a package of ours that a file imports."""
    names = {name.split(".")[1] for name in ours(path) if name.startswith(f"{package.name}.")}
    return {name for name in names if not name.startswith("__")}


def ours(path: Path) -> Iterator[str]:
    """Yield the dotted names of what a file imports, relative imports resolved from where packages lie."""
    home = MODULE if path.is_relative_to(MODULE) else ROOT
    folder = path.parent.relative_to(home).parts
    for node in nodes(path, ast.Import, ast.ImportFrom):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
            continue
        start = folder[: len(folder) - node.level + 1] if node.level else ()
        module = [*start, *([node.module] if node.module else [])]
        yield from (".".join([*module, alias.name]) for alias in node.names)


def up_to(layer: str, layers: tuple[str, ...]) -> set[str]:
    """Return a layer and those below it."""
    return set(layers[: layers.index(layer) + 1])


def dotted(path: Path) -> str:
    """Return the name of a module below `MODULE`."""
    return ".".join(path.relative_to(MODULE).with_suffix("").parts).removesuffix(".__init__")


def public_definitions(body: list[ast.stmt], prefix: str = "") -> Iterator[tuple[str, ast.AST]]:
    """Yield functions, classes and their methods whose names carry no leading underscore."""
    for node in body:
        if isinstance(node, (*FUNCTIONS, ast.ClassDef)) and not node.name.startswith("_"):
            yield prefix + node.name, node
            if isinstance(node, ast.ClassDef):
                yield from public_definitions(node.body, f"{node.name}.")


def nesting(node: ast.AST, depth: int = 0) -> int:
    """Return the deepest level of blocks below a node; `elif` counts as its `if`."""
    deepest = depth
    for child in ast.iter_child_nodes(node):
        is_elif = isinstance(node, ast.If) and isinstance(child, ast.If) and node.orelse == [child]
        deepest = max(deepest, nesting(child, depth + (isinstance(child, BLOCKS) and not is_elif)))
    return deepest


class TestImportDirection:
    @pytest.mark.parametrize("layer", ENGINE_LAYERS)
    def test_engine_packages_need_no_more_than_their_layer(self, layer: str) -> None:
        assert not offenders(python_files(ENGINE / layer), lambda path: roots(path) - ENGINE_LAYERS[layer])

    @pytest.mark.parametrize("layer", ENGINE_LAYERS)
    def test_engine_packages_import_from_lower_ones_only(self, layer: str) -> None:
        upper = set(ENGINE_LAYERS) - up_to(layer, tuple(ENGINE_LAYERS))
        assert not offenders(python_files(ENGINE / layer), lambda path: packages_used(path, ENGINE) & upper)

    @pytest.mark.parametrize("layer", LIB_LAYERS)
    def test_slicer_packages_import_from_lower_ones_only(self, layer: str) -> None:
        files = [*python_files(LIB / layer), *LIB.glob(f"{layer}.py")]
        upper = set(LIB_LAYERS) - up_to(layer, LIB_LAYERS)
        assert not offenders(files, lambda path: packages_used(path, LIB) & upper)

    @pytest.mark.parametrize("layer", TRAINING_LAYERS)
    def test_training_packages_import_from_lower_ones_only(self, layer: str) -> None:
        upper = set(TRAINING_LAYERS) - up_to(layer, TRAINING_LAYERS)
        assert not offenders(python_files(TRAINING / layer), lambda path: packages_used(path, TRAINING) & upper)

    def test_every_package_has_its_layer(self) -> None:
        assert {path.name for path in ENGINE.iterdir() if path.is_dir()} - {"__pycache__"} == set(ENGINE_LAYERS)
        folders = {path.name for path in LIB.iterdir() if path.is_dir()} - {"__pycache__"}
        assert folders == set(LIB_LAYERS) - {"Parameters"}
        assert {path.parent.name for path in TRAINING.glob("*/__init__.py")} == set(TRAINING_LAYERS)

    def test_slicer_side_uses_only_engine_packages_without_torch(self) -> None:
        assert not offenders(SLICER_FILES, lambda path: packages_used(path, ENGINE) - LIGHT)

    def test_slicer_side_imports_only_what_slicer_ships(self) -> None:
        ours = {"DeepAttentionRegEngine", "DeepAttentionRegLib", "SampleData", "PyTorchUtils"}
        assert not offenders(SLICER_FILES, lambda path: roots(path) - SLICER_PACKAGES - ours)

    def test_nothing_imports_tests_and_nothing_shipped_imports_training(self) -> None:
        assert not offenders(TRAINING_FILES, lambda path: roots(path) & {"Testing"})
        assert not offenders(SHIPPED, lambda path: roots(path) & {"Testing", "training"})

    def test_nothing_is_imported_by_a_star(self) -> None:
        assert not offenders(EVERY_FILE, lambda path: {n.names[0].name for n in nodes(path, ast.ImportFrom)} & {"*"})


class TestImportGraph:
    @staticmethod
    def loaded_by(code: str, *search: Path) -> set[str]:
        """Return the modules a fresh interpreter holds after running code."""
        script = f"import sys; sys.path[:0] = {[str(p) for p in search]!r}\n{code}\nprint('|'.join(sys.modules))"
        done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=120, check=False)
        assert done.returncode == 0, done.stderr
        return set(done.stdout.splitlines()[-1].split("|"))

    def test_light_engine_files_leave_torch_unloaded(self) -> None:
        code = "\n".join(f"import {dotted(path)}" for name in LIGHT for path in python_files(ENGINE / name))
        assert "torch" not in self.loaded_by(code, MODULE)

    @pytest.mark.mrml
    def test_gui_process_never_loads_torch(self) -> None:
        pytest.importorskip("slicer", reason="slicer-core is not installed")
        modules = map(dotted, python_files(LIB))
        imports = "\n".join(f"import {name}" for name in [*modules, "DeepAttentionReg"])
        code = f"import slicer_stand_ins\nslicer_stand_ins.install()\n{imports}"
        assert "torch" not in self.loaded_by(code, MODULE, TESTING / "Python" / "support")

    @pytest.mark.torch
    def test_engine_process_never_loads_slicer(self) -> None:
        pytest.importorskip("torch", reason="PyTorch is not installed")
        code = "import DeepAttentionRegEngine.cli, DeepAttentionRegEngine.jobs"
        loaded = {name.split(".")[0] for name in self.loaded_by(code, MODULE)}
        assert not loaded & {"slicer", "vtk", "vtkmodules", "qt", "ctk", "DeepAttentionRegLib"}

    def test_command_line_help_needs_no_torch(self) -> None:
        assert "torch" not in self.loaded_by("import DeepAttentionRegEngine.cli", MODULE)


class TestSize:
    def test_files_are_short(self) -> None:
        def surplus(path: Path) -> int:
            limit = MAX_MODULE_FILE_LINES if path == MODULE / "DeepAttentionReg.py" else MAX_FILE_LINES
            return max(0, len(path.read_text(encoding="utf-8").splitlines()) - limit)

        assert not offenders(EVERY_FILE, surplus)

    def test_folders_are_not_crowded(self) -> None:
        folders = {path.parent for path in EVERY_FILE}
        crowded = [folder for folder in folders if len(list(folder.glob("*.py"))) > MAX_FOLDER_MODULES + 1]
        assert not [folder.relative_to(ROOT).as_posix() for folder in crowded]

    def test_functions_are_short(self) -> None:
        def long_functions(path: Path) -> list[str]:
            return [n.name for n in nodes(path, *FUNCTIONS) if n.end_lineno - n.lineno >= MAX_FUNCTION_LINES]

        assert not offenders(EVERY_FILE, long_functions)

    def test_functions_nest_little(self) -> None:
        def deep_functions(path: Path) -> list[str]:
            return [node.name for node in nodes(path, *FUNCTIONS) if nesting(node) > MAX_NESTING]

        assert not offenders(EVERY_FILE, deep_functions)

    def test_functions_take_few_positional_parameters(self) -> None:
        def wide_functions(path: Path) -> list[str]:
            wide = []
            for node in nodes(path, *FUNCTIONS):
                given = {item.arg for item in node.args.posonlyargs + node.args.args} - {"self", "cls"}
                wide += [node.name] if len(given) > MAX_PARAMETERS else []
            return wide

        assert not offenders(EVERY_FILE, wide_functions)


class TestCode:
    def test_files_are_python_3_10(self) -> None:
        for path in EVERY_FILE:
            tree_of(path)  # is parsed as Python 3.10

    def test_files_say_what_they_are_for(self) -> None:
        assert not offenders(EVERY_FILE, lambda path: ast.get_docstring(tree_of(path)) is None)

    def test_public_definitions_have_docstrings(self) -> None:
        def bare(path: Path) -> list[str]:
            return [name for name, node in public_definitions(tree_of(path).body) if not ast.get_docstring(node)]

        assert not offenders([*SHIPPED, *TRAINING_FILES], bare)

    def test_a_class_name_means_one_thing(self) -> None:
        files = [*SHIPPED, *TRAINING_FILES, *python_files(TESTING / "Tools")]
        names = collections.Counter(node.name for path in files for node in nodes(path, ast.ClassDef))
        assert not [name for name, count in names.items() if count > 1 and not name.startswith("_")]

    def test_engine_and_training_functions_state_what_they_return(self) -> None:
        def silent(path: Path) -> list[str]:
            return [node.name for node in nodes(path, *FUNCTIONS) if node.returns is None]

        assert not offenders([*ENGINE_FILES, *TRAINING_FILES], silent)

    def test_engine_and_training_leave_the_path_of_modules_alone(self) -> None:
        def changes(path: Path) -> list[str]:
            return [node.attr for node in nodes(path, ast.Attribute) if ast.unparse(node) == "sys.path"]

        assert not offenders([*ENGINE_FILES, *TRAINING_FILES], changes)

    def test_asserts_are_for_tests(self) -> None:
        assert not offenders(SHIPPED, lambda path: nodes(path, ast.Assert))

    def test_only_the_command_line_prints(self) -> None:
        def prints(path: Path) -> bool:
            return any(ast.unparse(node.func) == "print" for node in nodes(path, ast.Call))

        assert set(offenders(SHIPPED, prints)) <= {"DeepAttentionReg/DeepAttentionRegEngine/cli.py"}

    def test_weights_are_loaded_as_data_only(self) -> None:
        def loads(path: Path) -> list[str]:
            calls = [ast.unparse(node) for node in nodes(path, ast.Call)]
            return [call for call in calls if call.startswith(("torch.load(", "pickle.load"))]

        assert not offenders(SHIPPED, loads)  # which has a reader of its own
        assert not offenders(TRAINING_FILES, lambda path: [c for c in loads(path) if "weights_only=True" not in c])


def tracked_texts() -> list[Path]:
    """Return the text files of the project: those git knows, or, in a copy without git, all of its folders."""
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=False)
    if listed.returncode == 0:
        candidates = [ROOT / name for name in listed.stdout.split("\0") if name]
    else:
        candidates = [*ROOT.glob("*"), *MODULE.rglob("*"), *TESTING.rglob("*"), *TRAINING.rglob("*")]
    texts = {path for path in candidates if path.suffix in TEXT_SUFFIXES or path.name in ("Makefile", "run")}
    return sorted(path for path in texts if path.is_file())


class TestProjectText:
    def test_is_ascii(self) -> None:
        assert not [path.name for path in tracked_texts() if not path.read_bytes().isascii()]

    def test_names_no_folder_of_one_machine(self) -> None:
        machine = re.compile(r"(?<![\w.])/(?:work|farm|home|root|Users)/\w|/(?:tmp)/\w+/")
        assert not [path.name for path in tracked_texts() if machine.search(path.read_text(encoding="utf-8"))]

    def test_leaves_nothing_for_later(self) -> None:
        later = re.compile(r"\b(?:TO(?:DO)|FIX(?:ME)|XX(?:X))\b")
        assert not [path.name for path in tracked_texts() if later.search(path.read_text(encoding="utf-8"))]

    def test_paths_differ_by_more_than_case(self) -> None:
        paths = [path.relative_to(ROOT).as_posix().lower() for path in tracked_texts()]
        assert len(paths) == len(set(paths))


def cmake_list(path: Path, name: str) -> list[str]:
    """Return the words of one `set(name ...)` of a CMake file, the module's name filled in."""
    match = re.search(rf"set\({name}\s+([^)]*)\)", path.read_text(encoding="utf-8"))
    assert match, f"{path.name} sets no {name}"
    return match.group(1).replace("${MODULE_NAME}", "DeepAttentionReg").split()


def figure_rows(entry: dict[str, Any], usual: str) -> list[str]:
    """Return the rows that the README has for weights, whose usual number of recursions is named "K=...".

    General weights have one of Dice per data set: aligned, usual, refined, refined without the network, SyN.
    """
    rows, name = [], f"`{entry['id']}`"
    by_set: dict[str, dict[str, dict[str, float]]] = {}
    for title, mean in entry["validation"]["mean"].items():
        subset, setting = title.rsplit(", ", 1)
        by_set.setdefault(subset, {})[setting] = mean
    for subset, found in by_set.items():
        if syn := [setting for setting in found if setting.startswith("ANTs SyN")]:
            settings = ("aligned", usual, "refined", "refinement only", syn[0])
            figures = " | ".join(f"{found[setting]['dice']:.3f}" for setting in settings)
            rows.append(f"| {name} | {subset} | {figures} |")
            continue
        for setting, mean in found.items():
            if setting.startswith("K=") and setting != usual:
                continue
            if "hd95_mm" in mean:
                figures = f"{mean['dice']:.3f} | {mean['hd95_mm']:.2f} | {mean['folded_percent']:.3f}"
                rows.append(f"| {name} | {subset}, {setting} | {figures} |")
            elif "hd_px" in mean:
                figures = f"{mean['dice']:.3f} | {mean['hd_px']:.2f} | {mean['folded_px']:.1f}"
                rows.append(f"| {name} | {subset}, {setting} | {figures} |")
    return rows


class TestPackaging:
    def test_every_script_is_listed(self) -> None:
        on_disk = [path.relative_to(MODULE).as_posix() for path in SHIPPED]
        assert cmake_list(MODULE / "CMakeLists.txt", "MODULE_PYTHON_SCRIPTS") == sorted(on_disk)

    def test_every_resource_is_listed(self) -> None:
        files = [path for path in (MODULE / "Resources").rglob("*") if path.is_file()]
        on_disk = sorted(path.relative_to(MODULE).as_posix() for path in files)
        assert cmake_list(MODULE / "CMakeLists.txt", "MODULE_PYTHON_RESOURCES") == on_disk

    def test_module_folder_holds_one_python_file(self) -> None:
        assert list(MODULE.glob("*.py")) == [MODULE / "DeepAttentionReg.py"]

    def test_cmake_tests_exist(self) -> None:
        text = (TESTING / "Python" / "CMakeLists.txt").read_text(encoding="utf-8")
        scripts = re.findall(r"SCRIPT\s+([\w.]+)", text)
        assert all((TESTING / "Python" / name).is_file() for name in scripts)

    def test_extension_pictures_exist(self) -> None:
        text = (ROOT / "CMakeLists.txt").read_text(encoding="utf-8")
        pictures = re.findall(r"main/(Resources/[\w/]+\.png)", text)
        assert pictures
        assert all((ROOT / name).is_file() for name in pictures)

    def test_readme_states_the_figures_of_the_weights(self) -> None:
        resources = MODULE / "Resources"
        methods = [json.loads(path.read_text(encoding="ascii")) for path in (resources / "Methods").glob("*.json")]
        variants = [(item, method["recursions"]["default"]) for method in methods for item in method["variants"]]
        usual = {item["weights"]: item.get("recursions", default) for item, default in variants}
        rows = []
        for entry in json.loads((resources / "weights.json").read_text(encoding="ascii"))["weights"]:
            rows += figure_rows(entry, f"K={usual[entry['id']]}")
        readme = (ROOT / "README.md").read_text(encoding="utf-8")
        assert rows
        assert not [row for row in rows if row not in readme]

    def test_wheel_holds_every_engine_package(self) -> None:
        folders = {path.parent.relative_to(MODULE).as_posix().replace("/", ".") for path in ENGINE_FILES}
        text = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
        assert not [name for name in folders if f'"{name}"' not in text]
