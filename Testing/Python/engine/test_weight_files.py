"""Weight files are read as PyTorch reads them, and nothing that they hold is run."""

import io
import os
import pickle
import zipfile
from collections import OrderedDict
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch", reason="PyTorch is not installed")

from DeepAttentionRegEngine.networks.weight_files import read_state

pytestmark = pytest.mark.torch

TYPES = (torch.float32, torch.float16, torch.bfloat16, torch.float64, torch.int8, torch.int64, torch.uint8, torch.bool)


def saved(state: Any, **options: Any) -> bytes:
    stream = io.BytesIO()
    torch.save(state, stream, **options)
    return stream.getvalue()


def repacked(content: bytes, *, program: bytes | None = None, compression: int = zipfile.ZIP_STORED) -> bytes:
    """Return a weight file with another program, or compressed."""
    stream = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(content)) as old, zipfile.ZipFile(stream, "w", compression) as new:
        for part in old.infolist():
            is_program = part.filename.endswith("/data.pkl")
            new.writestr(part.filename, program if program and is_program else old.read(part))
    return stream.getvalue()


def program_of(content: bytes) -> bytes:
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        return archive.read(next(name for name in archive.namelist() if name.endswith("/data.pkl")))


class TestReading:
    @pytest.mark.parametrize("kind", TYPES, ids=str)
    def test_numbers_of_every_type_are_those_of_torch(self, kind: torch.dtype) -> None:
        content = saved({"a": torch.arange(24).reshape(2, 3, 4).to(kind)})
        found, expected = read_state(content), torch.load(io.BytesIO(content), weights_only=True)
        assert found["a"].dtype == kind
        assert torch.equal(found["a"], expected["a"])

    def test_parts_of_one_storage_are_told_apart(self) -> None:
        whole = torch.arange(24.0).reshape(4, 6)
        state = {"whole": whole, "turned": whole.T, "part": whole[1:3, 2:], "one": whole[0, 0], "none": whole[:0]}
        found = read_state(saved(state))
        assert all(torch.equal(found[name], value) for name, value in state.items())

    @pytest.mark.parametrize("wrap", [dict, OrderedDict])
    def test_state_of_a_module_is_read(self, wrap: type) -> None:
        module = torch.nn.Sequential(torch.nn.Conv2d(1, 2, 3), torch.nn.BatchNorm2d(2))
        found = read_state(saved(wrap(module.state_dict())))
        assert list(found) == list(module.state_dict())

    def test_parameters_are_tensors(self) -> None:
        module = torch.nn.Linear(2, 3)
        found = read_state(saved(dict(module.named_parameters())))
        assert torch.equal(found["weight"], module.weight)


class Command:
    """Makes a folder as soon as it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return os.mkdir, (str(self.path),)


class TestRefusal:
    @staticmethod
    def refused(content: bytes, why: str) -> None:
        with pytest.raises(ValueError, match=why):
            read_state(content)

    def test_code_is_not_run(self, tmp_path: Path) -> None:
        content = saved({"a": torch.ones(2)})
        self.refused(repacked(content, program=pickle.dumps({"a": Command(tmp_path / "made")}, 2)), r"asks for .*mkdir")
        assert not (tmp_path / "made").exists()

    @pytest.mark.parametrize("protocol", range(6))
    def test_no_protocol_runs_code(self, tmp_path: Path, protocol: int) -> None:
        program = pickle.dumps(Command(tmp_path / "made"), protocol)
        with pytest.raises((ValueError, LookupError)):
            read_state(repacked(saved({}), program=program))
        assert not (tmp_path / "made").exists()

    @pytest.mark.parametrize("held", [[1, 2], {"a": 1}, {"a": {"b": torch.ones(1)}}, {1: torch.ones(1)}, torch.ones(1)])
    def test_anything_but_tensors_by_name_is_refused(self, held: Any) -> None:
        self.refused(saved(held), "other things than tensors")

    def test_whole_module_is_refused(self) -> None:
        self.refused(saved(torch.nn.Linear(1, 1)), "holds NEWOBJ, which no state dict needs")

    @pytest.mark.parametrize(
        ("old", "new"), [(b"K\x04K\x05\x86", b"K\x64K\x64\x86"), (b"K\x05K\x01\x86", b"K\xffK\x01\x86")]
    )
    def test_tensor_that_reaches_beyond_its_numbers_is_refused(self, old: bytes, new: bytes) -> None:
        content = saved({"a": torch.ones(4, 5)})
        program = program_of(content)
        assert old in program
        self.refused(repacked(content, program=program.replace(old, new)), "beyond its numbers")

    def test_storage_that_claims_more_than_it_holds_is_refused(self) -> None:
        content = saved({"a": torch.ones(4, 5)})
        program = program_of(content).replace(b"X\x03\x00\x00\x00cpu", b"X\x03\x00\x00\x00cpu", 1)
        place = program.index(b"cpu") + 3
        changed = program[:place] + program[place:].replace(b"K\x14", b"K\xff", 1)
        assert changed != program
        self.refused(repacked(content, program=changed), "less numbers than it says")

    def test_many_numbers_out_of_one_are_refused(self) -> None:
        self.refused(saved({"a": torch.ones(1).expand(100)}), "beyond its numbers")

    def test_same_numbers_ever_again_are_refused(self) -> None:
        whole = torch.ones(10_000, dtype=torch.uint8)
        self.refused(saved({str(number): whole for number in range(20)}), "more numbers than it holds")

    def test_compressed_archive_is_refused(self) -> None:
        content = repacked(saved({"a": torch.zeros(100_000)}), compression=zipfile.ZIP_DEFLATED)
        self.refused(content, "compressed")

    def test_parts_that_share_their_bytes_are_refused(self) -> None:
        content = bytearray(saved({"a": torch.zeros(10), "b": torch.zeros(10)}))
        place = content.rindex(b"PK\x01\x02")  # the last entry of the directory: make it as large as the file
        content[place + 20 : place + 28] = 2 * len(content).to_bytes(4, "little")
        self.refused(bytes(content), "larger than the file")

    def test_format_before_the_archive_is_no_zip(self) -> None:
        with pytest.raises(zipfile.BadZipFile):
            read_state(saved({"a": torch.ones(2)}, _use_new_zipfile_serialization=False))
