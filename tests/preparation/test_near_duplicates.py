"""Near duplicates: each image joins the nearest of those that stand for themselves."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, ImageEnhance

from leap.errors import UsageError
from leap.preparation.build.copies import MOST_BITS, check_distance, first_alike, nearest_of
from leap.preparation.check.image_facts import look_at_files

# Few bits far apart, so that near hashes are common
HASHES = st.lists(
    st.builds(
        lambda base, flips: base ^ sum({1 << flip for flip in flips}),
        st.sampled_from([0, (1 << 64) - 1, 0x0123456789ABCDEF, 0xF0F0F0F0F0F0F0F0]),
        st.lists(st.integers(0, 63), max_size=7),
    ),
    max_size=40,
)


def bits(one: int, other: int) -> int:
    return (one ^ other).bit_count()


@given(hashes=HASHES, distance=st.integers(0, 6))
def test_an_image_joins_the_nearest_that_stands_for_itself(hashes: list[int], distance: int) -> None:
    stands = first_alike(np.array(hashes, np.uint64), distance).tolist()
    leaders: list[int] = []
    for place, value in enumerate(hashes):
        if value in hashes[:place]:  # the very same image goes where the first of its like went
            assert stands[place] == stands[hashes.index(value)]
            continue
        near = [(bits(value, hashes[leader]), leader) for leader in leaders if bits(value, hashes[leader]) <= distance]
        assert stands[place] == (min(near)[1] if near else place)
        if not near:
            leaders.append(place)


@given(hashes=HASHES, others=HASHES, distance=st.integers(0, 6))
def test_the_nearest_of_others(hashes: list[int], others: list[int], distance: int) -> None:
    places = nearest_of(np.array(hashes, np.uint64), np.array(others, np.uint64), distance)
    for value, place in zip(hashes, places.tolist(), strict=True):
        near = [(bits(value, other), at) for at, other in enumerate(others) if bits(value, other) <= distance]
        assert place == min(near, default=(-1, -1))[1]


def test_distances_that_make_no_sense_are_refused() -> None:
    for distance in (-1, MOST_BITS + 1):
        with pytest.raises(UsageError, match=str(MOST_BITS)):
            check_distance(distance)


def test_a_brighter_smaller_recoded_image_is_near_and_another_scene_is_not(tmp_path) -> None:  # type: ignore[no-untyped-def]
    rng = np.random.default_rng(0)
    scenes = [
        Image.fromarray(rng.integers(0, 255, (9, 12, 3)).astype(np.uint8)).resize((320, 240), Image.Resampling.BICUBIC)
        for _ in range(2)
    ]
    scenes[0].save(tmp_path / "a.png")
    scenes[0].save(tmp_path / "recoded.png", compress_level=0)
    ImageEnhance.Brightness(scenes[0].resize((200, 150))).enhance(1.1).save(tmp_path / "near.jpg", quality=60)
    scenes[1].save(tmp_path / "b.png")
    names = ["a.png", "recoded.png", "near.jpg", "b.png"]
    plain, recoded, near, other = look_at_files([str(tmp_path / name) for name in names])
    assert not isinstance(plain, str)
    assert not isinstance(near, str)
    assert not isinstance(other, str)
    assert recoded == plain
    assert near.digest != plain.digest
    assert bits(near.phash, plain.phash) <= 4 < 16 < bits(other.phash, plain.phash)
