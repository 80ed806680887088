"""Tables of pairs registered from Slicer: what is refused, what the scene gets, how it ends."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

slicer = pytest.importorskip("slicer", reason="slicer-core cannot be imported", exc_type=ImportError)

import mrml_scene
from DeepAttentionRegEngine.protocol import batch, contract, errors
from DeepAttentionRegEngine.protocol.settings import Settings
from DeepAttentionRegEngine.volume import images
from DeepAttentionRegLib.engine.Callbacks import Callbacks
from DeepAttentionRegLib.tasks import Batch
from mrml_cases import ENGINE, Recorder, poll_until

pytestmark = [pytest.mark.mrml, pytest.mark.usefixtures("scene")]

SETTINGS = Settings(method="none", refinement_steps=3)


@pytest.fixture
def table(tmp_path, oblique_geometry) -> Callable[..., Path]:
    """Return a maker of tables of these moving images; a fixed one is there."""
    images.write_volume(tmp_path / "f.nrrd", np.ones(oblique_geometry.shape, np.float32), oblique_geometry)

    def make(*moving: str) -> Path:
        path = tmp_path / "pairs.csv"
        rows = "".join(f"f.nrrd,{name},{Path(name).stem}\n" for name in moving)
        path.write_text(f"fixed,moving,name\n{rows}", encoding="utf-8")
        return path

    return make


@pytest.fixture
def folder(tmp_path) -> Path:
    return tmp_path / "Ergebnisse \u00e4"


def prepare(pairs: Path, folder: Path, **options) -> Batch.BatchRegistration:
    return Batch.BatchRegistration(pairs, folder, options.pop("settings", SETTINGS), engine=ENGINE, **options)


def register(pairs: Path, folder: Path, **options) -> Batch.BatchOutcome:
    registration = prepare(pairs, folder, **options)
    registration.start()
    return registration.wait()


class TestTable:
    def test_has_a_row_for_every_pair_and_the_numbers_of_the_engine(self, table, folder):
        node = register(table("a.nrrd", "b.nrrd"), folder).tableNode
        assert node.GetName() == "pairs results"
        cells = slicer.util.arrayFromTableColumn(node, "dice_after")
        np.testing.assert_allclose(cells, [0.9, 0.9])
        assert [node.GetTable().GetValueByName(row, "status").ToString() for row in range(2)] == ["done", "done"]

    def test_has_all_columns_of_the_summary(self, table, folder):
        shown = register(table("a.nrrd"), folder).tableNode.GetTable()
        assert [shown.GetColumnName(index) for index in range(shown.GetNumberOfColumns())] == list(batch.COLUMNS)

    def test_what_was_not_measured_is_no_number(self, table, folder):
        node = register(table("a.nrrd"), folder).tableNode
        assert np.isnan(slicer.util.arrayFromTableColumn(node, "uncertainty_mm_mean")).all()

    def test_survives_saving(self, scene, table, folder, tmp_path):
        register(table("a.nrrd"), folder)
        (tmp_path / "saved").mkdir()
        mrml_scene.save_and_reload(scene, tmp_path / "saved")
        node = scene.GetFirstNode("pairs results", "vtkMRMLTableNode")
        np.testing.assert_allclose(slicer.util.arrayFromTableColumn(node, "dice_after"), [0.9])


class TestFolder:
    def test_outputs_can_be_chosen(self, table, folder):
        register(table("a.nrrd"), folder, outputs=["transform", "uncertainty"])
        assert {path.name for path in (folder / "a").iterdir()} == {
            "transform.nrrd",
            "uncertainty.nrrd",
            "result.json",
        }

    def test_settings_reach_every_pair(self, table, folder):
        register(table("a.nrrd"), folder)
        assert '"refinement_steps": 3' in (folder / "a" / "result.json").read_text(encoding="ascii")

    def test_running_again_goes_on_where_it_ended(self, table, folder):
        register(table("a.nrrd"), folder)
        assert register(table("a.nrrd", "b.nrrd"), folder).result.values["resumed"] == 1


class TestProblems:
    @pytest.mark.parametrize(
        ("pairs", "folder", "words"),
        [
            ("", "out", "Choose a table of pairs"),
            ("p.csv", "", "Choose a folder"),
            ("gone.csv", "out", "does not exist"),
            ("f.nrrd", "f.nrrd", "UTF-8|no column|unknown column"),
        ],
    )
    def test_are_told_by_a_sentence(self, table, tmp_path, pairs, folder, words):
        table("a.nrrd").rename(tmp_path / "p.csv")
        paths = (tmp_path / name if name else "" for name in (pairs, folder))
        with pytest.raises(ValueError, match=words):
            prepare(*paths).start()

    def test_file_in_place_of_the_folder_is_named(self, table, tmp_path):
        assert "is a file" in Batch.checkBatch(table("a.nrrd"), tmp_path / "f.nrrd")

    def test_good_table_has_none(self, table, folder):
        assert Batch.checkBatch(table("a.nrrd"), folder) == ""


class TestEnd:
    def test_progress_names_the_pair(self, table, folder):
        told: list[contract.Progress] = []
        recorder = Recorder()
        callbacks = Callbacks(lambda step: told.append(step), recorder.outcomes.append, recorder.failures.append)
        register(table("a.nrrd", "b.nrrd"), folder, callbacks=callbacks)
        pairs = [(step.step, step.of, step.message) for step in told if step.stage == "pair"]
        assert pairs == [(0, 2, "a: Refinement."), (1, 2, "b: Refinement.")]

    def test_cancellation_is_told_and_adds_nothing(self, scene, table, folder, monkeypatch):
        monkeypatch.setenv("FAKE_ENGINE", "work until cancelled")
        before = mrml_scene.scene_state(scene)
        recorder = Recorder()
        registration = prepare(table("a.nrrd"), folder, callbacks=recorder.callbacks)
        registration.start()
        poll_until(registration, lambda: "refine" in recorder.stages)
        registration.cancel()
        with pytest.raises(RuntimeError, match="was canceled"):
            registration.wait()
        assert registration.failure.code == errors.CANCELLED
        assert mrml_scene.scene_state(scene) == before

    def test_cancellation_before_the_start_starts_nothing(self, table, folder):
        recorder = Recorder()
        registration = prepare(table("a.nrrd"), folder, callbacks=recorder.callbacks)
        registration.cancel()
        registration.start()
        assert [failure.code for failure in recorder.failures] == [errors.CANCELLED]
        assert not registration.isRunning
        assert not folder.exists()
