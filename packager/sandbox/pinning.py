# SPDX-License-Identifier: Apache-2.0
"""The environment in which the same arithmetic gives the same bits on every CPU of one architecture.

Exporters fold constants (`exp` of a range, a scaled weight) and write the result into the graph. Which instructions
compute it is chosen at run time by five libraries, each from the CPU it finds, and their results differ in the last
bit. A worker starts from nothing but these variables, so neither the caller's environment nor the host's CPU can
choose. On x86-64 every entry about arithmetic was seen to change results when varied alone, and all together gave the
same bits on one real CPU and on four emulated ones (qemu: Nehalem, Haswell, EPYC, max).
"""

from __future__ import annotations

import platform

_X86 = {
    # torch's own vectorised kernels: softmax, layer_norm, linspace, pow differ between AVX levels
    "ATEN_CPU_CAPABILITY": "default",
    # MKL inside torch: matrix products, and `exp` on Intel's CPUs; only COMPATIBLE also binds other vendors' CPUs
    "MKL_CBWR": "COMPATIBLE",
    # oneDNN inside torch: convolution and gelu
    "ONEDNN_MAX_CPU_ISA": "SSE41",
    # OpenBLAS inside numpy: matrix products; Nehalem is the oldest CPU that numpy 2 itself runs on
    "OPENBLAS_CORETYPE": "Nehalem",
    # glibc's exp, sin, pow, … in double precision use fused multiply-add where there is one; Python's `math` and
    # numpy call them. The second spelling is that of glibc before 2.33; unknown names are ignored
    "GLIBC_TUNABLES": "glibc.cpu.hwcaps=-AVX2,-FMA,-FMA4,-AVX2_Usable,-FMA_Usable,-FMA4_Usable",
}
_ARM = {
    # not measured: no such machine was at hand; the names are those of the libraries' own documentation
    "ATEN_CPU_CAPABILITY": "default",
    "ONEDNN_MAX_CPU_ISA": "ADVSIMD",
    "OPENBLAS_CORETYPE": "ARMV8",
}
_EVERYWHERE = {
    # numpy's own kernels (exp, sin, tanh, …): enable nothing beyond the baseline. One space names no feature, so the
    # value outlives numpy's renaming of them (`NPY_DISABLE_CPU_FEATURES` would need each release's names)
    "NPY_ENABLE_CPU_FEATURES": " ",
    # the order of a sum follows the number of threads that share it
    "OMP_NUM_THREADS": "1",
    "MKL_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
    # the order of Python's sets of strings; no exported graph was seen to depend on it
    "PYTHONHASHSEED": "0",
    # not arithmetic, but of the same kind: text and times that could reach a file; none was seen to
    "TZ": "UTC",
    "LC_ALL": "C.UTF-8",
    # no bytecode beside foreign code, no user site that shadows the locked packages
    "PYTHONDONTWRITEBYTECODE": "1",
    "PYTHONNOUSERSITE": "1",
    # libraries that would otherwise look for their hub or report usage; the sandbox has no network, this avoids waiting
    "HF_HUB_OFFLINE": "1",
    "TRANSFORMERS_OFFLINE": "1",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "ORT_DISABLE_TELEMETRY": "1",
    "DO_NOT_TRACK": "true",
}


def pin_numerics(machine: str | None = None) -> dict[str, str]:
    """Return the variables of a worker's environment; `machine` is an architecture's name, by default this one's.

    Complete for arithmetic: a worker is to get these and nothing of its parent's environment.
    """
    name = (machine or platform.machine()).lower()
    own = _X86 if name in ("x86_64", "amd64") else _ARM if name in ("aarch64", "arm64") else {}
    return {**own, **_EVERYWHERE}
