"""Settings of the whole suite: CPU that pretends to be eight devices, strict shapes, compiled programs kept."""

import atexit
import functools
import gc
import importlib.metadata
import itertools
import os
import pathlib
import types
import zlib

ROOT = pathlib.Path(__file__).resolve().parent.parent

# Before jax is imported: platform, device count and the cache of compiled programs are read at import.
os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ.setdefault("JAX_NUM_CPU_DEVICES", "8")
os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(ROOT / ".cache" / "jax"))
# Every program, small ones too: the other worker and the scripts that tests start need the same ones.
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")

# Programs of the tests run for milliseconds and compile for seconds, so they are compiled without optimization: a train
# step of AMFOR in 2 s of CPU time instead of 19. `XLA_FLAGS= python -m pytest` compiles as users do.
QUICK_COMPILATION = ["--xla_backend_optimization_level=0", "--xla_cpu_parallel_codegen_split_count=1"]
if importlib.metadata.version("jaxlib").startswith("0.10."):  # XLA refuses flags that it does not know
    QUICK_COMPILATION.append("--xla_cpu_use_fusion_emitters=false")
os.environ.setdefault("XLA_FLAGS", " ".join(QUICK_COMPILATION))

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from absl import flags
from flax import linen as nn
from flax.core import meta, scope
from jax._src import compilation_cache
from jax._src.interpreters import mlir

# Tracing makes millions of small objects that live on in caches: each full collection would visit them all again.
gc.set_threshold(200_000, 50, 1000)

jax.config.update("jax_numpy_rank_promotion", "raise")

# Flax compares the shape of every existing parameter with what its initializer would give, and traces the initializer
# for it each time: a third of what tracing a network costs. Here once per initializer and shape.
_param, _checked = scope.Scope.param, set()


def _param_checked_once(self, name, init_fn, *arguments, unbox=True, **options):
    if options or not unbox or not all(isinstance(each, (tuple, type)) for each in arguments):
        return _param(self, name, init_fn, *arguments, unbox=unbox, **options)
    if self.has_variable("params", name):
        value = meta.unbox(self.get_variable("params", name))
        if (init_fn, arguments, np.shape(value)) in _checked:
            self.reserve(name, "params")
            return value
    value = _param(self, name, init_fn, *arguments)
    _checked.add((init_fn, arguments, np.shape(value)))
    return value


scope.Scope.param = _param_checked_once

# Flax searches every field of every module for submodules, at each call of it: a fifth of what tracing a network costs.
# There are none in numbers, names, functions and tuples of these.
_register = nn.Module._register_submodules
_PLAIN = (str, int, float, bool, type(None), type, types.FunctionType, functools.partial, np.dtype, type(jnp.float32))


def _register_if_any(self, name, value):
    kind = type(value)
    if kind in _PLAIN or (kind is tuple and all(type(each) in _PLAIN for each in value)):
        object.__setattr__(self, name, value)
    else:
        _register(self, name, value)


nn.Module._register_submodules = _register_if_any

# JAX makes a context of MLIR, with all its dialects, for every program: a third of what a small one costs. Here 100
# programs share one; what they put into it is freed with the last of them.
_make_context, _programs, _context = mlir.make_ir_context, itertools.count(), []


def _shared_context():
    if next(_programs) % 100 == 0:
        _context[:] = [_make_context()]
    return _context[0]


mlir.make_ir_context = _shared_context

# Kept programs are read once or twice: a quick compression costs less than a good one.
if not any(getattr(compilation_cache, name, None) for name in ("zstd", "zstandard")):
    compilation_cache.compress_executable = functools.partial(zlib.compress, level=1)

# Grain reads absl flags in its workers; outside `app.run` they count as unparsed.
flags.FLAGS.mark_as_parsed()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begins with the slow files, so that no worker of `-n` is left alone with one of them at the end."""
    items.sort(key=lambda item: item.get_closest_marker("slow") is None)


def pytest_sessionfinish() -> None:
    """Ends quickly: millions of objects are left, which pytest would search and JAX and Python take apart."""
    gc.freeze()
    if "PYTEST_XDIST_WORKER" in os.environ:
        # Called first of all exit handlers. A worker has sent its results, and its exit code is not looked at.
        atexit.register(os._exit, 0)


@pytest.fixture(scope="session")
def root() -> pathlib.Path:
    """The repository."""
    return ROOT


@pytest.fixture(scope="session")
def golden_folder() -> pathlib.Path:
    """The folder of reference outputs; its README.md describes each file."""
    return ROOT / "tests" / "golden"


@pytest.fixture(scope="session")
def market():
    """The module that writes Market-layout folders."""
    from tests.helpers import market_folder

    return market_folder


@pytest.fixture(scope="session")
def twins():
    """The module of slow numpy versions that the evaluation is compared with."""
    from tests.helpers import twins

    return twins
