"""Compile the kernels of packed attention for GPUs that are not here, and compare their shared memory with what these GPUs have.

    podman run --rm --network=none --read-only --volume "$PWD:/src:ro" --env=PYTHONPATH=/src --env=HOME=/var/cache/spac-repro \\
      --tmpfs /var/cache/spac-repro:exec,mode=1777 --tmpfs /tmp --entrypoint=python CUDA_IMAGE -P /src/bench/gpu_kernels.py

It needs PyTorch's CUDA build, and no GPU. `--policy` and `--gpu` take one of each. Dynamo and autograd trace
`compiled_flex_attention` on the CPU. Then the graphs' tensors are said to lie on a GPU, Inductor writes Triton's code for it, and
Triton's own ptxas compiles that to machine code. Nothing runs. A kernel that asks for more shared memory than the GPU has would end
a run at its first step.
"""

import argparse
import sys
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from types import SimpleNamespace
from typing import Any

import torch
from torch.utils._pytree import tree_map

KB = 1024


@dataclass(frozen=True)
class Gpu:
    """A GPU. The shared memory of a block is that of NVIDIA's CUDA programming guide, by compute capability."""

    name: str
    capability: tuple[int, int]
    processors: int
    shared: int  # KB of a block, at most


@dataclass(frozen=True)
class Heads:
    """The shape of a policy's attention."""

    policy: str
    heads: int
    key_value_heads: int
    width: int
    dtype: torch.dtype
    window: int | None = None
    softcap: float | None = None


GPUS = (Gpu("A100", (8, 0), 108, 163), Gpu("RTX 4090", (8, 9), 128, 99), Gpu("H100", (9, 0), 132, 227))
SHAPES = (
    Heads("Mistral 7B", 32, 8, 128, torch.bfloat16, 4096),
    Heads("SmolLM2-135M", 9, 3, 64, torch.bfloat16),
    Heads("SmolLM2-135M", 9, 3, 64, torch.float32),
    Heads("recipe tiny", 4, 2, 32, torch.float32),
    Heads("Phi-3 mini", 32, 32, 96, torch.bfloat16, 2047),
    Heads("Gemma 2 2B", 8, 4, 256, torch.bfloat16, 4096, 50.0),
)


