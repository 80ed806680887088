"""Segments: read whatever they overlap, written so that Slicer and we find them again, paired by name."""

from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk

from DeepAttentionRegEngine.protocol.errors import EngineError
from DeepAttentionRegEngine.volume import images, segments
from DeepAttentionRegEngine.volume.geometry import Geometry
from DeepAttentionRegEngine.volume.segment_pairs import Segment, pair_up, require_pairs, unique_keys
from DeepAttentionRegEngine.volume.segments import Segments

GRID = Geometry((6, 5, 4), (1.0, 2.0, 3.0), (7.0, -8.0, 9.0), tuple(np.eye(3).ravel()))


def overlapping(count: int = 2) -> Segments:
    """Return boxes, each of the value 1 in a layer of its own and within the next."""
    layers = []
    for number in range(count):
        layer = np.zeros(GRID.shape, np.uint8)
        layer[1 : 2 + number, 1:4, 1:4] = 1
        layers.append(layer)
    names = ["Liver", "Body", "Rest"][:count]
    items = [Segment(name, 1, layer, {"Color": "1 0 0"}) for layer, name in enumerate(names)]
    return Segments(layers, GRID, items)


def write(path: Path, array: np.ndarray, keys: dict[str, str]) -> Path:
    image = images.to_sitk(array, GRID)
    for key, text in keys.items():
        image.SetMetaData(key, text)
    sitk.WriteImage(image, str(path))
    return path


class TestFiles:
    @pytest.mark.parametrize("count", [1, 2, 3])  # three equal layers of bytes look like a gray picture
    def test_layers_come_back(self, tmp_path, count):
        made = overlapping(count)
        segments.write_segments(tmp_path / "s.seg.nrrd", made)
        found = segments.as_segments(tmp_path / "s.seg.nrrd")
        np.testing.assert_array_equal(found.layers, made.layers)
        assert found.geometry == GRID
        assert found.items == made.items
        assert found.items[0].details["Color"] == "1 0 0"

    def test_image_in_memory_is_read_as_its_file(self, tmp_path):
        segments.write_segments(tmp_path / "s.seg.nrrd", overlapping())
        found = segments.as_segments(sitk.ReadImage(str(tmp_path / "s.seg.nrrd")))
        assert found.items == overlapping().items

    def test_series_of_label_maps_has_its_layers_last(self):
        parts = [images.to_sitk(layer, GRID) for layer in overlapping().layers]
        series = sitk.JoinSeries(parts)
        for number, name in enumerate(("Liver", "Body")):
            series.SetMetaData(f"Segment{number}_Name", name)
            series.SetMetaData(f"Segment{number}_Layer", str(number))
        found = segments.as_segments(series)
        np.testing.assert_array_equal(found.layers, overlapping().layers)
        assert found.items == overlapping().items

    def test_label_map_has_a_segment_for_each_value(self):
        array = np.zeros(GRID.shape, np.int16)
        array[0, 0, :2] = 5, 300
        found = segments.as_segments((array, GRID))
        assert found.items == [Segment("", 5), Segment("", 300)]

    def test_value_that_a_header_leaves_out_is_a_segment_too(self, tmp_path):
        array = np.zeros(GRID.shape, np.uint8)
        array[0, 0, :2] = 1, 2
        path = write(tmp_path / "s.seg.nrrd", array, {"Segment0_Name": "Liver", "Segment0_LabelValue": "1"})
        assert segments.as_segments(path).items == [Segment("Liver", 1), Segment("", 2)]

    def test_header_of_slicer_4_10_names_a_layer_a_segment(self, tmp_path):
        array = np.stack(overlapping().layers, -1)
        path = write(tmp_path / "s.seg.nrrd", array, {"Segment0_Name": "Liver", "Segment1_Name": "Body"})
        assert segments.as_segments(path).items == overlapping().items

    def test_two_segments_of_one_value_in_one_layer_are_both_whole(self, tmp_path):
        keys = {f"Segment{n}_{key}": text for n in (0, 1) for key, text in (("Layer", "0"), ("LabelValue", "1"))}
        path = write(tmp_path / "s.seg.nrrd", overlapping().layers[0], keys)
        found = segments.as_segments(path)
        assert [found.layers[item.layer].sum() for item in found.items] == [9, 9]

    @pytest.mark.parametrize(
        ("keys", "message"),
        [
            ({"Segment0_Layer": "2"}, "lies in layer 2, but has 1"),
            ({"Segment0_LabelValue": "one"}, "label value 'one'"),
            ({"Segment0_LabelValue": "300"}, "which its voxels cannot hold"),
        ],
    )
    def test_header_that_cannot_be_is_refused(self, tmp_path, keys, message):
        path = write(tmp_path / "s.seg.nrrd", overlapping().layers[0], keys)
        with pytest.raises(EngineError, match=message):
            segments.as_segments(path)

    def test_layers_without_a_header_are_no_labels(self, tmp_path):
        path = write(tmp_path / "s.nrrd", np.stack(overlapping().layers, -1), {})
        with pytest.raises(EngineError, match="2 values per voxel"):
            segments.as_segments(path)

    def test_mask_is_all_layers_together(self, tmp_path):
        segments.write_segments(tmp_path / "s.seg.nrrd", overlapping())
        np.testing.assert_array_equal(segments.as_mask(tmp_path / "s.seg.nrrd").array, overlapping().layers[1])


