"""Register a pair in a real MRML scene, without the Slicer application, and show the result.

    python Testing/Tools/demo.py                                       the breathing thorax phantom
    python Testing/Tools/demo.py --fixed a.nii.gz --moving b.nii.gz    any pair

Writes the transform, the warped volume, the Jacobian, a scene that opens in Slicer, tables and pictures. Where Slicer's
MRML library (slicer-core) is not installed, it runs the engine alone and says so.
"""

import argparse
import importlib.util
import json
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT / "DeepAttentionReg"), str(ROOT / "Testing" / "Python" / "support")]

import demo_tables
from DeepAttentionRegEngine.arguments import add_settings
from DeepAttentionRegEngine.protocol import contract, errors
from DeepAttentionRegEngine.protocol.settings import settings_of
from demo_case import DemoCase, write_phantom

ENGINE = ROOT / "DeepAttentionReg" / "Scripts" / "run_engine.py"
GRAPHICS_PACKAGES = "apt-get install -y libegl1 libgl1 libosmesa6"
# Rendering without a graphics library does not raise but ends the process, so it is tried in another one.
RENDER_ONCE = (
    "import vtk; w = vtk.vtkRenderWindow(); w.SetOffScreenRendering(1); w.AddRenderer(vtk.vtkRenderer()); w.Render()"
)


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    """Return the options of the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add = parser.add_argument
    add("--fixed", type=Path, help="image that stays (nrrd, nii.gz, mha, png)")
    add("--moving", type=Path, help="image to deform onto it")
    add("--fixed-labels", type=Path, help="label map of the fixed image, to score with")
    add("--moving-labels", type=Path, help="label map of the moving image, same values")
    add("--fixed-points", type=Path, help="landmarks on the fixed image (mrk.json, fcsv, csv), to score with")
    add("--moving-points", type=Path, help="the same landmarks on the moving image, same order")
    add("--flat", action="store_true", help="without a pair of your own: the phantom as a single slice")
    add_settings(parser)
    add("--output", type=Path, default=Path("demo-output"), help="folder to write to (default: %(default)s)")
    options = parser.parse_args(arguments)
    if (options.fixed is None) != (options.moving is None):
        parser.error("give both --fixed and --moving, or neither for the phantom")
    options.output = options.output.resolve()
    given = [value for name, value in vars(options).items() if isinstance(value, Path) and name != "output"]
    if any(path.resolve().parent == options.output for path in given):
        parser.error(f"the images lie in {options.output}, where results would overwrite them; choose another --output")
    return options


def make_case(options: argparse.Namespace) -> DemoCase:
    """Return the pair of the command line, or write the phantom."""
    if options.fixed is None:
        return write_phantom(options.output / "input", flat=options.flat)
    title = f"{options.moving.name.split('.')[0]} onto {options.fixed.name.split('.')[0]}"
    labels = options.fixed_labels, options.moving_labels
    return DemoCase(title, options.fixed, options.moving, *labels, options.fixed_points, options.moving_points)


def show_progress(event: contract.Progress) -> None:
    """Print each stage and recursion, not every step of refinement."""
    if event.stage != "refine" or event.step % 20 == 0 or event.step == event.of:
        print(f"  {event.stage}: {event.message}", flush=True)


def run_in_scene(case: DemoCase, options: argparse.Namespace) -> None:
    """Register in a MRML scene by the module's logic and write everything."""
    import vtk

    import slicer_stand_ins

    slicer_stand_ins.install()
    # VTK warns that there is no X server, which off-screen windows do not need.
    vtk.vtkLogger.SetStderrVerbosity(vtk.vtkLogger.VERBOSITY_ERROR)

    import demo_pictures
    import demo_scene
    import mrml_scene

    application = mrml_scene.boot()
    views = demo_pictures.open_views(application)
    loaded = demo_scene.load(case)
    outcome = demo_scene.register(loaded, settings_of(options), show_progress)
    if outcome.warpedSegmentationNode is not None:
        demo_scene.outline(outcome.warpedSegmentationNode)
    values = outcome.result.values
    demo_tables.write_tables(options.output, case, values)
    nodes = demo_pictures.Pictured(
        fixed=loaded.fixed,
        moving=loaded.moving,
        warped=outcome.warpedVolumeNode,
        jacobian=outcome.jacobianVolumeNode,
        transform=outcome.transformNode,
        outlines=loaded.optional.get("fixedSegmentation"),
    )
    shown = demo_pictures.arrange(views, nodes)
    demo_pictures.draw_all(shown, nodes, options.output / "views", demo_tables.make_caption(case, values))
    demo_scene.judge(loaded, outcome.transformNode, options.output / "report.html")
    scene = demo_scene.save(options.output, outcome)
    verdict = demo_scene.check_reopens(scene, outcome.transformNode, outcome.warpedVolumeNode)
    finish(case, options.output, outcome.result)
    print(f"Scene: {scene} ({verdict})")


