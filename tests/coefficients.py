"""The coefficients of the core, made anew; `python -m tests.coefficients` prints them.

All arithmetic is mpmath's, so that every machine makes the same numbers to the last
bit. Each function is named after the tuple that it makes.
"""

from collections.abc import Callable, Sequence
from itertools import groupby

import mpmath
from mpmath import mpf

GATE = mpf("1.702")
TERMS = {"float32": 6, "float64": 12}

precise = mpmath.workdps(40)


def expm1_tail(z: mpf) -> mpf:
    """(exp(z) - 1 - z) / z^2, without cancellation."""
    return mpmath.hyp1f1(1, 3, z) / 2


def polynomial(coefficients: Sequence[mpf], z: mpf) -> mpf:
    """A polynomial at a point, the lowest power first."""
    return sum(c * z**k for k, c in enumerate(coefficients))


def interpolate(low: mpf, high: mpf, count: int) -> list[mpf]:
    """The polynomial that meets `expm1_tail` in Chebyshev's nodes."""
    angles = [mpmath.pi * (2 * k + 1) / (2 * count) for k in range(count)]
    nodes = [(low + high + (high - low) * mpmath.cos(angle)) / 2 for angle in angles]
    powers = mpmath.matrix([[node**k for k in range(count)] for node in nodes])
    values = mpmath.matrix([expm1_tail(node) for node in nodes])
    return list(mpmath.lu_solve(powers, values))


def level(
    error: Callable[[Sequence[mpf], mpf], mpf],
    start: Sequence[mpf],
    points: Sequence[mpf],
) -> list[mpf]:
    """Coefficients whose greatest error on a grid is least, by Remez's exchange.

    The errors at one more place than there are coefficients are made equal but for
    alternating signs; then the places move to the extremes of the error.

    Args:
      error: Of coefficients, at a point.
      start: Coefficients whose error has as many alternating extremes.
      points: The grid, in order.
    """
    solution, places, before = [*start, mpf(0)], [], None
    while places != before:
        before = places
        errors = [(error(solution[:-1], x), x) for x in points]
        runs = [list(run) for _, run in groupby(errors, lambda pair: pair[0] > 0)]
        places = [max(run, key=lambda pair: abs(pair[0]))[1] for run in runs]
        assert len(places) == len(solution)
        signs = [(x, (-1) ** k) for k, x in enumerate(places)]

        def surplus(*unknown: mpf, signs=signs) -> list[mpf]:
            *coefficients, bound = unknown
            return [error(coefficients, x) - sign * bound for x, sign in signs]

        solution = list(mpmath.findroot(surplus, solution))
    return solution[:-1]


@precise
def expm1(dtype: str) -> tuple[float, ...]:
    """Interpolation of `expm1_tail` on [-ln 2, 0]."""
    return tuple(map(float, interpolate(-mpmath.log(2), mpf(0), TERMS[dtype])))


@precise
def cpu_expm1() -> tuple[float, ...]:
    """Least relative error of expm1(r) = r + r^2 p(r) where |r| <= ln(2) / 2."""
    bound = mpmath.log(2) / 2
    points = [bound * k / 200 for k in range(-200, 201)]
    # Of p, the error counts r^2 / |expm1(r)| times.
    exact = {r: (expm1_tail(r), r * r / abs(mpmath.expm1(r))) for r in points if r}
    exact[mpf(0)] = expm1_tail(mpf(0)), mpf(0)

    def error(coefficients: Sequence[mpf], r: mpf) -> mpf:
        tail, weight = exact[r]
        return (polynomial(coefficients, r) - tail) * weight

    return tuple(map(float, level(error, interpolate(-bound, bound, 5), points)))


@precise
def inverse() -> tuple[float, ...]:
    """Least relative error of x = q (1/2 + 1/p(q)) where q = x (1 + s), x >= 0.

    Both ends are exact: x / q is 2/3 at 0 and 1/2 at infinity, so that p(0) is 6. Four
    decimals are enough for a start of Newton's steps.
    """
    points = [mpf(2) ** (mpf(k) / 16) for k in range(-160, 97)]
    ratios = {x: 1 / (1 + 1 / (1 + mpmath.exp(-GATE * x))) for x in points}

    def error(coefficients: Sequence[mpf], x: mpf) -> mpf:
        p = polynomial([mpf(6), *coefficients], x / ratios[x])
        return (1 / mpf(2) + 1 / p) / ratios[x] - 1

    start = [mpf(c) for c in (4.3, 2.8, -0.8, 0.45)]
    return 6.0, *(round(float(c), 4) for c in level(error, start, points))


def main() -> None:
    """Prints the tuples."""
    for dtype in TERMS:
        print(f"EXPM1[{dtype!r}] = {expm1(dtype)}")
    print(f"CPU_EXPM1 = {cpu_expm1()}")
    print(f"INVERSE = {inverse()}")


if __name__ == "__main__":
    main()
