"""What the public host runs is what the project promises: platforms, versions of Python, oldest and newest PyTorch."""

import re
from pathlib import Path
from typing import Any

import pytest

yaml = pytest.importorskip("yaml", reason="PyYAML is not installed")

ROOT = Path(__file__).resolve().parents[2]
WORKFLOWS = sorted((ROOT / ".github" / "workflows").glob("*.yml"))
PROJECT = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
MAKEFILE = (ROOT / "Makefile").read_text(encoding="utf-8")


def jobs(path: Path) -> dict[str, dict[str, Any]]:
    return yaml.safe_load(path.read_text(encoding="utf-8"))["jobs"]


def commands() -> list[str]:
    """Return what the steps of all jobs run."""
    return [step.get("run", "") for path in WORKFLOWS for job in jobs(path).values() for step in job["steps"]]


@pytest.fixture
def matrix() -> dict[str, Any]:
    """What the tests are run on."""
    return jobs(ROOT / ".github" / "workflows" / "tests.yml")["everywhere"]["strategy"]["matrix"]


class TestWorkflows:
    def test_every_step_does_one_thing(self) -> None:
        steps = [step for path in WORKFLOWS for job in jobs(path).values() for step in job["steps"]]
        assert steps
        assert all(("run" in step) != ("uses" in step) for step in steps)

    def test_targets_of_make_exist(self) -> None:
        targets = [name for command in commands() for name in re.findall(r"\bmake (\w+)", command)]
        assert "test" in targets
        assert not [name for name in targets if not re.search(rf"^{name}:", MAKEFILE, re.MULTILINE)]

    def test_extras_exist(self) -> None:
        extras = {
            name
            for command in commands()
            for found in re.findall(r"\[([\w,]+)\]", command)
            for name in found.split(",")
        }
        assert "test" in extras
        assert not [name for name in extras if f"\n{name} = [" not in PROJECT]

    def test_libraries_are_those_of_continuous_integration(self) -> None:
        script = (ROOT / ".ci" / "run").read_text(encoding="utf-8")
        (packages,) = re.findall(r'packages="([^"]+)"', script)
        environment = yaml.safe_load(WORKFLOWS[0].read_text(encoding="utf-8"))["env"]
        assert environment["LIBRARIES"] == packages


class TestPromises:
    def test_every_platform(self, matrix: dict[str, Any]) -> None:
        assert matrix["os"] == ["ubuntu", "windows", "macos"]

    def test_every_python(self, matrix: dict[str, Any]) -> None:
        (oldest,) = re.findall(r'requires-python = ">=3\.(\d+)"', PROJECT)
        (limits,) = re.findall(r"\(3, (\d+)\) <= sys.version_info\[:2\] <= \(3, (\d+)\)", MAKEFILE)
        assert limits[0] == oldest
        assert matrix["python"] == [f"3.{minor}" for minor in range(int(oldest), int(limits[1]) + 1)]

    def test_oldest_and_newest_torch(self, matrix: dict[str, Any]) -> None:
        (oldest,) = re.findall(r'"torch>=([\d.]+)"', PROJECT)
        assert matrix["torch"] == ["torch"]
        (entry,) = matrix["include"]
        assert (entry["python"], entry["torch"]) == (matrix["python"][0], f"torch=={oldest}.*")
