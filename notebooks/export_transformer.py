"""Export a transformer of train_transformer.py, from its newest checkpoint.

    python notebooks/export_transformer.py --size tiny --out runs/tiny tiny.stablehlo
    python notebooks/export_transformer.py --size tiny --out runs/tiny tiny.onnx

The file maps bytes [batch, length] to logits of the next byte [batch, length, 256], for
a batch of any size. That of StableHLO runs on CPU, CUDA and TPU, and needs JAX alone:

    jax.export.deserialize(bytearray(Path("tiny.stablehlo").read_bytes())).call(tokens)

All parameters are constants in it. ONNX needs jax2onnx.
"""

import argparse
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TypeAlias

import jax
import jax.numpy as jnp
from flax import nnx
from jax import Array
from jax.sharding import SingleDeviceSharding
from transformer_checkpoints import Checkpoints, MismatchError
from transformer_model import SHAPES, Shape, Transformer
from transformer_training import make_optimizer, make_training

from apalu_jax import fold
from apalu_jax.nnx import APALU

Predict: TypeAlias = Callable[[Array], Array]

PLATFORMS = ("cpu", "cuda", "tpu")


def folded(model: Transformer, layers: int) -> Predict:
    """Logits of tokens: layer after layer, with `a` and `b` of each as constants."""
    graph, params = nnx.split(model.blocks)

    def layer(number: int) -> nnx.Module:
        block = nnx.merge(graph, jax.tree.map(lambda p: p[number], params))
        block.act = nnx.static(fold(block.act))
        # jax2onnx 0.17.1 knows LinearGeneral with a bias alone.
        block.qkv.bias = nnx.Param(jnp.zeros(block.qkv.out_features))
        return block

    blocks = [layer(number) for number in range(layers)]

    def predict(tokens: Array) -> Array:
        x = model.embed(tokens) + model.position(jnp.arange(tokens.shape[1])[None])
        for block in blocks:
            x = block(x)
        return model.head(model.norm(x))

    return predict


def to_stablehlo(predict: Predict, length: int) -> bytes:
    """The program for all platforms and any batch."""
    (batch,) = jax.export.symbolic_shape("batch")
    tokens = jax.ShapeDtypeStruct((batch, length), jnp.int32)
    return jax.export.export(jax.jit(predict), platforms=PLATFORMS)(tokens).serialize()


def to_onnx(predict: Predict, length: int) -> bytes:
    """The program for any batch, for ONNX."""
    import jax2onnx

    tokens = jax.ShapeDtypeStruct(("batch", length), jnp.int32)
    return jax2onnx.to_onnx(predict, [tokens]).SerializeToString()


def load(shape: Shape, out: Path, *, per_channel: bool) -> Transformer:
    """The model with the parameters of the newest checkpoint, in float32."""

    features = 4 * shape.width if per_channel else None
    act = partial(APALU, features)
    training = make_training(shape, act, "float32", make_optimizer(1.0, 2))
    here = SingleDeviceSharding(jax.local_devices()[0])
    like = jax.tree.map(
        lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=here),
        jax.eval_shape(training.init, jax.random.key(0)),
    )
    folder = out / "checkpoints"
    try:
        found = Checkpoints(folder).restore(like) if folder.is_dir() else None
    except MismatchError as error:
        raise SystemExit(f"{error}: --size or --per-channel") from None
    if found is None:
        raise SystemExit(f"{out} must hold a checkpoint of train_transformer.py.")
    model = nnx.eval_shape(lambda: Transformer(shape, act, rngs=nnx.Rngs(0)))
    return nnx.merge(nnx.graphdef(model), found[1].params)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("file", type=Path, help="ends in .stablehlo or .onnx")
    parser.add_argument("--out", type=Path, required=True, help="that of the training")
    parser.add_argument("--size", choices=SHAPES, default="gpt2-small")
    parser.add_argument("--per-channel", action="store_true")
    args = parser.parse_args()
    shape = SHAPES[args.size]
    writers = {".stablehlo": to_stablehlo, ".onnx": to_onnx}
    if args.file.suffix not in writers:
        raise SystemExit(f"file must end in {' or '.join(writers)}, got {args.file}.")
    model = load(shape, args.out, per_channel=args.per_channel)
    write = writers[args.file.suffix]
    args.file.write_bytes(write(folded(model, shape.layers), shape.length))
    print(f"wrote {args.file}")


if __name__ == "__main__":
    main()
