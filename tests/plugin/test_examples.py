"""The documented script runs as it stands, through the plugin's own contributions."""

import runpy
from pathlib import Path

import napari
import numpy as np

from napari_surgsam2.masks import read_labels
from tests.cli.conftest import write_movie

from .conftest import click_on, true_objects

EXAMPLE = Path(__file__).parents[2] / "examples" / "drive_the_widget.py"


def test_the_widget_can_be_driven_by_a_script(
    make_napari_viewer, npe2pm, surgery, monkeypatch, tmp_path, capsys
):
    write_movie(tmp_path / "clip.mp4", surgery.video[:4])
    click = click_on(surgery, true_objects(surgery)[0])
    monkeypatch.chdir(tmp_path)
    with npe2pm.tmp_plugin(package="napari-surgsam2"):
        viewer = make_napari_viewer()
        monkeypatch.setattr(napari, "Viewer", lambda: viewer)
        runpy.run_path(str(EXAMPLE))["main"]("clip.mp4", f"0,{click.y},{click.x}")
        assert "object 1 is in 4 of 4 frames" in capsys.readouterr().out
        np.testing.assert_array_equal(np.asarray(read_labels("masks.tif")), viewer.layers["clip masks"].data)
        assert Path("clip.surgsam2.json").is_file()
