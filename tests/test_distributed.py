"""Two real processes: the gradient over both equals that of one."""

import socket
import subprocess
import sys
from pathlib import Path

import pytest

WORKER = """
import sys
import jax, jax.numpy as jnp, numpy as np
from jax.sharding import NamedSharding, PartitionSpec as P
from apalu_jax import APALUParams, apalu

address, process = sys.argv[1], int(sys.argv[2])
jax.config.update("jax_cpu_collectives_implementation", "gloo")
jax.distributed.initialize(address, num_processes=2, process_id=process)
assert jax.process_count() == 2 and len(jax.devices()) == 4

x = np.random.default_rng(0).normal(0, 2, (8, 6)).astype(np.float32)
params = APALUParams(jnp.full(6, 0.5), jnp.full(6, 0.1))
mesh = jax.make_mesh((4,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
sharding = NamedSharding(mesh, P("data"))
placed = jax.make_array_from_callback(x.shape, sharding, lambda index: x[index])
whole = jax.device_put(params, NamedSharding(mesh, P()))

for residual in ("input", "output"):
    f = lambda x, p: apalu(x, p, residual=residual)
    grad = jax.grad(lambda x, p, f: jnp.sum(jnp.sin(f(x, p))), 1)
    local = jax.shard_map(f, mesh=mesh, in_specs=(P("data"), P()), out_specs=P("data"))
    want = grad(jnp.asarray(x), params, f)
    for version in (f, local):
        got = jax.jit(lambda x, p: grad(x, p, version))(placed, whole)
        for u, v in zip(got, want):
            np.testing.assert_allclose(u.addressable_data(0), v, rtol=1e-5, atol=1e-6)
print("agrees")
"""


@pytest.mark.process
def test_two_processes():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    environment = {
        "JAX_DISABLE_MOST_OPTIMIZATIONS": "1",
        "JAX_PLATFORMS": "cpu",
        "XLA_FLAGS": "--xla_force_host_platform_device_count=2",
        "PYTHONPATH": str(Path(__file__).parents[1]),
    }
    workers = [
        subprocess.Popen(
            [sys.executable, "-c", WORKER, address, str(process)],
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for process in range(2)
    ]
    for worker in workers:
        try:
            out, err = worker.communicate(timeout=120)
        finally:
            worker.kill()
        assert worker.returncode == 0, err
        assert "agrees" in out
