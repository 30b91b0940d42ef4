"""Several processes that train one model, as torchrun starts them; everything also works for one.

All processes draw the same random numbers and prepare the whole batch, of which each keeps its
share, so the result is that of one process, up to rounding. (Dropout is the exception: every
process draws its own.) The price: reading and augmenting images is no faster with more processes.
"""

import os
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext

import torch
from torch import Tensor, distributed, nn
from torch.nn.parallel import DistributedDataParallel


def join(device: torch.device) -> torch.device:
    """Join the processes that torchrun has started, if any; return the device of this one.

    Raises ValueError if there are more processes than GPUs.
    """
    if distributed.is_torchelastic_launched() and not distributed.is_initialized():
        if device.type == "cuda":
            number, found = int(os.environ["LOCAL_RANK"]), torch.cuda.device_count()
            if number >= found:
                raise ValueError(f"process {number} needs a GPU of its own, found {found}")
            device = torch.device("cuda", number)
            torch.cuda.set_device(device)
        distributed.init_process_group("nccl" if device.type == "cuda" else "gloo")
    return device


def rank() -> int:
    """Which process this is, from 0; only process 0 prints and writes."""
    return distributed.get_rank() if distributed.is_initialized() else 0


def processes() -> int:
    """How many there are."""
    return distributed.get_world_size() if distributed.is_initialized() else 1


@contextmanager
def one_by_one() -> Iterator[None]:
    """Process 0 goes first: what it downloads, the others find."""
    if rank():
        distributed.barrier()
    yield
    if processes() > 1 and not rank():
        distributed.barrier()


def wrap(model: nn.Module) -> nn.Module:
    """The model whose backward pass averages the gradients over all processes."""
    return DistributedDataParallel(model) if distributed.is_initialized() else model


def meeting(model: nn.Module, last: bool) -> AbstractContextManager[None]:
    """Skip gradient synchronisation unless this is the last micro-batch."""
    if last or not isinstance(model, DistributedDataParallel):
        return nullcontext()
    return model.no_sync()


def share(x: Tensor, parts: int) -> tuple[Tensor, ...]:
    """This process's rows of a batch that all of them hold, in so many equal micro-batches.

    Raises ValueError if the batch cannot be divided equally.
    """
    if len(x) % (processes() * parts):
        raise ValueError(
            f"a batch of {len(x)} cannot be shared by {processes()} processes in {parts} parts each"
        )
    return x.chunk(processes())[rank()].chunk(parts)


def own_dropout(seed: int, step: int) -> None:
    """Seed the dropout of every process but the first with a number of its own for each step."""
    if rank():
        torch.manual_seed((seed + step * processes() + rank()) % 2**63)


def mean(x: Tensor) -> Tensor:
    """The mean over all processes, on all of them; overwrites x."""
    if distributed.is_initialized():
        distributed.all_reduce(x)
    return x / processes()


def agreed(flag: bool, device: torch.device) -> bool:
    """Whether the flag is set on any process; all of them have to ask."""
    if processes() == 1:
        return flag
    return bool(mean(torch.tensor(float(flag), device=device)) > 0)
