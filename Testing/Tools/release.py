"""Build what can be published: the tree of the last commit in a fresh history, checked against the Extensions Index.

    python Testing/Tools/release.py --output build/release

Makes in the output folder, which must not be there yet: the repository, with one commit and the tag of the version; the
entry of the catalogue; the wheel. Ends with 1 and one sentence for each broken rule, else with 0.
"""

import argparse
import json
import re
import subprocess
import sys
import zipfile
from pathlib import Path
from tempfile import TemporaryDirectory

from DeepAttentionRegEngine import __version__
from release_rules import BY_HAND, Candidate, as_json, broken, catalogue_entry, metadata, total_bytes, wheel_problems

ROOT = Path(__file__).resolve().parents[2]
NAME = "DeepAttentionReg"
BRANCH = "main"


def git(folder: Path, *arguments: str) -> str:
    """Run git in a folder and return what it prints.

    Raises:
        CalledProcessError: If it fails.
    """
    command = ["git", "-c", "core.autocrlf=false", *arguments]
    return subprocess.run(command, cwd=folder, check=True, capture_output=True, text=True).stdout


def uncommitted(source: Path) -> list[str]:
    """Return a sentence if the last commit is not all there is."""
    names = [line[3:] for line in git(source, "status", "--porcelain").splitlines()]
    return [f"Not committed, so not in the release: {', '.join(names)}."] if names else []


def fresh_repository(source: Path, target: Path, version: str) -> None:
    """Make a repository of one commit, tagged, of the files that another one tracks."""
    target.mkdir(parents=True)
    git(source, "checkout-index", "--all", f"--prefix={target.resolve()}/")
    git(target, "init", "--quiet", f"--initial-branch={BRANCH}")
    git(target, "add", "--all", "--force")
    git(target, *_author(source), "commit", "--quiet", f"--message={NAME} {version}")
    git(target, "tag", f"v{version}")


def _author(source: Path) -> list[str]:
    """Return options that name an author where git knows none."""
    told = subprocess.run(["git", "config", "user.email"], cwd=source, capture_output=True, check=False).stdout.strip()
    address = f"{NAME.lower()}@users.noreply.github.com"
    return [] if told else ["-c", f"user.name={NAME} contributors", "-c", f"user.email={address}"]


def wheel(tree: Path, output: Path) -> Path:
    """Build the wheel of a tree without a network and return its path.

    Raises:
        CalledProcessError: If it cannot be built.
    """
    options = ["--no-deps", "--no-build-isolation", "--no-index", "--quiet", "--disable-pip-version-check"]
    subprocess.run([sys.executable, "-m", "pip", "wheel", *options, "--wheel-dir", str(output), str(tree)], check=True)
    return next(output.glob("*.whl"))


def declared_licence(metadata_text: str) -> str:
    """Return the SPDX expression of a wheel's METADATA, empty if it has none."""
    found = re.search(r"^License-Expression: (.+)$", metadata_text, re.MULTILINE)
    return found.group(1).strip() if found else ""


def check_wheel(path: Path, tree: Path) -> list[str]:
    """Return a sentence for each thing that is wrong with the licences of a wheel."""
    listed = json.loads((tree / NAME / "Resources" / "weights.json").read_text(encoding="ascii"))["weights"]
    with zipfile.ZipFile(path) as archive:
        names = archive.namelist()
        described = archive.read(next(name for name in names if name.endswith(".dist-info/METADATA"))).decode()
    return wheel_problems(names, declared_licence(described), listed)


def release(source: Path, output: Path) -> list[str]:
    """Build everything, print what was built, and return the sentences of broken rules."""
    told = metadata((source / "CMakeLists.txt").read_text(encoding="utf-8"))
    entry = catalogue_entry(told)
    target = output / Path(entry["scm_url"]).name
    fresh_repository(source, target, __version__)
    (output / f"{NAME}.json").write_text(as_json(entry), encoding="ascii")
    with TemporaryDirectory() as folder:
        clone = Path(folder) / target.name
        git(output, "clone", "--quiet", target.resolve().as_uri(), str(clone))
        print(f"Repository: {target}, {total_bytes(clone) / 2**20:.1f} MiB as a full clone")
        problems = uncommitted(source) + broken(Candidate(clone, NAME, entry))
        built = wheel(clone, output)
        print(f"Wheel: {built}, {built.stat().st_size / 2**20:.1f} MiB")
        return problems + check_wheel(built, clone)


def main() -> int:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=ROOT / "build" / "release", help="folder to make")
    output = parser.parse_args().output
    if output.exists():
        print(f"{output} is there already; remove it, or name another folder.", file=sys.stderr)
        return 1
    try:
        problems = release(ROOT, output)
    except subprocess.CalledProcessError as error:
        problems = [f"This failed: {' '.join(error.cmd)}", *str(error.stderr or "").splitlines()]
    for sentence in problems:
        print(sentence, file=sys.stderr)
    if not problems:
        print("No rule is broken. Left to do by hand:", *BY_HAND, sep="\n- ")
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