class Pretended:
    """A machine that has a GPU while Inductor compiles, and none while the graphs are traced on the CPU."""

    def __init__(self) -> None:
        self.gpu: Gpu | None = None
        self.kernels: list[tuple[str, int]] = []  # names, and bytes of shared memory
        self._patch_torch()
        self._patch_triton()

    def _patch_torch(self) -> None:
        cuda: Any = torch.cuda
        for name in ("is_available", "is_initialized"):
            setattr(cuda, name, self._saying(lambda: self.gpu is not None))
        cuda.device_count = lambda: int(self.gpu is not None)
        for name in ("current_device", "_exchange_device", "_maybe_exchange_device"):
            setattr(cuda, name, self._saying(lambda: 0))
        for name in ("set_device", "synchronize", "_lazy_init", "set_rng_state"):
            setattr(cuda, name, self._saying(lambda: None))
        cuda.get_rng_state = lambda *_: torch.zeros(16, dtype=torch.uint8)
        cuda.get_device_properties = lambda *_: self._properties()
        cuda.get_device_capability = lambda *_: self._the_gpu().capability
        cuda.is_bf16_supported = lambda *_, **__: True
        from torch._subclasses import fake_tensor
        from torch.utils import _triton

        _triton.has_triton = lambda *_: True
        fake_tensor.init_gpu_context = lambda *_: None

    @staticmethod
    def _saying(value: Callable[[], Any]) -> Callable[..., Any]:
        """A function of its own, because dynamo keeps a rule for each of torch's."""
        return lambda *_: value()

    def _the_gpu(self) -> Gpu:
        assert self.gpu is not None
        return self.gpu

    def _architecture(self) -> int:
        major, minor = self._the_gpu().capability
        return 10 * major + minor

    def _properties(self) -> SimpleNamespace:
        gpu = self._the_gpu()
        return SimpleNamespace(
            name=gpu.name,
            major=gpu.capability[0],
            minor=gpu.capability[1],
            multi_processor_count=gpu.processors,
            warp_size=32,
            regs_per_multiprocessor=65536,
            max_threads_per_multi_processor=2048,
            max_threads_per_block=1024,
            shared_memory_per_block=48 * KB,
            shared_memory_per_block_optin=gpu.shared * KB,
            total_memory=80 * KB**3,
            L2_cache_size=40 * KB**2,
            gcnArchName="",
        )

    def _patch_triton(self) -> None:
        import triton
        from torch._inductor import config as inductor
        from torch._inductor.runtime import triton_helpers, triton_heuristics
        from triton.backends.compiler import GPUTarget

        inductor.compile_threads, inductor.force_disable_caches = 1, True

        class Driver:
            """Says what GPU there is, and can start nothing."""

            get_current_target = staticmethod(lambda: GPUTarget("cuda", self._architecture(), 32))
            get_current_device = get_current_stream = staticmethod(lambda *_: 0)

        triton.runtime.driver.set_active(Driver())
        triton_helpers.set_driver_to_gpu = lambda: None
        compile_for_gpu = triton_heuristics.triton.compile

        def compile_and_note(*arguments: Any, **options: Any) -> Any:
            binary = compile_for_gpu(*arguments, **options)
            assert binary.asm["cubin"]
            self.kernels.append((binary.metadata.name, binary.metadata.shared))
            return binary

        triton_heuristics.triton.compile = compile_and_note
        triton_heuristics.CachingAutotuner._make_launchers = lambda its: setattr(its, "launchers", [])  # noqa: SLF001  # torch has no public name for it
        triton_heuristics.CachingAutotuner._dynamic_scale_rblock = lambda its: None  # noqa: SLF001  # torch has no public name for it


def moved(value: Any) -> Any:
    """The same tensor without numbers, on a GPU; a scalar stays on the CPU, where it is."""
    if not hasattr(value, "fake_mode") or value.device.type != "cpu" or not value.dim():
        return value
    with value.fake_mode:
        return torch.empty_strided(value.size(), value.stride(), dtype=value.dtype, device="cuda")


def move(graph: torch.fx.GraphModule) -> None:
    """Move all tensors of a graph and of its subgraphs."""
    for module in graph.modules():
        for node in module.graph.nodes if isinstance(module, torch.fx.GraphModule) else ():
            node.meta |= {key: tree_map(moved, value) for key, value in node.meta.items() if key in ("val", "example_value")}
            if node.kwargs.get("device") is not None:
                node.kwargs = {**node.kwargs, "device": torch.device("cuda", 0)}


class CompiledError(Exception):
    """Everything is compiled, and there is nothing to run it on."""


