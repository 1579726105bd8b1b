"""Forecasts of what is cached: each token from the steps that computed it, carried on to this step.

A token that partial steps compute and one that only full steps compute have anchors of their own, so the history is
kept by token. With anchors l, p, o (last, previous, oldest) of a token and the points x of a `TimeAxis`,

    order 0   R_l
    order 1   R_l + a (R_l - R_p)
    order 2   R_l + a (R_l - R_p) + b (R_p - R_o)

a and b carry x_l on to x by the same differences, least squares: see `hetcache.core.time_curve`. A token with fewer
anchors is forecast at a lower order. Each order costs one tensor more, and the tokens' anchors.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from hetcache.core.store import FeatureStore, Key
from hetcache.core.time_curve import TimeAxis
from hetcache.core.vocabulary import Step

if TYPE_CHECKING:
    import torch

MAX_ORDER = 2
KV_ORDER = 1
"""Of keys and values at most: a second order is as much memory again for less than half a dB."""
ANCHOR_BYTES = 4


def anchor_bytes(order: int, num_rows: int) -> int:
    """What the `Anchors` of a forecast of that order keep."""
    return (order + 1) * num_rows * ANCHOR_BYTES if order else 0


class Anchors:
    """The last steps that computed each of N rows, and the weights that these give to what was computed then. Shared by
    all that is computed with a row. Nothing waits for the device: rows keep indices of a table of points, which is
    filled from the host."""

    def __init__(self, store: FeatureStore, key: Key, order: int, axis: TimeAxis) -> None:
        self.order = order
        self._store = store
        self._key = key
        self._axis = axis
        self._points: dict[int, torch.Tensor] = {}
        self._weights_of: dict[tuple[int, int], list[torch.Tensor]] = {}

    def push(self, step: Step, num_rows: int, device: torch.device) -> None:
        """All rows were computed at this step."""
        import torch

        if self.order == 0:
            return
        if self._key not in self._store:
            shape = (self.order + 1, num_rows)
            self._store.put(*self._key, torch.full(shape, step.index, dtype=torch.int32, device=device))
        else:
            self._store.put(*self._key, _pushed(step, self._store.get(*self._key)))
        self._mark(step, device)

    def push_rows(self, step: Step, rows_A: torch.Tensor) -> None:
        """The rows `rows_A` were computed at this step; `push` came before."""
        if self.order == 0:
            return
        anchors_TN = self._store.get(*self._key)
        anchors_TN.index_copy_(1, rows_A, _pushed(step, anchors_TN.index_select(1, rows_A)))
        self._mark(step, rows_A.device)

    def weights(self, step: Step, order: int) -> list[torch.Tensor]:
        """Per row [N] the weights of the differences of its values, the newest first, in a forecast for this step."""
        assert order <= self.order, f"a forecast of order {order} from anchors of order {self.order}"
        if (step.index, order) not in self._weights_of:
            self._weights_of[step.index, order] = self._solved(step, order)
        return self._weights_of[step.index, order]

    def _mark(self, step: Step, device: torch.device) -> None:
        """Write this step's points, of every order, into the tables."""
        import torch

        self._weights_of = {}
        for order in range(1, self.order + 1):
            point = self._axis.at(step.timestep, order)
            if order not in self._points:
                self._points[order] = torch.zeros(step.count, len(point), dtype=torch.float64, device=device)
            for dimension, value in enumerate(point):
                self._points[order][step.index, dimension].fill_(value)

    def _solved(self, step: Step, order: int) -> list[torch.Tensor]:
        import torch

        if order == 0:
            return []
        ahead_NX, (first_NX, *rest) = self._moves(step, order)
        ridge = self._axis.ridge
        a, y = _dot(first_NX, first_NX) + ridge, _dot(ahead_NX, first_NX)
        if order == 1:
            return [y / a]
        b, c, z = _dot(first_NX, rest[0]), _dot(rest[0], rest[0]) + ridge, _dot(ahead_NX, rest[0])
        determinant = a * c - torch.square(b)
        anchors_TN = self._store.get(*self._key)
        # Two anchors make a forecast of order 1, whose points are others than those of order 2.
        has_two_N = anchors_TN[1] == anchors_TN[2]
        first_N = torch.where(has_two_N, self._solved(step, 1)[0], (y * c - z * b) / determinant)
        return [first_N, torch.where(has_two_N, 0.0, (z * a - y * b) / determinant)]

    def _moves(self, step: Step, order: int) -> tuple[torch.Tensor, list[torch.Tensor]]:
        """Per row what is to be carried on, from the last anchor's point to now's, and the differences before it."""
        points_SX = self._points[order]
        anchors = [points_SX.index_select(0, anchors_N) for anchors_N in self._store.get(*self._key)[: order + 1]]
        now_X = points_SX.new_zeros(points_SX.shape[1])
        for dimension, value in enumerate(self._axis.at(step.timestep, order)):
            now_X[dimension].fill_(value)
        return now_X - anchors[0], [new - old for new, old in zip(anchors, anchors[1:], strict=False)]


