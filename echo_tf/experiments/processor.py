"""What the processor of this machine can do, as far as Linux tells."""

from pathlib import Path

CPUINFO = Path("/proc/cpuinfo")


def instructions(path: Path = CPUINFO) -> frozenset[str]:
    """Names of the x86 instruction sets that the processor has, as Linux spells them; empty where it says nothing of them."""
    try:
        lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:  # another system, or a hardened one
        return frozenset()
    return frozenset(next((line.partition(":")[2].split() for line in lines if line.startswith("flags")), ()))


def lacks_bfloat16() -> bool:
    """Whether TensorFlow has no fast kernels for bfloat16 here: oneDNN's need AVX-512, or AVX-NE-CONVERT.

    `False` where nothing is known of the processor.
    """
    known = instructions()
    return bool(known) and known.isdisjoint({"avx512f", "avx_ne_convert"})
