"""What computes: the processor, the kernels that torch chooses for it, and the variables that make libraries choose others.

The same sum in another order has other bits. The order depends on the vector instructions (torch, MKL and oneDNN each choose for
themselves), on the versions of these libraries, and on environment variables. All of it is part of a run's environment: where it
differs, a run is not resumed and a start is not shared.
"""

import os
import platform
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

# Variables that can change bits, by how their names begin. The number of threads and torch's vector instructions are recorded as
# they are (`threads`, `cpu_capability`), so the variables that set them are not.
PREFIXES = ("MKL_", "ONEDNN_", "DNNL_", "OMP_", "KMP_", "ATEN_", "GLIBC_TUNABLES", "LD_PRELOAD")
OTHER_BLAS = ("OPENBLAS_", "BLIS_")  # where torch was not built with MKL; otherwise only numpy has OpenBLAS
GPU_PREFIXES = (
    *("CUBLAS", "CUDNN_", "NCCL_", "NVIDIA_TF32_OVERRIDE"),
    *("TORCH_ALLOW_TF32", "TORCH_BLAS_", "TORCH_LINALG_", "TORCHINDUCTOR_", "TRITON_F32_DEFAULT", "TRITON_DEFAULT_FP_FUSION"),
)
NAMED_ELSEWHERE = ("ATEN_CPU_CAPABILITY", "OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")
# Where threads run and how they wait, what is printed, and how hosts find each other.
HARMLESS = (
    *("OMP_WAIT_POLICY", "OMP_PROC_BIND", "OMP_PLACES", "OMP_STACKSIZE", "OMP_DISPLAY_*", "OMP_AFFINITY_FORMAT"),
    *("KMP_BLOCKTIME", "KMP_AFFINITY", "KMP_SETTINGS", "KMP_WARNINGS", "KMP_VERSION", "KMP_INIT_AT_FORK", "KMP_DUPLICATE_LIB_OK"),
    *("MKL_VERBOSE*", "ONEDNN_VERBOSE*", "DNNL_VERBOSE*", "ONEDNN_JIT_*", "DNNL_JIT_*"),
    *("CUDNN_LOG*", "CUBLAS_LOG*", "CUBLASLT_LOG*", "NCCL_DEBUG*", "NCCL_SOCKET_*", "NCCL_IB_*"),
    *("NCCL_COMM_ID", "NCCL_HOSTID", "NCCL_ASYNC_ERROR_HANDLING", "NCCL_BLOCKING_WAIT", "TORCHINDUCTOR_CACHE_DIR"),
)
_CPU_FIELDS = {"vendor": "vendor_id", "family": "cpu family", "model": "model", "stepping": "stepping"}
_CACHES = Path("/sys/devices/system/cpu/cpu0/cache")
_VECTOR = re.compile(r"(sse4|avx|fma|f16c|amx|sve|asimd)")


def describe(environ: Mapping[str, str] = os.environ) -> dict[str, Any]:
    """What computes in this process: `processor`, `kernels`, `variables`, and `gpu_kernels` (None without a GPU)."""
    import torch

    gpu, mkl = torch.cuda.is_available(), cast(Any, torch.backends.mkl)
    prefixes = (*PREFIXES, *(() if mkl.is_available() else OTHER_BLAS), *(GPU_PREFIXES if gpu else ()))
    return {
        "processor": processor(),
        "kernels": _kernels(),
        "variables": variables(environ, prefixes),
        "gpu_kernels": _gpu_kernels() if gpu else None,
    }


def cpu_model(cpuinfo: Path = Path("/proc/cpuinfo")) -> str:
    """The processor's name. Several processors can have one name, as `AMD EPYC` in virtual machines: see `processor`."""
    return _cpuinfo(cpuinfo).get("model name") or platform.processor()


