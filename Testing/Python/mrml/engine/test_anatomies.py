"""What images show is told by headers, names and fields of view, and proposes weights that suit them."""

import json
import zipfile
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

slicer = pytest.importorskip("slicer", reason="slicer-core cannot be imported", exc_type=ImportError)

import mrml_scene
from DeepAttentionRegEngine.protocol import registry
from DeepAttentionRegEngine.volume.geometry import Geometry
from DeepAttentionRegLib.engine import Anatomies, Weights

pytestmark = pytest.mark.mrml

GENERAL, HIPPOCAMPUS = "rman-general", "rman-hippocampus-mr"
NOTHING = ("", "")
WIDE, NARROW = 200.0, 50.0


@pytest.fixture(autouse=True)
def weights(tmp_path, monkeypatch) -> Path:
    """Keep imported weights in a folder of the test, and return it."""
    monkeypatch.setattr(Weights, "userFolder", lambda: tmp_path / "Weights")
    return tmp_path / "Weights"


@pytest.fixture
def database(monkeypatch) -> dict[tuple[str, str], str]:
    """Put a DICOM database in place, and return its values by instance and tag."""
    values: dict[tuple[str, str], str] = {}
    stand_in = SimpleNamespace(isOpen=True, instanceValue=lambda instance, tag: values.get((instance, tag), ""))
    monkeypatch.setattr(slicer, "dicomDatabase", stand_in, raising=False)
    Anatomies._readHeader.cache_clear()
    return values


@pytest.fixture
def brains(monkeypatch) -> None:
    """Add weights for whole brains and for the abdomen to those of AGF."""
    real = Weights.listWeights
    one = replace(real()[0], serves=(("agf-diffeo", 3),))
    added = [
        replace(one, id="agf-brain", title="agf-brain", anatomy="Brain", extentMm=(120.0, 300.0)),
        replace(one, id="agf-abdomen", title="agf-abdomen", anatomy="Abdomen", extentMm=(150.0, 600.0)),
    ]
    monkeypatch.setattr(Weights, "listWeights", lambda folder=None: [*real(folder), *added])


@pytest.fixture
def add(scene):
    """The function that adds a volume of a name and a field of view in mm."""

    def make(name: str, extent: float = WIDE, flat: bool = False) -> slicer.vtkMRMLScalarVolumeNode:
        size = (10, 9, 1 if flat else 8)
        grid = Geometry.from_arrays(size, (extent / 10,) * 3, (0.0, 0.0, 0.0), np.eye(3))
        return mrml_scene.add_volume(np.zeros(grid.shape, np.float32), grid, name)

    return make


def put(weights: Path, tmp_path: Path, name: str = "mine", **told) -> Weights.Entry:
    """Import weights for RMAn."""
    path = tmp_path / f"{name}.pt"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("archive/data.pkl", name)
    path.with_suffix(".json").write_text(json.dumps(told), encoding="ascii")
    return Weights.importWeights(path, "rman", 3, weights)


def shown(*volumes, method: str = "agf-diffeo") -> tuple[str, str]:
    """Return what volumes seem to show, and why."""
    found = Anatomies.propose(method, *volumes)
    return found.anatomy, found.reason


