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
ANCHOR_BYTES = 4


def history_bytes(order: int, num_rows: int, row_bytes: int) -> int:
    """What a `History` of that order keeps of [B, num_rows, D], `row_bytes` for one row of all B."""
    anchors = (order + 1) * num_rows * ANCHOR_BYTES if order else 0
    return (order + 1) * num_rows * row_bytes + anchors


class History:
    """The last values of the rows [B, N, D] in `store`, from slot `key` on, with the differences before them. Nothing
    waits for the device: rows' anchors are indices of a table of points, filled from the host."""

    def __init__(self, store: FeatureStore, key: Key, order: int, axis: TimeAxis) -> None:
        self._store = store
        self._keys = [key, *((*key[:2], f"{key[2]} change {i}") for i in range(1, order + 1))]
        self._anchors: Key = (*key[:2], f"{key[2]} anchors")
        self._order = order
        self._axis = axis
        self._points: dict[int, torch.Tensor] = {}
        self._index = 0

    def keep(self, step: Step, value_BND: torch.Tensor) -> None:
        """All rows were computed at this step."""
        import torch

        if self._keys[0] not in self._store:
            self._store.put(*self._keys[0], value_BND)
            for key in self._keys[1:]:
                self._store.put(*key, torch.zeros_like(value_BND))
            if self._order:
                shape = (self._order + 1, value_BND.shape[1])
                first_TN = torch.full(shape, step.index, dtype=torch.int32, device=value_BND.device)
                self._store.put(*self._anchors, first_TN)
        else:
            for key, new in zip(self._keys, self._newer(value_BND, self._held()), strict=True):
                self._store.put(*key, new)
            if self._order:
                self._store.put(*self._anchors, _pushed(step, self._store.get(*self._anchors)))
        self._mark(step, value_BND.device)

    def keep_rows(self, step: Step, rows_A: torch.Tensor, value_BAD: torch.Tensor) -> None:
        """The rows `rows_A` were computed at this step; `keep` came before."""
        held = self._held()
        new = self._newer(value_BAD, [each.index_select(1, rows_A) for each in held] if self._order else [])
        for each, value in zip(held, new, strict=True):
            each.index_copy_(1, rows_A, value)
        if self._order:
            anchors_TN = self._store.get(*self._anchors)
            anchors_TN.index_copy_(1, rows_A, _pushed(step, anchors_TN.index_select(1, rows_A)))
        self._mark(step, value_BAD.device)

    def at(self, step: Step, order: int) -> torch.Tensor:
        """The rows [B, N, D] forecast for this step; of order 0 the kept tensor itself."""
        assert order <= self._order, f"a forecast of order {order} from a history of order {self._order}"
        value_BND, *changes = self._held()
        for weight_N, change_BND in zip(self._weights(step, order), changes, strict=False):
            value_BND = value_BND + weight_N.to(change_BND.dtype).view(1, -1, 1) * change_BND
        return value_BND

    def _held(self) -> list[torch.Tensor]:
        return [self._store.get(*key) for key in self._keys]

    def _newer(self, value: torch.Tensor, old: list[torch.Tensor]) -> list[torch.Tensor]:
        """The value and its differences when `value` follows `old`."""
        return [value, value - old[0], *old[1:-1]] if self._order else [value]

    def _mark(self, step: Step, device: torch.device) -> None:
        """Write this step's points, of every order, into the tables."""
        import torch

        for order in range(1, self._order + 1):
            point = self._axis.at(step.timestep, order)
            if order not in self._points:
                self._points[order] = torch.zeros(step.count, len(point), dtype=torch.float64, device=device)
            for dimension, value in enumerate(point):
                self._points[order][step.index, dimension].fill_(value)

    def _weights(self, step: Step, order: int) -> list[torch.Tensor]:
        """Per row the weights of the differences, the newest first."""
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
        anchors_TN = self._store.get(*self._anchors)
        # Two anchors make a forecast of order 1, whose points are others than those of order 2.
        has_two_N = anchors_TN[1] == anchors_TN[2]
        first_N = torch.where(has_two_N, self._weights(step, 1)[0], (y * c - z * b) / determinant)
        return [first_N, torch.where(has_two_N, 0.0, (z * a - y * b) / determinant)]

    def _moves(self, step: Step, order: int) -> tuple[torch.Tensor, list[torch.Tensor]]:
        """Per row what is to be carried on, from the last anchor's point to now's, and the differences before it."""
        points_SX = self._points[order]
        anchors = [points_SX.index_select(0, anchors_N) for anchors_N in self._store.get(*self._anchors)[: order + 1]]
        now_X = points_SX.new_zeros(points_SX.shape[1])
        for dimension, value in enumerate(self._axis.at(step.timestep, order)):
            now_X[dimension].fill_(value)
        return now_X - anchors[0], [new - old for new, old in zip(anchors, anchors[1:], strict=False)]


def _pushed(step: Step, anchors_TN: torch.Tensor) -> torch.Tensor:
    """The rows' anchors when this step is one more."""
    import torch

    return torch.cat([torch.full_like(anchors_TN[:1], step.index), anchors_TN[:-1]])


def _dot(a_NX: torch.Tensor, b_NX: torch.Tensor) -> torch.Tensor:
    return (a_NX * b_NX).sum(dim=1)
