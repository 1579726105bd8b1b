"""Colour and grain of an edit follow what surrounds it; nothing outside the mask is touched or read from under it."""

from __future__ import annotations

import cv2
import numpy as np

from hetcache.media.harmonise import match_colour, regrain, ring_around

COUNT, HEIGHT, WIDTH = 9, 80, 96


def picture(seed=0):
    rng = np.random.default_rng(seed)
    field = cv2.resize(rng.random((6, 6, 3)).astype(np.float32), (WIDTH, HEIGHT), interpolation=cv2.INTER_CUBIC)
    return np.repeat((60 + 120 * field).clip(0, 255).astype(np.uint8)[None], COUNT, 0)


def hole():
    mask = np.zeros((COUNT, HEIGHT, WIDTH), bool)
    for index in range(COUNT):
        mask[index, 24:56, 24 + 2 * index : 60 + 2 * index] = True
    return mask


def test_an_offset_and_a_slope_are_taken_away():
    source, mask = picture(), hole()
    slope = np.linspace(-6, 6, WIDTH)[None, None, :, None]
    edit = (source + 8 + slope).clip(0, 255).round().astype(np.uint8)
    matched = match_colour(edit, source, mask)
    before = np.abs(edit[mask].astype(float) - source[mask]).mean()
    after = np.abs(matched[mask].astype(float) - source[mask]).mean()
    assert before > 7 and after < 1.5
    assert (matched[~mask] == edit[~mask]).all()


def test_the_correction_is_limited():
    source, mask = picture(), hole()
    edit = np.full_like(source, 250)
    change = match_colour(edit, source, mask)[mask].astype(float) - 250
    assert change.min() >= -16


def test_the_correction_is_steady_in_time():
    source, mask = picture(), hole()
    rng = np.random.default_rng(0)
    flicker = rng.normal(0, 4, (COUNT, 1, 1, 1))
    edit = (source + 5.0).clip(0, 255).astype(np.uint8)
    # What differs on the ring from frame to frame must not make the inside flicker as much.
    source_flicker = np.where(mask[..., None], source, (source + flicker).clip(0, 255)).astype(np.uint8)
    matched = match_colour(edit, source_flicker, mask)
    inside = [(matched[i].astype(float) - edit[i])[mask[i]].mean() for i in range(COUNT)]
    assert np.std(inside) < 0.5 * np.std(flicker)


def test_what_is_under_the_mask_in_the_source_does_not_matter():
    source, mask = picture(), hole()
    edit = (source + 8.0).clip(0, 255).astype(np.uint8)
    poisoned = source.copy()
    poisoned[mask] = np.random.default_rng(1).integers(0, 256, (mask.sum(), 3))
    assert (match_colour(edit, source, mask) == match_colour(edit, poisoned, mask)).all()
    assert (regrain(edit, source, mask, 0) == regrain(edit, poisoned, mask, 0)).all()


def test_a_mask_without_surroundings_changes_nothing():
    source = picture()
    mask = np.ones(source.shape[:3], bool)
    assert match_colour(source, source, mask) is source
    assert regrain(source, source, mask, 0) is source


def fine(frames, mask):
    """The spread of the finest luminance detail inside the mask."""
    grey = frames.astype(np.float32).mean(3)
    return np.concatenate([(g - cv2.GaussianBlur(g, (0, 0), 1))[m] for g, m in zip(grey, mask, strict=True)]).std()


def test_grain_comes_up_to_that_of_the_surroundings_and_no_further():
    smooth, mask = picture(), hole()
    noise = np.random.default_rng(2).normal(0, 6, (*mask.shape, 1))
    source = (smooth + noise).clip(0, 255).round().astype(np.uint8)
    grained = regrain(smooth, source, mask, seed=3)
    assert fine(smooth, mask) < 0.3 * fine(source, mask)
    assert 0.75 < fine(grained, mask) / fine(source, mask) < 1.25
    assert (grained[~mask] == smooth[~mask]).all()
    assert (grained == regrain(smooth, source, mask, seed=3)).all()
    assert not (grained == regrain(smooth, source, mask, seed=4)).all()


def test_an_edit_with_as_much_grain_gets_none():
    smooth, mask = picture(), hole()
    noise = np.random.default_rng(2).normal(0, 6, (*mask.shape, 1))
    source = (smooth + noise).clip(0, 255).round().astype(np.uint8)
    again = regrain(source, source, mask, seed=3)
    assert np.abs(again.astype(float) - source).mean() < 0.5


def test_surroundings_into_which_scaling_has_drawn_the_hidden_are_left_out():
    source, mask = picture(), hole()
    edit = (source + 8.0).clip(0, 255).astype(np.uint8)
    bled = source.copy()
    outline = np.stack([ring_around(each, 2) for each in mask])
    bled[outline] = 0
    assert (match_colour(edit, bled, mask, unsure_px=2) == match_colour(edit, source, mask, unsure_px=2)).all()
    assert not (match_colour(edit, bled, mask) == match_colour(edit, source, mask)).all()
