"""The counter-based random numbers."""

import torch
from hypothesis import given
from hypothesis import strategies as st

from services.common.diffusion.randomness import response_keys, uniforms

MASK = 2**64 - 1


def _mixed(state: int, coordinate: int) -> int:
    """SplitMix64 in unbounded integers."""
    z = (state + (coordinate + 1) * 0x9E3779B97F4A7C15) & MASK
    z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & MASK
    z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & MASK
    return z ^ (z >> 31)


def _expected(seed: int, ledger: int, response: int, position: int, step: int) -> float:
    state = 0
    for coordinate in (seed, ledger, response, position, step):
        state = _mixed(state, coordinate)
    return ((state >> 16) + 0.5) / 2**48


def test_splitmix64_gives_its_published_first_number() -> None:
    # The first output of SplitMix64 seeded with 0 (Vigna's reference implementation).
    assert _mixed(0, 0) == 0xE220A8397B1DCDAF


@given(
    seed=st.integers(0, 2**64 - 1),
    ledger=st.integers(0, 2**40),
    response=st.integers(0, 1000),
    position=st.integers(0, 2**20),
    step=st.integers(1, 2**20),
)
def test_a_draw_is_the_function_of_its_coordinates_that_it_is_said_to_be(
    seed: int, ledger: int, response: int, position: int, step: int
) -> None:
    keys = response_keys([seed], [ledger], [response])

    draw = uniforms(keys, torch.tensor([[position]]), torch.tensor([step]))

    assert float(draw) == _expected(seed, ledger, response, position, step)
    assert 0 < float(draw) < 1


def test_draws_of_neighbouring_coordinates_are_uniform_and_uncorrelated() -> None:
    keys = response_keys([1] * 50, range(50), [0] * 50)
    positions = torch.arange(40).expand(50, 40)

    draws = torch.stack(
        [uniforms(keys, positions, torch.full((50,), step)) for step in range(1, 51)]
    )

    counts = torch.histc(draws, bins=20, min=0, max=1)
    chi_square = float(((counts - draws.numel() / 20) ** 2 / (draws.numel() / 20)).sum())
    assert chi_square < 43.8  # 99.9 % point at 19 degrees of freedom
    for axis in range(3):
        ahead, behind = draws.roll(1, axis).flatten(), draws.flatten()
        assert (
            abs(float(torch.corrcoef(torch.stack([ahead, behind]))[0, 1]))
            < 4 / draws.numel() ** 0.5
        )
    assert len(draws.unique()) == draws.numel()