class TestNames:
    @pytest.mark.usefixtures("brains")
    @pytest.mark.parametrize(
        ("name", "anatomy"),
        [
            *(("T1 brain", "Brain"), ("MRBrainTumor1", "Brain"), ("MRHead", "Brain"), ("sub-01_T1w", "Brain")),
            *(("CTLiver", "Abdomen"), ("abdomen_2", "Abdomen"), ("T1 abdomen", "Abdomen")),
            *(("CTChest", ""), ("Volume", ""), ("forehead", ""), ("brain and liver", ""), ("hippocampus", "")),
        ],
    )
    def test_of_wide_volumes(self, add, name, anatomy):
        assert shown(add(name))[0] == anatomy

    @pytest.mark.parametrize(
        ("name", "anatomy"),
        [("CXR 12", "Chest X-ray"), ("cine_04", "Heart, cine"), ("heart", "Heart, cine"), ("hippocampus", "")],
    )
    def test_of_slices(self, add, name, anatomy):
        assert shown(add(name, flat=True))[0] == anatomy

    @pytest.mark.usefixtures("brains")
    def test_of_either_volume_count(self, add):
        assert shown(add("Volume"), add("T1 brain")) == ("Brain", 'a volume is named "T1 brain"')

    @pytest.mark.usefixtures("brains")
    def test_mean_nothing_where_the_field_of_view_does_not_suit(self, add):
        assert shown(add("hippocampus", NARROW))[0] == "Hippocampus"
        assert shown(add("brain", 900.0)) == NOTHING


class TestFieldOfView:
    def test_of_a_hippocampus_tells_it(self, add):
        assert shown(add("a", NARROW)) == ("Hippocampus", "the field of view of 50 mm is that of a hippocampus")

    @pytest.mark.parametrize("name", ["MRProstate", "mouse 7", "liver", "brain"])
    def test_tells_nothing_of_what_is_named_otherwise(self, add, name):
        assert shown(add(name, NARROW)) == NOTHING

    @pytest.mark.usefixtures("brains")
    def test_of_a_whole_organ_tells_nothing(self, add):
        assert shown(add("a")) == NOTHING

    def test_of_a_slice_tells_nothing(self, add):
        assert shown(add("a", NARROW, flat=True)) == NOTHING


@pytest.mark.usefixtures("brains")
class TestHeaders:
    @pytest.fixture
    def volume(self, add):
        node = add("6: unnamed", NARROW)
        node.SetAttribute(Anatomies.INSTANCES, "1.2.3 1.2.4")
        return node

    def test_body_part_counts_more_than_names(self, add, database):
        volume = add("abdomen")
        volume.SetAttribute(Anatomies.INSTANCES, "1.2.3")
        database.update({("1.2.3", Anatomies.BODY_PART): "HEAD", ("1.2.3", Anatomies.SERIES): "liver"})
        assert shown(volume) == ("Brain", 'the header tells the body part "HEAD"')

    def test_series_is_named(self, volume, database):
        database["1.2.3", Anatomies.SERIES] = "T1 hippocampus left"
        assert shown(volume) == ("Hippocampus", 'the series is named "T1 hippocampus left"')

    def test_another_modality_excludes(self, volume, database):
        database["1.2.3", Anatomies.MODALITY] = "US"
        assert shown(volume) == NOTHING

    def test_modality_that_suits_does_not(self, volume, database):
        database["1.2.3", Anatomies.MODALITY] = "MR"
        assert shown(volume)[0] == "Hippocampus"

    def test_another_body_part_silences_the_field_of_view(self, volume, database):
        database["1.2.3", Anatomies.BODY_PART] = "EXTREMITY"
        assert shown(volume) == NOTHING

    def test_that_are_gone_say_nothing(self, volume, database, monkeypatch):
        def refuse(_instance, _tag):
            raise RuntimeError

        monkeypatch.setattr(slicer.dicomDatabase, "instanceValue", refuse)
        assert shown(volume)[0] == "Hippocampus"

    def test_are_not_asked_for_without_a_database(self, volume, database, monkeypatch):
        database["1.2.3", Anatomies.MODALITY] = "US"
        monkeypatch.setattr(slicer.dicomDatabase, "isOpen", False)
        assert shown(volume)[0] == "Hippocampus"


