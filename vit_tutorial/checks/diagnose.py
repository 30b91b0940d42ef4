"""Chapter 15: tests that any image classifier should pass, and what a failure points to."""

import math
import re
import textwrap
from collections.abc import Callable, Iterator, Mapping
from copy import deepcopy
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

PASSED, FAILED, NOT = "passed", "failed", "not applicable"
# What keeps statistics of its own: instance norms too, and what comes from elsewhere as BatchNorm.
STATISTICS = nn.modules.batchnorm._NormBase
NORMS = (nn.LayerNorm, nn.GroupNorm, nn.RMSNorm, STATISTICS)
LAYERS = (nn.Linear, nn.modules.conv._ConvNd)
KEY_BIAS = re.compile(r"(^|[._])(key|keys|k|k_proj|to_k|w_?k)\.bias$", re.IGNORECASE)
TOKENS = re.compile(r"cls|class_token|pos|register|mask_token", re.IGNORECASE)


class Finding(NamedTuple):
    """What one test of `diagnose` found: "passed", "failed" or "not applicable", and why."""

    test: str
    result: str
    why: str


Test = Callable[["Case"], tuple[str, str]]


def diagnose(
    model: nn.Module,
    images: Tensor,
    labels: Tensor,
    optimizer: torch.optim.Optimizer | None = None,
) -> list[Finding]:
    """Run ten tests on an image classifier, print a table, and return the findings.

    `images` (B C H W) are as the model reads them, `labels` (B) their classes; 8 to 32 images are
    enough. The model gives logits (B K), (B 1) for two classes, or an object or dict with `logits`,
    or a tuple that begins with them. All work is done on copies: the model keeps its weights,
    gradients and mode. With an optimizer its groups are looked at.
    """
    case, findings = Case(model, images, labels, optimizer), []
    with torch.random.fork_rng(devices=[]), torch.enable_grad():
        for name, test in TESTS.items():
            torch.manual_seed(0)
            try:
                result, why = test(case)
            except Exception as error:  # what a broken model raises is a finding, not a crash
                told = " ".join(str(error).split())
                kind = "" if isinstance(error, ValueError) else f"{type(error).__name__}: "
                result, why = FAILED, f"{kind}{told[:90]}"
            findings.append(Finding(name, result, why))
    marks = {PASSED: "✓", FAILED: "✗", NOT: "–"}
    for name, result, why in findings:
        start = f"{marks[result]} {name:46} "
        print(textwrap.fill(why, 96, initial_indent=start, subsequent_indent=" " * len(start)))
    return findings


class Case:
    """The model under test: as it is, and with noise on its weights, so that none is zero."""

    def __init__(
        self, model: nn.Module, images: Tensor, labels: Tensor, optimizer: Any = None
    ) -> None:
        self.model, self.optimizer = model, optimizer
        kind = next((p.dtype for p in model.parameters() if p.is_floating_point()), images.dtype)
        self.images, self.labels = images[:32].detach().to(kind), labels[:32]
        self.fresh = deepcopy(model).eval()
        self.shaken, self.pixels = shaken(model).double().eval(), self.images.double()
        try:
            self.shaken(self.pixels)
        except RuntimeError:  # a part that is no parameter of the model stayed in float32
            self.shaken, self.pixels = shaken(model).eval(), self.images

    def logits(self, images: Tensor | None = None) -> Tensor:
        """Of the shaken model, in eval mode."""
        return logits_of(self.shaken.eval(), self.pixels if images is None else images)


def logits_of(model: nn.Module, images: Tensor) -> Tensor:
    """(B K), also from models that give a tuple, a dict, or an object with `.logits`.

    Raises ValueError if they are not finite.
    """
    found = model(images)
    if not isinstance(found, Tensor):
        logits = getattr(found, "logits", None)
        if logits is None:
            logits = found["logits"] if isinstance(found, Mapping) else found[0]
        found = logits
    if not found.isfinite().all():
        raise ValueError("the logits hold nan or inf")
    return found


