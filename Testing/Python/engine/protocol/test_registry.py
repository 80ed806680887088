"""Method and weight files describe themselves completely, and what is missing or damaged is refused with a sentence."""

import dataclasses
import hashlib
import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from DeepAttentionRegEngine.deform.refine import RefineSettings
from DeepAttentionRegEngine.networks import ARCHITECTURES, build, load_network
from DeepAttentionRegEngine.protocol import errors, fetching, registry
from DeepAttentionRegEngine.protocol.contract import METHOD_NONE, RegisterJob
from DeepAttentionRegEngine.protocol.errors import EngineError
from DeepAttentionRegEngine.protocol.registry import Method, Variant

pytestmark = pytest.mark.torch

METHODS = registry.method_names()
methods = pytest.mark.parametrize("name", METHODS)
REAL = registry.resources()
TINY = {"nd": 2, "widths": "tiny"}
VARIANT = Variant("tiny-weights", 2, TINY, (10.0, 100.0), {})


def method(**changes: Any) -> Method:
    """Return a method with one 3D and two 2D variants."""
    variants = tuple(
        Variant(weights, dimensions, {}, (1.0, 2.0), {}) for weights, dimensions in (("v", 3), ("a", 2), ("b", 2))
    )
    return dataclasses.replace(registry.load_method(METHODS[0]), title="Method", variants=variants, **changes)