class TestProposal:
    def test_is_for_anything_where_nothing_tells(self, add):
        found = Anatomies.propose("rman", add("a"))
        assert (found.weights, found.textFor(found.entry)) == (
            GENERAL,
            "Proposed: nothing tells what the images show.",
        )

    def test_is_the_first_where_none_is_for_anything(self, add):
        found = Anatomies.propose("r2n2", add("a"))
        assert found.weights == "r2n2-hippocampus-mr"
        assert "for the anatomy Hippocampus alone" in found.textFor(found.entry)

    def test_says_nothing_without_volumes(self):
        for method in ("rman", "r2n2"):
            found = Anatomies.propose(method, None)
            assert (found.anatomy, found.reason, found.textFor(found.entry)) == ("", "", "")

    def test_names_methods_that_have_weights_where_this_one_has_none(self, add):
        found = Anatomies.propose("adregnet", add("a", NARROW))
        titles = {registry.load_method(name).title for name in ("rman", "agf-diffeo", "r2n2")}
        assert (found.weights, set(found.others)) == ("adregnet-general", titles)
        assert "no weights for the anatomy Hippocampus, though the field" in found.textFor(found.entry)

    def test_is_told_beside_another_choice(self, add):
        found = Anatomies.propose("rman", add("a", NARROW))
        general = Weights.find(GENERAL)
        assert found.weights == HIPPOCAMPUS
        assert found.textFor(general).startswith("Hippocampus would be proposed: the field of view")

    def test_is_empty_for_a_method_without_weights(self, add):
        found = Anatomies.propose("bspline", add("a"))
        assert (found.weights, found.textFor(None)) == (None, "")

    def test_takes_imported_weights_by_what_is_told_beside_them(self, add, weights, tmp_path):
        entry = put(weights, tmp_path, anatomy="knee", extent_mm=[100, 300])
        assert Anatomies.propose("rman", add("Knee3")).entry == entry
        assert Anatomies.propose("rman", add("Knee3", 400.0)).weights == GENERAL

    def test_does_not_mind_how_an_anatomy_is_spelled(self, add, weights, tmp_path):
        put(weights, tmp_path, anatomy="hippocampus")
        assert Anatomies.propose("rman", add("hippocampus", NARROW)).weights == HIPPOCAMPUS


class TestUsableWeights:
    def test_are_none_for_no_network(self, add):
        assert Anatomies.usableWeights("none", "some", add("a")) is None

    def test_are_left_to_the_engine_where_they_are_its_first(self, add):
        assert Anatomies.usableWeights("rman", "", add("a")) is None

    def test_are_those_proposed(self, add):
        assert Anatomies.usableWeights("rman", "", add("a", NARROW)) == HIPPOCAMPUS

    def test_are_those_chosen(self, add):
        assert Anatomies.usableWeights("rman", "mine.pt", add("a", NARROW)) == "mine.pt"

    def test_are_imported_ones_where_there_are_no_others(self, add, weights, tmp_path):
        path = put(weights, tmp_path).path
        entry = Weights.importWeights(path, "agf", 3, weights)
        assert Anatomies.usableWeights("agf", "", add("a")) == entry.id


class TestLabels:
    def test_are_the_anatomies(self):
        entries = Weights.weightsFor("rman", 3)
        assert Anatomies.labelsOf(entries) == ["Anything", "Hippocampus"]

    def test_tell_two_of_one_anatomy_apart_by_their_titles(self):
        entry = Weights.find(HIPPOCAMPUS)
        other = replace(entry, id="other", title="other")
        assert Anatomies.labelsOf([entry, other]) == [f"Hippocampus ({HIPPOCAMPUS})", "Hippocampus (other)"]

    def test_of_imported_ones_are_their_titles(self, weights, tmp_path):
        entry = put(weights, tmp_path, title="Our knees", anatomy="Knee")
        assert Anatomies.labelsOf([entry]) == ["Our knees"]

    @pytest.mark.parametrize("name", registry.method_names())
    def test_of_every_anatomy_that_is_shipped_are_known(self, name):
        anatomies = {variant.anatomy.casefold() for variant in registry.load_method(name).variants}
        assert anatomies - {""} <= set(Anatomies._known())