class History:
    """The last values of rows [B, N, D] in `store`, from slot `key` on, with the differences before them. It is told of
    a step's values before its anchors are."""

    def __init__(self, store: FeatureStore, key: Key, anchors: Anchors, order: int | None = None) -> None:
        """`order` is the highest of its forecasts, None: the anchors'."""
        self._store = store
        self._order = anchors.order if order is None else order
        self._keys = [key, *((*key[:2], f"{key[2]} change {i}") for i in range(1, self._order + 1))]
        self._anchors = anchors

    def keep(self, value_BND: torch.Tensor) -> None:
        """All rows were computed."""
        import torch

        if self._keys[0] in self._store:
            new = self._newer(value_BND, self._held())
        else:
            new = [value_BND, *(torch.zeros_like(value_BND) for _ in self._keys[1:])]
        for key, value in zip(self._keys, new, strict=True):
            self._store.put(*key, value)

    def keep_rows(self, rows_A: torch.Tensor, value_BAD: torch.Tensor) -> None:
        """The rows `rows_A` were computed; `keep` came before."""
        held = self._held()
        old = [each.index_select(1, rows_A) for each in held[: len(held) - 1]]
        for each, value in zip(held, self._newer(value_BAD, [*old, value_BAD]), strict=True):
            each.index_copy_(1, rows_A, value)

    def at(self, step: Step, order: int) -> torch.Tensor:
        """The rows [B, N, D] forecast for this step, of its own order at most; of order 0 the kept tensor itself."""
        value_BND, *changes = self._held()
        for weight_N, change_BND in zip(self._anchors.weights(step, min(order, self._order)), changes, strict=False):
            value_BND = value_BND + weight_N.to(change_BND.dtype).view(1, -1, 1) * change_BND
        return value_BND

    def buffer(self, step: Step, order: int) -> torch.Tensor:
        """As `at`, to be written into: never the kept tensor where differences to it are kept."""
        rows_BND = self.at(step, order)
        return rows_BND.clone() if self._order and min(order, self._order) == 0 else rows_BND

    def _held(self) -> list[torch.Tensor]:
        return [self._store.get(*key) for key in self._keys]

    def _newer(self, value: torch.Tensor, old: list[torch.Tensor]) -> list[torch.Tensor]:
        """The value and its differences when `value` follows `old`."""
        return [value, value - old[0], *old[1:-1]] if len(old) > 1 else [value]


def _pushed(step: Step, anchors_TN: torch.Tensor) -> torch.Tensor:
    """The rows' anchors when this step is one more."""
    import torch

    return torch.cat([torch.full_like(anchors_TN[:1], step.index), anchors_TN[:-1]])


def _dot(a_NX: torch.Tensor, b_NX: torch.Tensor) -> torch.Tensor:
    return (a_NX * b_NX).sum(dim=1)