def processor(cpuinfo: Path = Path("/proc/cpuinfo"), caches: Path = _CACHES) -> dict[str, str | None]:
    """Vendor, family, model and stepping of the first processor, its vector instructions and caches; None where not known.

    Libraries cut products into blocks that fit the caches.
    """
    fields = _cpuinfo(cpuinfo)
    flags = (fields.get("flags") or fields.get("Features") or "").split()
    vector = " ".join(sorted(flag for flag in flags if _VECTOR.match(flag)))
    sizes = " ".join(file.read_text().strip() for file in sorted(caches.glob("index*/size")))
    numbers = {name: fields.get(field) for name, field in _CPU_FIELDS.items()}
    return {**numbers, "vector_instructions": vector or None, "caches": sizes or None}


def hardware(environment: Mapping[str, Any]) -> str:
    """A recorded processor in a line, with what tells it from others of its name and what torch computes with.

    Args:
        environment: `environment` of a manifest.
    """
    its = environment["processor"]
    numbers = ", ".join(f"{name} {its[name]}" for name in ("family", "model", "stepping") if its[name])
    return f"{environment['cpu']} ({numbers or 'details not known'}), {environment['kernels']['cpu_capability']}"


def _cpuinfo(path: Path) -> dict[str, str]:
    try:
        first = path.read_text(encoding="utf-8", errors="replace").split("\n\n", 1)[0]
    except OSError:
        return {}
    pairs = (line.partition(":") for line in first.splitlines())
    return {name.strip(): value.strip() for name, _, value in pairs}


def _kernels() -> dict[str, Any]:
    """The instruction set of torch's own kernels, and the libraries below torch, as it was built with them."""
    import torch

    libraries = re.findall(r"(Intel\(R\) .*|OpenMP .*|BLAS_INFO=\w+)", torch.__config__.show())
    return {
        "cpu_capability": torch.backends.cpu.get_cpu_capability(),
        "built_with": "; ".join(each.strip().rstrip(",") for each in libraries),
        "mkldnn": torch.backends.mkldnn.enabled,
        "libc": " ".join(platform.libc_ver()),  # log and exp of single numbers
    }


def variables(environ: Mapping[str, str], prefixes: tuple[str, ...]) -> dict[str, str]:
    """The environment variables that are set and can change bits. Of a path, its last part: a run records no places."""
    names = [name for name in sorted(environ) if name.startswith(prefixes) and name not in NAMED_ELSEWHERE]
    return {name: _without_places(environ[name]) for name in names if not _is_harmless(name)}


def _is_harmless(name: str) -> bool:
    return any(name.startswith(each[:-1]) if each.endswith("*") else name == each for each in HARMLESS)


def _without_places(value: str) -> str:
    return re.sub(r"/[^\s:;,]*/", "", value)


def _gpu_kernels() -> dict[str, Any]:
    """Driver, libraries and switches of a GPU."""
    import torch

    matmul = torch.backends.cuda.matmul
    cudnn: Any = torch.backends.cudnn
    return {
        "driver": driver(),
        "capability": ".".join(map(str, torch.cuda.get_device_capability())),
        "cudnn": cudnn.version(),
        "cublas": _cublas(),
        "nccl": _nccl(),
        "tf32": {"matmul": matmul.allow_tf32, "cudnn": cudnn.allow_tf32},
        "reduced_precision_reduction": {
            "float16": matmul.allow_fp16_reduced_precision_reduction,
            "bfloat16": matmul.allow_bf16_reduced_precision_reduction,
        },
        "cudnn_deterministic": cudnn.deterministic,
        "cudnn_benchmark": cudnn.benchmark,
    }


def driver(file: Path = Path("/proc/driver/nvidia/version")) -> str | None:
    """The version of NVIDIA's driver; None where the kernel does not say."""
    try:
        found = re.search(r"Kernel Module\b.*?\s(\d+(?:\.\d+)+)\s", file.read_text(encoding="utf-8", errors="replace"))
    except OSError:
        return None
    return found[1] if found else None


def _cublas() -> str | None:
    """The version of the package that has cuBLAS; None where torch was built in another way."""
    from importlib import metadata

    for name in ("nvidia-cublas", "nvidia-cublas-cu13", "nvidia-cublas-cu12", "nvidia-cublas-cu11"):
        try:
            return metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return None


def _nccl() -> str | None:
    import torch

    if not torch.distributed.is_nccl_available():
        return None
    nccl: Any = torch.cuda.nccl
    return ".".join(map(str, nccl.version()))
