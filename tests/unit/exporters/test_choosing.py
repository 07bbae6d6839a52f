# SPDX-License-Identifier: Apache-2.0
"""Pictures that leave the choice of a detector's encoder open give way to noise, and only those."""

from __future__ import annotations

from typing import Any

import numpy as np

from packager.exporters import Port
from packager.exporters._transformers.choosing import find_open_rows, replace_open_pictures

OUTPUTS = ("logits", "enc_outputs_class")
PORT = Port("pixel_values", "float32", ("batch", 3, 4, 4), (0.0, 1.0))


def encoder(feeds: Any) -> list[Any]:
    """Score every place by its brightness; two places become queries."""
    pictures = feeds["pixel_values"]
    scores = pictures.mean(1).reshape(len(pictures), -1, 1).repeat(5, 2)
    return [np.zeros((len(pictures), 2, 5), np.float32), scores]


def test_rows_whose_last_chosen_place_ties_with_the_next_are_open() -> None:
    scores = np.array([[3, 2, 1, 0], [3, 2, 2, 0], [3, 3, 1, 0], [3, 2, 2 - 1e-6, 0]], np.float32)[..., None]
    assert find_open_rows(scores, 2).tolist() == [False, True, False, True]
    assert find_open_rows(scores, 4).tolist() == [False] * 4, "every place is chosen"
    many = np.array([[[0, 9], [8, 0], [0, 7]]], np.float32)
    assert find_open_rows(many, 2).tolist() == [False], "a place has the score of its best class"


def test_a_picture_of_one_colour_becomes_noise_and_the_others_stay() -> None:
    drawn = np.random.default_rng(1).random((3, 3, 4, 4)).astype(np.float32)
    drawn[1] = 0
    found = replace_open_pictures({"pixel_values": drawn}, OUTPUTS, [PORT], encoder)["pixel_values"]
    assert found.dtype == np.float32 and found.min() >= 0 and found.max() <= 1
    np.testing.assert_array_equal(found[[0, 2]], drawn[[0, 2]])
    assert found[1].std() > 0 and not find_open_rows(encoder({"pixel_values": found})[1], 2).any()
    again = replace_open_pictures({"pixel_values": drawn}, OUTPUTS, [PORT], encoder)["pixel_values"]
    np.testing.assert_array_equal(found, again)


def test_models_that_choose_nothing_are_not_run() -> None:
    feeds = {"pixel_values": np.zeros((1, 3, 4, 4), np.float32)}
    assert replace_open_pictures(feeds, ("logits",), [PORT], lambda _: 1 / 0) is feeds  # type: ignore[arg-type]
