"""Counter-based random numbers: every draw is a function of its coordinates, never of what else is
being decoded.

The coordinates are (job seed, ledger position, response index, absolute position, step). The
function is SplitMix64's finaliser (Steele, Lea, Flood 2014), applied once per coordinate; torch's
int64 wraps modulo 2^64 as it needs. Legend: S responses, B positions.
"""

from collections.abc import Sequence
from typing import Final

import torch
from torch import Tensor

INCREMENT: Final = 0x9E3779B97F4A7C15
MULTIPLIERS: Final = (0xBF58476D1CE4E5B9, 0x94D049BB133111EB)
RANDOM_BITS: Final = 48
"""Few enough that (bits + 1/2) / 2^48 is exact in fp64 and stays below 1 after rounding."""


def response_keys(
    seeds: Sequence[int], ledger_positions: Sequence[int], response_indices: Sequence[int]
) -> Tensor:
    """Keys of the draws of n responses, int64 [n]."""
    keys = torch.zeros(len(seeds), dtype=torch.int64)
    for coordinates in (seeds, ledger_positions, response_indices):
        keys = _absorb(
            keys, torch.tensor([_signed(value) for value in coordinates], dtype=torch.int64)
        )
    return keys


def uniforms(keys: Tensor, positions: Tensor, steps: Tensor) -> Tensor:
    """Uniform numbers in (0, 1), fp64 [S, B], for response keys [S], absolute positions [S, B] and
    steps [S].
    """
    state = _absorb(_absorb(keys[:, None], positions), steps[:, None])
    bits = _shift_right(state, 64 - RANDOM_BITS)
    return (bits.double() + 0.5) * 2.0**-RANDOM_BITS


def _absorb(state: Tensor, coordinate: Tensor) -> Tensor:
    """Next state: SplitMix64 of state + (coordinate + 1) * increment; int64, broadcasting."""
    mixed = state + (coordinate + 1) * _signed(INCREMENT)
    mixed = (mixed ^ _shift_right(mixed, 30)) * _signed(MULTIPLIERS[0])
    mixed = (mixed ^ _shift_right(mixed, 27)) * _signed(MULTIPLIERS[1])
    return mixed ^ _shift_right(mixed, 31)


def _shift_right(value: Tensor, count: int) -> Tensor:
    """Logical shift; torch's own is arithmetic."""
    return (value >> count) & ((1 << (64 - count)) - 1)


def _signed(value: int) -> int:
    """The int64 with the same low 64 bits."""
    low = value & (2**64 - 1)
    return low - 2**64 if low >= 2**63 else low
