"""Files that run elsewhere: the embedding function of a model as StableHLO or ONNX.

| task | module |
|---|---|
| images to test features as one pure function, with what it expects | `embedding` |
| StableHLO for CPUs, GPUs and TPUs in one file, read by `jax.export` | `stablehlo` |
| ONNX: the file, its names, its meta data | `onnx_file` |
| ONNX: the graph of a traced function | `onnx_graph`, `onnx_rules` |

Each file is compared with the model before it takes its place.
"""

from reid_jax.inference import input_layouts

# What an exported function takes, see `embedding.of`; platforms by the names of `jax.export`. Kept here, where commands
# find them before JAX is loaded.
INPUTS = tuple(input_layouts.LAYOUTS)
PLATFORMS = ("cpu", "cuda", "tpu")
