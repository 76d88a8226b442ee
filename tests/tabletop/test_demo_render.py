"""The renderer: every kind has a look, views have the promised orientation, every object its number."""

import os
import random
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from conftest import PYTHONPATH
from PIL import Image

from leap.errors import LeapError
from leap.tabletop.appearance import LOOKS
from leap.tabletop.appearance.world import CAMERAS
from leap.tabletop.catalogue import KINDS
from leap.tabletop.labels import LABEL_SHARE, anchor, draw_labels, place_labels, visible_numbers
from leap.tabletop.perception import perception_scene
from leap.tabletop.render import RenderJob, SceneRenderer, render_many
from leap.tabletop.scene import TABLES, PlacedObject, Scene, make_scene

pytest.importorskip("mujoco")
SIZE = 120  # pixels a view: quick, and the labels still fit


@pytest.fixture(scope="module")
def renderer():
    with SceneRenderer(SIZE) as shared:
        yield shared


def scene_of(*objects: PlacedObject) -> Scene:
    return Scene(objects, "oak", light_azimuth=40.0, light_height=1.8, camera_turn=0.0)


def random_scene(seed: int) -> Scene:
    rng = random.Random(seed)
    return make_scene(rng.sample(sorted(kind for kind in KINDS if KINDS[kind].radius < 0.1), 7), rng)


def test_every_kind_has_a_look():
    assert set(LOOKS) == set(KINDS)


@pytest.mark.parametrize("first", range(0, len(KINDS), 8))
def test_every_kind_shows_inside_its_footprint(renderer, first):
    kinds = sorted(KINDS)[first : first + 8]
    spots = [(x, y) for x in (-0.18, 0.18) for y in (-0.36, -0.12, 0.12, 0.36)]
    placed = [PlacedObject(kind, i + 1, *spots[i], 0.4) for i, kind in enumerate(kinds)]
    view = renderer.views(scene_of(*placed))[3]
    _, (middle, _, height), _, angle = CAMERAS[3]
    metres = 2 * height * np.tan(np.radians(angle / 2)) / SIZE  # one pixel on the table
    for thing in placed:
        rows, columns = np.nonzero(view.owners == thing.number)
        assert len(rows) > 8, f"{thing.kind} is hardly visible from above"
        x, y = (SIZE / 2 - rows) * metres + middle, (SIZE / 2 - columns) * metres
        # A handle or a leaf may reach a little beyond the footprint; what is high up looks further outwards.
        assert np.hypot(x - thing.x, y - thing.y).max() < KINDS[thing.kind].radius * 1.12 + 0.05, thing.kind


def test_colours_are_antialiased_and_ids_are_not(renderer):
    """An NVIDIA driver mixes the samples of an id's edge into ids that no object has."""
    assert {segment: context.offSamples for segment, context in renderer._contexts.items()} == {False: 4, True: 0}
    for seed in range(3):
        scene = random_scene(seed)
        known = {0, *(placed.number for placed in scene.objects)}
        assert all(set(np.unique(view.owners)) <= known for view in renderer.views(scene))


def test_sizes_and_modes(renderer):
    for image in renderer.render(random_scene(0)):
        assert image.size == (2 * SIZE, 2 * SIZE)
        assert image.mode == "RGB"


def test_the_same_scene_gives_the_same_pixels_whatever_was_drawn_before(renderer):
    first, _ = renderer.render(random_scene(1))
    other, _ = renderer.render(random_scene(2))
    again, _ = renderer.render(random_scene(1))
    assert first.tobytes() == again.tobytes()
    assert first.tobytes() != other.tobytes()


@pytest.mark.parametrize("seed", range(3))
def test_every_object_has_its_label_where_it_is_seen(renderer, seed):
    scene = random_scene(seed)
    for view in renderer.views(scene):
        places = place_labels(view.owners)
        assert set(places) == set(visible_numbers(view.owners))
        drawn = np.asarray(draw_labels(view.image, view.owners, places), int)
        changed = np.abs(drawn - np.asarray(view.image, int)).sum(2) > 60
        for number, (column, row) in places.items():
            assert changed[row - 3 : row + 4, column - 3 : column + 4].any()
            assert np.hypot(*np.subtract(anchor(view.owners, number), (column, row))) < 4 * LABEL_SHARE * SIZE
    assert set(places) == {placed.number for placed in scene.objects}, "all of them from above"


def test_labels_do_not_overlap_and_stay_inside():
    owners = np.zeros((240, 240), int)
    for number in range(1, 7):  # six objects side by side, the first at the edge
        owners[0:20, 12 * number - 12 : 12 * number] = number
    places = list(place_labels(owners).values())
    diameter = LABEL_SHARE * 240
    for i, place in enumerate(places):
        assert all(diameter / 2 - 1 <= value <= 240 - diameter / 2 + 1 for value in place)
        assert all(np.hypot(*np.subtract(place, other)) >= diameter for other in places[:i])


