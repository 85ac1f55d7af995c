"""One packed layer in each of the other packages that install as wheels, all called in the same way.

A builder takes (out, in, copies, seed) and gives a Peer: call i multiplies by copy i. It raises ImportError where its
package is missing.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

GROUP = 128  # weights that share a scale, where there is a choice


@dataclass(frozen=True)
class Peer:
    """A layer of another package.

    Attributes:
        bits_per_weight: codes and scales, as the package stores them.
        call: from x (batch, in) float32 and the number of the call to the product.
        dense: the matrix it multiplies by, float32 (out, in).
    """

    bits_per_weight: float
    call: Callable[[Tensor, int], object]
    dense: Tensor


def _uniform(out: int, width: int, bits: int, seed: int) -> tuple[np.ndarray, np.ndarray, Tensor]:
    """Codes (out, groups, 128) from 0 on, scales (out, groups) float32, and the matrix with the zero in the middle."""
    random = np.random.default_rng(seed)
    codes = random.integers(0, 1 << bits, (out, width // GROUP, GROUP), dtype=np.uint8)
    scales = random.uniform(0.5, 1.5, (out, width // GROUP)).astype(np.float16).astype(np.float32)
    dense = (codes.astype(np.float32) - (1 << (bits - 1))) * scales[:, :, None]
    return codes, scales, torch.from_numpy(dense.reshape(out, width))


def _packed(codes: np.ndarray, bits: int) -> np.ndarray:
    """Fields of the last axis, lowest bits first."""
    each = 8 // bits
    parts = codes.reshape(*codes.shape[:-1], -1, each).astype(np.uint8)
    return np.bitwise_or.reduce(parts << (bits * np.arange(each, dtype=np.uint8)), axis=-1)


def onnxruntime(bits: int) -> Callable[[int, int, int, int], Peer]:
    """MatMulNBits at accuracy level 4: int8 activations, groups of 128."""

    def make(out: int, width: int, copies: int, seed: int) -> Peer:
        import onnxruntime as ort
        from onnx import TensorProto, helper, numpy_helper

        codes, scales, dense = _uniform(out, width, bits, seed)
        attributes = {"K": width, "N": out, "bits": bits, "block_size": GROUP, "accuracy_level": 4}
        node = helper.make_node(
            "MatMulNBits", ["x", "w", "s"], ["y"], domain="com.microsoft", **attributes
        )
        graph = helper.make_graph(
            [node],
            "layer",
            [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["m", width])],
            [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["m", out])],
            [
                numpy_helper.from_array(_packed(codes, bits), "w"),
                numpy_helper.from_array(scales.reshape(-1), "s"),
            ],
        )
        domains = [helper.make_opsetid("", 17), helper.make_opsetid("com.microsoft", 1)]
        model = helper.make_model(graph, opset_imports=domains, ir_version=9)
        options = ort.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        data = model.SerializeToString()
        sessions = [
            ort.InferenceSession(data, options, providers=["CPUExecutionProvider"])
            for _ in range(copies)
        ]
        return Peer(
            bits + 32 / GROUP,
            lambda x, i: sessions[i % copies].run(None, {"x": x.numpy()})[0],
            dense,
        )

    return make


def openvino(bits: int) -> Callable[[int, int, int, int], Peer]:
    """u2 or u4 weights, groups of 128, activations quantized on the way in groups of 128."""

    def make(out: int, width: int, copies: int, seed: int) -> Peer:
        import openvino as ov
        from openvino import opset13 as ops

        codes, scales, dense = _uniform(out, width, bits, seed)
        kind, shape = (ov.Type.u2 if bits == 2 else ov.Type.u4), ov.Shape(codes.shape)
        core = ov.Core()
        stored = [_packed(codes, bits) for _ in range(copies)]  # openvino keeps no copy
        settings = {
            "INFERENCE_NUM_THREADS": 1,
            "NUM_STREAMS": 1,
            "DYNAMIC_QUANTIZATION_GROUP_SIZE": str(GROUP),
            "INFERENCE_PRECISION_HINT": "f32",
        }

        def compiled(data: np.ndarray) -> ov.InferRequest:
            x = ops.parameter([-1, width], ov.Type.f32)
            weight = ops.convert(ov.op.Constant(ov.Tensor(data, shape, kind)), "f16")
            middle = ov.op.Constant(np.full((1, 1, 1), 1 << (bits - 1), np.float16))
            scale = ov.op.Constant(scales[:, :, None].astype(np.float16))
            scaled = ops.multiply(ops.subtract(weight, middle), scale)
            matrix = ops.convert(
                ops.reshape(scaled, np.array([out, width], np.int64), False), "f32"
            )
            product = ops.matmul(x, matrix, False, True)
            model = ov.Model([product], [x], "layer")
            return core.compile_model(model, "CPU", settings).create_infer_request()

        requests = [compiled(data) for data in stored]
        return Peer(
            bits + 16 / GROUP,
            lambda x, i: (requests[i % copies].infer([x.numpy()], share_inputs=True)[0], stored)[0],
            dense,
        )

    return make


def aqlm(out: int, width: int, copies: int, seed: int) -> Peer:
    """Two codebooks of 256 vectors of 8, the numba kernel."""
    from aqlm.inference_kernels.numba_kernel import numba_gemm_lut

    generator = torch.Generator().manual_seed(seed)
    books = torch.randn(2, 256, 1, 8, generator=generator)
    codes = torch.randint(0, 256, (width // 8, out, 2), generator=generator)
    scales = torch.rand(out, 1, 1, 1, generator=generator) + 0.5
    values = books[0, :, 0][codes[..., 0]] + books[1, :, 0][codes[..., 1]]
    dense = values.permute(1, 0, 2).reshape(out, width) * scales.reshape(-1, 1)
    stored = [codes.to(torch.uint8).view(torch.int8).clone() for _ in range(copies)]
    bits = 2 + (books.numel() * 16 + out * 16) / (out * width)
    return Peer(
        bits, lambda x, i: numba_gemm_lut(x, stored[i % copies], books, scales, None), dense
    )


def auto_round(bits: int) -> Callable[[int, int, int, int], Peer]:
    """BestLA's int2 or int4, groups of 128, int8 activations."""

    def make(out: int, width: int, copies: int, seed: int) -> Peer:
        import auto_round_kernel as kernel

        codes, scales, dense = _uniform(out, width, bits, seed)
        numbers = codes.reshape(out, width).astype(np.int8) - (1 << (bits - 1))
        groups = torch.from_numpy(scales.T.copy())
        options = (GROUP, "int8", f"int{bits}", "fp32", False)
        blobs = [
            kernel.repack_quantized_weight(
                torch.from_numpy(numbers.T.copy()),
                groups,
                torch.zeros(0, dtype=torch.int8),
                *options,
            )
            for _ in range(copies)
        ]
        bias = torch.zeros(0)
        return Peer(
            8 * blobs[0].numel() / (out * width),
            lambda x, i: kernel.woqgemm(x, blobs[i % copies], bias, out, width, *options),
            dense,
        )

    return make


