"""Files that are damaged in any way are read, or refused in one sentence, by every reader of files of others."""

import io
import json
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("torch", reason="PyTorch is not installed")
hypothesis = pytest.importorskip("hypothesis", reason="hypothesis is not installed")

import torch
from hypothesis import strategies as st

from DeepAttentionRegEngine.evidence.gaussian_files import read_sequence
from DeepAttentionRegEngine.networks import load_network
from DeepAttentionRegEngine.protocol import contract, registry
from DeepAttentionRegEngine.protocol.errors import EngineError
from DeepAttentionRegEngine.protocol.pair_table import read_pairs
from DeepAttentionRegEngine.protocol.result_files import RESULT, read_result
from DeepAttentionRegEngine.volume import images, recursions, segments
from header_cases import SPACE, meta_image, nifti, nrrd

pytestmark = pytest.mark.torch

ARRAY = np.arange(60, dtype=np.int16).reshape(3, 4, 5)
GRID = {"size": [5, 4, 3], "spacing": [1, 1, 1], "origin": [0, 0, 0], "direction": [1, 0, 0, 0, 1, 0, 0, 0, 1]}
GAUSSIAN = {
    "center_lps": [0, 0, 0],
    "axes_lps": [[1, 0, 0], [0, 1, 0], [0, 0, 1]],
    "sigma_mm": [1, 2, 3],
    "vector_lps": [1, 0, 0],
}
STEP = {"displacement": "r.nrrd", "similarity": 0.5, "fold_percent": 0.0, "maps": [], "attention": [], "gaussians": []}
METHOD = {
    "architecture": "rman",
    "recursions": {"default": 2},
    "networks": {"2": {"nd": 2}},
    "variants": [{"weights": "mine.pt", "dimensions": 2, "extent_mm": [1, 2]}],
}
TOLD = {"network": {"nd": 2}, "extent_mm": [30, 80], "refinement": {"steps": 5}, "sha256": "0" * 64}


def text_of(value: object) -> bytes:
    return json.dumps(value).encode()


def of_torch(state: dict[str, torch.Tensor]) -> bytes:
    stream = io.BytesIO()
    torch.save(state, stream)
    return stream.getvalue()


def of_numpy() -> bytes:
    stream = io.BytesIO()
    tokens = np.zeros((1, 4, 2), np.float16)
    sizes = {"query_size": (2, 2), "key_size": (2, 2), "query_stride": 2.0, "key_stride": 2.0}
    np.savez(stream, query=tokens, key=tokens, **sizes)
    return stream.getvalue()


TRANSFORM = (
    b"#Insight Transform File V1.0\nTransform: AffineTransform_double_3_3\n"
    b"Parameters: 1 0 0 0 1 0 0 0 1 0 0 0\nFixedParameters: 0 0 0\n"
)
FIELD = b"#Insight Transform File V1.0\nTransform: DisplacementFieldTransform_double_3_3\n" + (
    b"Parameters: " + b"0 " * 24 + b"\nFixedParameters: 2 2 2 0 0 0 1 1 1 1 0 0 0 1 0 0 0 1\n"
)
SEGMENTS = ("Segment0_Name:=Rib", "Segment0_LabelValue:=1", "Segment0_Layer:=0")
JOB = {"contract": 1, "task": "warp", "moving": "a", "transform": "b", "output": "c"}
RECORD = {"contract": 1, "result": {"outputs": {}, "values": {"a": 1}, "warnings": []}}
MARKUP = {"coordinateSystem": "LPS", "coordinateUnits": "mm", "controlPoints": [{"position": [1, 2, 3]}]}
ALIGNED = {"contract": 1, "alignment": np.eye(4).tolist()}
INDEX = {**ALIGNED, "method": "rman", "grid": GRID, "recursions": [STEP]}
GAUSSIANS = {**ALIGNED, "mode": "compose", "dimensions": 3, "numbers": 15, "steps": [[GAUSSIAN]]}
PLANE = (SPACE[0], "space directions: (0,2,0) (0,0,3)", SPACE[2])


def variant_of(path: Path) -> registry.Variant:
    return registry.choose_variant(registry.load_method("rman"), 2, str(path.with_suffix(".pt")))


