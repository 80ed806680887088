"""AGF that attends to several structures apart."""

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from agf_cases import FLAT, VOLUME, halves, image_pair, make_agf, states
from DeepAttentionRegEngine.jobs import run
from DeepAttentionRegEngine.networks.agf import Agf, AgfSettings
from DeepAttentionRegEngine.networks.base import Evidence, ImagePair, Recursion, StepNetwork
from DeepAttentionRegEngine.protocol.contract import RegisterJob
from DeepAttentionRegEngine.protocol.reporting import Reporter
from DeepAttentionRegEngine.registration import registrar, search
from DeepAttentionRegEngine.volume import images
from engine_cases import blob_source, centered

pytestmark = pytest.mark.torch

sizes = pytest.mark.parametrize("spatial", [FLAT, VOLUME], ids=["2d", "3d"])


class Bands(nn.Module):
    """Takes what is brighter than 0.4 for one structure, what is darker than 0.3 for the other."""

    def forward(self, image: Tensor) -> Tensor:
        return 100 * torch.cat([image - 0.4, 0.3 - image], 1)


class TestStructures:
    @staticmethod
    def network(nd: int, **arguments: object) -> Agf:
        network = make_agf(nd, flow=1000.0, level=None, structures=2, **arguments)
        network.segmenter = Bands()
        return network

    @sizes
    def test_network_sees_the_image_within_each(self, spatial: tuple[int, ...]) -> None:
        pair = image_pair(spatial)
        seen = self.network(len(spatial)).masked(pair)
        assert torch.equal(seen.fixed[:, :1], pair.fixed * (pair.fixed >= 0.4))
        assert torch.equal(seen.fixed[:, 1:], pair.fixed * (pair.fixed <= 0.3))
        assert torch.equal(seen.moving_mask[:, :1], (pair.moving >= 0.4).float())

    @sizes
    def test_field_depends_on_the_boundary_between_them(self, spatial: tuple[int, ...]) -> None:
        network, pair = self.network(len(spatial)), image_pair(spatial)
        masks = network.masked(pair).fixed_mask
        fields = [
            states(network, replace(pair, fixed_mask=given, moving_mask=masks))[-1].displacement
            for given in (masks, masks.flip(1))
        ]
        assert fields[0].shape == (1, len(spatial), *spatial)
        assert not torch.allclose(*fields)

    @sizes
    def test_one_given_mask_is_shared_among_them(self, spatial: tuple[int, ...]) -> None:
        pair, (first, _) = image_pair(spatial), halves(spatial)
        network = self.network(len(spatial), soft_mask=True)
        mask = network.masked(replace(pair, fixed_mask=first)).fixed_mask
        torch.testing.assert_close(mask.sum(1, keepdim=True), first)
        bright = (pair.fixed > 0.45) & (first > 0)
        assert bool((mask[:, :1][bright] > 0.99).all())

    @pytest.mark.parametrize("soft", [False, True])
    @pytest.mark.parametrize("logits", [(0.5, 0.4, 0.3), (-300.0, -301.0, -302.0)], ids=["alike", "faint"])
    def test_given_mask_stays_whole(self, logits: tuple[float, ...], soft: bool) -> None:
        pair, (first, _) = image_pair(FLAT), halves(FLAT)
        network = make_agf(2, structures=3, soft_mask=soft)
        values = torch.tensor(logits).view(1, 3, 1, 1)
        network.segmenter.forward = lambda image: values.expand(1, 3, *image.shape[2:])
        mask = network.masked(replace(pair, fixed_mask=first)).fixed_mask
        torch.testing.assert_close(mask.sum(1, keepdim=True), first)
        assert bool((mask[:, 0] >= mask[:, 2]).all())

    def test_all_empty_count_as_no_mask(self) -> None:
        pair = image_pair(FLAT)
        empty = replace(pair, fixed_mask=torch.zeros(1, 2, *FLAT), moving_mask=torch.zeros(1, 1, *FLAT))
        seen = self.network(2).masked(empty)
        assert torch.equal(seen.fixed, torch.cat([pair.fixed] * 2, 1))
        assert torch.equal(seen.moving, torch.cat([pair.moving] * 2, 1))

    def test_masks_seen_come_with_every_recursion(self) -> None:
        network, pair = self.network(2), image_pair(FLAT)
        seen = network.masked(pair)
        for state in states(network, pair):
            assert torch.equal(state.structures[0], seen.fixed_mask)
            assert torch.equal(state.structures[1], seen.moving_mask)

    def test_no_masks_come_where_an_image_shows_no_structure(self) -> None:
        network, pair = self.network(2), image_pair(FLAT)
        assert states(network, replace(pair, moving_mask=torch.zeros(1, 2, *FLAT)))[-1].structures is None
        assert states(make_agf(2, attention=False), pair)[-1].structures is None

    def test_evidence_has_a_mask_of_each(self) -> None:
        *_, last = states(self.network(2), image_pair(FLAT), attend=True)
        names = [(found.name, found.image) for found in last.evidence.maps if "mask" in found.name]
        assert names == [(f"attention mask, structure {n}", image) for image in ("fixed", "moving") for n in (1, 2)]
        assert all(found.values.shape[1] == 1 for found in last.evidence.maps)

    def test_segmenter_and_network_have_a_channel_for_each(self) -> None:
        one, two = (Agf(AgfSettings(nd=2, widths="tiny", segmenter_width=2, structures=n)) for n in (1, 2))
        assert two.segmenter.output.out_channels == 2
        assert two.down[0][0][0].in_channels == 2 * one.down[0][0][0].in_channels


