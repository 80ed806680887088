"""Sample cases, as a stand-in for the Sample Data module opens them."""

import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

slicer = pytest.importorskip("slicer", reason="slicer-core cannot be imported", exc_type=ImportError)

import mrml_scene
from DeepAttentionRegEngine.phantom import anatomy, thorax
from DeepAttentionRegEngine.protocol.settings import Settings
from DeepAttentionRegEngine.volume.geometry import flip_lps_ras
from DeepAttentionRegLib.nodes import SampleCases
from DeepAttentionRegLib.nodes.InputNodes import checkInputs
from DeepAttentionRegLib.tasks import Registration
from DeepAttentionRegLib.tasks.Request import Request

pytestmark = [pytest.mark.mrml, pytest.mark.usefixtures("scene")]

SMALL = thorax.default_geometry((24, 20, 24), (14.0, 12.0, 14.0))


@pytest.fixture
def views(monkeypatch) -> list[dict]:
    """What slice views were told to show."""
    shown = []
    monkeypatch.setattr(slicer.util, "setSliceViewerLayers", lambda **layers: shown.append(layers))
    return shown


@pytest.fixture
def sources(monkeypatch, views) -> dict[str, SimpleNamespace]:
    """What is registered, by name; a click on its button is a call of `customDownloader`."""
    registered = {}

    class SampleDataLogic:
        @staticmethod
        def registerCustomSampleDataSource(**given) -> None:
            lengths = {len(given[name]) for name in ("uris", "fileNames", "nodeNames")}  # as Slicer wants it
            assert len(lengths) == 1
            registered[given["sampleName"]] = SimpleNamespace(**given)

        def downloadSamples(self, name: str) -> list:
            if name == "Offline":
                return ["cache/offline.nrrd"]
            count = 1 if name.startswith("MRBrainTumor") else 2
            return [mrml_scene.add_volume(np.zeros((2, 2, 2)), SMALL, f"{name} {index}") for index in range(count)]

    monkeypatch.setitem(sys.modules, "SampleData", SimpleNamespace(SampleDataLogic=SampleDataLogic))
    SampleCases.registerSampleData(__file__)
    return registered


class TestRegistration:
    def test_all_cases_are_listed_in_one_category(self, sources):
        assert list(sources) == [*SampleCases.PHANTOMS, *SampleCases.SAMPLES]
        assert {source.category for source in sources.values()} == {"Deep Attention Registration"}

    def test_phantoms_have_a_picture(self, sources):
        assert all(Path(sources[name].thumbnailFileName).is_file() for name in SampleCases.PHANTOMS)

    def test_nothing_is_imported_before_a_case_is_opened(self):
        code = (
            f"import sys; sys.path.insert(0, {str(Path(SampleCases.__file__).parents[2])!r})\n"
            "import types, slicer, slicer.util; before = set(sys.modules)\n"
            "sys.modules['slicer.i18n'] = types.SimpleNamespace(tr=str)\n"
            "from DeepAttentionRegLib.nodes import SampleCases\n"
            "print(*(set(sys.modules) - before))"
        )
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
        loaded = set(done.stdout.split())
        assert "DeepAttentionRegLib.nodes.SampleCases" in loaded
        assert not loaded & {"SimpleITK", "DeepAttentionRegEngine.volume.phantom", "DeepAttentionRegLib.nodes.Volumes"}


class TestSamples:
    def test_pair_is_opened_together_and_shown(self, sources, views):
        nodes = sources["Brain tumor MR, two scans"].customDownloader(sources["Brain tumor MR, two scans"])
        assert [node.GetName() for node in nodes] == ["MRBrainTumor1 0", "MRBrainTumor2 0"]
        assert views[0]["background"] is nodes[0]
        assert views[0]["foreground"] is nodes[1]

    def test_missing_connection_is_said(self, sources, views, monkeypatch):
        said = []
        monkeypatch.setattr(slicer.util, "errorDisplay", said.append)
        monkeypatch.setitem(SampleCases.SAMPLES, "Brain tumor MR, two scans", ("Offline",))
        SampleCases.registerSampleData(__file__)
        assert sources["Brain tumor MR, two scans"].customDownloader(None) == []
        assert said == ["Offline could not be loaded; check the connection to the Internet and try again."]
        assert not views


class TestPhantom:
    def test_single_slice_is_opened_and_shown(self, sources, views):
        nodes = sources["Breathing phantom, single slice"].customDownloader(sources["Breathing phantom, single slice"])
        assert len(nodes) == 6
        assert nodes[0].GetImageData().GetDimensions() == (160, 160, 1)
        assert views[0]["background"] is nodes[0]

    def test_registration_takes_it(self):
        inputs = SampleCases.addPhantom(SMALL)
        assert checkInputs(inputs) == []
        assert Registration.checkAll(Request(inputs, Settings(method="none"))) == []

    def test_landmarks_correspond_by_the_true_displacement(self):
        inputs = SampleCases.addPhantom(SMALL)
        pair = thorax.make_phantom(SMALL)
        for side in ("fixed", "moving"):
            points = slicer.util.arrayFromMarkupsControlPoints(getattr(inputs, f"{side}Landmarks"))
            np.testing.assert_allclose(flip_lps_ras(points), getattr(pair, f"{side}_points_lps"), atol=1e-9)

    def test_segments_are_named_organs_in_colors_of_their_own(self):
        segmentation = SampleCases.addPhantom(SMALL).movingSegmentation.GetSegmentation()
        segments = [segmentation.GetNthSegment(index) for index in range(segmentation.GetNumberOfSegments())]
        assert [segment.GetName() for segment in segments] == list(anatomy.LABEL_NAMES.values())
        assert len({segment.GetColor() for segment in segments}) == len(segments)

    def test_second_one_has_names_of_its_own(self):
        nodes = [node for _time in range(2) for node in SampleCases.addPhantom(SMALL).nodes]
        assert len({node.GetName() for node in nodes}) == len(nodes)
