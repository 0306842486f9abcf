"""Flags with which XLA compiles for a CPU quickly, and makes slower code.

Compiling is most of what the tests cost: without fusion emitters a training step takes a third of
the time, with hardly any optimisation less again, and a tenth less where code is made in one piece,
not cut up for threads. XLA reads them when the first backend starts.
"""

QUICK_COMPILE = (
    "--xla_cpu_use_fusion_emitters=false",
    "--xla_backend_optimization_level=0",
    "--xla_llvm_disable_expensive_passes=true",
    "--xla_cpu_parallel_codegen_split_count=1",
)
# For `Lowered.compile` where the code itself is looked at, or its last bit.
AS_IN_A_RUN = {"xla_cpu_use_fusion_emitters": True}
