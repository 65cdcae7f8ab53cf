#!/usr/bin/env -S uv run --script

# /// script
# dependencies = ["nox>=2026.4"]
# ///

"""Every check a person or CI runs: ``uv run nox`` runs the default ones, ``uv run nox -l`` lists them all."""

import os
import subprocess
from pathlib import Path

import nox

nox.needs_version = ">=2026.4"
nox.options.default_venv_backend = "uv"
nox.options.error_on_external_run = True

ROOT = Path(__file__).parent


def members(folder: str, holding: str = "") -> list[str]:
    """Return the members in ``packages`` or ``apps`` that have a subfolder."""
    return sorted(
        path.parent.name
        for path in ROOT.glob(f"{folder}/*/pyproject.toml")
        if (path.parent / holding).exists()
    )


PACKAGES, APPS = members("packages"), members("apps")
CLAIMANTS = members("packages", "claims") + members("apps", "claims")
RACERS = members("packages", "benchmarks") + members("apps", "benchmarks")
# Peers whose pins contradict another member's tests: a group that holds all a benchmark needs, alone.
ALONE = {"interatomic": "mace"}


def folder_of(member: str) -> str:
    """Return a member's folder."""
    return f"packages/{member}" if member in PACKAGES else f"apps/{member}"


def by_id(name: str, values: list[str]):
    """Parametrise a session by member, with the member as its id."""
    return nox.parametrize(name, [nox.param(value, id=value) for value in values])


def sync(session: nox.Session, *arguments: str, compiled: bool = False) -> None:
    """Install exactly what the lock says into the session's environment; compiled where programs start."""
    session.run_install(
        "uv",
        "sync",
        "--locked",
        "--no-default-groups",
        f"--python={session.virtualenv.location}",
        *arguments,
        env={
            "UV_PROJECT_ENVIRONMENT": session.virtualenv.location,
            "UV_COMPILE_BYTECODE": str(int(compiled)),
        },
        external=True,
    )


def sync_member(session: nox.Session, member: str, *groups: str, compiled: bool = False) -> None:
    """Install one member, its own dependencies and the groups named; nothing of another member's."""
    sync(
        session,
        "--package",
        f"lemmata-{member}",
        *(f"--group={group}" for group in groups),
        compiled=compiled,
    )


def pytest(session: nox.Session, *arguments: str, parallel: bool = True, checked: bool = True) -> None:
    """Run pytest: on every core and with shapes checked, unless the order or the clock matters."""
    workers = ["--numprocesses=auto"] if parallel else ["-p", "no:xdist"]
    environment = {} if checked else {"JAXTYPING_DISABLE": "1"}
    if parallel:
        environment["OMP_NUM_THREADS"] = "1"
    session.run("pytest", *workers, *arguments, *session.posargs, env=environment)


@nox.session(default=True)
def lint(session: nox.Session) -> None:
    """Check style, borders between packages, spelling, repository practice and known vulnerabilities."""
    sync(session, "--all-packages", "--group=lint")
    session.run("ruff", "check")
    session.run("ruff", "format", "--check")
    session.run("lint-imports", "--no-cache")
    session.run("codespell")
    session.run("sp-repo-review", ".")
    for folder in (*(f"packages/{name}" for name in PACKAGES), *(f"apps/{name}" for name in APPS)):
        with session.chdir(folder):
            session.run("deptry", "src", "--known-first-party=lemmata", silent=True)
    audit(session)


def audit(session: nox.Session) -> None:
    """Ask the vulnerability service about every locked dependency; warn where it cannot be reached."""
    command = [os.environ.get("UV", "uv"), "audit", "--locked", "--preview-features", "audit-command"]
    result = subprocess.run(
        command, capture_output=True, text=True, check=False, env={**os.environ, "UV_HTTP_RETRIES": "0"}
    )
    if result.returncode and "error sending request" in result.stderr:
        session.warn("dependencies not audited: the vulnerability service cannot be reached from here")
    elif result.returncode:
        session.error(result.stdout + result.stderr)


