"""Several processes that train one model, as torchrun starts them; everything also works for one.

All processes draw the same random numbers and prepare the whole batch, of which each keeps its
share, so the result is that of one process, up to rounding. (Dropout is the exception: every
process draws its own.) The price: reading and augmenting images is no faster with more processes.

Either every process holds the whole model (DistributedDataParallel), or a share of its weights,
gradients and optimizer: PyTorch's `fully_shard` brings a block's weights together when it computes.
"""

import os
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from copy import deepcopy
from typing import Any

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
    if not distributed.is_initialized() or is_sharded(model):  # which does so itself
        return model
    return DistributedDataParallel(model)


def sharded(model: nn.Module, device: torch.device) -> nn.Module:
    """A copy of a `VisionTransformer` of which each process holds a share, on its device."""
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard  # seconds to import, and seldom needed

    copy, mesh = deepcopy(model), init_device_mesh(device.type, (processes(),))
    for part in [*copy.get_submodule("encoder.blocks").children(), copy]:
        fully_shard(part, mesh=mesh)
    return copy


def is_sharded(model: nn.Module) -> bool:
    """Whether it is what `sharded` gave."""
    return hasattr(model, "set_requires_gradient_sync")


def whole(x: Tensor) -> Tensor:
    """The tensor itself, or put together from the shares of all processes, who all have to ask."""
    return x.full_tensor() if hasattr(x, "full_tensor") else x


def gathered(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Whole tensors in the memory of the first process; the others get only what is not shared."""
    found = {}
    for name, x in tensors.items():
        full = whole(x)
        if full is x:
            found[name] = x
        elif not rank():
            found[name] = full.cpu()
    return found


def shared_as(other: Tensor, x: Tensor) -> Tensor:
    """This process's share of a whole tensor, if `other` is a shared one of its shape."""
    if not hasattr(other, "full_tensor") or hasattr(x, "full_tensor") or x.shape != other.shape:
        return x
    like: Any = other
    from torch.distributed.tensor import distribute_tensor

    return distribute_tensor(x.to(like.to_local().device), like.device_mesh, like.placements)


def meeting(model: Any, last: bool) -> AbstractContextManager[None]:
    """Skip gradient synchronisation unless this is the last micro-batch."""
    if is_sharded(model):
        model.set_requires_gradient_sync(last)
    elif not last and isinstance(model, DistributedDataParallel):
        return model.no_sync()
    return nullcontext()


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