def test_orientation_of_the_first_and_the_last_view(renderer):
    views = renderer.views(scene_of(PlacedObject("apple", 1, 0.15, 0.3, 0), PlacedObject("apple", 2, -0.15, -0.3, 0)))
    for view in (views[0], views[3]):
        (column, row), (other_column, other_row) = (anchor(view.owners, number) for number in (1, 2))
        assert column < other_column, "larger y is on the left"
        assert row < other_row, "larger x is further up"


def test_the_second_view_is_from_the_left_and_the_third_from_the_right(renderer):
    views = renderer.views(scene_of(PlacedObject("apple", 1, 0.0, 0.3, 0), PlacedObject("apple", 2, 0.0, -0.3, 0)))
    assert anchor(views[1].owners, 1)[1] > anchor(views[1].owners, 2)[1]
    assert anchor(views[2].owners, 1)[1] < anchor(views[2].owners, 2)[1]


@pytest.mark.parametrize("turn", [-6.0, 6.0])
def test_objects_at_the_table_corners_are_seen_in_all_views(renderer, turn):
    corners = [(x, y) for x in (-0.32, 0.32) for y in (-0.48, 0.48)]
    apples = tuple(PlacedObject("apple", i + 1, x, y, 0.0) for i, (x, y) in enumerate(corners))
    for view in renderer.views(Scene(apples, "slate", 0.0, 1.4, turn)):
        assert len(visible_numbers(view.owners)) == 4, view.name


def test_a_hidden_object_is_an_error(renderer):
    inside = scene_of(PlacedObject("fridge", 1, 0, 0, 0), PlacedObject("lemon", 2, 0, 0, 0))
    with pytest.raises(LeapError, match=r"object 2 \(lemon\)"):
        renderer.render(inside)


def test_every_table_looks_different(renderer):
    lemon = (PlacedObject("lemon", 1, 0, 0, 0),)
    assert len({renderer.render(Scene(lemon, table, 0, 1.8, 0))[0].tobytes() for table in TABLES}) == len(TABLES)


@pytest.mark.slow
def test_render_many_writes_what_render_returns(renderer, tmp_path: Path):
    jobs = [RenderJob(random_scene(i), tmp_path / f"{i}.png", tmp_path / f"{i}_numbered.png") for i in range(2)]
    assert sorted(render_many(jobs, SIZE, workers=1)) == [0, 1]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["0.png", "0_numbered.png", "1.png", "1_numbered.png"]
    image, numbered = renderer.render(jobs[1].scene)
    assert np.array_equal(np.asarray(Image.open(jobs[1].image)), np.asarray(image))
    assert np.array_equal(np.asarray(Image.open(jobs[1].numbered)), np.asarray(numbered))


RENDERING = """
import multiprocessing, random, sys
from pathlib import Path
from leap.tabletop.perception import perception_scene
from leap.tabletop.render import RenderJob, render_many

if __name__ == "__main__":
    rng, folder = random.Random(0), Path(sys.argv[1])
    jobs = [RenderJob(perception_scene(rng), folder / f"{i}.png", folder / f"{i}n.png") for i in range(60)]
    for _ in render_many(jobs, 64, workers=1):
        print(*[worker.pid for worker in multiprocessing.active_children()], flush=True)
"""


@pytest.mark.slow
def test_workers_end_when_rendering_is_killed(tmp_path: Path) -> None:
    script = tmp_path / "rendering.py"
    script.write_text(RENDERING)
    environment = {**os.environ, "PYTHONPATH": PYTHONPATH}
    with subprocess.Popen([sys.executable, script, tmp_path], env=environment, stdout=subprocess.PIPE) as rendering:
        assert rendering.stdout
        workers = [int(pid) for pid in rendering.stdout.readline().split()]
        rendering.kill()
    assert workers
    deadline = time.monotonic() + 60
    while any(Path(f"/proc/{pid}").exists() for pid in workers):
        assert time.monotonic() < deadline
        time.sleep(0.1)


def test_numbers_leave_something_to_see_of_every_object(renderer: SceneRenderer) -> None:
    """In the view that shows most of it; tubes, the smallest, had 81 pixels of 240 x 240 at least in 50 scenes."""
    rng, diameter = random.Random("discs"), round(LABEL_SHARE * SIZE)
    rows, columns = np.mgrid[:SIZE, :SIZE]
    for _ in range(8):
        scene = perception_scene(rng)
        most = dict.fromkeys((placed.number for placed in scene.objects), 0)
        for view in renderer.views(scene):
            covered = np.zeros((SIZE, SIZE), bool)
            for column, row in place_labels(view.owners).values():
                covered |= np.hypot(rows - row, columns - column) <= diameter / 2
            for number in most:
                most[number] = max(most[number], int(((view.owners == number) & ~covered).sum()))
        assert min(most.values()) >= 12
