"""Counter-based random numbers: each draw is a function of its coordinates only.

A response is therefore the same whatever is decoded in the same batch, on which replica, and after
a restart. The coordinates are (job seed, ledger position, response index, absolute position, step).
The function is the finaliser of SplitMix64 (Steele, Lea, Flood 2014), applied once per coordinate;
int64 arithmetic of torch wraps modulo 2^64, as the algorithm requires. Legend: S responses, B positions.
"""

from collections.abc import Sequence
from typing import Final

import torch
from torch import Tensor

INCREMENT: Final = 0x9E3779B97F4A7C15
MULTIPLIERS: Final = (0xBF58476D1CE4E5B9, 0x94D049BB133111EB)
RANDOM_BITS: Final = 48
"""Few enough that (bits + 1/2) / 2^48 is exact in fp64 and below 1."""


def response_keys(
    seeds: Sequence[int], ledger_positions: Sequence[int], response_indices: Sequence[int]
) -> Tensor:
    """Return the keys of n responses, int64 [n]."""
    keys = torch.zeros(len(seeds), dtype=torch.int64)
    for coordinates in (seeds, ledger_positions, response_indices):
        keys = _absorb(
            keys, torch.tensor([_to_int64(value) for value in coordinates], dtype=torch.int64)
        )
    return keys


def uniforms(keys: Tensor, positions: Tensor, steps: Tensor) -> Tensor:
    """Return uniform numbers in (0, 1), fp64 [S, B].

    The arguments are response keys [S], absolute positions [S, B] and steps [S].
    """
    state = _absorb(_absorb(keys[:, None], positions), steps[:, None])
    bits = _shift_right(state, 64 - RANDOM_BITS)
    # The half keeps the result strictly between 0 and 1.
    return (bits.double() + 0.5) * 2.0**-RANDOM_BITS


def _absorb(state: Tensor, coordinate: Tensor) -> Tensor:
    """Return SplitMix64 of state + (coordinate + 1) * INCREMENT, int64; arguments broadcast."""
    # + 1, because a coordinate of 0 must also change the state.
    mixed = state + (coordinate + 1) * _to_int64(INCREMENT)
    mixed = (mixed ^ _shift_right(mixed, 30)) * _to_int64(MULTIPLIERS[0])
    mixed = (mixed ^ _shift_right(mixed, 27)) * _to_int64(MULTIPLIERS[1])
    return mixed ^ _shift_right(mixed, 31)


def _shift_right(value: Tensor, count: int) -> Tensor:
    """Shift logically; `>>` of torch is an arithmetic shift, which copies the sign bit."""
    return (value >> count) & ((1 << (64 - count)) - 1)


def _to_int64(value: int) -> int:
    """Return the int64 with the same low 64 bits."""
    low = value & (2**64 - 1)
    return low - 2**64 if low >= 2**63 else low
