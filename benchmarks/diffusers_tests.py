"""Diffusers' own tests of its models, run as they are and with `accelerate` applied to every model.

    python -m phys4d.benchmarks.diffusers_tests --source DIR [--families NAME ...] [--repository URL] [--revision REV]
                                                [--out DIR]

DIR is a cache folder: the tests are fetched there by git, at the tag of the installed diffusers, unless it has them (a
folder with `tests/` of a checkout alone will do). Run are the files that name a class of a registered family. Each runs
three times, each in a process of its own: stock, with every transformer accelerated at the end of its constructor, and
at its first call. A test that passes stock must pass in both; those that do not are listed, and the exit code is 1.
Without an accelerator, tests that are marked as needing one run on the CPU; those that fail there stock do not count.
--out holds what was found after each file; files that it holds, run with the same content of kernels/ and the same
versions and without a new failure, are not run again.
"""

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Iterable
from importlib.metadata import version
from pathlib import Path
from typing import Any

from phys4d.benchmarks import results
from phys4d.benchmarks.diffusers_plugin import MODES
from phys4d.engine.run_folder.provenance import provenance
from phys4d.kernels.integrate.diffusers import registered_families

REPOSITORY = "https://github.com/huggingface/diffusers"
FOLDER = "tests/models/transformers"
PREFIX = "test_models_transformer_"
LIMIT = 3600  # seconds of one run of pytest, of one file


class Unavailable(Exception):
    """The tests cannot be fetched or run; the message says why and what to do."""


def fetch(source: Path, repository: str, revision: str) -> str:
    """Puts `tests/` of a revision into a folder that lacks it; returns the commit, "local" where it is no checkout.

    Args:
        source: the cache folder. Of the checkout only `tests/` is kept: with `src/` the tests would import that.
        repository: URL or folder of a git repository.
        revision: tag or full commit.

    Raises:
        Unavailable: git failed, or the folder has `src/diffusers`.
    """
    if (source / "src" / "diffusers").exists():
        raise Unavailable(f"{source}: has src/diffusers, which its tests import in place of the installed diffusers")

    def git(*arguments: str) -> str:
        done = subprocess.run(["git", "-C", str(source), *arguments], capture_output=True, text=True)
        if done.returncode:
            raise Unavailable(f"git {arguments[0]} of {revision} of {repository}: {done.stderr.strip()}")
        return done.stdout.strip()

    if not (source / "tests" / "models").is_dir():
        source.mkdir(parents=True, exist_ok=True)
        git("init", "--quiet")
        git("fetch", "--quiet", "--depth", "1", repository, revision)
        git("checkout", "--quiet", "FETCH_HEAD", "--", "tests")
        git("update-ref", "refs/heads/tests", "FETCH_HEAD")
    return git("rev-parse", "refs/heads/tests") if (source / ".git").is_dir() else "local"


def place(repository: str) -> str:
    """A URL as it is; "a local copy" for a folder, whose path is specific to the machine."""
    return repository if "://" in repository else "a local copy"


def files_of_families(source: Path, classes: Iterable[str]) -> dict[str, str]:
    """Name -> path of the files of tests that name one of these classes: "wan" -> "tests/.../..._wan.py"."""
    word = re.compile(rf"\b({'|'.join(map(re.escape, classes))})\b")
    files = sorted((source / FOLDER).glob(f"{PREFIX}*.py"))
    return {file.stem.removeprefix(PREFIX): f"{FOLDER}/{file.name}" for file in files if word.search(file.read_text())}


def run(source: Path, files: list[str], mode: str) -> dict[str, Any]:
    """What `diffusers_plugin` records of these files in this mode; Unavailable where pytest could not run them."""
    with tempfile.TemporaryDirectory() as folder:
        found = Path(folder) / "outcomes.json"
        environment = os.environ | {
            "PHYS4D_ACCELERATE": mode, "PHYS4D_OUTCOMES": str(found), "HF_HUB_OFFLINE": "1",
            "PYTHONPATH": os.pathsep.join([*map(str, _roots()), os.environ.get("PYTHONPATH", "")]).rstrip(os.pathsep),
        }  # fmt: skip
        command = [sys.executable, "-m", "pytest", "-q", "-p", "phys4d.benchmarks.diffusers_plugin"]
        command += ["-p", "no:cacheprovider", "-W", "ignore", "--tb=line", *files]
        try:
            done = subprocess.run(command, cwd=source, env=environment, capture_output=True, text=True, timeout=LIMIT)
        except subprocess.TimeoutExpired:
            raise Unavailable(f"pytest {' '.join(files)}, {mode}: not done in {LIMIT} seconds") from None
        if done.returncode not in (0, 1) or not found.exists():
            raise Unavailable(f"pytest {' '.join(files)}, {mode}: {(done.stdout + done.stderr)[-2000:]}")
        return dict(json.loads(found.read_text()))


def _roots() -> list[Path]:
    """Folders of this package that a process started elsewhere needs on its path."""
    return [Path(__file__).parent.parent] if (Path(__file__).parent.parent / "phys4d").is_dir() else []


def kept(file: Path, source: dict[str, Any], origin: dict[str, Any]) -> list[dict[str, Any]]:
    """Rows of an earlier run of the same tests with the same kernels and versions, but those in which a test fails
    newly; none where there was no such run.
    """
    found = json.loads(file.read_text()) if file.exists() else None
    if found is None or found["source"] != source:
        return []
    trees = [_kernels(str(made["git_revision"])) for made in (found["provenance"], origin)]
    same = ("torch", "triton", "diffusers", "python", "cpu", "gpus")
    if trees[0] is None or trees[0] != trees[1] or any(found["provenance"][name] != origin[name] for name in same):
        return []
    return [row for row in found["rows"] if not newly_failing([row])]


