"""The house rules, held by the standard library alone: who may import whom, sizes, docstrings, packaging lists."""

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
MODULE = ROOT / "DeepAttentionReg"
ENGINE = MODULE / "DeepAttentionRegEngine"
LIB = MODULE / "DeepAttentionRegLib"
TESTING = ROOT / "Testing"
TRAINING = ROOT / "training"

MAX_FILE_LINES = 400
MAX_MODULE_FILE_LINES = 600
MAX_FUNCTION_LINES = 50
MAX_NESTING = 3
MAX_PARAMETERS = 7

STDLIB_ONLY = {"__init__", "contract", "errors", "files", "registry"}
NUMPY_ONLY = {"geometry", "fields", "phantom", "points"}
SIMPLEITK_TOO = {"images", "metrics"}
ENGINE_PACKAGES = {"numpy", "SimpleITK", "torch"}
SLICER_PACKAGES = {"slicer", "vtk", "vtkmodules", "qt", "ctk", "numpy", "SimpleITK", "scipy"}
NOT_OURS_TO_IMPORT = {"Testing", "training"}

BLOCKS = (ast.If, ast.For, ast.AsyncFor, ast.While, ast.With, ast.AsyncWith, ast.Try, ast.Match)
FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef)
TEXT_SUFFIXES = {".py", ".md", ".json", ".ui", ".txt", ".toml", ".cff", ".cmake", ".csv"}


def python_files(*folders: Path) -> list[Path]:
    return sorted(path for folder in folders for path in folder.rglob("*.py"))


def names(paths: list[Path]) -> list[str]:
    return [path.relative_to(ROOT).as_posix() for path in paths]


def each(paths: list[Path]) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("path", paths, ids=names(paths))


SHIPPED = python_files(MODULE)
ENGINE_FILES = python_files(ENGINE)
LIB_FILES = python_files(LIB)
TRAINING_FILES = python_files(TRAINING)
EVERY_FILE = python_files(MODULE, TESTING, TRAINING)
NEW_LAYER = [path for path in ENGINE_FILES if path.parent == ENGINE]


