"""Opens the compiled library and declares its functions."""

import ctypes
from ctypes import c_float, c_int, c_long, c_void_p
from functools import cache

from .build import LIBRARY, digest

# The arguments of each function, in the order of its definition in src/.
_SIGNATURES: dict[str, list[type]] = {
    "pack_bf16": [c_void_p, c_long, c_void_p, c_long, c_void_p, c_int],
    "pack_int8": [c_void_p, c_long, c_void_p, c_long, c_void_p, c_int],
    "linear_bf16": [
        *[c_void_p, c_long, c_long, c_long, c_void_p, c_long, c_void_p],
        *[c_int, c_float, c_void_p, c_long, c_int],
    ],
    "linear_int8": [
        *[c_void_p, c_void_p, c_long, c_long, c_void_p, c_void_p, c_void_p, c_long, c_void_p],
        *[c_int, c_float, c_void_p, c_long, c_int],
    ],
    "linear_coded": [
        *[c_int, c_void_p, c_long, c_long, c_long, c_void_p, c_void_p, c_void_p, c_void_p],
        *[c_void_p, c_long, c_void_p, c_int, c_void_p, c_long, c_int],
    ],
    "embed": [c_void_p, c_long, c_void_p, c_long, c_float, c_void_p, c_int],
    "rms_norm": [c_void_p, c_void_p, c_float, c_long, c_long, c_void_p, c_int],
    "add_norm": [c_void_p, c_void_p, c_void_p, c_void_p, c_float, c_long, c_long, c_void_p, c_int],
    "rotate_and_store": [
        *[c_void_p, c_long, c_long, c_long, c_long, c_long],
        *[c_void_p, c_void_p, c_void_p, c_void_p, c_void_p, c_int],
    ],
    "geglu": [c_void_p, c_long, c_long, c_void_p, c_int],
    "quantize_rows": [c_void_p, c_long, c_long, c_long, c_void_p, c_void_p, c_int],
    "peaks": [c_void_p, c_long, c_long, c_long, c_void_p, c_void_p, c_void_p, c_int],
    "attend": [
        *[c_void_p, c_long, c_void_p, c_void_p, c_void_p, c_long, c_long, c_long, c_long],
        *[c_void_p, c_void_p, c_void_p, c_void_p, c_long, c_long],
        *[c_void_p, c_long, c_void_p, c_void_p, c_long, c_float, c_float, c_int],
    ],
}


class Library:
    """The functions of src/, without their prefix; pointers are addresses of tensors' data."""

    def __init__(self, handle: ctypes.CDLL) -> None:
        for name, arguments in _SIGNATURES.items():
            function = getattr(handle, f"gemmaray_{name}")
            function.argtypes, function.restype = arguments, None
            setattr(self, name, function)

    def __getattr__(self, name: str) -> "ctypes._NamedFuncPointer":
        raise AttributeError(name)


@cache
def load() -> Library | str:
    """Open the library once; where it can't be used, return the reason.

    torch must have been imported: the library takes OpenMP from it.
    """
    if not LIBRARY.exists():
        return (
            "the native kernels were not compiled (no C++ compiler when gemmaray was installed?): "
            "install g++ and install gemmaray again"
        )
    try:
        handle = ctypes.CDLL(str(LIBRARY))
    except OSError as error:
        return f"the native kernels can't be loaded ({error}): install gemmaray again"
    if not handle.gemmaray_cpu_supported():
        return "this CPU lacks AVX-512 with BF16 and VNNI"
    made_of = handle.gemmaray_digest
    made_of.restype = ctypes.c_char_p
    if made_of().decode() != digest():
        return (
            "the native kernels are older than their sources: "
            "run python -m model.kernels.native.build"
        )
    return Library(handle)
