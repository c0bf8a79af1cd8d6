"""The core's coefficients are those that `tests.coefficients` makes."""

import pytest

from apalu_jax import _inverse, _kernels
from tests import coefficients


@pytest.mark.parametrize("dtype", _kernels.EXPM1)
def test_expm1(dtype):
    assert _kernels.EXPM1[dtype] == coefficients.expm1(dtype)


def test_cpu_expm1():
    assert _kernels.CPU_EXPM1 == coefficients.cpu_expm1()


def test_inverse():
    assert _inverse.INVERSE == coefficients.inverse()