class TestKnown:
    """What somebody segmented takes the place of what the segmenter finds."""

    @staticmethod
    def network(**arguments: object) -> Agf:
        return TestStructures.network(2, soft_mask=True, **arguments)

    @staticmethod
    def known(first: Tensor) -> tuple[Tensor, Tensor]:
        """Return the first structure of the fixed image, nothing of the second and of the moving image."""
        nothing = torch.full_like(first, torch.nan)
        return torch.cat([first, nothing], 1), torch.cat([nothing, nothing], 1)

    def test_single_structures_are_taken_and_leave_no_room_for_others(self) -> None:
        pair, (first, _) = image_pair(FLAT), halves(FLAT)
        network = self.network()
        seen, unknown = network.masked(replace(pair, known=self.known(first))), network.masked(pair)
        assert torch.equal(seen.fixed_mask[:, :1], first)
        torch.testing.assert_close(seen.fixed_mask[:, 1:], unknown.fixed_mask[:, 1:] * (1 - first))
        assert torch.equal(seen.moving_mask, unknown.moving_mask)

    def test_no_segmenter_runs_where_all_is_known(self) -> None:
        pair, masks = image_pair(FLAT), halves(FLAT)
        network = self.network()
        network.segmenter.forward = None  # not to be called
        both = torch.cat(masks, 1)
        assert torch.equal(network.masked(replace(pair, known=(both, both))).moving_mask, both)

    def test_mask_limits_what_exclusive_structures_are_looked_for(self) -> None:
        pair, (first, _) = image_pair(FLAT), halves(FLAT)
        network = self.network(exclusive=True)
        whole, limited = network.masked(pair), network.masked(replace(pair, fixed_mask=first))
        assert torch.equal(limited.fixed_mask, whole.fixed_mask * first)


class TestGroups:
    @pytest.mark.parametrize(("groups", "expected"), [(((2,), (1, 2)), 2), (((1, 2),), 1)])
    def test_structures_of_a_group_share_a_mask(self, groups: tuple[tuple[int, ...], ...], expected: int) -> None:
        pair = image_pair(FLAT)
        apart = TestStructures.network(2, soft_mask=True).masked(pair).fixed_mask
        network = TestStructures.network(2, soft_mask=True, groups=groups)
        shared = network.masked(pair).fixed_mask
        assert shared.shape[1] == expected == network.settings.masks
        torch.testing.assert_close(shared[:, -1], apart.sum(1).clamp(max=1))
        last = states(network, pair)[-1]
        assert last.structures[0].shape[1] == expected
        assert last.displacement.shape == (1, 2, *FLAT)

    def test_groups_are_of_structures_there_are(self) -> None:
        with pytest.raises(ValueError, match="must be of structures 1 to 2"):
            AgfSettings(nd=2, structures=2, groups=((1, 3),))


class TestSight:
    def test_masks_alone_are_seen_whatever_the_contrast(self) -> None:
        network, pair = TestStructures.network(2, sight="masks"), image_pair(FLAT)
        masks = network.masked(pair)
        assert torch.equal(masks.fixed, masks.fixed_mask)
        given = replace(pair, fixed_mask=masks.fixed_mask, moving_mask=masks.moving_mask)
        inverted = replace(given, fixed=1 - given.fixed)
        fields = [states(network, one)[-1].displacement for one in (given, inverted)]
        assert float(fields[0].abs().max()) > 0
        assert torch.equal(*fields)

    def test_unknown_sight_is_refused(self) -> None:
        with pytest.raises(ValueError, match="sight"):
            AgfSettings(nd=2, sight="sound")


class Bright(StepNetwork):
    """Moves nothing and sees what is bright."""

    def forward(self, warped: Tensor, fixed: Tensor, evidence: Evidence | None = None) -> Tensor:
        return torch.zeros(1, 3, *fixed.shape[2:])

    def recurse(self, pair: ImagePair, recursions: int, *, attend: bool = False) -> Iterator[Recursion]:
        for state in super().recurse(pair, recursions, attend=attend):
            yield replace(state, structures=(pair.fixed, pair.moving))


class TestJob:
    @pytest.mark.parametrize("known", [{"structures": 2.0}, {}], ids=["told", "untold"])
    def test_structures_are_refined_where_the_weights_say_so(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, known: dict[str, float]
    ) -> None:
        seen: dict[str, Any] = {}

        def refine(pair: ImagePair, start: Tensor, settings: Any, *_: Any) -> Tensor:
            seen.update(masks=pair.structures, images=(pair.fixed, pair.moving), settings=settings)
            return start

        monkeypatch.setattr(registrar, "load_network", lambda *_: Bright())
        monkeypatch.setattr(search, "refine", refine)
        path, weights = tmp_path / "image.nrrd", tmp_path / "own.pt"
        source = blob_source(centered((32, 32, 32), (2.0, 2.0, 2.0)))
        images.write_volume(path, source.array, source.geometry)
        weights.touch()
        weights.with_suffix(".json").write_text(json.dumps({"refinement": known}), encoding="ascii")
        both = {"fixed": str(path), "moving": str(path), "device": "cpu"}
        job = RegisterJob(**both, method="rman", recursions=1, weights=str(weights), refinement_steps=1)
        run(job, Reporter())
        assert seen["settings"].structures == known.get("structures", 0)
        if not known:
            assert seen["masks"] is None
            return
        for mask, image in zip(seen["masks"], seen["images"], strict=True):
            assert torch.equal(mask, image)
