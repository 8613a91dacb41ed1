"""Answers questions about the installed LMCache and torch.

Reads one JSON object from standard input and writes one line to standard output: "RESULT " and a JSON object.
"""

import json
import pickle
import sys


def raw_bytes(tensor):
    """Elements in row-major order."""
    import torch

    flat = tensor.contiguous().reshape(-1)
    return bytes(flat.view(torch.uint8).tolist()) if flat.numel() else b""


def describe(tensor):
    return {
        "dtype": str(tensor.dtype).removeprefix("torch."),
        "shape": list(tensor.shape),
        "raw": raw_bytes(tensor).hex(),
    }


def load_pickles(pickles):
    return [[describe(tensor) for tensor in pickle.loads(bytes.fromhex(text))] for text in pickles]


def make_pickles():
    import torch

    base = torch.arange(2 * 3 * 4, dtype=torch.int32).reshape(2, 3, 4)
    random = torch.randint(0, 256, (70_000,), dtype=torch.uint8)
    lists = {
        "plain": [base],
        "transposed": [base.permute(2, 0, 1)],
        "sliced": [base[:, 1:, ::2]],
        "expanded": [base[:, :1, :].expand(2, 5, 4)],
        "same object twice": [base, base],
        "views of one storage": [base[0], base[1], base],
        "no axes": [torch.tensor(1.5)],
        "empty": [torch.zeros(0, 3, dtype=torch.float64), base],
        "large bytes outside frames": [random, random[1:]],
        "more than one batch": [torch.full((2,), n, dtype=torch.int16) for n in range(1500)],
        "every type with a storage class": [
            torch.ones(3, 2).to(dtype).t()
            for dtype in (
                torch.float16, torch.bfloat16, torch.float32, torch.float64, torch.uint8, torch.int8,
                torch.int16, torch.int32, torch.int64, torch.bool, torch.complex64, torch.complex128,
            )
        ],
    }
    return [
        {
            "name": f"{name}, protocol {protocol}",
            "hex": pickle.dumps(tensors, protocol=protocol).hex(),
            "tensors": [describe(tensor) for tensor in tensors],
        }
        for name, tensors in lists.items()
        for protocol in (4, 5)
    ]


def refused_pickles():
    import torch

    objects = {
        "tuple": (torch.zeros(1),),
        "nested list": [[torch.zeros(1)]],
        "requires_grad": [torch.zeros(1, requires_grad=True)],
        "negated view": [torch._neg_view(torch.zeros(2))],
        "parameter": [torch.nn.Parameter(torch.zeros(1))],
        "dictionary": {"a": torch.zeros(1)},
        "number": [1],
        "fp8": [torch.zeros(2).to(torch.float8_e4m3fn)],
        "another class": [Exception("x")],
    }
    return [{"name": name, "hex": pickle.dumps(thing, protocol=4).hex()} for name, thing in objects.items()]


def element_types():
    import torch

    names = {name: value for name, value in vars(torch).items() if isinstance(value, torch.dtype)}
    return {
        name: {"name": str(value).removeprefix("torch."), "width": value.itemsize}
        for name, value in names.items()
    }


def recode_requests(requests):
    """Decodes payloads as the server does and encodes them as a client does."""
    from lmcache.v1.multiprocess.rpc import get_rpc_spec
    from lmcache.v1.multiprocess.transport.zmq_impl import mq, wire

    answers = []
    for request in requests:
        operation = wire.decode_operation(bytes.fromhex(request["operation"]))
        types = list(get_rpc_spec(operation).payload_types)
        payloads = mq.unwrap_request_payloads([bytes.fromhex(text) for text in request["payloads"]], types)
        answers.append({
            "operation": operation,
            "payloads": [mq.msgspec_encode(value, kind).hex() for value, kind in zip(payloads, types, strict=True)],
        })
    return answers


def recode_responses(responses):
    """Decodes results as a client does and encodes them as the server does."""
    from lmcache.v1.multiprocess.rpc import get_rpc_spec
    from lmcache.v1.multiprocess.transport.zmq_impl import mq

    answers = []
    for response in responses:
        kind = get_rpc_spec(response["operation"]).response_type
        value = mq.msgspec_decode(bytes.fromhex(response["result"]), kind)
        answers.append(mq.msgspec_encode(value, kind).hex())
    return answers


QUESTIONS = {
    "load_pickles": load_pickles,
    "make_pickles": lambda _: make_pickles(),
    "refused_pickles": lambda _: refused_pickles(),
    "element_types": lambda _: element_types(),
    "recode_requests": recode_requests,
    "recode_responses": recode_responses,
}

if __name__ == "__main__":
    question = json.load(sys.stdin)
    answer = {name: QUESTIONS[name](argument) for name, argument in question.items()}
    print("RESULT", json.dumps(answer))
