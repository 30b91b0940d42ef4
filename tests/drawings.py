"""Digits drawn by code, as a person might: pen strokes of several shapes, bent, leaned and shaken.

No image of this kind was used in training: the shipped model knows MNIST alone.
"""

import numpy as np


def arc(x, y, rx, ry, start, end, n=24):
    """Points on an ellipse, from one angle to another; degrees, clockwise from the right."""
    angles = np.radians(np.linspace(start, end, n))
    return [(x + rx * np.cos(a), y + ry * np.sin(a)) for a in angles]


SHAPES = {  # each digit in some hands: strokes of points in a box of 1 x 1, y downwards
    0: [
        [arc(0.5, 0.5, 0.3, 0.45, -90, 270)],
        [arc(0.5, 0.5, 0.4, 0.42, -60, 310)],
        [arc(0.5, 0.5, 0.26, 0.46, -110, -480)],
    ],
    1: [
        [[(0.5, 0.04), (0.5, 0.96)]],
        [[(0.36, 0.22), (0.54, 0.05), (0.52, 0.96)]],
        [[(0.6, 0.05), (0.42, 0.95)]],
    ],
    2: [
        [[*arc(0.5, 0.3, 0.28, 0.25, -170, 20), (0.6, 0.62), (0.2, 0.93), (0.85, 0.93)]],
        [[*arc(0.47, 0.28, 0.27, 0.24, -150, 35), (0.5, 0.7), (0.18, 0.92), (0.5, 0.88),
          (0.85, 0.95)]],
        [[*arc(0.5, 0.3, 0.3, 0.26, -160, 50), (0.42, 0.76),
          *arc(0.3, 0.86, 0.1, 0.09, -60, -330, 10), (0.86, 0.92)]],
    ],
    3: [
        [[*arc(0.45, 0.28, 0.27, 0.23, -150, 80), *arc(0.45, 0.72, 0.31, 0.24, -80, 150)]],
        [[(0.2, 0.08), (0.74, 0.08), (0.42, 0.42), *arc(0.44, 0.68, 0.3, 0.27, -70, 150)]],
        [[*arc(0.48, 0.27, 0.24, 0.22, -165, 95), *arc(0.48, 0.72, 0.26, 0.24, -95, 165)]],
    ],
    4: [
        [[(0.28, 0.08), (0.2, 0.55), (0.82, 0.55)], [(0.66, 0.1), (0.63, 0.95)]],
        [[(0.6, 0.05), (0.12, 0.66), (0.9, 0.66)], [(0.64, 0.36), (0.64, 0.97)]],
        [[(0.22, 0.1), (0.25, 0.48), (0.72, 0.44)], [(0.76, 0.06), (0.66, 0.96)]],
    ],
    5: [
        [[(0.78, 0.07), (0.28, 0.07), (0.24, 0.44), *arc(0.46, 0.68, 0.3, 0.26, -110, 150)]],
        [[(0.3, 0.08), (0.26, 0.42), *arc(0.44, 0.67, 0.32, 0.27, -115, 140)],
         [(0.3, 0.08), (0.82, 0.06)]],
        [[(0.8, 0.1), (0.36, 0.08), (0.3, 0.4), *arc(0.45, 0.65, 0.26, 0.26, -100, 160)]],
    ],
    6: [
        [[(0.66, 0.06), (0.38, 0.32), (0.25, 0.62), *arc(0.5, 0.7, 0.26, 0.23, 180, -170)]],
        [[(0.55, 0.04), (0.32, 0.4), *arc(0.5, 0.7, 0.23, 0.24, -170, -520)]],
        [[(0.72, 0.1), (0.44, 0.2), (0.27, 0.52), *arc(0.5, 0.71, 0.24, 0.22, 190, -150)]],
    ],
    7: [
        [[(0.16, 0.1), (0.82, 0.1), (0.42, 0.95)]],
        [[(0.18, 0.12), (0.8, 0.08), (0.55, 0.5), (0.46, 0.96)]],
        [[(0.2, 0.2), (0.2, 0.1), (0.8, 0.1), (0.4, 0.95)]],
    ],
    8: [
        [[*arc(0.5, 0.28, 0.22, 0.21, 80, -280), *arc(0.5, 0.72, 0.27, 0.23, -90, 270)]],
        [[*arc(0.5, 0.27, 0.24, 0.21, -20, -250), *arc(0.5, 0.71, 0.26, 0.23, -70, 230),
          (0.68, 0.34)]],
        [arc(0.5, 0.28, 0.21, 0.21, -90, 270), arc(0.5, 0.72, 0.26, 0.23, -90, 270)],
    ],
    9: [
        [[*arc(0.5, 0.3, 0.25, 0.24, -10, -350), (0.74, 0.55), (0.66, 0.95)]],
        [[*arc(0.48, 0.3, 0.24, 0.23, -30, -360), (0.7, 0.95)]],
        [[*arc(0.5, 0.3, 0.26, 0.24, 0, -350), (0.74, 0.5),
          *arc(0.5, 0.72, 0.23, 0.22, -5, 140, 14)]],
    ],
}  # fmt: skip


def dense(points, step=0.03):
    """Points along a line, `step` apart, with the corners a little rounded."""
    points = np.array(points, dtype=float)
    along = np.r_[0, np.hypot(*np.diff(points, axis=0).T).cumsum()]
    at = np.linspace(0, along[-1], max(2, int(along[-1] / step)))
    line = np.stack([np.interp(at, along, points[:, k]) for k in (0, 1)], axis=1)
    line[1:-1] = (line[:-2] + 2 * line[1:-1] + line[2:]) / 4
    return line


def drawing(digit, random):
    """One digit as strokes of [x, y] in 0..1, of any size and anywhere on the canvas."""
    shapes = SHAPES[digit]
    strokes = [dense(points) for points in shapes[random.integers(len(shapes))]]
    turn, lean = np.radians(random.normal(0, 5)), random.normal(0.05, 0.1)
    wide, size = random.uniform(0.8, 1.15), random.uniform(0.2, 0.85)
    turned = np.array([[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]])
    change = size * turned @ np.array([[wide, -lean], [0, 1]])
    (a, b), (p, q) = random.uniform(0, 0.025, (2, 2)), random.uniform(0, 2 * np.pi, (2, 2))
    made = []
    for line in strokes:
        along = line.sum(axis=1)[:, None]
        wave = a * np.sin(5 * along + p) + b * np.sin(11 * along + q)
        made.append((line - 0.5 + wave + random.normal(0, 0.004, line.shape)) @ change.T)
    low, high = (f(np.concatenate(made), axis=0) for f in (np.min, np.max))
    place = random.uniform(-low, np.maximum(1 - high, -low + 1e-9))
    return [(line + place).clip(0, 1).round(3).tolist() for line in made]


def drawings(count, seed):
    """`count` digits, each as often as the others, as pairs (digit, strokes)."""
    random = np.random.default_rng(seed)
    return [(i % 10, drawing(i % 10, random)) for i in range(count)]
