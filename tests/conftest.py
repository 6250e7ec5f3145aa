"""Every test runs with shapes checked, strict broadcasting and eight virtual devices."""

import gc
import importlib.metadata
import os
import pathlib
import threading

# Read by JAX when it is imported, so they come before every import that might.
ROOT = pathlib.Path(__file__).parents[1]
os.environ["JAX_PLATFORMS"] = "cpu"
# Compiling is most of the suite. LLVM's own passes are half of that, and building each fusion
# through MLIR is half of the rest; the plain emitters compute the same. XLA's passes are as ever.
FLAGS = ["--xla_force_host_platform_device_count=8", "--xla_backend_optimization_level=0"]
KNOWN = importlib.metadata.version("jaxlib").startswith("0.10.")  # what is said of it below holds
if KNOWN:  # later ones abort at a name that they do not know, as at the first of these
    FLAGS.append("--xla_cpu_use_fusion_emitters=false")
    # A program is else split into up to 32 for as many cores to compile; each part costs its own.
    FLAGS.append("--xla_cpu_parallel_codegen_split_count=1")
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

if KNOWN:
    from jax._src.interpreters import mlir

    # JAX lowers every program in an MLIR context of its own, with all dialects loaded anew. That is
    # a third of what it takes to compile a single operation, of which there are many thousands, and
    # gigabytes until garbage is looked for. A context holds types and constants, each once, and
    # nothing of a program that was lowered in it; so here each thread keeps one.
    made = threading.local()

    def context_of_this_thread(make=mlir.make_ir_context):
        if not hasattr(made, "context"):
            made.context = make()
        return made.context

    mlir.make_ir_context = context_of_this_thread

jax.config.update("jax_numpy_rank_promotion", "raise")
install_import_hook("alignax", "beartype.beartype")