def loss_of(logits: Tensor, labels: Tensor) -> Tensor:
    """Cross-entropy; one logit for two classes is that of class 1."""
    if logits.shape[1] == 1:
        return F.binary_cross_entropy_with_logits(logits[:, 0], labels.to(logits))
    return F.cross_entropy(logits, labels)


def classes(logits: Tensor) -> int:
    """K; one logit tells two classes apart."""
    return max(2, logits.shape[1])


def shaken(model: nn.Module) -> nn.Module:
    """A copy with noise on every weight: a head that starts at zero hides everything."""
    copy = deepcopy(model)
    dice = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for weight in copy.parameters():
            spread = 0.02 + (0.1 * weight.std().item() if weight.numel() > 1 else 0.0)
            noise = torch.randn(weight.shape, generator=dice, dtype=weight.dtype)
            weight.add_(spread * noise.to(weight.device))
    return copy


def close(a: Tensor, b: Tensor) -> bool:
    """Equal, up to rounding in float32, which some models do inside."""
    least = 1e-6 if a.dtype == torch.float64 else 1e-5
    return a.shape == b.shape and bool((a - b).abs().max() <= least * (1e-3 + b.abs().max()))


def same(a: Tensor, b: Tensor) -> bool:
    """Equal, up to rounding: a fresh deep network may tell images apart by a millionth only."""
    least = 1e-12 if a.dtype == torch.float64 else 1e-6
    return bool((a - b).abs().max() <= least * b.abs().max())


# ---- attention


class Watch(TorchFunctionMode):
    """Collects what attention multiplies its values with; counts PyTorch's own attention."""

    def __init__(self) -> None:
        super().__init__()
        self.weights: list[Tensor] = []
        self.fused = 0
        self.soft: dict[int, Tensor] = {}  # results of a softmax, and what became of them

    def __torch_function__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        result, name = func(*args, **(kwargs or {})), getattr(func, "__name__", "")
        given = [a for a in args if isinstance(a, Tensor)]
        if "scaled_dot_product" in name or "multi_head_attention" in name:
            self.fused += 1
        elif not isinstance(result, Tensor) or result.ndim < 2:
            return result
        elif name.strip("_") == "softmax" and result.shape[-1] == result.shape[-2] > 1:
            self.soft[id(result)] = result
        elif from_soft := [a for a in given if id(a) in self.soft]:
            if name in ("matmul", "__matmul__", "bmm", "baddbmm", "einsum"):
                self.weights += from_soft[:1]
            elif result.shape == from_soft[0].shape:
                self.soft[id(result)] = result
        return result


def rows_sum_to_one(case: Case) -> tuple[str, str]:
    with Watch() as watch:
        case.logits()
    for weights in watch.weights:
        rows, columns = weights.sum(dim=-1), weights.sum(dim=-2)
        if (rows - 1).abs().max() > 1e-6:
            if (columns - 1).abs().max() < 1e-6:
                return FAILED, "the columns do: the softmax runs over the readers (dim=-2)"
            return FAILED, f"they sum to {rows.min():.3g} to {rows.max():.3g}"
    if watch.weights:
        return PASSED, f"in {len(watch.weights)} products of weights and values"
    if watch.fused:
        return PASSED, f"by PyTorch's own attention, {watch.fused} times"
    return NOT, "no attention was seen"


# ---- images and logits


def batch_is_independent(case: Case) -> tuple[str, str]:
    whole, order = case.logits(), torch.arange(len(case.pixels)).roll(1)
    if not close(case.logits(case.pixels[order]), whole[order]):
        return FAILED, "another order of the images gives other logits"
    if not close(case.logits(case.pixels[:1]), whole[:1]):
        return FAILED, "an image alone gets other logits than in its batch"
    return PASSED, f"also for a batch of one instead of {len(order)}"


