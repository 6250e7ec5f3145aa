"""Every test runs with shapes checked, strict broadcasting and eight virtual devices."""

import gc
import importlib.metadata
import os
import pathlib

# Read by JAX when it is imported, so they come before every import that might.
ROOT = pathlib.Path(__file__).parents[1]
os.environ["JAX_PLATFORMS"] = "cpu"
# Compiling is most of the suite. LLVM's own passes are half of that, and building each fusion
# through MLIR is half of the rest; the plain emitters compute the same. XLA's passes are as ever.
FLAGS = ["--xla_force_host_platform_device_count=8", "--xla_backend_optimization_level=0"]
if importlib.metadata.version("jaxlib").startswith("0.10."):  # later ones abort at this name
    FLAGS.append("--xla_cpu_use_fusion_emitters=false")
os.environ["XLA_FLAGS"] = " ".join(FLAGS)
# One cache for all workers and for the processes that tests start.
os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(ROOT / ".cache" / "jax"))
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.2")
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "false"

import jax  # noqa: E402
from jaxtyping import install_import_hook  # noqa: E402

# JAX's caches are millions of objects that live on; looking through them costs a tenth of the run.
gc.set_threshold(200_000, 20, 50)

jax.config.update("jax_numpy_rank_promotion", "raise")
install_import_hook("alignax", "beartype.beartype")