@nox.session(default=True)
def types(session: nox.Session) -> None:
    """Check every source file with mypy --strict."""
    sync(session, "--all-packages", "--group=types")
    session.run(
        "mypy", *(f"packages/{name}/src" for name in PACKAGES), *(f"apps/{name}/src" for name in APPS)
    )


@nox.session(default=True)
@by_id("package", members("packages", "tests"))
def tests(session: nox.Session, package: str) -> None:
    """Test one package and its doctests where only its own dependencies are installed."""
    sync_member(session, package, "test")
    pytest(
        session, "-m", "not slow", "--doctest-modules", f"packages/{package}/src", f"packages/{package}/tests"
    )


@nox.session(default=True)
@by_id("app", members("apps", "tests"))
def apps(session: nox.Session, app: str) -> None:
    """Test one app where only its own dependencies are installed."""
    sync_member(session, app, "test", compiled=True)
    pytest(session, "-m", "not slow", f"apps/{app}/tests")


@nox.session(default=True)
def integration(session: nox.Session) -> None:
    """Test what crosses a border: wheels alone, README commands, kill and resume, several processes."""
    sync(session, "--all-packages", "--group=test", compiled=True)
    pytest(session, "tests-integration")


@nox.session(default=False)
@by_id("member", members("packages", "tests") + members("apps", "tests"))
def slow(session: nox.Session, member: str) -> None:
    """Run the tests of one member that take more than a few seconds each."""
    sync_member(session, member, "test")
    pytest(session, "-m", "slow", f"{folder_of(member)}/tests", parallel=False)


@nox.session(default=False)
@by_id("member", CLAIMANTS)
def claims(session: nox.Session, member: str) -> None:
    """Run one member's claims and write docs/claims.md; ``-- --full`` runs the long ones too."""
    sync_member(session, member, "test", "benchmarks")
    names = ("-o", "python_files=claim_*.py", "-o", "python_functions=claim_*")
    try:
        pytest(session, *names, f"{folder_of(member)}/claims", parallel=False, checked=False)
    finally:
        session.run("python", "docs/render.py")


@nox.session(default=False)
@by_id("member", RACERS)
def benchmarks(session: nox.Session, member: str) -> None:
    """Measure one member beside its peers and write docs/benchmarks.md."""
    groups = [ALONE[member]] if member in ALONE else ["test", "benchmarks"]
    sync_member(session, member, *groups)
    names = ("-o", "python_files=bench_*.py", "-o", "python_functions=bench_*")
    pytest(
        session, *names, "--benchmark-only", f"{folder_of(member)}/benchmarks", parallel=False, checked=False
    )
    session.run("python", "docs/render.py")


@nox.session(default=False)
def docs(session: nox.Session) -> None:
    """Build the site with warnings as errors, and run the examples of its pages."""
    sync(session, "--all-packages", "--group=docs", "--group=test")
    session.run("python", "docs/render.py", "--check")
    session.run(
        "mkdocs", "build", "--strict", "--site-dir=site", *session.posargs, env={"NO_MKDOCS_2_WARNING": "1"}
    )
    # As a reader runs them: without the tests' checks of types, one of which a hook of DDP cannot pass.
    pytest(session, "docs/test_pages.py", checked=False)


@nox.session(default=False)
@by_id("member", PACKAGES + APPS)
def build(session: nox.Session, member: str) -> None:
    """Build one member's wheel and sdist, install the wheel into an empty environment and import it."""
    folder = "packages" if member in PACKAGES else "apps"
    out = Path(session.create_tmp())
    session.run(
        "uv", "build", "--package", f"lemmata-{member}", f"--out-dir={out / member}", "--clear", external=True
    )
    session.run(
        "uv", "build", "--all-packages", "--wheel", f"--out-dir={out / 'needs'}", silent=True, external=True
    )
    session.install(f"--find-links={out / 'needs'}", str(next((out / member).glob("*.whl"))))
    name = f"lemmata.{member}" if folder == "packages" else f"lemmata.apps.{member.replace('-', '_')}"
    session.run("python", "-c", f"import {name}; print({name}.__name__, 'imports')")


if __name__ == "__main__":
    nox.main()
