"""The trials of faults.py: each injects one fault, drawn at random, and says what was not as promised.

A trial has a folder of its own with a pair to register and, in `out`, what an earlier run left.
"""

import csv
import hashlib
import itertools
import json
import multiprocessing
import os
import resource
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "DeepAttentionReg"))

from DeepAttentionRegEngine.phantom import thorax
from DeepAttentionRegEngine.protocol import contract, errors
from DeepAttentionRegEngine.protocol.pair_table import read_pairs
from DeepAttentionRegEngine.volume import images, recursions, segments

ENGINE = [sys.executable, str(ROOT / "DeepAttentionReg" / "Scripts" / "run_engine.py")]
OUTPUTS = {"transform": "transform.nrrd", "warped": "warped.nrrd", "warped-labels": "labels.nrrd"}
INPUTS = ("fixed.nrrd", "moving.nrrd", "fixed_labels.nrrd", "moving_labels.nrrd")
TIMEOUT_S = 120
MINIMUM_MEMORY, USUAL_MEMORY = 2**28, 2**32


@dataclass(frozen=True)
class Trial:
    """One try.

    Attributes:
        rng: Source of what is drawn.
        folder: Its own, a copy of `make_case`.
        seconds: What a registration in it takes where nothing goes wrong.
    """

    rng: np.random.Generator
    folder: Path
    seconds: float = 1.0

    def choose(self, options: Sequence[Any]) -> Any:
        """Return one of several."""
        return options[int(self.rng.integers(len(options)))]

    def register(self, **options: Any) -> "subprocess.Popen[bytes]":
        """Start a registration whose outputs go into `out`; options are those of Popen."""
        return start(self.folder, "register", *INPUTS[:2], *_settings(), *_outputs("out"), **options)

    def state(self) -> dict[str, str]:
        """Return a hash of every file by its name."""
        files = (path for path in self.folder.rglob("*") if path.is_file())
        return {str(path.relative_to(self.folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def start(folder: Path, *arguments: str, **options: Any) -> "subprocess.Popen[bytes]":
    """Start the command line in a folder; what it prints is kept unless the options of Popen say otherwise."""
    streams = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "stdin": subprocess.DEVNULL}
    environment = {**os.environ, "OMP_NUM_THREADS": "1", **options.pop("env", {})}
    return subprocess.Popen([*ENGINE, *arguments], cwd=folder, env=environment, **{**streams, **options})


def _settings(steps: int = 3) -> list[str]:
    labels = [f"--{side}-labels={side}_labels.nrrd" for side in ("fixed", "moving")]
    return ["--method=none", "--alignment=none", f"--refinement-steps={steps}", *labels]


def _outputs(folder: str) -> list[str]:
    return [f"--output-{name}={folder}/{file}" for name, file in OUTPUTS.items()]


def make_case(folder: Path) -> float:
    """Write a pair to register, one of each file that is read, and what a run leaves; return the seconds of a run."""
    folder.mkdir(parents=True)
    (folder / "out").mkdir()
    pair = thorax.make_phantom(thorax.default_geometry((24, 20, 24), (14, 12, 14)))
    for name, array in (("fixed", pair.fixed), ("moving", pair.moving)):
        geometry = getattr(pair, f"{name}_geometry")
        for suffix in (".nrrd", ".nii.gz", ".mha"):
            images.write_volume(folder / f"{name}{suffix}", array, geometry)
        images.write_volume(folder / f"{name}_labels.nrrd", getattr(pair, f"{name}_labels"), geometry)
    segments.write_segments(folder / "labels.seg.nrrd", segments.as_segments(str(folder / "fixed_labels.nrrd")))
    images.write_points(folder / "points.csv", pair.fixed_points_lps)
    (folder / "points.mrk.json").write_text(_markups(pair.fixed_points_lps), encoding="utf-8")
    images.write_linear_transform(folder / "start.tfm", np.eye(4))
    (folder / "pairs.csv").write_text("name,fixed,moving\na,fixed.nrrd,moving.nrrd\n", encoding="utf-8")
    (folder / "pairs.json").write_text('[{"fixed": "fixed.nrrd", "moving": "moving.nrrd"}]', encoding="utf-8")
    job = contract.dump_job(contract.RegisterJob(fixed="fixed.nrrd", moving="moving.nrrd"))
    (folder / "job.json").write_text(job, encoding="utf-8")
    return max(_first_run(folder) for _ in range(2))


def _markups(points_lps: np.ndarray) -> str:
    points = [{"id": str(number), "label": "", "position": point} for number, point in enumerate(points_lps.tolist())]
    markups = [{"type": "Fiducial", "coordinateSystem": "LPS", "coordinateUnits": "mm", "controlPoints": points}]
    return json.dumps({"markups": markups})


def _first_run(folder: Path) -> float:
    begin = time.monotonic()
    done = start(folder, "register", *INPUTS[:2], *_settings(1), *_outputs("out"))
    _, said = done.communicate(timeout=TIMEOUT_S)
    if done.returncode:
        raise RuntimeError(said.decode(errors="replace"))
    return time.monotonic() - begin


# Damaged files: whatever reads them returns something or raises an EngineError.

READERS: dict[str, Callable[[str], Any]] = {
    "fixed.nrrd": images.read_volume,
    "fixed.nii.gz": images.read_volume,
    "fixed.mha": images.read_volume,
    "fixed_labels.nrrd": images.read_labels,
    "labels.seg.nrrd": segments.as_segments,
    "points.csv": images.read_points,
    "points.mrk.json": images.read_points,
    "start.tfm": images.read_linear_transform,
    "out/transform.nrrd": images.read_displacement,
    "pairs.csv": read_pairs,
    "pairs.json": read_pairs,
    "job.json": lambda path: contract.parse_job(Path(path).read_text(encoding="utf-8", errors="surrogateescape")),
    "index.json": lambda path: recursions.read_index(Path(path).parent),
}
JUNK = (b"9" * 400, b"[" * 5000, b"\x00", b"\xff\xfe", b"NaN", b"-1", b"1e999", b'"' * 99, b"../../x", b",\n" * 50)


def _damage(content: bytes, rng: np.random.Generator) -> bytes:
    """Return a file's bytes cut, changed, with a part repeated, or with junk put in, mostly near the start."""
    reach = min(len(content), 2000) if rng.random() < 0.7 else len(content)
    at, size = int(rng.integers(reach)), int(rng.integers(1, 40))
    kind = rng.integers(4)
    if kind == 0:
        return content[:at]
    if kind == 1:
        return content[:at] + rng.bytes(size) + content[at + size :]
    if kind == 2:
        return content[: at + size] + content[at:]
    return content[:at] + JUNK[int(rng.integers(len(JUNK)))] + content[at + (size if rng.random() < 0.5 else 0) :]


def _read(name: str, path: str, told: Path) -> None:
    try:
        READERS[name](path)
    except errors.EngineError:
        pass
    except BaseException as error:
        told.write_text(f"{type(error).__name__}: {error}"[:300], encoding="utf-8", errors="replace")


def damaged(trial: Trial) -> str:
    """Damage a file and read it, in a process of its own as readers in C may crash."""
    name = trial.choose([name for name in READERS if (trial.folder / name).exists()])
    path, told = trial.folder / name, trial.folder / "told.txt"
    path.write_bytes(_damage(path.read_bytes(), trial.rng))
    child = multiprocessing.get_context("fork").Process(target=_read, args=(name, str(path), told))
    child.start()
    child.join(TIMEOUT_S)
    if child.exitcode is None:
        child.kill()
        return f"{name}: reading does not end"
    if child.exitcode:
        return f"{name}: reading ends the process ({child.exitcode})"
    return f"{name}: {told.read_text(encoding='utf-8')}" if told.exists() else ""


# Runs that end early: all outputs are new or all are as they were, inputs are as they were.


def _whole(trial: Trial, before: dict[str, str], *, tidy: bool = True) -> str:
    after = trial.state()
    outputs = {f"out/{file}" for file in OUTPUTS.values()}
    changed = sorted(name for name in before if after.get(name) != before[name])
    if set(changed) - outputs:
        return f"{sorted(set(changed) - outputs)[0]} was changed"
    if changed and set(changed) != outputs:
        return f"only {', '.join(changed)} of the outputs is new"
    extra = sorted(after.keys() - before.keys())
    return f"{extra[0]} was left" if extra and tidy else ""


def _complaint(code: int, said: bytes, allowed: Sequence[int]) -> str:
    text = said.decode(errors="replace")
    if "Traceback" in text:
        return "it ends in a traceback: " + text.strip().splitlines()[-1][:200]
    return "" if code in allowed else f"exit code {code}: {text.strip()[-200:]}"


def _again(trial: Trial) -> str:
    """Run once more, without a fault, and say what is wrong then."""
    outputs = {f"out/{file}" for file in OUTPUTS.values()}
    before = {name: digest for name, digest in trial.state().items() if name in outputs or not name.startswith("out/")}
    run = trial.register()
    _, said = run.communicate(timeout=TIMEOUT_S)
    return _complaint(run.returncode, said, [0]) or _whole(trial, before)


def killed(trial: Trial) -> str:
    """Kill a registration."""
    return _ended(trial, signal.SIGKILL, [0, -signal.SIGKILL], tidy=False) or _again(trial)


def stopped(trial: Trial) -> str:
    """End a registration as time limits and Ctrl+C do."""
    # Before it has begun to listen, a signal simply ends it.
    sign = trial.choose([signal.SIGTERM, signal.SIGINT])
    return _ended(trial, sign, [0, 3, 130, -sign])


def _ended(trial: Trial, sign: int, allowed: Sequence[int], *, tidy: bool = True) -> str:
    before = trial.state()
    run = trial.register()
    time.sleep(trial.rng.uniform(0, 1.1 * trial.seconds))
    run.send_signal(sign)
    _, said = run.communicate(timeout=TIMEOUT_S)
    interrupted = run.returncode == -sign  # Python tells of that by a traceback if it has not yet begun
    return _complaint(run.returncode, b"" if interrupted else said, allowed) or _whole(trial, before, tidy=tidy)


def _limited(trial: Trial, limit: int, size: int, allowed: Sequence[int]) -> str:
    before = trial.state()
    run = trial.register(preexec_fn=lambda: resource.setrlimit(limit, (size, size)))
    _, said = run.communicate(timeout=TIMEOUT_S)
    if run.returncode == 0 and trial.state() == before:
        return "exit code 0, but nothing was written"
    return _complaint(run.returncode, said, allowed) or _whole(trial, before)


def full(trial: Trial) -> str:
    """Let no file get longer than a random size, as on a disk that is full."""
    largest = max((trial.folder / "out" / file).stat().st_size for file in OUTPUTS.values())
    return _limited(trial, resource.RLIMIT_FSIZE, int(trial.rng.uniform(0, 1.2 * largest)), [0, 1])


def starved(trial: Trial) -> str:
    """Give it little memory."""
    size = int(np.exp(trial.rng.uniform(np.log(MINIMUM_MEMORY), np.log(USUAL_MEMORY))))
    return _limited(trial, resource.RLIMIT_AS, size, [0, 1])


def streams(trial: Trial) -> str:
    """Close, fill or narrow the streams that it prints to."""
    before = trial.state()
    way = trial.choose(["closed", "full", "broken", "narrow"])
    which = trial.choose([("stdout",), ("stderr",), ("stdout", "stderr")])
    options: dict[str, Any] = {}
    if way == "narrow":
        options["env"] = {"PYTHONIOENCODING": trial.choose(["ascii", "cp1252"])}
    elif way == "full":
        options |= {name: open("/dev/full", "wb") for name in which}  # noqa: SIM115 - Popen's, for the trial's short life
    elif way == "closed":
        numbers = [("stdout", "stderr").index(name) + 1 for name in which]
        options["preexec_fn"] = lambda: [os.close(number) for number in numbers]
    run = trial.register(**options)
    if way == "broken":
        for name in which:
            getattr(run, name).close()
            setattr(run, name, None)
    run.communicate(timeout=TIMEOUT_S)
    if run.returncode:
        return f"{way} {' and '.join(which)}: exit code {run.returncode}"
    return _whole(trial, before) or ("" if trial.state() != before else f"{way}: nothing was written")


# Outputs that are inputs, and rows that make no sense.


def collision(trial: Trial) -> str:
    """Name an input as an output, by a path of another look."""
    given = trial.folder / trial.choose(INPUTS)
    alias, folder = trial.folder / "alias.nrrd", trial.folder / "folder"
    way = trial.choose(["same", "around", "link", "hard link", "folder link"])
    if way == "link":
        alias.symlink_to(given)
    elif way == "hard link":
        alias.hardlink_to(given)
    elif way == "folder link":
        folder.symlink_to(trial.folder)
    names = {"same": given.name, "around": f"out/../{given.name}", "folder link": f"folder/{given.name}"}
    before = trial.state()
    output = f"--output-{trial.choose(list(OUTPUTS))}={names.get(way, alias.name)}"
    run = start(trial.folder, "register", *INPUTS[:2], *_settings(), output)
    _, said = run.communicate(timeout=TIMEOUT_S)
    after = trial.state()
    lost = [name for name in INPUTS if after.get(name) != before[name]]
    return f"{way}: {lost[0]} was changed" if lost else _complaint(run.returncode, said, [0, 1])


BAD_ROWS = (
    {"fixed": "nothing.nrrd"},
    {"fixed": "start.tfm"},
    {"moving": "pairs.csv"},
    {"moving": "out"},
    {"fixed": "a\x00b.nrrd"},
    {"fixed": "x" * 5000 + ".nrrd"},
    {"method": "nothing"},
    {"refinement_steps": "9" * 400},
    {"refinement_steps": "many"},
    {"output_transform": "../../evil.nrrd"},
    {"output_transform": "fixed.exe"},
    {"fixed_labels": "fixed.nrrd", "moving_labels": "moving.nrrd"},
    {"moving_points": "points.csv"},
    {"initial_transform": "fixed.nrrd"},
)
GOOD_ROW = {"fixed": "fixed.nrrd", "moving": "moving.nrrd", "method": "none", "refinement_steps": "2"}


def table(trial: Trial) -> str:
    """Register a table of which some rows make no sense."""
    bad = [BAD_ROWS[index] for index in trial.rng.choice(len(BAD_ROWS), 3, replace=False)]
    rows = [{"name": f"row{number}", **GOOD_ROW, **row} for number, row in enumerate([*bad, {}])]
    columns = dict.fromkeys(itertools.chain.from_iterable(rows))
    with (trial.folder / "rows.csv").open("w", encoding="utf-8", newline="") as stream:
        writer = csv.DictWriter(stream, list(columns))
        writer.writeheader()
        writer.writerows(rows)
    before = trial.state()
    run = start(trial.folder, "batch", "rows.csv", "results")
    _, said = run.communicate(timeout=TIMEOUT_S)
    after = trial.state()
    outside = [name for name in after if after[name] != before.get(name) and not name.startswith("results/")]
    if outside or (trial.folder.parent / "evil.nrrd").exists():
        return f"{(outside or ['evil.nrrd'])[0]} was written"
    refused = run.returncode == 1 and "results/summary.csv" not in after  # the table as a whole, in one sentence
    if not refused and f"results/row{len(bad)}/transform.nrrd" not in after:
        return f"the good row was not registered beside {bad}: {said.decode(errors='replace').strip()[-200:]}"
    return _complaint(run.returncode, said, [0, 1])


KINDS: dict[str, Callable[[Trial], str]] = {
    kind.__name__: kind for kind in (damaged, killed, stopped, full, starved, streams, collision, table)
}
CHEAP = ("damaged",)  # many of these take as long as one of the others


def make_trial(case: Path, folder: Path, seconds: float, seed: Sequence[int]) -> Trial:
    """Return a trial with a copy of a case."""
    shutil.copytree(case, folder)
    return Trial(np.random.default_rng(seed), folder, seconds)
