"""Every member builds, installs alone into an empty environment, and imports there."""

import os
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from pathlib import Path

import pytest

UV = os.environ.get("UV", "uv")
ROOT = Path(__file__).parent.parent
MEMBERS = sorted(
    path.parent for folder in ("packages", "apps") for path in ROOT.glob(f"{folder}/*/pyproject.toml")
)


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("dist")
    subprocess.run([UV, "build", "--all-packages", "--quiet", f"--out-dir={out}"], cwd=ROOT, check=True)
    return out


def distribution(member: Path) -> tuple[str, str]:
    project = tomllib.loads((member / "pyproject.toml").read_text())
    return project["project"]["name"], project["tool"]["uv"]["build-backend"]["module-name"]


def wheel(built: Path, name: str) -> Path:
    (found,) = built.glob(f"{name.replace('-', '_')}-*.whl")
    return found


@pytest.mark.parametrize("member", MEMBERS, ids=lambda path: path.name)
def test_wheel_holds_its_module_licence_and_type_marker_and_nothing_else(built: Path, member: Path) -> None:
    name, module = distribution(member)
    folder = module.replace(".", "/")
    with zipfile.ZipFile(wheel(built, name)) as archive:
        files = [file for file in archive.namelist() if not file.endswith("/")]
    assert f"{folder}/__init__.py" in files
    assert f"{folder}/py.typed" in files
    assert any(file.endswith(".dist-info/licenses/LICENSE") for file in files)
    assert all(file.startswith(f"{folder}/") or ".dist-info/" in file for file in files)


@pytest.mark.parametrize("member", MEMBERS, ids=lambda path: path.name)
def test_sdist_builds_the_same_wheel_contents(built: Path, member: Path) -> None:
    name, _ = distribution(member)
    (sdist,) = built.glob(f"{name.replace('-', '_')}-*.tar.gz")
    with tarfile.open(sdist) as archive:
        inside = {
            file.split("/src/", 1)[1]
            for file in archive.getnames()
            if "/src/" in file and file.endswith(".py")
        }
    with zipfile.ZipFile(wheel(built, name)) as archive:
        assert inside == {file for file in archive.namelist() if file.endswith(".py")}


@pytest.mark.parametrize("member", MEMBERS, ids=lambda path: path.name)
def test_wheel_installs_alone_and_imports(built: Path, member: Path, tmp_path: Path) -> None:
    name, module = distribution(member)
    python = tmp_path / "env" / ("Scripts" if sys.platform == "win32" else "bin") / "python"
    subprocess.run([UV, "venv", "--quiet", f"--python={sys.executable}", tmp_path / "env"], check=True)
    install = [
        "uv",
        "pip",
        "install",
        "--quiet",
        f"--python={python}",
        f"--find-links={built}",
        wheel(built, name),
    ]
    subprocess.run(install, check=True, cwd=tmp_path)
    code = f"import {module} as face; [getattr(face, public) for public in face.__all__]"
    subprocess.run([python, "-W", "error::ImportWarning", "-c", code], check=True, cwd=tmp_path)
