"""What the command line says where it cannot even begin."""

import subprocess
import sys
from pathlib import Path

import pytest

from DeepAttentionRegEngine import cli
from DeepAttentionRegEngine.protocol import contract, errors

pytestmark = pytest.mark.torch

RUN_ENGINE = Path(__file__).resolve().parents[4] / "DeepAttentionReg" / "Scripts" / "run_engine.py"
TIMEOUT_S = 120.0  # importing PyTorch on a busy machine


def json_events(text: str) -> list[contract.Event | None]:
    return [contract.parse_event(line) for line in text.splitlines()]


class TestMissingPackages:
    @pytest.mark.parametrize(
        ("package", "code", "message"),
        [
            ("torch", errors.TORCH_MISSING, "PyTorch cannot be loaded"),
            ("numpy", errors.PACKAGE_MISSING, "numpy cannot be loaded"),
            ("SimpleITK", errors.PACKAGE_MISSING, "SimpleITK cannot be loaded"),
            ("DeepAttentionRegEngine.jobs", errors.INTERNAL, "The engine failed unexpectedly"),
        ],
    )
    def test_what_is_missing_is_named(self, package: str, code: str, message: str) -> None:
        script = f"import sys; sys.modules[{package!r}] = None; sys.path.insert(0, {str(RUN_ENGINE.parents[1])!r})"
        script += "; from DeepAttentionRegEngine import cli; sys.exit(cli.main(['probe', '--json']))"
        done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=TIMEOUT_S)
        (failure,) = json_events(done.stdout)
        assert done.returncode == cli.EXIT_FAILED
        assert failure.code == code
        assert failure.message.startswith(message)

    @pytest.mark.parametrize(
        "error",
        [
            "ImportError('libtorch_cpu.so: failed to map segment from shared object')",
            "OSError(12, 'Cannot allocate memory')",
            "MemoryError()",
            "RuntimeError('std::bad_alloc')",
        ],
    )
    def test_lack_of_memory_is_not_taken_for_a_damaged_package(self, error: str) -> None:
        script = f"""
import builtins, sys
sys.path.insert(0, {str(RUN_ENGINE.parents[1])!r})
load = builtins.__import__
def fail(name, *rest, **more):
    if name == "torch":
        raise {error}
    return load(name, *rest, **more)
builtins.__import__ = fail
from DeepAttentionRegEngine import cli
sys.exit(cli.main(["probe", "--json"]))
"""
        done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=TIMEOUT_S)
        (failure,) = json_events(done.stdout)
        assert (done.returncode, failure.code) == (cli.EXIT_FAILED, errors.OUT_OF_MEMORY)
        assert failure.message == "There is not enough memory to load PyTorch."
        assert "Traceback" not in done.stderr


class TestNames:
    @pytest.mark.parametrize("name", [b"\xff.nrrd", b"n" * 4000, b"loop.nrrd"])
    def test_name_that_no_file_can_have_ends_in_a_sentence(self, tmp_path: Path, name: bytes) -> None:
        (tmp_path / "loop.nrrd").symlink_to("loop.nrrd")
        command = [sys.executable, str(RUN_ENGINE), "warp", name, "field.nrrd", "out.nrrd"]
        done = subprocess.run(command, capture_output=True, cwd=tmp_path, timeout=TIMEOUT_S)
        assert done.returncode == cli.EXIT_FAILED
        assert done.stderr.startswith(b"Error: ")
        assert len(done.stderr.splitlines()) == 1