def tree_of(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"), filename=str(path))


def imported(path: Path) -> Iterator[tuple[int, str]]:
    """Yield (level of a relative import, dotted name) of every import in a file, those inside functions too."""
    for node in ast.walk(tree_of(path)):
        if isinstance(node, ast.Import):
            yield from ((0, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.level, node.module
        elif isinstance(node, ast.ImportFrom):
            yield from ((node.level, alias.name) for alias in node.names)


def roots(path: Path) -> set[str]:
    """Return the first names of the absolute imports outside the standard library."""
    return {name.split(".")[0] for level, name in imported(path) if level == 0} - set(sys.stdlib_module_names)


def functions(tree: ast.AST) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
    return (node for node in ast.walk(tree) if isinstance(node, FUNCTIONS))


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
    @each(ENGINE_FILES)
    def test_engine_imports_only_numpy_simpleitk_and_torch(self, path: Path) -> None:
        assert roots(path) <= ENGINE_PACKAGES | {"DeepAttentionRegEngine"}

    @each(NEW_LAYER)
    def test_light_engine_files_import_only_their_layer(self, path: Path) -> None:
        layers = [(STDLIB_ONLY, set()), (NUMPY_ONLY, {"numpy"}), (SIMPLEITK_TOO, {"numpy", "SimpleITK"})]
        below: set[str] = set()
        for files, packages in layers:
            below |= files
            if path.stem in files:
                assert roots(path) <= packages
                assert {name.split(".")[0] for level, name in imported(path) if level} <= below

    @each([*LIB_FILES, MODULE / "DeepAttentionReg.py"])
    def test_slicer_side_imports_only_what_slicer_ships(self, path: Path) -> None:
        ours = {"DeepAttentionRegEngine", "DeepAttentionRegLib", "SampleData", "PyTorchUtils"}
        assert roots(path) <= SLICER_PACKAGES | ours

    @each([*LIB_FILES, MODULE / "DeepAttentionReg.py"])
    def test_slicer_side_uses_only_engine_files_without_torch(self, path: Path) -> None:
        light = STDLIB_ONLY | NUMPY_ONLY | SIMPLEITK_TOO
        used = set()
        for node in ast.walk(tree_of(path)):
            if isinstance(node, ast.ImportFrom) and node.module == "DeepAttentionRegEngine":
                used |= {alias.name for alias in node.names if not alias.name.startswith("__")}
            elif isinstance(node, ast.ImportFrom) and (node.module or "").startswith("DeepAttentionRegEngine."):
                used.add((node.module or "").split(".")[1])
            elif isinstance(node, ast.Import):
                used |= {a.name.split(".")[1] for a in node.names if a.name.startswith("DeepAttentionRegEngine.")}
        assert used <= light

    @each([*SHIPPED, *TRAINING_FILES])
    def test_nothing_imports_tests_and_nothing_shipped_imports_training(self, path: Path) -> None:
        forbidden = NOT_OURS_TO_IMPORT if path in SHIPPED else {"Testing"}
        assert not roots(path) & forbidden

    @each(EVERY_FILE)
    def test_star_imports_are_the_two_of_the_slicer_template(self, path: Path) -> None:
        stars = [
            node.module
            for node in ast.walk(tree_of(path))
            if isinstance(node, ast.ImportFrom) and any(alias.name == "*" for alias in node.names)
        ]
        assert set(stars) <= {"slicer.ScriptedLoadableModule", "slicer.parameterNodeWrapper"}


class TestImportGraph:
    @staticmethod
    def loaded_by(code: str, *search: Path) -> set[str]:
        """Return the modules a fresh interpreter holds after running code."""
        script = f"import sys; sys.path[:0] = {[str(p) for p in search]!r}\n{code}\nprint('|'.join(sys.modules))"
        done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=120, check=False)
        assert done.returncode == 0, done.stderr
        return set(done.stdout.splitlines()[-1].split("|"))

    def test_light_engine_files_leave_torch_unloaded(self) -> None:
        light = sorted((STDLIB_ONLY | NUMPY_ONLY | SIMPLEITK_TOO) - {"__init__"})
        code = "\n".join(f"import DeepAttentionRegEngine.{name}" for name in light)
        assert "torch" not in self.loaded_by(code, MODULE)

    @pytest.mark.mrml
    def test_gui_process_never_loads_torch(self) -> None:
        pytest.importorskip("slicer", reason="slicer-core is not installed")
        modules = [f"DeepAttentionRegLib.{path.stem}" for path in LIB_FILES if path.stem != "__init__"]
        imports = "\n".join(f"import {name}" for name in [*modules, "DeepAttentionReg"])
        code = f"import slicer_stand_ins\nslicer_stand_ins.install()\n{imports}"
        assert "torch" not in self.loaded_by(code, MODULE, TESTING / "Python")

    @pytest.mark.torch
    def test_engine_process_never_loads_slicer(self) -> None:
        pytest.importorskip("torch", reason="PyTorch is not installed")
        code = "import DeepAttentionRegEngine.cli, DeepAttentionRegEngine.pipeline"
        loaded = {name.split(".")[0] for name in self.loaded_by(code, MODULE)}
        assert not loaded & {"slicer", "vtk", "vtkmodules", "qt", "ctk", "DeepAttentionRegLib"}

    def test_command_line_help_needs_no_torch(self) -> None:
        assert "torch" not in self.loaded_by("import DeepAttentionRegEngine.cli", MODULE)


class TestSize:
    @each(EVERY_FILE)
    def test_file_is_short(self, path: Path) -> None:
        limit = MAX_MODULE_FILE_LINES if path == MODULE / "DeepAttentionReg.py" else MAX_FILE_LINES
        assert len(path.read_text(encoding="utf-8").splitlines()) <= limit

    @each(EVERY_FILE)
    def test_functions_are_short(self, path: Path) -> None:
        lengths = {node.name: node.end_lineno - node.lineno + 1 for node in functions(tree_of(path))}
        assert not {name: length for name, length in lengths.items() if length > MAX_FUNCTION_LINES}

    @each(EVERY_FILE)
    def test_functions_nest_little(self, path: Path) -> None:
        assert not [node.name for node in functions(tree_of(path)) if nesting(node) > MAX_NESTING]

    @each(EVERY_FILE)
    def test_functions_take_few_positional_parameters(self, path: Path) -> None:
        many = []
        for node in functions(tree_of(path)):
            given = [item.arg for item in node.args.posonlyargs + node.args.args]
            many += [node.name] if len([name for name in given if name not in ("self", "cls")]) > MAX_PARAMETERS else []
        assert not many


class TestText:
    @each(EVERY_FILE)
    def test_file_is_python_3_10(self, path: Path) -> None:
        ast.parse(path.read_text(encoding="utf-8"), feature_version=(3, 10))

    @each(EVERY_FILE)
    def test_file_says_what_it_is_for(self, path: Path) -> None:
        assert ast.get_docstring(tree_of(path))

    @each([*SHIPPED, *TRAINING_FILES])
    def test_public_definitions_have_docstrings(self, path: Path) -> None:
        assert not [name for name, node in public_definitions(tree_of(path).body) if not ast.get_docstring(node)]

    @each(ENGINE_FILES)
    def test_engine_functions_state_what_they_return(self, path: Path) -> None:
        assert not [node.name for node in functions(tree_of(path)) if node.returns is None]

    @each(SHIPPED)
    def test_asserts_are_for_tests(self, path: Path) -> None:
        assert not [node.lineno for node in ast.walk(tree_of(path)) if isinstance(node, ast.Assert)]

    @each(SHIPPED)
    def test_only_the_command_line_prints(self, path: Path) -> None:
        calls = [node for node in ast.walk(tree_of(path)) if isinstance(node, ast.Call)]
        prints = [node.lineno for node in calls if isinstance(node.func, ast.Name) and node.func.id == "print"]
        assert not prints or path == ENGINE / "cli.py"

    @each([*SHIPPED, *TRAINING_FILES])
    def test_weights_are_loaded_as_data_only(self, path: Path) -> None:
        for node in ast.walk(tree_of(path)):
            if isinstance(node, ast.Call) and ast.unparse(node.func) == "torch.load":
                assert any(key.arg == "weights_only" and ast.unparse(key.value) == "True" for key in node.keywords)


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


class TestPackaging:
    def test_every_script_is_listed(self) -> None:
        on_disk = [path.relative_to(MODULE).as_posix() for path in SHIPPED]
        assert cmake_list(MODULE / "CMakeLists.txt", "MODULE_PYTHON_SCRIPTS") == sorted(on_disk)

    def test_every_resource_is_listed(self) -> None:
        files = [path for path in (MODULE / "Resources").rglob("*") if path.is_file()]
        on_disk = sorted(path.relative_to(MODULE).as_posix() for path in files)
        assert cmake_list(MODULE / "CMakeLists.txt", "MODULE_PYTHON_RESOURCES") == on_disk

    def test_module_folder_holds_one_python_file(self) -> None:
        assert names(sorted(MODULE.glob("*.py"))) == ["DeepAttentionReg/DeepAttentionReg.py"]

    def test_cmake_tests_exist(self) -> None:
        text = (TESTING / "Python" / "CMakeLists.txt").read_text(encoding="utf-8")
        scripts = re.findall(r"SCRIPT\s+([\w.]+)", text)
        assert all((TESTING / "Python" / name).is_file() for name in scripts)

    def test_extension_pictures_exist(self) -> None:
        text = (ROOT / "CMakeLists.txt").read_text(encoding="utf-8")
        pictures = re.findall(r"main/(Resources/[\w/]+\.png)", text)
        assert pictures
        assert all((ROOT / name).is_file() for name in pictures)

    def test_readme_links_point_at_files(self) -> None:
        links = re.findall(r"\]\((?!https?:|#)([^)#\s]+)", (ROOT / "README.md").read_text(encoding="utf-8"))
        assert not [link for link in links if not (ROOT / link).exists()]

    def test_wheel_holds_every_engine_package(self) -> None:
        folders = {path.parent.relative_to(MODULE).as_posix().replace("/", ".") for path in ENGINE_FILES}
        text = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
        assert not [name for name in folders if f'"{name}"' not in text]
