"""What imports what: the engine runs without napari, and layers import downwards only."""

from __future__ import annotations

import ast
import importlib
import subprocess
import sys
from pathlib import Path

import npe2
import pytest

import napari_surgsam2

ROOT = Path(__file__).parents[1]
PACKAGE = Path(napari_surgsam2.__file__).parent
HOST = {"napari", "qtpy", "magicgui", "superqt", "PyQt5", "PyQt6", "PySide2", "PySide6", "npe2"}

# What each part may import of this package, besides itself.
BASE = {"prompts", "settings", "errors", "paths", "files"}
ENGINE = {"network", "video", "checkpoints"} | BASE
PIPELINE = ENGINE | {"tracking", "masks", "pipeline"}
MAY_IMPORT = {
    "errors": set(),
    "paths": set(),
    "files": {"errors"},
    "settings": {"errors"},
    "prompts": {"errors", "paths", "files"},
    "video": {"errors", "paths"},
    "network": {"errors"},
    "checkpoints": {"errors", "paths", "network"},
    "tracking": ENGINE,
    "masks": {"errors", "paths", "files", "video"},
    "pipeline": PIPELINE,
    "project": PIPELINE,
    "benchmark": ENGINE | {"tracking"},
    "evaluation": PIPELINE,
    "endovis": {"errors", "files", "masks", "evaluation"},
    "synthetic": ENGINE,
    "training": PIPELINE | {"evaluation", "synthetic"},
    "batch": PIPELINE | {"project"},
    "demo": PIPELINE | {"evaluation", "synthetic", "training"},
    "cli": PIPELINE
    | {"benchmark", "batch", "demo", "endovis", "evaluation", "project", "synthetic", "training"},
    "_napari": PIPELINE | {"batch", "demo", "evaluation", "project", "synthetic", "training"},
    "__init__": PIPELINE | {"batch", "project"},
    "__main__": {"cli"},
}


def part(path: Path) -> str:
    """Return the part of the package that a file belongs to."""
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


FILES = sorted(PACKAGE.rglob("*.py"))
ENGINE_MODULES = sorted(
    ".".join(["napari_surgsam2", *path.relative_to(PACKAGE).with_suffix("").parts]).removesuffix(".__init__")
    for path in FILES
    if part(path) not in ("_napari", "__main__")
)


def imported(path: Path) -> set[str]:
    """Return the absolute names of the modules that a file imports, anywhere in it."""
    package = ["napari_surgsam2", *path.relative_to(PACKAGE).parent.parts]
    names = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            start = package[: len(package) - node.level + 1] if node.level else []
            module = ".".join([*start, *([node.module] if node.module else [])])
            names |= {f"{module}.{alias.name}" for alias in node.names}
    return names


def parts_imported(path: Path) -> set[str]:
    own = [name.split(".") for name in imported(path)]
    return {n[1] for n in own if n[0] == "napari_surgsam2" and len(n) > 1 and n[1] in MAY_IMPORT}


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_parts_import_downwards_only(path: Path) -> None:
    here = part(path)
    assert here in MAY_IMPORT, f"say in this test what {here} may import"
    assert parts_imported(path) <= MAY_IMPORT[here] | {here}


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_only_the_plugin_imports_its_host(path: Path) -> None:
    if part(path) != "_napari":
        assert not {name.split(".")[0] for name in imported(path)} & HOST


def modules_after(code: str) -> set[str]:
    """Return the top-level modules that a fresh interpreter has imported after running `code`."""
    code += "\nimport sys; print(*sorted({name.split('.')[0] for name in sys.modules}))"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return set(run.stdout.split())


def test_importing_the_package_starts_neither_torch_nor_napari() -> None:
    code = "import napari_surgsam2 as ns; ns.Point; ns.TrackingSettings; ns.load_prompts; dir(ns)"
    assert not modules_after(code) & (HOST | {"torch", "zarr", "av", "dask"})


def test_the_command_line_starts_torch_only_to_compute() -> None:
    assert not modules_after("import napari_surgsam2.cli") & (
        HOST | {"torch", "zarr", "av", "dask", "requests"}
    )


def test_the_engine_starts_without_napari() -> None:
    imports = "\n".join(f"import {name}" for name in ENGINE_MODULES)
    assert not modules_after(imports) & HOST


@pytest.mark.parametrize("name", [n for n in ENGINE_MODULES if not n.rpartition(".")[2].startswith("_")])
def test_all_public_names_are_there(name: str) -> None:
    module = importlib.import_module(name)
    public = getattr(module, "__all__", [])
    assert len(public) == len(set(public))
    for entry in public:
        getattr(module, entry)
    assert set(public) <= set(dir(module))


@pytest.mark.parametrize("name", ["napari_surgsam2", "napari_surgsam2.checkpoints"])
def test_an_unknown_name_is_an_attribute_error(name: str) -> None:
    with pytest.raises(AttributeError, match=f"module '{name}' has no attribute 'nonsense'"):
        getattr(importlib.import_module(name), "nonsense")  # noqa: B009


def test_the_manifest_is_valid_and_stands_in_the_package() -> None:
    manifest = npe2.PluginManifest.from_file(PACKAGE / "napari.yaml")
    assert manifest.name == "napari-surgsam2"
    manifest.validate_imports()


@pytest.mark.skipif(sys.platform == "win32", reason="git writes links as text files there")
def test_the_manifest_at_the_root_is_a_link_to_it() -> None:
    link = ROOT / "napari.yaml"
    assert link.is_symlink()
    assert link.readlink() == Path("src/napari_surgsam2/napari.yaml")
    assert link.resolve() == (ROOT / "src" / "napari_surgsam2" / "napari.yaml").resolve()
