"""CAGrad: the closed form where there is one, the ball, and that no other direction of it is better."""

import pytest
import torch

from lethe.unlearn.add_ons import ADD_ONS, Step

BETA = 0.5


def direction(g_u, g_c, c, beta=BETA):
    step = Step([g_u], [g_c], beta, lambda: [], torch.zeros(()))
    (d,) = ADD_ONS["CAGrad"](cagrad_c=c)(step)
    return d


def pair(seed, size=5):
    return torch.randn(2, size, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_without_a_radius_it_is_the_plain_step():
    g_u, g_c = pair(0)
    torch.testing.assert_close(direction(g_u, g_c, 0.0, beta=0.8), 0.8 * g_c + 0.2 * g_u)


def test_equal_gradients_keep_their_direction():
    g, _ = pair(1)
    torch.testing.assert_close(direction(g, g, 0.5), g * 1.5 / 1.25)


def test_opposed_gradients_of_one_length_have_no_direction():
    g, _ = pair(1)
    assert direction(g, -g, 0.5).abs().max() < 1e-7


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("c", [0.3, 0.9])
def test_it_is_the_best_point_of_the_balls_surface(seed, c):
    g_u, g_c = pair(seed)
    plain = (g_u + g_c) / 2
    found = direction(g_u, g_c, c) * (1 + c * c)
    radius = c * plain.norm()
    assert (found - plain).norm().item() == pytest.approx(radius.item())
    others = torch.randn(200, 5, generator=torch.Generator().manual_seed(7), dtype=torch.float64)
    points = plain + radius * others / others.norm(dim=1, keepdim=True)
    worst = torch.minimum(points @ g_u, points @ g_c)
    assert min(found @ g_u, found @ g_c) >= worst.max() - 1e-9


def test_all_weights_count_as_one_vector():
    g_u, g_c = pair(3)
    step = Step([g_u[:2], g_u[2:]], [g_c[:2], g_c[2:]], BETA, lambda: [], torch.zeros(()))
    parts = ADD_ONS["CAGrad"](cagrad_c=0.5)(step)
    torch.testing.assert_close(torch.cat(parts), direction(g_u, g_c, 0.5))
