"""Outlines of masks as polygons, in coordinates of pixel edges."""

import math

import numpy as np

from flexunet_pl.data.annotations.shapes import BoolArray, FloatArray

EAST, SOUTH, WEST, NORTH = range(4)


def outlines(mask: BoolArray) -> list[FloatArray]:
    """Return the outlines of a mask bool (H, W) along its pixel edges, float64 (N, 2) each, with their corners only.

    The marked side is on the right of each outline as seen in an image, so outer outlines run clockwise and those of
    holes anticlockwise. Pixels that touch at a corner alone are connected, as in 8-connected regions.
    """
    framed = np.pad(mask, 1)
    north_west, north_east, south_west, south_east = framed[:-1, :-1], framed[:-1, 1:], framed[1:, :-1], framed[1:, 1:]
    # An outline turns wherever the four pixels around a vertex are not two equal halves.
    is_corner = (north_west ^ north_east ^ south_west ^ south_east) | (
        (north_west == south_east) & (north_east == south_west) & (north_west != north_east)
    )
    rows, columns = np.nonzero(is_corner)
    if not len(rows):
        return []
    around = np.stack([part[rows, columns] for part in (north_west, north_east, south_west, south_east)], axis=1)
    in_column = np.lexsort((rows, columns))
    place = np.empty(len(rows), dtype=np.int64)
    place[in_column] = np.arange(len(rows))
    order, places = in_column.tolist(), place.tolist()
    leaving = [_directions(*corner) for corner in around.tolist()]
    points = list(zip(columns.tolist(), rows.tolist(), strict=True))
    open_ends = {(index, way) for index, ways in enumerate(leaving) for way in ways}
    found = []
    for first in sorted(open_ends):
        if first not in open_ends:
            continue
        ring, (index, way) = [], first
        while (index, way) in open_ends:
            open_ends.remove((index, way))
            ring.append(points[index])
            # The next corner in this direction ends the straight part.
            if way in (EAST, WEST):
                index += 1 if way == EAST else -1
            else:
                index = order[places[index] + (1 if way == SOUTH else -1)]
            ways = leaving[index]
            # Where two pixels touch at a corner, a turn to the left goes on around both.
            way = ways[0] if len(ways) == 1 else (way - 1) % 4
        found.append(np.array(ring, dtype=np.float64))
    return found


def _directions(north_west: bool, north_east: bool, south_west: bool, south_east: bool) -> list[int]:
    """Return the directions in which outlines leave a vertex, with the marked side on their right."""
    edges = (
        (EAST, south_east, north_east),
        (SOUTH, south_west, south_east),
        (WEST, north_west, south_west),
        (NORTH, north_east, north_west),
    )
    return [way for way, right, left in edges if right and not left]


def smoothed(ring: FloatArray) -> FloatArray:
    """Return an outline along pixel edges (N, 2) without its stairs; it marks the same pixels.

    Each straight part becomes its midpoint; corners between two parts of 2 pixels or more stay. The line between the
    midpoints of parts of a and b pixels then passes no pixel's centre, since 1/a + 1/b >= 1.
    """
    following = np.roll(ring, -1, axis=0)
    is_long = np.abs(following - ring).sum(axis=1) >= 2
    keeps = is_long & np.roll(is_long, 1)
    pairs = np.stack([ring, (ring + following) / 2], axis=1).reshape(-1, 2)
    return np.asarray(pairs[np.stack([keeps, np.ones_like(keeps)], axis=1).reshape(-1)])


def simplified(ring: FloatArray, tolerance: float) -> FloatArray:
    """Return a closed line (N, 2) with fewer vertices, none of which was farther than ``tolerance`` from the new line.

    The algorithm is that of Douglas and Peucker (1973), begun at the two vertices farthest from each other along x + y.
    """
    sums = ring.sum(axis=1)
    first, second = sorted((int(sums.argmin()), int(sums.argmax())))
    if first == second:
        return ring
    keeps = np.zeros(len(ring), dtype=np.bool_)
    closed = np.concatenate([ring, ring[:1]])
    turned = np.concatenate([closed[first:-1], closed[: first + 1]])
    kept = np.zeros(len(turned), dtype=np.bool_)
    middle = second - first
    kept[[0, middle]] = True
    parts = [(0, middle), (middle, len(turned) - 1)]
    while parts:
        start, end = parts.pop()
        if end - start < 2:
            continue
        between = turned[start + 1 : end]
        along = turned[end] - turned[start]
        length = math.hypot(*along)
        offset = between - turned[start]
        if length:
            share = ((offset @ along) / length**2).clip(0, 1)
            distance = np.hypot(*(offset - share[:, None] * along).T)
        else:
            distance = np.hypot(*offset.T)
        farthest = int(distance.argmax())
        if distance[farthest] > tolerance:
            split = start + 1 + farthest
            kept[split] = True
            parts += [(start, split), (split, end)]
    keeps = kept[:-1]
    return np.asarray(turned[:-1][keeps])
