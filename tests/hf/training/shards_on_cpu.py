"""`dsocr train CONFIG.yaml` with weights in shards, by FSDP or ZeRO-3, on CPUs; see test_ranks.py.

accelerate shards by FSDP on accelerators only, though torch shards anywhere: here its state says
that several CPUs are such. DeepSpeed compiles a way through shared memory for them: here gloo has
to do. What shards, trains, gathers and saves is accelerate's, DeepSpeed's, the Trainer's, ours.
"""

import sys
from importlib.util import find_spec
from typing import Any

from accelerate import PartialState
from accelerate.state import AcceleratorState
from accelerate.utils import DistributedType

from vllm_dsocr.cli import main

own_init = PartialState.__init__


def init(state: PartialState, *args: Any, **kwargs: Any) -> None:
    own_init(state, *args, **kwargs)
    if state.distributed_type == DistributedType.MULTI_CPU:
        PartialState._shared_state["distributed_type"] = DistributedType.MULTI_XPU


if __name__ == "__main__":
    kind, config = sys.argv[1:]
    if kind == "FSDP":
        PartialState.__init__ = init
    elif find_spec("deepspeed"):
        import deepspeed

        deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
    code = main(["train", config])
    assert AcceleratorState().distributed_type == DistributedType[kind]
    sys.exit(code)