def patch_size(model: nn.Module) -> int | None:
    """P, from the attribute that holds it, or from a convolution that cuts patches."""
    for module in model.modules():
        for name in ("patch_size", "P"):
            value = getattr(module, name, None)
            value = value[0] if isinstance(value, tuple | list) and value else value
            if isinstance(value, int):
                return value
        if isinstance(module, nn.Conv2d) and module.kernel_size == module.stride != (1, 1):
            return module.kernel_size[0]
    return None


def places_matter(case: Case) -> tuple[str, str]:
    H, W = case.pixels.shape[2:]
    P = patch_size(case.model) or max(1, min(H, W) // 4)
    rows, cols = H // P, W // P
    if rows * cols < 2:
        return NOT, "the image is one patch"
    images, swapped = case.pixels, case.pixels.clone()
    first, second = (slice(0, P), slice(0, P)), (slice((rows - 1) * P, rows * P),
                                                 slice((cols - 1) * P, cols * P))  # fmt: skip
    swapped[..., *first], swapped[..., *second] = images[..., *second], images[..., *first]
    middle = (slice((rows // 2) * P, (rows // 2 + 1) * P), slice(0, cols // 2 * P))
    other = (middle[0], slice(cols // 2 * P, 2 * (cols // 2) * P))
    swapped[..., *middle], swapped[..., *other] = images[..., *other], images[..., *middle]
    if torch.equal(swapped, images):
        return NOT, "the swapped patches are equal in all images"
    if same(case.logits(swapped), case.logits()):
        return FAILED, "patches at other places, the same logits: where are the positions?"
    return PASSED, f"patches of {P} x {P} were swapped"


def image_is_read(case: Case) -> tuple[str, str]:
    images = case.pixels.clone().requires_grad_()
    logits = case.logits(images)
    if same(logits, logits[:1].expand_as(logits)):
        return FAILED, "all images get the same logits"
    pull = None
    if logits.requires_grad:
        pull = torch.autograd.grad(logits.square().sum(), images, allow_unused=True)[0]
    if pull is None:  # as in front of features that are computed without gradients
        return PASSED, "other images get other logits; no gradient goes back to the pixels"
    seen = pull.abs().sum(dim=(0, 1)) > 0
    blind = int((~seen.any(dim=0)).sum()), int((~seen.any(dim=1)).sum())
    told = f"{blind[0]} columns and {blind[1]} rows of pixels"
    if any(blind) and patch_size(case.model) is None and max(blind) <= max(images.shape[2:]) / 8:
        return PASSED, f"but {told} at the edge are never read: strides that do not divide the size"
    if any(blind):
        return FAILED, f"{told} are never read"
    return PASSED, "every row and column of pixels is read"


# ---- learning


def gradient_reaches(case: Case) -> tuple[str, str]:
    model, images = case.shaken.eval(), case.pixels
    model.zero_grad()
    logits = logits_of(model, images)
    learning = [(n, p) for n, p in model.named_parameters() if p.requires_grad]
    if not learning:
        return FAILED, "no parameter can learn: requires_grad is False for all"
    if not logits.requires_grad:
        return FAILED, "the logits carry no gradient: argmax, detach or no_grad on the way?"
    logits.backward(torch.randn_like(logits))
    known = {id(p) for p in model.parameters()}
    strangers = sum(id(leaf) not in known for leaf in leaves(logits))
    if strangers:
        return FAILED, (f"{strangers} tensors learn, but are no parameters of the model: a plain "
                        "list of layers, or one made in forward?")  # fmt: skip
    silent = {n for n, p in learning if p.grad is None or not p.grad.any()}
    silent -= {n for n in silent if "mask_token" in n}  # for training on masked images alone
    # A key's bias adds the same to every score of a row, so it never has a gradient.
    silent = {n for n in silent if not KEY_BIAS.search(n)}
    if silent:  # some parts work in training mode alone, as a second head does
        everything = [t for t in parts_of(model.train()(images)) if t.requires_grad]
        torch.autograd.backward(everything, [torch.randn_like(t) for t in everything])
        silent = {n for n, p in learning if n in silent and (p.grad is None or not p.grad.any())}
    if silent:
        named = [n for n, _ in learning if n in silent]
        return FAILED, f"none at {', '.join(named[:3])}" + (" ..." if len(named) > 3 else "")
    return PASSED, f"at all {len(learning)} tensors"


def parts_of(found: Any) -> list[Tensor]:
    """The tensors in what a model gives back."""
    if isinstance(found, Tensor):
        return [found]
    parts = found.values() if isinstance(found, Mapping) else found
    return [part for part in parts if isinstance(part, Tensor)]


def leaves(result: Tensor) -> Iterator[Tensor]:
    """The tensors at which the graph behind a result ends."""
    todo, seen = [result.grad_fn], set()
    while todo:
        step = todo.pop()
        if step is None or step in seen:
            continue
        seen.add(step)
        if hasattr(step, "variable"):
            yield step.variable
        todo += [before for before, _ in step.next_functions]


def one_batch_is_learned(case: Case, steps: int = 60) -> tuple[str, str]:
    images, labels = case.images[:8], case.labels[:8]
    if not any(p.requires_grad for p in case.model.parameters()) or not case.logits().requires_grad:
        return NOT, "nothing can learn, as said above"
    floor, best = 0.25 * math.log(classes(case.logits())), math.inf
    for rate in (1e-3, 3e-3, 2e-4):
        model = deepcopy(case.model).train()
        for module in model.modules():  # dropout is there to make this hard
            if isinstance(module, nn.modules.dropout._DropoutNd):
                module.p = 0.0
        learning = [p for p in model.parameters() if p.requires_grad]
        optimizer = torch.optim.Adam(learning, rate)
        for step in range(steps):
            loss = loss_of(logits_of(model, images), labels)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            best = min(best, loss.item())
            if best < floor:
                return PASSED, f"loss below {floor:.2f} after {step + 1} steps of Adam at {rate:g}"
    return FAILED, f"after {steps} steps on {len(labels)} images the loss is still {best:.2f}"


def first_loss(case: Case) -> tuple[str, str]:
    with torch.no_grad():
        logits = logits_of(case.fresh, case.images)
    loss, K = loss_of(logits, case.labels).item(), classes(logits)
    linear = [m for m in case.model.modules() if isinstance(m, nn.Linear)]
    zero = bool(linear) and not linear[-1].weight.any()
    told = f"{loss:.2f}, ln {K} = {math.log(K):.2f}"
    if loss < 0.75 * math.log(K):
        return NOT, f"{told}: the model is trained already"
    if zero and abs(loss - math.log(K)) > 0.01:
        return FAILED, f"{told}, and the last layer starts at zero: they should be equal"
    if loss > 3 * math.log(K):
        return FAILED, f"{told}: far above, are weights or pixels too large?"
    how = "a head that starts at zero" if zero else "a random head may start up to twice as high"
    return PASSED, f"{told} ({how})"


def modes_agree(case: Case) -> tuple[str, str]:
    images, model = case.pixels, deepcopy(case.shaken)
    with torch.no_grad():
        calm = [logits_of(model.eval(), images) for _ in range(2)]
        if not close(*calm):
            return FAILED, "eval mode is random: the same images get other logits each time"
        lively = logits_of(model.train(), images)
        again = logits_of(model, images)
    rates = [getattr(m, "p", getattr(m, "drop_prob", 0)) for m in model.modules()
             if re.search("drop|stochasticdepth", type(m).__name__.lower())]  # fmt: skip
    dropping = any(rate for rate in rates if isinstance(rate, float | int))
    if any(isinstance(m, STATISTICS) and m.track_running_stats for m in model.modules()):
        return NOT, "BatchNorm: training uses the batch's own statistics"
    if dropping and same(lively, calm[0]) and same(again, calm[0]):
        return FAILED, "there is dropout, but training mode changes nothing: is it ever called?"
    if dropping or not close(lively, again):  # dropout may be a function instead of a module
        return PASSED, "they differ by dropout alone"
    if not close(lively, calm[0]):
        return FAILED, "there is no dropout, and still training mode gives other logits"
    return PASSED, "no dropout, the same logits"


def decay_is_where_it_belongs(case: Case) -> tuple[str, str]:
    if case.optimizer is None:
        return NOT, "no optimizer was given"
    decays = {id(p): g.get("weight_decay", 0) for g in case.optimizer.param_groups
              for p in g["params"]}  # fmt: skip
    named = dict(case.model.named_parameters())
    absent = [n for n, p in named.items() if p.requires_grad and id(p) not in decays]
    if absent:
        return FAILED, f"not in the optimizer: {', '.join(absent[:3])}"
    if not any(decays.values()):
        return PASSED, "nothing is decayed"
    if type(case.optimizer) is torch.optim.Adam and not case.optimizer.defaults.get(
        "decoupled_weight_decay"
    ):
        return (
            FAILED,
            "Adam adds the decay to the gradient (coupled L2): AdamW takes it off weights",
        )
    modules = list(case.model.modules())
    norms = {id(p) for m in modules if isinstance(m, NORMS) for p in m.parameters()}
    matrices = {id(m.weight) for m in modules if isinstance(m, LAYERS)}
    tokens = [n for n, p in named.items() if TOKENS.search(n) and id(p) not in matrices]
    wrong = [n for n, p in named.items() if decays.get(id(p)) and (
        p.ndim < 2 or id(p) in norms or n in tokens)]  # fmt: skip
    if wrong and not tokens:
        return PASSED, f"on {len(wrong)} biases and norms too, as recipes without tokens often do"
    if wrong:
        return FAILED, f"{len(wrong)} biases, norms, tokens or positions, as {', '.join(wrong[:2])}"
    return PASSED, f"on {sum(map(bool, decays.values()))} matrices"


def no_softmax_at_the_end(case: Case) -> tuple[str, str]:
    outputs: list[Tensor] = []
    hooks = [m.register_forward_hook(lambda m, given, out: outputs.append(out))
             for m in case.shaken.modules() if isinstance(m, nn.Linear)]  # fmt: skip
    try:
        logits = case.logits()
    finally:
        for hook in hooks:
            hook.remove()
    if bool((logits >= 0).all()) and close(logits.sum(dim=1), torch.ones_like(logits[:, 0])):
        return FAILED, "the rows sum to 1: these are probabilities, the loss has its own softmax"
    for f in (torch.sigmoid, torch.tanh, F.relu, F.gelu):
        if outputs and close(logits, f(outputs[-1])) and not close(logits, outputs[-1]):
            return FAILED, f"a {f.__name__} stands behind the last layer: the loss takes the logits"
    if logits.shape[1] > 1 and close(logits.logsumexp(dim=1).exp(), torch.ones_like(logits[:, 0])):
        return (
            PASSED,
            "logarithms of probabilities: for cross_entropy the same, for nll_loss needed",
        )
    return PASSED, f"logits from {logits.min():.2f} to {logits.max():.2f}"


TESTS: dict[str, Test] = {
    "rows of attention sum to 1": rows_sum_to_one,
    "an image's logits do not depend on its batch": batch_is_independent,
    "swapping patches changes the logits": places_matter,
    "gradient reaches every parameter": gradient_reaches,
    "the output depends on the image": image_is_read,
    "one batch can be overfitted": one_batch_is_learned,
    "first loss near ln K": first_loss,
    "train and eval agree where they should": modes_agree,
    "decay where it belongs": decay_is_where_it_belongs,
    "no softmax at the end": no_softmax_at_the_end,
}