def run_engine_alone(case: DemoCase, options: argparse.Namespace) -> None:
    """Register by the engine without Slicer's libraries; writes no scene and no pictures."""
    print("slicer-core is not installed here (the demo has it on Linux x86_64), so the engine runs alone:")
    print("no scene and no pictures are made.")
    paths = {name: getattr(case, name) for name in ("fixed_labels", "moving_labels", "fixed_points", "moving_points")}
    job = contract.RegisterJob(
        **asdict(settings_of(options)),
        fixed=str(case.fixed),
        moving=str(case.moving),
        output_transform=str(options.output / "transform.h5"),
        output_warped=str(options.output / "warped.nrrd"),
        output_jacobian=str(options.output / "jacobian.nrrd"),
        output_warped_labels=str(options.output / "warped-labels.nrrd") if case.moving_labels else None,
        **{name: str(path) for name, path in paths.items() if path is not None},
    )
    result = run_job(job)
    demo_tables.write_tables(options.output, case, result.values)
    finish(case, options.output, result)


def run_job(job: contract.Job) -> contract.Result:
    """Run the engine as a child process and return its result.

    Raises:
        EngineError: If it fails.
    """
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "job.json"
        path.write_text(contract.dump_job(job), encoding="utf-8")
        answer = follow([sys.executable, str(ENGINE), "run", str(path)])
    if isinstance(answer, contract.Failure):
        raise errors.EngineError(answer.code, answer.message, answer.hint)
    return answer


def follow(command: list[str]) -> contract.Result | contract.Failure:
    """Run an engine, show its progress and return its last word."""
    answer: contract.Result | contract.Failure = contract.Failure(errors.INTERNAL, "The engine ended without a result.")
    with subprocess.Popen(command, stdout=subprocess.PIPE, encoding="utf-8") as child:
        for event in filter(None, map(contract.parse_event, child.stdout)):
            if isinstance(event, contract.Progress):
                show_progress(event)
            else:
                answer = event
    return answer


def finish(case: DemoCase, output: Path, result: contract.Result) -> None:
    """Write the result's numbers as JSON and print what a person wants to know."""
    report: dict[str, Any] = {"title": case.title, "values": result.values, "warnings": result.warnings}
    (output / "result.json").write_text(json.dumps(report, indent=2), encoding="ascii")
    print(f"\n{case.title}\n\n{demo_tables.summarize(case, result.values)}\n")
    for warning in result.warnings:
        print(f"Warning: {warning}")


def can_render() -> bool:
    """Whether an off-screen window can be drawn, with a sentence printed where it cannot."""
    done = subprocess.run([sys.executable, "-c", RENDER_ONCE], capture_output=True, text=True, check=False)
    if done.returncode != 0:
        print(f"Slicer's views cannot be drawn here: a graphics library is missing. As root: {GRAPHICS_PACKAGES}")
    return done.returncode == 0


def main(arguments: list[str] | None = None) -> int:
    """Run the demo and return the exit code."""
    options = parse(arguments)
    try:
        options.output.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        print(f"Error: {options.output} cannot be the output folder: {error.strerror}.", file=sys.stderr)
        return 1
    has_slicer = importlib.util.find_spec("slicer") is not None
    if has_slicer and not can_render():
        return 1
    started = time.monotonic()
    try:
        case = make_case(options)
        print(f"{case.title}: method {options.method}, quality {options.quality}")
        (run_in_scene if has_slicer else run_engine_alone)(case, options)
    except (errors.EngineError, RuntimeError, ValueError) as error:
        print(f"Error: {error}", file=sys.stderr)
        return 1
    print(f"Everything is in {options.output} ({time.monotonic() - started:.0f} s).")
    return 0


if __name__ == "__main__":
    sys.exit(main())