def _kernels(revision: str) -> str | None:
    """Git's name of the content of kernels/ at a revision of this checkout; None where that is not known."""
    folder = str(Path(__file__).resolve().parent)
    words = ["git", "-C", folder, "rev-parse", "--verify", "--quiet", f"{revision}:kernels"]
    done = subprocess.run(words, capture_output=True, text=True)
    return done.stdout.strip() if done.returncode == 0 else None


def compare(family: str, file: str, found: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """One row: counts of each mode, and the tests that pass stock and do not pass accelerated."""
    outcomes = {test: how for test, how in found["stock"]["tests"].items() if test.partition("::")[0] == file}
    stock = {test for test, outcome in outcomes.items() if outcome == "passed"}
    row: dict[str, Any] = {"family": family, "stock": dict(Counter(outcomes.values()))}
    for mode in MODES[1:]:
        tests = found[mode]["tests"]
        row[mode] = {
            "passed": sum(tests.get(test) == "passed" for test in stock),
            "modules": found[mode]["modules"].get(file, 0),
            "newly failing": sorted(f"{test}: {tests.get(test)}" for test in stock if tests.get(test) != "passed"),
        }
    return row


def table(rows: list[dict[str, Any]]) -> str:
    """Markdown: per family the tests that pass stock, and how many of these pass accelerated."""
    lines = [
        "| tests of | pass stock | and accelerated at construction | at the first call | skipped | swapped modules |",
        "|---" * 6 + "|",
    ]
    for row in rows:
        cells = [row["family"], row["stock"].get("passed", 0), *(row[mode]["passed"] for mode in MODES[1:])]
        cells += [row["stock"].get("skipped", 0), row["construction"]["modules"]]
        lines.append("| " + " | ".join(map(str, cells)) + " |")
    return "\n".join(lines)


def summary(result: dict[str, Any]) -> str:
    """The table of the page, the tests that fail where stock passes, and the versions."""
    source, origin = result["source"], result["provenance"]
    failing = newly_failing(result["rows"])
    names = "".join(f"\n- {line}" for line in failing)
    found = f"Newly failing:\n{names}" if failing else "No test that passes stock fails accelerated."
    tag = "" if source["revision"] == f"v{origin['diffusers']}" else ", which is not the tag of that version"
    untested = source.get("without tests")  # absent from older results
    without = f" It has none of {', '.join(untested)}." if untested else ""
    limits = f" Run with pytest's options {source['pytest_options']}." if source["pytest_options"] else ""
    return (
        f"{table(result['rows'])}\n\n{found}\n\nDiffusers {origin['diffusers']}, its tests at commit "
        f"{source['commit'][:12]}{tag}; {results.version(origin)}.{limits}{without} "
        "Skipped: packages or accounts that were not there."
    )


def newly_failing(rows: list[dict[str, Any]]) -> list[str]:
    """Lines "mode, test: outcome" of the tests that pass stock and not accelerated."""
    return [f"{mode}, {test}" for row in rows for mode in MODES[1:] for test in row[mode]["newly failing"]]


def main() -> int:
    """Fetches, runs, prints the table, and with --out writes diffusers-tests.json to that folder."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--source", type=Path, required=True, help="cache folder of diffusers' tests")
    parser.add_argument("--repository", default=REPOSITORY)
    parser.add_argument("--revision", default=f"v{version('diffusers')}", help="tag or full commit")
    parser.add_argument("--families", nargs="+", metavar="NAME", help="wan, ltx, ...; all by default")
    parser.add_argument("--out", type=Path, help="folder for diffusers-tests.json")
    options = parser.parse_args()
    classes = [family.name for family in registered_families()]
    origin, file = provenance(), options.out and options.out / "diffusers-tests.json"
    try:
        commit = fetch(options.source, options.repository, options.revision)
        files = files_of_families(options.source, classes)
        if unknown := set(options.families or files) - set(files):
            raise Unavailable(f"--families {' '.join(sorted(unknown))}: expected some of {', '.join(files)}")
        source = {
            "repository": place(options.repository), "revision": options.revision, "commit": commit,
            "pytest_options": os.environ.get("PYTEST_ADDOPTS", ""),
            "without tests": [name for name in classes if not files_of_families(options.source, [name])],
        }  # fmt: skip
        rows = {row["family"]: row for row in (kept(file, source, origin) if file else [])}
        for name in options.families or files:
            if name not in rows:
                found = {mode: run(options.source, [files[name]], mode) for mode in MODES}
                rows[name] = compare(name, files[name], found)
                print(table([rows[name]]).splitlines()[-1], flush=True)
            if file:
                results.write(
                    file, {"rows": [rows[name] for name in sorted(rows)], "source": source, "provenance": origin}
                )
    except Unavailable as why:
        print(f"phys4d: {why}", file=sys.stderr)
        return 2
    print(table([rows[name] for name in sorted(rows)]))
    failing = newly_failing([rows[name] for name in sorted(rows)])
    print("\n".join(["newly failing:", *failing] if failing else ["none newly failing"]))
    return 1 if failing else 0


if __name__ == "__main__":
    sys.exit(main())
