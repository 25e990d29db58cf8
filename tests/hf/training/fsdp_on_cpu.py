"""`dsocr train CONFIG.yaml` with `fsdp: true` on CPUs; see test_ranks.py.

accelerate shards on accelerators only, though torch shards anywhere. Here its state says that
several CPUs are such; what shards, trains, gathers and saves is accelerate's, the Trainer's, ours.
"""

import sys
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
    PartialState.__init__ = init
    code = main(["train", *sys.argv[1:]])
    assert AcceleratorState().distributed_type == DistributedType.FSDP
    sys.exit(code)