def compile_kernels(machine: Pretended, gpu: Gpu, shape: Heads, *, tokens: int, gradients: bool) -> list[tuple[str, int]]:
    """Compile attention over rows of a shape, and its gradient.

    Returns:
        The kernels' names, and the bytes of shared memory that each takes.
    """
    from torch._dynamo.backends.common import aot_autograd
    from torch._functorch import config as functorch
    from torch._functorch.partitioners import min_cut_rematerialization_partition
    from torch._inductor.compile_fx import compile_fx_inner
    from torch._inductor.decomposition import select_decomp_table

    from spac_repro.data.example import TokenizedExample
    from spac_repro.model import packed_attention
    from spac_repro.model.packing import pack

    def compiler(*, is_backward: bool) -> Any:
        def compile_graph(graph: torch.fx.GraphModule, inputs: Any) -> Any:
            move(graph)
            machine.gpu = gpu
            try:
                compile_fx_inner(graph, [moved(each) for each in inputs], is_backward=is_backward)
            finally:
                machine.gpu = None

            def run(_: Any) -> Any:
                raise CompiledError

            run._boxed_call = True  # noqa: SLF001  # torch has no public name for it
            return run

        return compile_graph

    torch.compiler.reset()
    functorch.force_non_lazy_backward_lowering = True
    machine.kernels.clear()
    backend = aot_autograd(
        fw_compiler=compiler(is_backward=False),
        bw_compiler=compiler(is_backward=True),
        inference_compiler=compiler(is_backward=False),
        decompositions=select_decomp_table,
        partition_fn=min_cut_rematerialization_partition,
    )
    layout = pack([TokenizedExample([1] * tokens, [[2] * tokens] * 3)] * 2).layout
    query, key, value = (
        torch.randn(1, heads, len(layout.position_ids), shape.width, dtype=shape.dtype, requires_grad=gradients)
        for heads in (shape.heads, shape.key_value_heads, shape.key_value_heads)
    )
    compiled, reference = packed_attention.compiled_flex_attention.__wrapped__(backend), packed_attention.flex_attention
    packed_attention.flex_attention = compiled
    try:
        with torch.set_grad_enabled(gradients):
            packed_attention.flex_packed_attention(
                query, key, value, layout, scaling=None, window=shape.window, softcap=shape.softcap
            )
    except CompiledError:
        pass
    finally:
        packed_attention.flex_attention = reference
    return list(machine.kernels)


def trace_gradients_on_a_cpu() -> None:
    """FlexAttention refuses to trace its gradient on a CPU, where it could not be computed."""
    flex: Any = import_module("torch.nn.attention.flex_attention")

    given: Any = flex._apply_kernel_options  # noqa: SLF001  # torch has no public name for it

    def options(*arguments: Any, **more: Any) -> Any:
        return {**given(*arguments, **more), "OUTPUT_LOGSUMEXP": torch.is_grad_enabled()}

    flex._apply_kernel_options = options  # noqa: SLF001  # torch has no public name for it
    flex._validate_device = lambda *_: None  # noqa: SLF001  # torch has no public name for it


def largest(machine: Pretended, gpu: Gpu, shape: Heads) -> tuple[int, int]:
    """The most shared memory that a forward and a backward kernel take, in bytes."""
    kernels: list[tuple[str, int]] = []
    for tokens, gradients in ((20, True), (100, True), (100, False)):  # rows of one block of 128 tokens, and longer ones
        kernels += compile_kernels(machine, gpu, shape, tokens=tokens, gradients=gradients)
    backward = max(shared for name, shared in kernels if "backward" in name)
    return max(shared for name, shared in kernels if "backward" not in name), backward


def main() -> int:
    """Print the largest kernels of each policy, and return 1 if one does not fit."""
    warnings.simplefilter("ignore")
    parser = argparse.ArgumentParser()
    parser.add_argument("--policy", choices=sorted({shape.policy for shape in SHAPES}))
    parser.add_argument("--gpu", choices=[gpu.name for gpu in GPUS])
    given = parser.parse_args()
    gpus = [gpu for gpu in GPUS if given.gpu in (None, gpu.name)]
    machine, fits = Pretended(), True
    trace_gradients_on_a_cpu()
    print(f"torch {torch.__version__}; KB of shared memory: forward, backward (most that a block of the GPU has)")
    print("| policy | heads × width | dtype | " + " | ".join(f"{gpu.name} ({gpu.shared})" for gpu in gpus) + " |")
    print("| --- | --- | --- | " + " | ".join("---" for _ in gpus) + " |")
    for shape in SHAPES:
        if given.policy not in (None, shape.policy):
            continue
        cells = []
        for gpu in gpus:
            forward, backward = largest(machine, gpu, shape)
            fits &= max(forward, backward) <= gpu.shared * KB
            cells.append(f"{forward / KB:.0f}, {backward / KB:.0f}")
        heads, dtype = f"{shape.heads}, {shape.key_value_heads} × {shape.width}", str(shape.dtype).removeprefix("torch.")
        print(f"| {shape.policy} | {heads} | {dtype} | {' | '.join(cells)} |", flush=True)
    return 0 if fits else 1


if __name__ == "__main__":
    sys.exit(main())
