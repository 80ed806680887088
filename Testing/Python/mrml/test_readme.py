"""The scripts of the README do in Slicer what it says."""

import re
import sys
from pathlib import Path

import numpy as np
import pytest

slicer = pytest.importorskip("slicer", reason="slicer-core cannot be imported", exc_type=ImportError)

import slicer_stand_ins

slicer_stand_ins.install()

import mrml_cases
import mrml_scene  # noqa: F401 - boots the scene
from DeepAttentionRegLib.engine import Interpreter
from DeepAttentionRegLib.engine.Engine import Engine

pytestmark = [pytest.mark.mrml, pytest.mark.torch, pytest.mark.slow]

ROOT = Path(__file__).resolve().parents[3]
SCRIPTS = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(encoding="utf-8"), flags=re.DOTALL)


def script(mark: str) -> str:
    """Return the only script that has a word."""
    (found,) = (code for code in SCRIPTS if mark in code)
    return found


def test_scripts_register_and_judge(inputs, monkeypatch, tmp_path):
    pytest.importorskip("torch", reason="PyTorch is not installed")
    saved = []
    nodes = {"a.nrrd": inputs.fixedVolume, "b.nrrd": inputs.movingVolume}
    inside = np.arange(np.prod(slicer.util.arrayFromVolume(inputs.fixedVolume).shape)) % 97
    for node in nodes.values():
        array = slicer.util.arrayFromVolume(node)
        slicer.util.updateVolumeFromArray(node, inside.reshape(array.shape).astype(np.float32))
    monkeypatch.setattr(Interpreter, "savedInterpreter", lambda: sys.executable)
    monkeypatch.setattr(slicer.util, "loadVolume", nodes.get, raising=False)
    monkeypatch.setattr(slicer.util, "setSliceViewerLayers", lambda **layers: saved.append(layers), raising=False)
    monkeypatch.setattr(slicer.util, "saveNode", lambda *told: saved.append(told), raising=False)
    monkeypatch.chdir(tmp_path)
    names: dict[str, object] = {}
    exec(compile(script("loadVolume"), "README.md", "exec"), names)
    assert saved[0]["background"] is inputs.fixedVolume
    assert saved[1] == (names["outcome"].transformNode, "transform.h5")
    exec(compile(script("Anatomies"), "README.md", "exec"), names)
    assert names["proposal"].weights == "rman-general"
    organs = mrml_cases.with_segmentations(inputs)
    points = [slicer.mrmlScene.AddNewNodeByClass("vtkMRMLMarkupsFiducialNode") for _ in range(2)]
    for node in points:
        node.AddControlPoint(*slicer.util.arrayFromVTKMatrix(_toRas(inputs.fixedVolume))[:3, 3])
    names.update(fixedSegmentation=organs.fixedSegmentation, movingSegmentation=organs.movingSegmentation)
    names.update(fixedLandmarks=points[0], movingLandmarks=points[1])
    exec(compile(script("Report.write").replace(", pdf=True", ""), "README.md", "exec"), names)
    assert (tmp_path / "report.html").is_file()


@pytest.mark.usefixtures("scene")
def test_script_of_the_sample_cases_registers_a_phantom(monkeypatch, logic, capsys):
    monkeypatch.setattr(Engine, "command", logic.engine.command)
    exec(compile(script("addPhantom"), "README.md", "exec"), {})
    assert "mm landmark error" in capsys.readouterr().out


def _toRas(volume):
    import vtk

    matrix = vtk.vtkMatrix4x4()
    volume.GetIJKToRASMatrix(matrix)
    return matrix