def bitsandbytes(out: int, width: int, copies: int, seed: int) -> Peer:
    """NormalFloat of 4 bits, groups of 64, in bfloat16, which is its fast way."""
    import bitsandbytes as bnb

    generator = torch.Generator().manual_seed(seed)
    matrix = torch.randn(out, width, generator=generator).bfloat16()
    layers = []
    for _ in range(copies):
        layer = bnb.nn.Linear4bit(width, out, bias=False, compute_dtype=torch.bfloat16)
        layer.weight = bnb.nn.Params4bit(matrix.clone(), requires_grad=False, quant_type="nf4")
        layers.append(layer.to("cpu").eval())
    state = layers[0].weight.quant_state
    dense = bnb.functional.dequantize_4bit(layers[0].weight.data.clone(), state).float()
    return Peer(
        4 + 32 / 64, lambda x, i: layers[i % copies](x.bfloat16()), dense.reshape(out, width)
    )


PEERS = {
    "onnxruntime MatMulNBits 2 bits": onnxruntime(2),
    "onnxruntime MatMulNBits 4 bits": onnxruntime(4),
    "openvino u2": openvino(2),
    "openvino u4": openvino(4),
    "aqlm 2x8 numba": aqlm,
    "auto-round-lib int2": auto_round(2),
    "auto-round-lib int4": auto_round(4),
    "bitsandbytes nf4 bfloat16": bitsandbytes,
}
