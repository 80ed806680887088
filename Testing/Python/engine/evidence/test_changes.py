"""What has no counterpart after a registration, from a job and from a script: the map, the numbers, the sentences."""

from pathlib import Path

import numpy as np
import pytest

from DeepAttentionRegEngine import Settings, changes, cli, register
from DeepAttentionRegEngine.evidence.changes import told
from DeepAttentionRegEngine.jobs import run
from DeepAttentionRegEngine.maps.change import BRIGHTER, CANNOT_TELL, DARKER, SURE, Change, Changes
from DeepAttentionRegEngine.phantom.thorax import PhantomPair, default_geometry, make_phantom
from DeepAttentionRegEngine.protocol import errors
from DeepAttentionRegEngine.protocol.contract import RegisterJob
from DeepAttentionRegEngine.protocol.reporting import Reporter
from DeepAttentionRegEngine.volume import images

pytestmark = [pytest.mark.torch, pytest.mark.slow]

LIVER = 5
QUICK = {"method": "none", "alignment": "none", "device": "cpu", "refinement_steps": 15}


@pytest.fixture(scope="module")
def pair() -> PhantomPair:
    return make_phantom(default_geometry((48, 40, 48), (7.0, 6.0, 7.0)))


@pytest.fixture(scope="module")
def liver(pair) -> np.ndarray:
    return pair.fixed_labels == LIVER


@pytest.fixture(scope="module")
def files(pair, liver, tmp_path_factory) -> dict[str, str]:
    """A pair of which the fixed image was taken with contrast agent in the liver."""
    folder = tmp_path_factory.mktemp("changes")
    images.write_volume(folder / "fixed.nrrd", pair.fixed + 120.0 * liver, pair.fixed_geometry)
    images.write_volume(folder / "moving.nrrd", pair.moving, pair.moving_geometry)
    return {name: str(folder / f"{name}.nrrd") for name in ("fixed", "moving")}


def test_script_gets_map_and_regions(pair, liver, files):
    found = changes(register(files["fixed"], files["moving"], Settings(**QUICK)))
    sure = found.certainty >= SURE
    assert 2 * (sure & liver).sum() / (sure.sum() + liver.sum()) > 0.75
    assert found.regions[0].kind == BRIGHTER
    assert changes(register((pair.fixed, pair.fixed_geometry), files["moving"], Settings(**QUICK))).regions == []


def test_job_writes_the_map_and_warns(files, liver, tmp_path):
    result = run(RegisterJob(**files, **QUICK, output_changes=str(tmp_path / "c.nrrd")), Reporter())
    written = images.read_volume(result.outputs["changes"])
    assert written.geometry == images.read_volume(files["fixed"]).geometry
    values = result.values["changes"]
    marked_ml = float((written.array >= SURE).sum()) * written.geometry.voxel_volume / 1000
    assert (values["told"], values["unit"]) == (True, "ml")
    assert values["total"] == pytest.approx(marked_ml)
    assert values["regions"][0]["kind"] == BRIGHTER
    assert any("brighter) has no counterpart in the moving image" in warning for warning in result.warnings)


def test_command_line_writes_the_map(files, tmp_path, capsys):
    quick = ["--method", "none", "--alignment", "none", "--device", "cpu", "--refinement-steps", "5"]
    output = tmp_path / "c.nii.gz"
    code = cli.main(["register", *files.values(), *quick, "--output-changes", str(output), "--json"])
    capsys.readouterr()
    assert code == 0
    assert output.exists()


def test_where_it_cannot_be_told_there_is_a_sentence_and_no_file(pair, files, tmp_path):
    noise = tmp_path / "noise.nrrd"
    images.write_volume(noise, np.random.default_rng(0).random(pair.fixed.shape), pair.fixed_geometry)
    job = RegisterJob(fixed=str(noise), moving=files["moving"], **QUICK, output_changes=str(tmp_path / "c.nrrd"))
    result = run(job, Reporter())
    assert "changes" not in result.outputs
    assert not Path(job.output_changes).exists()
    assert result.values["changes"] == {"told": False}
    assert CANNOT_TELL in result.warnings


def test_cancellation_leaves_nothing(files, tmp_path):
    seen: list[str] = []
    job = RegisterJob(**files, **QUICK, output_changes=str(tmp_path / "c.nrrd"))
    reporter = Reporter(
        lambda event: seen.append(event.message), lambda: "Looking for what has no counterpart." in seen
    )
    with pytest.raises(errors.EngineError) as end:
        run(job, reporter)
    assert end.value.code == errors.CANCELLED
    assert not list(tmp_path.iterdir())


def test_few_sentences_tell_of_many_regions():
    regions = [Change((0.0, 0.0, 0.0), 20.0 - number, 0.0, DARKER) for number in range(12)]
    values, sentences = told(Changes(None, regions))
    assert (values["count"], len(values["regions"])) == (12, 10)
    assert values["total"] == pytest.approx(sum(20.0 - number for number in range(12)))
    assert len(sentences) == 4
    assert sentences[-1] == "9 smaller pieces (117 ml) have none either."
