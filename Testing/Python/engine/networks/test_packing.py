"""Weights in 8 bits come back within half a step, what is small comes back as it was, and damage is refused."""

from pathlib import Path

import pytest

torch = pytest.importorskip("torch", reason="PyTorch is not installed")

from DeepAttentionRegEngine.networks import build, load_network
from DeepAttentionRegEngine.networks.packing import SCALE, is_packed, pack, unpack
from DeepAttentionRegEngine.protocol import errors, registry
from DeepAttentionRegEngine.protocol.errors import EngineError

pytestmark = pytest.mark.torch

TINY = {"nd": 2, "widths": "tiny"}
NAME = "layer.weight"


@pytest.fixture
def weight() -> torch.Tensor:
    """Return weights of twelve channels of very different size, one of them all zero."""
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(12, 8, 3, 3, generator=generator) * torch.logspace(-4, 1, 12).view(-1, 1, 1, 1)
    weight[5] = 0
    return weight


class TestRoundTrip:
    def test_relative_error_of_every_channel_is_below_one_percent(self, weight: torch.Tensor) -> None:
        back = unpack(pack({NAME: weight}))[NAME]
        error, size = ((x.flatten(1).square().sum(1)).sqrt() for x in (back - weight, weight))
        # Steps of a fortieth of the standard deviation, with an error of that by sqrt(12): 0.7 percent.
        assert (error <= 0.01 * size).all()

    def test_error_is_half_a_step_at_most(self, weight: torch.Tensor) -> None:
        packed = pack({NAME: weight})
        step = packed[NAME + SCALE].view(-1, 1, 1, 1)
        assert (unpack(packed)[NAME] - weight).abs().le(0.501 * step).all()

    def test_largest_weight_of_a_channel_is_kept(self, weight: torch.Tensor) -> None:
        back, largest = unpack(pack({NAME: weight}))[NAME], weight.abs().amax((1, 2, 3))
        assert torch.allclose(back.abs().amax((1, 2, 3)), largest)

    def test_zeros_stay_zeros(self, weight: torch.Tensor) -> None:
        assert not unpack(pack({NAME: weight}))[NAME][5].any()

    @pytest.mark.parametrize("small", [torch.randn(64), torch.randn(9, 3), torch.tensor(2.5), torch.randn(4, 1, 3, 3)])
    def test_small_tensors_stay_in_16_bits(self, small: torch.Tensor) -> None:
        packed = pack({"small": small.half()})
        assert packed["small"].dtype == torch.float16
        assert torch.equal(unpack(packed)["small"], small.half().float())

    def test_whole_numbers_stay_as_they_are(self) -> None:
        packed = pack({"norm.num_batches_tracked": torch.tensor(7)})
        assert packed["norm.num_batches_tracked"].dtype == torch.int64

    def test_packing_takes_half_of_16_bits(self, weight: torch.Tensor) -> None:
        packed = pack({NAME: weight})
        assert sum(value.nbytes for value in packed.values()) == weight.numel() + 4 * len(weight)

    def test_packed_state_is_told_from_others(self, weight: torch.Tensor) -> None:
        assert is_packed(pack({NAME: weight}))
        assert not is_packed({NAME: weight})


class TestDamage:
    def test_missing_scale_is_refused(self, weight: torch.Tensor) -> None:
        packed = pack({NAME: weight})
        del packed[NAME + SCALE]
        with pytest.raises(ValueError, match=r"layer\.weight in 8 bits has no scale"):
            unpack(packed)

    @pytest.mark.parametrize(
        "scale", [torch.ones(11), torch.ones(12, 1), torch.zeros(12), torch.full((12,), torch.nan)]
    )
    def test_scale_that_does_not_fit_is_refused(self, weight: torch.Tensor, scale: torch.Tensor) -> None:
        with pytest.raises(ValueError, match="no scale"):
            unpack({**pack({NAME: weight}), NAME + SCALE: scale})


class TestLoader:
    @pytest.fixture
    def state(self) -> dict[str, torch.Tensor]:
        torch.manual_seed(0)
        return build("rman", TINY).state_dict()

    @staticmethod
    def load(path: Path) -> torch.nn.Module:
        return load_network("rman", registry.Variant(str(path), 2, TINY, None, {}))

    def test_network_from_8_bits_holds_what_unpack_returns(self, state: dict, tmp_path: Path) -> None:
        torch.save(pack(state), tmp_path / "w.pt")
        expected, found = unpack(pack(state)), self.load(tmp_path / "w.pt").state_dict()
        assert is_packed(torch.load(tmp_path / "w.pt", weights_only=True))
        assert all(torch.equal(found[name], value) for name, value in expected.items())

    def test_file_in_16_bits_still_loads(self, state: dict, tmp_path: Path) -> None:
        torch.save({name: value.half() for name, value in state.items()}, tmp_path / "w.pt")
        found = self.load(tmp_path / "w.pt").state_dict()
        assert all(torch.equal(found[name], value.half().float()) for name, value in state.items())

    @pytest.mark.parametrize("damage", ["scale", "shape", "other"])
    def test_damaged_file_is_corrupt(self, state: dict, tmp_path: Path, damage: str) -> None:
        packed = pack(state)
        name = next(name for name in packed if name + SCALE in packed)
        if damage == "scale":
            del packed[name + SCALE]
        elif damage == "shape":
            packed[name] = packed[name][:, :1]
        else:
            packed[name] = "text"
        torch.save(packed, tmp_path / "w.pt")
        with pytest.raises(EngineError, match="do not fit the network") as caught:
            self.load(tmp_path / "w.pt")
        assert caught.value.code == errors.WEIGHTS_CORRUPT
