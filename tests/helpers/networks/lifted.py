"""What a plan's graph gives for weights and inputs, by ONNX Runtime alone."""

from collections.abc import Mapping

from isoform.runtime.arrays import Array
from isoform.runtime.engines.onnx.plans.plan import Plan, bind
from isoform.runtime.engines.onnx.plans.sized import ANY, Sessions

__all__ = ["lifted_output"]


def lifted_output(
    plan: Plan, weights: Mapping[str, Array], feeds: Mapping[str, Array], output: str, *, size: int = ANY
) -> Array:
    """One output of the session for a batch size, ``ANY`` for the plan's own graph."""
    session, vector = Sessions(plan.graph, plan.batches, threads=1).of(size), plan.layout.lay_out(weights)
    binding = session.io_binding()
    bind(binding, plan.layout.weights, vector)
    for name, value in feeds.items():
        binding.bind_cpu_input(name, value)
    binding.bind_output(output, "cpu")
    session.run_with_iobinding(binding)
    result: Array = binding.copy_outputs_to_cpu()[0]
    return result