# Name of the file, a sound content of it, and what reads it.
READERS: dict[str, tuple[str, bytes, Callable[[Path], Any]]] = {
    "job": ("job.json", text_of(JOB), lambda path: contract.parse_job(path.read_bytes())),
    "table": ("pairs.csv", b"name,fixed,moving,recursions\none,f,m,3\ntwo,f,n,\n", read_pairs),
    "list": ("pairs.json", text_of([{"fixed": "f", "moving": "m", "recursions": 3}]), read_pairs),
    "record": (RESULT, text_of(RECORD), lambda path: read_result(path.parent)),
    "method": ("mine.json", text_of(METHOD), lambda path: registry.load_method(str(path))),
    "told": ("own.json", text_of(TOLD), variant_of),
    "weights": ("own.pt", of_torch({"a": torch.ones(3, 2)}), lambda path: load_network("rman", variant_of(path))),
    "markups": ("p.mrk.json", text_of({"markups": [MARKUP]}), images.read_points),
    "fcsv": ("p.fcsv", b"# CoordinateSystem = LPS\n# columns = id,x,y,z,ow\n1,1,2,3,0\n", images.read_points),
    "points": ("p.csv", b"label,l,p,s\nP1,1.5,2,3\nP2,4,5,6\n", images.read_points),
    "nrrd": ("v.nrrd", nrrd(ARRAY, *SPACE), images.read_volume),
    "slice": ("v.nrrd", nrrd(ARRAY[0], *PLANE), images.read_volume),
    "segments": ("v.seg.nrrd", nrrd(ARRAY % 2, *SPACE, *SEGMENTS), segments.as_segments),
    "meta": ("v.mha", meta_image(ARRAY, "ElementSpacing = 1 2 3"), images.read_volume),
    "nifti": ("v.nii", nifti(ARRAY), images.read_volume),
    "nifti slice": ("v.nii", nifti(ARRAY[0].astype(np.float32)), images.read_volume),
    "tfm": ("t.tfm", TRANSFORM, images.read_linear_transform),
    "field": ("t.tfm", FIELD, images.read_displacement),
    "index": (recursions.INDEX, text_of(INDEX), lambda path: recursions.read_index(path.parent)),
    "attention": ("a.npz", of_numpy(), recursions.read_attention),
    "gaussians": ("g.json", text_of(GAUSSIANS), read_sequence),
}
NASTY = (
    *(b"-1", b"0", b"9" * 400, b"1e400", b"nan", b"-3", b"1000000000000000", b"null", b"true", b'"x"'),
    *(b"[]", b"{}", b"[[[[1]]]]", b"[" * 100_000, b'{"a":' * 5000, b"\\ud800", b"%s%n", b"../x", b"/etc/passwd"),
    *(b"\0", b"\xff\xfe", b"\xed\xa0\x80", b"x" * 200_000, b'"', b"\n", b"\n\n", b",", b" 1" * 24),
)


@st.composite
def damaged(draw: st.DrawFn, sound: bytes) -> bytes:
    """Return a content of which some places hold something else."""
    content = sound
    for _ in range(draw(st.integers(1, 3))):
        start = draw(st.integers(0, max(0, len(content) - 1)))
        end = min(len(content), start + draw(st.integers(0, 12)))
        part = draw(st.one_of(st.sampled_from(NASTY), st.binary(max_size=8)))
        content = content[:start] + part + content[end:]
    return content[: draw(st.integers(0, len(content)))] if draw(st.integers(0, 5)) == 0 else content


def is_read_or_refused(read: Callable[[Path], Any], path: Path) -> bool:
    """Return whether a file is read, or refused in a sentence that fits on a screen."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            read(path)
    except EngineError as error:
        return bool(error.message) and "\n" not in error.message and len(error.message) < 1000
    return True


@pytest.mark.parametrize("kind", READERS)
def test_sound_file_is_read(kind: str, tmp_path: Path) -> None:
    name, sound, read = READERS[kind]
    (tmp_path / name).write_bytes(sound)
    if kind != "weights":  # which are of no network
        read(tmp_path / name)


@pytest.mark.slow
@pytest.mark.parametrize("kind", READERS)
def test_damage_is_told_in_one_sentence(kind: str, tmp_path: Path) -> None:
    name, sound, read = READERS[kind]

    @hypothesis.settings(max_examples=40, derandomize=True, deadline=None, database=None)
    @hypothesis.given(damaged(sound))
    def check(content: bytes) -> None:
        (tmp_path / name).write_bytes(content)
        assert is_read_or_refused(read, tmp_path / name)

    check()


ANY_JSON = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=5)),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(st.text(max_size=5), inner, max_size=3)),
    max_leaves=6,
)


@pytest.mark.slow
@pytest.mark.parametrize("kind", [kind for kind, (name, *_) in READERS.items() if name.endswith(".json")])
def test_json_of_another_shape_is_told_in_one_sentence(kind: str, tmp_path: Path) -> None:
    name, sound, read = READERS[kind]

    @st.composite
    def reshaped(draw: st.DrawFn) -> Any:
        """Return the sound value with another one at some place in it."""
        value = json.loads(sound)
        place = value
        while isinstance(place, (dict, list)) and place:
            keys = sorted(place) if isinstance(place, dict) else range(len(place))
            key = draw(st.sampled_from(keys))
            if not isinstance(place[key], (dict, list)) or not place[key] or draw(st.booleans()):
                place[key] = draw(ANY_JSON)
                return value
            place = place[key]
        return draw(ANY_JSON)

    @hypothesis.settings(max_examples=40, derandomize=True, deadline=None, database=None)
    @hypothesis.given(reshaped())
    def check(value: Any) -> None:
        (tmp_path / name).write_bytes(text_of(value))
        assert is_read_or_refused(read, tmp_path / name)

    check()