class TestOneLabelMap:
    def test_segments_apart_are_written_as_one(self, tmp_path):
        made = overlapping()
        made.layers[0][:], made.layers[1][:] = 0, 0
        made.layers[0][0], made.layers[1][1] = 1, 2
        apart = Segments(made.layers, GRID, [Segment("Liver", 1, 0), Segment("Body", 2, 1)])
        segments.write_segments(tmp_path / "l.nii.gz", apart)
        np.testing.assert_array_equal(images.read_labels(tmp_path / "l.nii.gz").array, sum(made.layers))

    def test_segments_that_overlap_are_refused(self, tmp_path):
        with pytest.raises(EngineError, match="overlap") as caught:
            segments.write_segments(tmp_path / "l.nrrd", overlapping())
        assert ".seg.nrrd" in str(caught.value.hint)
        assert not list(tmp_path.iterdir())


class TestPairs:
    def keys(self, pairing):
        return [(pair.key, pair.fixed.value, pair.moving.value) for pair in pairing.pairs]

    def test_name_counts_more_than_value(self):
        found = pair_up([Segment("Liver", 1), Segment("Heart", 2)], [Segment("Heart", 1), Segment("Liver", 2)])
        assert self.keys(found) == [("Liver", 1, 2), ("Heart", 2, 1)]
        assert not found.warnings

    def test_case_and_spaces_are_forgiven_and_said(self):
        found = pair_up([Segment("Left Kidney", 1)], [Segment("left kidney ", 9)])
        assert self.keys(found) == [("Left Kidney", 1, 9)]
        assert found.warnings == ["Paired though case or spaces differ: Left Kidney with left kidney ."]

    def test_exact_name_comes_before_one_that_is_forgiven(self):
        found = pair_up([Segment("rib", 1), Segment("Rib", 2)], [Segment("Rib", 3), Segment("RIB", 4)])
        assert self.keys(found) == [("rib", 1, 4), ("Rib", 2, 3)]

    def test_label_maps_are_paired_by_value_without_a_word(self):
        found = pair_up([Segment("", 2), Segment("", 7)], [Segment("", 7), Segment("", 2)])
        assert self.keys(found) == [("2", 2, 2), ("7", 7, 7)]
        assert not found.warnings

    def test_value_of_a_label_map_finds_a_named_segment_and_says_so(self):
        found = pair_up([Segment("", 2)], [Segment("Heart", 2)])
        assert self.keys(found) == [("Heart", 2, 2)]
        assert found.warnings == ["Paired by label value, not by name: 2 with Heart."]

    def test_value_that_several_segments_share_tells_nothing(self):
        found = pair_up([Segment("", 1), Segment("", 2)], [Segment("Liver", 1, 0), Segment("Heart", 1, 1)])
        assert found.pairs == []
        with pytest.raises(EngineError, match=r"\(1, 2\).*\(Liver, Heart\)"):
            require_pairs(found)

    def test_values_do_not_tell_against_all_names(self):
        found = pair_up([Segment("Kidney", 1)], [Segment("Liver", 1)])
        with pytest.raises(EngineError, match=r"\(Kidney\).*\(Liver\)"):
            require_pairs(found)

    def test_values_do_not_tell_against_names_where_some_agree(self):
        found = pair_up([Segment("Liver", 1), Segment("Aorta", 2)], [Segment("Liver", 1), Segment("Spleen", 2)])
        assert self.keys(found) == [("Liver", 1, 1)]
        assert found.unpaired == {"fixed": ["Aorta"], "moving": ["Spleen"]}
        assert found.warnings == ["Without a partner, so not measured: Aorta (fixed); Spleen (moving)."]

    def test_segments_of_one_name_stay_apart(self):
        found = pair_up([Segment("Rib", 1), Segment("Rib", 2)], [Segment("Rib", 3), Segment("Rib", 4)])
        assert self.keys(found) == [("Rib", 1, 3), ("Rib (2)", 2, 4)]

    def test_segment_called_mean_is_not_the_mean(self):
        assert unique_keys(["mean", "Liver"]) == ["mean (2)", "Liver"]
