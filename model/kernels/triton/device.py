"""The code of the Triton kernels: one program per row, or per row and block of columns.

Arguments in capitals are known when a kernel is compiled. Pointers are to row-major arrays whose
last dimension is contiguous; the others' strides are in elements. All arithmetic is float32,
rounded to the arrays' dtype where `PlainKernels` rounds it, unless a kernel says otherwise.
"""

import triton
import triton.language as tl


@triton.jit
def rms_norm(x_ptr, gain_ptr, out_ptr, x_stride, size, eps, BLOCK: tl.constexpr):
    """Norm the row [size] of this program."""
    row = tl.program_id(0).to(tl.int64)
    columns = tl.arange(0, BLOCK)
    inside = columns < size
    x = tl.load(x_ptr + row * x_stride + columns, mask=inside, other=0.0).to(tl.float32)
    gain = tl.load(gain_ptr + columns, mask=inside, other=0.0)
    y = _normed(x, gain, size, eps)
    tl.store(out_ptr + row * size + columns, y.to(out_ptr.dtype.element_ty), mask=inside)


@triton.jit
def add_norm(x_ptr, branch_ptr, branch_gain_ptr, gain_ptr, out_ptr, size, eps, BLOCK: tl.constexpr):
    """Add this program's row of the branch, normed, to x's in place; write the sum's norm."""
    row = tl.program_id(0).to(tl.int64) * size
    columns = tl.arange(0, BLOCK)
    inside = columns < size
    dtype = x_ptr.dtype.element_ty
    branch = tl.load(branch_ptr + row + columns, mask=inside, other=0.0).to(tl.float32)
    branch_gain = tl.load(branch_gain_ptr + columns, mask=inside, other=0.0)
    normed = _normed(branch, branch_gain, size, eps).to(dtype).to(tl.float32)
    x = tl.load(x_ptr + row + columns, mask=inside, other=0.0).to(tl.float32)
    total = (x + normed).to(dtype)
    tl.store(x_ptr + row + columns, total, mask=inside)
    gain = tl.load(gain_ptr + columns, mask=inside, other=0.0)
    y = _normed(total.to(tl.float32), gain, size, eps)
    tl.store(out_ptr + row + columns, y.to(dtype), mask=inside)


@triton.jit
def _normed(x, gain, size, eps):
    return x * tl.rsqrt(tl.sum(x * x, axis=0) / size + eps) * gain


@triton.jit
def gelu_gate(gate_up_ptr, out_ptr, width, BLOCK: tl.constexpr):
    """Write gelu_tanh(gate) * up for a block of a row; a row is `width` gates, then as many ups.

    gelu_tanh(x) = x sigmoid(2u) with u = sqrt(2 / pi) (x + 0.044715 x^3), exactly
    (Hendrycks and Gimpel 2016, arXiv:1606.08415).
    """
    row = tl.program_id(0).to(tl.int64)
    columns = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    inside = columns < width
    source = gate_up_ptr + row * 2 * width + columns
    gate = tl.load(source, mask=inside, other=0.0).to(tl.float32)
    up = tl.load(source + width, mask=inside, other=0.0).to(tl.float32)
    twice_u = 1.5957691216057308 * gate * (1.0 + 0.044715 * gate * gate)
    dtype = out_ptr.dtype.element_ty
    gelu = (gate * tl.sigmoid(twice_u)).to(dtype).to(tl.float32)
    tl.store(out_ptr + row * width + columns, (gelu * up).to(dtype), mask=inside)


@triton.jit
def soft_cap(x_ptr, count, cap, BLOCK: tl.constexpr):
    """Turn a block of x into cap tanh(x / cap) = cap (2 sigmoid(2x / cap) - 1); rounds once."""
    places = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    inside = places < count
    x = tl.load(x_ptr + places, mask=inside, other=0.0).to(tl.float32)
    y = cap * (2.0 * tl.sigmoid(2.0 * x / cap) - 1.0)
    tl.store(x_ptr + places, y.to(x_ptr.dtype.element_ty), mask=inside)


@triton.jit
def rotate_and_store(
    qkv_ptr,
    cos_ptr,
    sin_ptr,
    slots_ptr,
    keys_ptr,
    values_ptr,
    qkv_stride,
    heads,
    kv_heads,
    HALF: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """Rotate one head of one token in place, or on its way to the cache; values are only copied.

    Heads are numbered as they lie in a row: queries, keys, values. Slots are rows of KV heads.
    """
    token = tl.program_id(0).to(tl.int64)
    head = tl.program_id(1)
    pairs = tl.arange(0, BLOCK)
    inside = pairs < HALF
    source = qkv_ptr + token * qkv_stride + head * 2 * HALF + pairs
    left = tl.load(source, mask=inside)
    right = tl.load(source + HALF, mask=inside)
    is_query = head < heads
    is_value = head >= heads + kv_heads
    if not is_value:
        cos = tl.load(cos_ptr + token * HALF + pairs, mask=inside)
        sin = tl.load(sin_ptr + token * HALF + pairs, mask=inside)
        x, y = left.to(tl.float32), right.to(tl.float32)
        left = (x * cos - y * sin).to(left.dtype)
        right = (y * cos + x * sin).to(right.dtype)
    if is_query:
        tl.store(source, left, mask=inside)
        tl.store(source + HALF, right, mask=inside)
    else:
        slot = tl.load(slots_ptr + token)
        first = tl.where(is_value, heads + kv_heads, heads)
        target = (slot * kv_heads + head - first) * 2 * HALF + pairs
        if is_value:
            tl.store(values_ptr + target, left, mask=inside)
            tl.store(values_ptr + target + HALF, right, mask=inside)
        else:
            tl.store(keys_ptr + target, left, mask=inside)
            tl.store(keys_ptr + target + HALF, right, mask=inside)


@triton.jit
def quantize_fp8(x_ptr, out_ptr, scale_ptr, x_stride, size, BLOCK: tl.constexpr):
    """Divide this program's row by its largest magnitude / 448, and round it to float8_e4m3fn."""
    row = tl.program_id(0).to(tl.int64)
    columns = tl.arange(0, BLOCK)
    inside = columns < size
    x = tl.load(x_ptr + row * x_stride + columns, mask=inside, other=0.0).to(tl.float32)
    scale = tl.maximum(tl.max(tl.abs(x), axis=0), 1e-12) / 448.0
    tl.store(scale_ptr + row, scale)
    # Rounding must not lead past the largest number: there is no infinity behind it, only NaN.
    scaled = tl.minimum(tl.maximum(x / scale, -448.0), 448.0)
    tl.store(out_ptr + row * size + columns, scaled.to(tl.float8e4nv), mask=inside)