@pytest.fixture
def shelf(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Put a Resources folder with one tiny network's weights in place of the real one; return its weight file."""
    (tmp_path / "Models").mkdir()
    file = tmp_path / "Models" / "tiny.pt"
    torch.manual_seed(0)
    torch.save({name: value.half() for name, value in build("rman", TINY).state_dict().items()}, file)
    describe(file)
    monkeypatch.setattr(registry, "resources", lambda: tmp_path)
    return file


def describe(file: Path) -> None:
    """Write weights.json for a weight file as it is now."""
    entry: dict[str, Any] = {item.name: "" for item in dataclasses.fields(registry.Weights)}
    entry.update(id="tiny-weights", file=file.name, bytes=file.stat().st_size, validation={})
    entry["sha256"] = hashlib.sha256(file.read_bytes()).hexdigest()
    (file.parents[1] / "weights.json").write_text(json.dumps({"weights": [entry]}), encoding="ascii")


class TestMethodFiles:
    def test_default_method_exists(self) -> None:
        assert RegisterJob(fixed="", moving="").method in METHODS

    def test_none_is_no_file(self) -> None:
        assert METHOD_NONE not in METHODS

    @methods
    def test_network_can_be_built(self, name: str) -> None:
        found = registry.load_method(name)
        for axes, arguments in found.networks.items():
            assert build(found.architecture, arguments).settings.nd == axes
        for variant in found.variants:
            assert build(found.architecture, variant.network).settings.nd == variant.dimensions

    @methods
    def test_architecture_is_known(self, name: str) -> None:
        assert registry.load_method(name).architecture in ARCHITECTURES

    @methods
    def test_recursions_are_within_their_range(self, name: str) -> None:
        recursions = registry.load_method(name).recursions
        limits = {item.name: item.metadata for item in dataclasses.fields(RegisterJob)}["recursions"]
        assert limits["at_least"] <= recursions.minimum <= recursions.default
        assert recursions.default <= recursions.maximum <= limits["at_most"]

    @methods
    def test_slices_and_volumes_are_provided_for(self, name: str) -> None:
        found = registry.load_method(name)
        assert set(found.grid) == set(found.networks) == {2, 3}

    @methods
    def test_role_is_known(self, name: str) -> None:
        assert registry.load_method(name).role in registry.ROLES

    @methods
    def test_grid_is_large_enough_for_the_network(self, name: str) -> None:
        found = registry.load_method(name)
        for axes, arguments in found.networks.items():
            assert found.grid[axes].minimum_size >= build(found.architecture, arguments).minimum_size

    @methods
    def test_refinement_settings_are_known(self, name: str) -> None:
        for variant in registry.load_method(name).variants:
            assert dataclasses.replace(RefineSettings(1), **variant.refinement)

    @methods
    def test_citation_names_the_paper(self, name: str) -> None:
        assert re.search(r"\b(19|20)\d\d\b", registry.load_method(name).citation)

    @methods
    def test_weights_are_listed(self, name: str) -> None:
        found = registry.load_method(name)
        expected = set(registry.load_weights()) if found.needs_weights else {None}
        assert {variant.weights for variant in found.variants} <= expected


class TestUnknownMethod:
    def test_is_refused_with_the_known_ones(self) -> None:
        with pytest.raises(EngineError, match=METHODS[0]) as caught:
            registry.load_method("elastix")
        assert caught.value.code == errors.METHOD_UNKNOWN

    @pytest.mark.parametrize("name", ["../weights", "", "RMAN/../rman", "rman.json"])
    def test_path_is_no_name(self, name: str) -> None:
        with pytest.raises(EngineError):
            registry.load_method(name)


class TestVariant:
    @pytest.mark.parametrize(
        ("dimensions", "weights", "expected"), [(3, None, "v"), (2, None, "a"), (2, "b", "b"), (3, "v", "v")]
    )
    def test_first_that_fits_is_taken(self, dimensions: int, weights: str | None, expected: str) -> None:
        assert registry.choose_variant(method(), dimensions, weights).weights == expected

    @pytest.mark.parametrize(("dimensions", "weights"), [(3, "a"), (2, "nope")])
    def test_weights_that_do_not_fit_are_refused_by_name(self, dimensions: int, weights: str) -> None:
        with pytest.raises(EngineError, match=rf"{dimensions}D weights named '{weights}'") as caught:
            registry.choose_variant(method(), dimensions, weights)
        assert caught.value.code == errors.WEIGHTS_MISSING

    def test_those_that_fit_are_listed_by_what_they_are_for(self) -> None:
        with pytest.raises(EngineError, match=r"Anything: rman-general; Hippocampus: rman-hippocampus-mr"):
            registry.choose_variant(registry.load_method("rman"), 3, "nope")

    def test_weight_file_for_axes_that_the_method_does_not_have_is_refused(self) -> None:
        flat = dataclasses.replace(method(), networks={2: {}})
        with pytest.raises(EngineError, match=r"no 3D weights named 'own\.pt'"):
            registry.choose_variant(flat, 3, "own.pt")

    def test_method_without_any_for_slices_says_so(self) -> None:
        only_3d = dataclasses.replace(method(), variants=method().variants[:1])
        with pytest.raises(EngineError, match=r"no 2D weights \(available: none\)"):
            registry.choose_variant(only_3d, 2, None)


class TestUsersWeights:
    @pytest.fixture
    def file(self, tmp_path: Path) -> Path:
        arguments = registry.load_method("rman").networks[2] | TINY
        torch.save(build("rman", arguments).state_dict(), tmp_path / "own.pt")
        told = {"network": TINY, "extent_mm": [5, 50], "anatomy": "Brain", "recursions": 7}
        (tmp_path / "own.json").write_text(json.dumps(told), encoding="ascii")
        return tmp_path / "own.pt"

    def test_file_is_loaded_with_what_is_told_beside_it(self, file: Path) -> None:
        variant = registry.choose_variant(registry.load_method("rman"), 2, str(file))
        assert (variant.extent_mm, variant.anatomy, variant.recursions) == ((5, 50), "Brain", 7)
        assert load_network("rman", variant).settings.widths == "tiny"

    def test_method_file_says_what_is_not_told(self, tmp_path: Path) -> None:
        found = registry.load_method("rman")
        variant = registry.choose_variant(found, 3, str(tmp_path / "own.pt"))
        assert (variant.network, variant.extent_mm) == (found.networks[3], None)

    def test_missing_file_is_refused(self, tmp_path: Path) -> None:
        variant = registry.choose_variant(registry.load_method("rman"), 3, str(tmp_path / "none.pt"))
        with pytest.raises(EngineError, match="does not exist") as caught:
            load_network("rman", variant)
        assert caught.value.code == errors.WEIGHTS_MISSING

    @pytest.mark.parametrize(
        "content", [b"", b"hello", b"PK\x03\x04", b"\x80\x02(", b"\x80\x02X\x01\x00\x00\x00\xff", b"0"]
    )
    def test_file_of_anything_else_is_refused(self, file: Path, content: bytes) -> None:
        file.write_bytes(content)
        self.refused(file)

    @pytest.mark.parametrize("kept", [0.5, 0.99])
    def test_truncated_file_is_refused(self, file: Path, kept: float) -> None:
        whole = file.read_bytes()
        file.write_bytes(whole[: int(kept * len(whole))])
        self.refused(file)

    @pytest.mark.parametrize("held", [[1, 2], {"a": 1}, {"flow.weight": torch.zeros(1)}])
    def test_anything_but_the_state_of_the_network_is_refused(self, file: Path, held: object) -> None:
        torch.save(held, file)
        self.refused(file)

    @staticmethod
    def refused(file: Path) -> None:
        with pytest.raises(EngineError, match="do not fit") as caught:
            load_network("rman", registry.choose_variant(registry.load_method("rman"), 2, str(file)))
        assert caught.value.code == errors.WEIGHTS_CORRUPT

    @pytest.mark.parametrize("told", [{"widths": "huge"}, {"depth": 3}, {"nd": 3}, {"decoder": "none"}])
    def test_arguments_of_another_network_are_refused(self, file: Path, told: dict[str, object]) -> None:
        file.with_suffix(".json").write_text(json.dumps({"network": TINY | told}), encoding="ascii")
        self.refused(file)

    def test_imported_file_that_was_changed_is_refused(self, file: Path) -> None:
        content = file.read_bytes()
        told = {"network": TINY, "sha256": hashlib.sha256(content).hexdigest()}
        file.with_suffix(".json").write_text(json.dumps(told), encoding="ascii")
        variant = registry.choose_variant(registry.load_method("rman"), 2, str(file))
        load_network("rman", variant)
        file.write_bytes(content + b"x")
        with pytest.raises(EngineError, match=r"own\.pt is damaged.* Import the weights again") as caught:
            load_network("rman", variant)
        assert caught.value.code == errors.WEIGHTS_CORRUPT

    def test_what_was_hashed_is_what_is_loaded(self, file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        content, reads = file.read_bytes(), []
        monkeypatch.setattr(fetching, "read_content", lambda path: reads.append(path) or content)
        file.write_bytes(b"changed meanwhile")
        load_network("rman", registry.choose_variant(registry.load_method("rman"), 2, str(file)))
        assert reads == [file]

    @pytest.mark.parametrize(
        "content",
        [
            *("{", "[1]", "null", '"text"', "[" * 100_000, '{"network": 5}', '{"network": [["nd", 2]]}'),
            *('{"extent_mm": 5}', '{"extent_mm": ["a", "b"]}', '{"extent_mm": [5]}', '{"extent_mm": [50, 5]}'),
            *('{"extent_mm": [-1, 5]}', '{"extent_mm": [NaN, 5]}', '{"extent_mm": [1, 1e400]}', '{"sha256": 5}'),
            *('{"recursions": 11}', '{"recursions": 0}', '{"recursions": "many"}', '{"anatomy": 5}'),
            *('{"extent_mm": [1, %s]}' % ("9" * 400), '{"refinement": [1]}', '{"refinement": "fast"}', "\xff"),
        ],
        ids=lambda text: text[:30],
    )
    def test_damaged_description_is_refused(self, file: Path, content: str) -> None:
        file.with_suffix(".json").write_bytes(content.encode("latin-1"))
        with pytest.raises(EngineError, match=r"own\.json") as caught:
            registry.choose_variant(registry.load_method("rman"), 2, str(file))
        assert caught.value.hint == "Correct it, or remove it."
        assert caught.value.code == errors.WEIGHTS_CORRUPT


class TestDamagedInstallation:
    @pytest.mark.parametrize("content", ["", "[]", "{}", '{"weights": [{}]}', 100_000 * "["])
    def test_damaged_list_of_weights_is_a_sentence(self, shelf: Path, content: str) -> None:
        (shelf.parents[1] / "weights.json").write_text(content, encoding="ascii")
        with pytest.raises(EngineError, match=r"weights\.json is damaged"):
            registry.load_weights()

    def test_method_whose_weights_need_more_recursions_than_it_takes_is_a_sentence(self, shelf: Path) -> None:
        told = json.loads((REAL / "Methods" / "rman.json").read_text(encoding="ascii"))
        told["variants"][0]["recursions"] = 11
        (shelf.parents[1] / "Methods").mkdir()
        (shelf.parents[1] / "Methods" / "mine.json").write_text(json.dumps(told), encoding="ascii")
        with pytest.raises(EngineError, match=r"mine\.json is damaged.*are 11, but the method takes 1 to 10"):
            registry.load_method("mine")

    @pytest.mark.parametrize("content", ["", "[]", "{}", '{"title": 1}'])
    def test_damaged_method_is_a_sentence(self, shelf: Path, content: str) -> None:
        (shelf.parents[1] / "Methods").mkdir()
        (shelf.parents[1] / "Methods" / "mine.json").write_text(content, encoding="ascii")
        with pytest.raises(EngineError, match=r"mine\.json is damaged"):
            registry.load_method("mine")


class TestRecursions:
    def test_usual_number_is_taken_where_none_is_wanted(self) -> None:
        assert registry.load_method("rman").recursions_for(None) == 3

    def test_usual_number_is_that_of_the_weights(self) -> None:
        found = registry.load_method("agf-diffeo")
        variants = [registry.choose_variant(found, dimensions, None) for dimensions in (2, 3)]
        assert [found.recursions_for(None, variant) for variant in variants] == [2, 5]
        with pytest.raises(EngineError, match="not 6") as caught:
            found.recursions_for(6, variants[1])
        assert caught.value.hint == "5 is the usual number."

    @pytest.mark.parametrize("wanted", [0, 11])
    def test_number_out_of_range_is_refused(self, wanted: int) -> None:
        with pytest.raises(EngineError, match=rf"1 to 10 recursions, not {wanted}"):
            registry.load_method("rman").recursions_for(wanted)


class TestMethodWithoutWeights:
    @pytest.mark.parametrize("dimensions", [2, 3])
    def test_runs_as_it_is(self, dimensions: int) -> None:
        variant = registry.choose_variant(registry.load_method("bspline"), dimensions, None)
        assert (variant.weights, variant.dimensions, variant.extent_mm) == (None, dimensions, None)

    def test_refuses_weights(self) -> None:
        with pytest.raises(EngineError, match="needs no weights"):
            registry.choose_variant(registry.load_method("bspline"), 3, "rman-hippocampus-mr")


class TestWeightFile:
    def test_intact_file_is_found(self, shelf: Path) -> None:
        assert fetching.weight_content("tiny-weights") == shelf.read_bytes()

    def test_network_holds_the_stored_values(self, shelf: Path) -> None:
        stored = torch.load(shelf, weights_only=True)["flow.weight"]
        assert torch.equal(load_network("rman", VARIANT).flow.weight.data, stored.float())

    def test_network_is_in_evaluation_mode(self, shelf: Path) -> None:
        assert not load_network("rman", VARIANT).training

    def test_unlisted_weights_are_refused(self, shelf: Path) -> None:
        with pytest.raises(EngineError, match="'other'") as caught:
            fetching.weight_content("other")
        assert caught.value.code == errors.WEIGHTS_MISSING

    def test_missing_file_is_refused(self, shelf: Path) -> None:
        shelf.unlink()
        with pytest.raises(EngineError, match=r"tiny\.pt is missing") as caught:
            fetching.weight_content("tiny-weights")
        assert caught.value.code == errors.WEIGHTS_MISSING

    def test_damaged_file_is_refused(self, shelf: Path) -> None:
        content = bytearray(shelf.read_bytes())
        content[1000] ^= 1
        shelf.write_bytes(content)
        with pytest.raises(EngineError, match=r"tiny\.pt is damaged") as caught:
            fetching.weight_content("tiny-weights")
        assert caught.value.code == errors.WEIGHTS_CORRUPT

    def test_weights_of_another_network_are_refused(self, shelf: Path) -> None:
        wide = dataclasses.replace(VARIANT, network={**TINY, "widths": "small"})
        with pytest.raises(EngineError, match="do not fit") as caught:
            load_network("rman", wide)
        assert caught.value.code == errors.WEIGHTS_CORRUPT

    @pytest.mark.parametrize("content", [b"no weights at all", b""])
    def test_file_of_another_kind_is_refused(self, shelf: Path, content: bytes) -> None:
        shelf.write_bytes(content)
        describe(shelf)
        with pytest.raises(EngineError) as caught:
            load_network("rman", VARIANT)
        assert caught.value.code == errors.WEIGHTS_CORRUPT

    def test_file_with_code_in_it_is_refused(self, shelf: Path) -> None:
        torch.save({"flow.weight": Path("x")}, shelf)  # any class beyond tensors stands for code
        describe(shelf)
        with pytest.raises(EngineError) as caught:
            load_network("rman", VARIANT)
        assert caught.value.code == errors.WEIGHTS_CORRUPT


class TestResources:
    def test_folder_beside_the_engine_is_found(self) -> None:
        assert (registry.resources() / "weights.json").is_file()

    def test_installed_package_is_found_without_it(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        engine = tmp_path / "DeepAttentionRegEngine" / "protocol"
        engine.mkdir(parents=True)
        shutil.copy(registry.__file__, engine)
        monkeypatch.setattr(registry, "__file__", str(engine / "registry.py"))
        assert registry.resources() == tmp_path / "DeepAttentionRegResources"
