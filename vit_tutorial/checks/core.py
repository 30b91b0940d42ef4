"""What all checks share: run the reader's code on copies, compare, and name the likely slip."""

import inspect
import math
import re
import traceback
from collections.abc import Callable, Sequence
from contextvars import ContextVar
from copy import deepcopy
from functools import partial, wraps
from numbers import Real
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from vit_tutorial.checks.state import remember

HERE = str(Path(__file__).parent)


class CheckFailed(AssertionError):
    """An exercise is not right yet; the message says what to look at.

    A notebook shows it as one line, and below it the traceback of the reader's own code if that
    raised an error.
    """

    def _render_traceback_(self) -> list[str]:
        """What IPython prints in place of a traceback through the checks."""
        error = self.__cause__
        return [f"✗ {self}", *(own_traceback(error) if error is not None else [])]


def own_traceback(error: BaseException) -> list[str]:
    """The traceback from the reader's first line on."""
    step = error.__traceback__
    while step is not None and step.tb_next and not is_readers(step.tb_frame.f_code.co_filename):
        step = step.tb_next
    return ["", *"".join(traceback.format_exception(type(error), error, step)).splitlines()]


def is_readers(filename: str) -> bool:
    """Whether the code is neither in this folder nor in a library."""
    return not filename.startswith(HERE) and "site-packages" not in filename


Mistakes = Sequence[tuple[Callable[..., Any], str]]  # what a mistake computes, and the hint
Slips = Sequence[tuple[str, str]]  # a pattern in an error's message, and the hint


NAME = ContextVar("NAME", default="")  # of the exercise that is being checked
KNOWN: dict[tuple[Any, ...], Any] = {}  # an exercise has the same inputs at every try: its results


def once(make: Callable[[], Any], *key: Any) -> Any:
    """What `make` gives; computed once for an exercise, since the reader comes back to it."""
    if not NAME.get():
        return make()
    if (NAME.get(), *key) not in KNOWN:
        KNOWN[NAME.get(), *key] = make()
    return KNOWN[NAME.get(), *key]


def exercise(checker: Callable[[Any], bool]) -> Callable[[Any], None]:
    """Make a check of `checker`, which says whether the reader's code is right (or not there yet).

    The reader's random numbers stay as they are, and what has passed is noted.
    """

    @wraps(checker)
    def check_it(implementation: Any) -> None:
        if not callable(implementation) or not hasattr(implementation, "__name__"):
            kind = type(implementation).__name__
            raise CheckFailed(
                f"{checker.__name__} takes the function itself, without brackets, not a {kind}"
            )
        token = NAME.set(checker.__name__)
        try:
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(0)
                if checker(implementation):
                    remember(checker.__name__, implementation)
        finally:
            NAME.reset(token)

    return check_it


def check(
    implementation: Callable[..., Any],
    reference: Callable[..., Any],
    trials: Sequence[tuple[Any, ...]],
    mistakes: Mistakes,
) -> None:
    """Compare with the reference on every trial; name the mistake whose values these are.

    For a check of your own. Raises CheckFailed with the hint of the mistake, or a general one.
    """
    compare(implementation, reference, trials, mistakes)


def compare(
    implementation: Callable[..., Any],
    reference: Callable[..., Any],
    trials: Sequence[tuple[Any, ...]],
    mistakes: Mistakes,
    slips: Slips = (),
    gradients: bool = True,
    last: Callable[[], None] = lambda: None,
) -> bool:
    """True if values (and gradients) are right on every trial, False if nothing came back.

    Results are tensors, numbers, or tuples of these; None in a mistake's tuple fits anything. The
    hint of a mistake is given only if its values are the reader's on every trial. `last` may raise
    CheckFailed for what values do not show.
    """
    with torch.set_grad_enabled(gradients):
        runs, error = attempts(implementation, trials)
        if runs and runs[0].value is None:
            print(f"○ {implementation.__name__} gave nothing back yet: write its body, and "
                  "return the result")  # fmt: skip
            return False
        wanted = [
            once(partial(Wanted.of, reference, trials[i], gradients), "wanted", i)
            for i in range(len(runs))
        ]
        judge_values(implementation, runs, wanted, mistakes)
        judge_inputs(implementation, runs)
        if error is not None:
            names = argument_names(implementation, len(trials[0]))
            where = described(Run(trials[len(runs)], [], {}, names))
            raise own_error(implementation.__name__, error, where, slips) from error
        judge_rest(implementation, runs, wanted)
        for got, right in zip(runs, wanted, strict=True):
            judge_gradients(implementation.__name__, got, right)
    last()
    inputs = "1 input" if len(trials) == 1 else f"{len(trials)} inputs"
    compared = "value and every gradient" if wanted[0].gradients else "value"
    print(f"✓ {implementation.__name__} is right: {inputs}, every {compared} compared")
    return True


def learning(function: Callable[..., Any]) -> Callable[..., Any]:
    """The function with gradients switched on, for code that asks for one itself."""

    @wraps(function)
    def with_gradients(*arguments: Any) -> Any:
        with torch.enable_grad():
            return function(*arguments)

    with_gradients.__signature__ = signature(function)  # type: ignore[attr-defined]
    return with_gradients


class Run(NamedTuple):
    """One call on copies of the arguments."""

    arguments: tuple[Any, ...]  # as the check holds them
    copies: list[Any]  # what the function was given
    leaves: dict[str, Tensor]  # what may have a gradient
    names: list[str]  # of the arguments
    value: Any = None

    @classmethod
    def of(cls, function: Callable[..., Any], arguments: tuple[Any, ...]) -> "Run":
        """Call the function, which may do with its copies what it likes."""
        copies, leaves, names = [], {}, argument_names(function, len(arguments))
        for name, argument in zip(names, arguments, strict=True):
            copy = argument
            if isinstance(argument, Tensor):
                copy = argument.detach().clone()
                if torch.is_grad_enabled() and copy.is_floating_point():
                    leaves[name] = copy.requires_grad_()
                    copy = copy.clone()  # no leaf, so that `z += ...` can run, and be told
            elif isinstance(argument, nn.Module):
                copy = deepcopy(argument)
                leaves |= {f"{name}.{part}": p for part, p in copy.named_parameters()}
            copies.append(copy)
        return cls(arguments, copies, leaves, names, function(*copies))


class Wanted(NamedTuple):
    """What is right for one trial."""

    value: Any
    gradients: list[Tensor | None]  # of every leaf; empty where none are compared

    @classmethod
    def of(cls, reference: Callable[..., Any], given: tuple[Any, ...], gradients: bool) -> "Wanted":
        """Call the reference, and follow a weighted sum of its result back."""
        run = Run.of(reference, given)
        compared = gradients and needs_gradient(run.value)
        return cls(run.value, list(pulled(run).values()) if compared else [])


def argument_names(function: Callable[..., Any], count: int) -> list[str]:
    """The names that the function gives to its arguments."""
    found = signature(function)
    named = found.parameters if found else {}
    names = [name for name in named if name not in ("args", "kwargs", "arguments", "_")]
    return [names[i] if i < len(names) else f"argument {i + 1}" for i in range(count)]


def signature(function: Callable[..., Any]) -> inspect.Signature | None:
    """The function's own signature, or that of what its decorator hides behind `*args`."""
    try:
        found = inspect.signature(function, follow_wrapped=False)
        starred = any(p.kind is p.VAR_POSITIONAL for p in found.parameters.values())
        return inspect.signature(function) if starred else found
    except (TypeError, ValueError):  # a function written in C has none
        return None


def attempts(
    implementation: Callable[..., Any], trials: Sequence[tuple[Any, ...]]
) -> tuple[list[Run], Exception | None]:
    """The reader's code on every trial, up to the first error."""
    runs: list[Run] = []
    for arguments in trials:
        try:
            runs.append(Run.of(implementation, arguments))
        except CheckFailed:
            raise
        except Exception as error:
            return runs, error
        if runs[0].value is None:
            break
    return runs, None


def judge_values(
    implementation: Callable[..., Any], runs: list[Run], wanted: list[Wanted], mistakes: Mistakes
) -> None:
    """Refuse what is no tensor or number, and values that are those of a known mistake."""
    name = implementation.__name__
    for run, right in zip(runs, wanted, strict=True):
        refuse_kind(name, run, right.value)
    if all(agree(run.value, right.value) for run, right in zip(runs, wanted, strict=True)):
        return
    for number, (mistake, hint) in enumerate(mistakes):
        if all(is_this(mistake, run, (number, i)) for i, run in enumerate(runs)):
            raise CheckFailed(f"{name}: {hint}")


def is_this(mistake: Callable[..., Any], run: Run, key: tuple[int, int]) -> bool:
    """Whether the result is what the mistake computes."""
    value = once(partial(value_of, mistake, run), *key)
    return value is not NOTHING and agree(run.value, value)


@torch.no_grad()
def value_of(mistake: Callable[..., Any], run: Run) -> Any:
    """What the mistake computes; NOTHING where it cannot run on these shapes."""
    try:
        return mistake(*run.arguments)
    except (RuntimeError, ValueError):
        return NOTHING


NOTHING = object()


def refuse_kind(name: str, run: Run, expected: Any) -> None:
    """Say what kind of result was expected."""
    value = run.value
    if value is None:
        raise CheckFailed(
            f"{name} gave nothing back for {described(run)}: is there a return on every way "
            "through it?"
        )
    if isinstance(expected, tuple):
        if not isinstance(value, tuple | list) or len(value) != len(expected):
            many = f"{len(value)}" if isinstance(value, tuple | list) else "one"
            raise CheckFailed(f"{name} should return {len(expected)} values, not {many}")
        for part, right in zip(value, expected, strict=True):
            refuse_kind(name, run._replace(value=part), right)
    elif isinstance(expected, Tensor) and not isinstance(value, Tensor):
        raise CheckFailed(f"{name} should return a tensor, not {type(value).__name__}")
    elif not isinstance(expected, Tensor) and not is_number(value):
        what = f"a tensor of shape {tuple(value.shape)}" if isinstance(value, Tensor) else ""
        raise CheckFailed(f"{name} should return a number, not {what or type(value).__name__}")


def is_number(value: Any) -> bool:
    """A number, or a tensor that holds one."""
    return isinstance(value, Real) or (isinstance(value, Tensor) and value.numel() == 1)


def agree(got: Any, expected: Any) -> bool:
    """Equal in shape, and in values up to rounding; None is expected where anything will do."""
    if expected is None:
        return True
    if isinstance(expected, tuple):
        pairs = zip(got, expected, strict=False) if isinstance(got, tuple | list) else ()
        return isinstance(got, tuple | list) and all(agree(*pair) for pair in pairs)
    if not isinstance(expected, Tensor):
        if isinstance(expected, int) or not math.isfinite(expected):
            return float(got) == expected
        return abs(float(got) - expected) <= 2e-5 * abs(expected) + 1e-6
    return got.shape == expected.shape and torch.allclose(got.to(expected), expected, atol=1e-5)


def judge_inputs(implementation: Callable[..., Any], runs: list[Run]) -> None:
    """Refuse code that writes into what it was given."""
    for run in runs:
        for name, before, after in zip(run.names, run.arguments, run.copies, strict=True):
            if isinstance(before, nn.Module) and (how := rebuilt(before, after)):
                raise CheckFailed(
                    f"{implementation.__name__} {how} `{name}`, which the caller still uses: leave "
                    "it as it was, or work on copy.deepcopy of it."
                )
            if changed(before, after):
                raise CheckFailed(
                    f"{implementation.__name__} writes into its input `{name}`, which the caller "
                    "still holds: make a new tensor (z = z + y instead of z += y, or a clone() "
                    "first)."
                )


def changed(before: Any, after: Any) -> bool:
    """Whether a tensor, or a weight of a module, is no longer what it was."""
    if isinstance(before, Tensor):
        return not torch.equal(before, after.detach())
    if isinstance(before, nn.Module):
        pairs = zip(before.parameters(), after.parameters(), strict=False)
        return any(not torch.equal(*pair) for pair in pairs)
    return False


def rebuilt(before: nn.Module, after: nn.Module) -> str:
    """What was done to the parts of a module, in words; empty if they are as they were."""
    old, new = (dict(module.named_modules()) for module in (before, after))
    if old.keys() - new.keys():
        return "takes parts out of"
    if [type(m) for m in old.values()] != [type(m) for m in new.values()]:
        return "changes the parts of"
    forwards = ({n for n, m in parts.items() if "forward" in vars(m)} for parts in (old, new))
    return "" if next(forwards) == next(forwards) else "changes a forward in"


def judge_rest(implementation: Callable[..., Any], runs: list[Run], wanted: list[Wanted]) -> None:
    """Say in general terms what is wrong, for which input, and what was right."""
    name, good = implementation.__name__, ""
    for run, right in zip(runs, wanted, strict=True):
        whole_given = all(isinstance(argument, int) for argument in run.arguments)
        if whole_given and agree(run.value, right.value) and has_float(run.value, right.value):
            raise CheckFailed(
                f"{name}: the numbers are right, but a count is a whole number, not a float: "
                "did you divide by / (use //) or call float()?"
            )
        if agree(run.value, right.value):
            good = f" It is right for {described(run)}."
            continue
        raise CheckFailed(f"{name}: {difference(run, right.value)}{good}")


def has_float(got: Any, expected: Any) -> bool:
    """Whether a number, or one of a tuple, is a float where a whole number is expected."""
    if isinstance(expected, tuple):
        return any(has_float(*pair) for pair in zip(got, expected, strict=True))
    return isinstance(expected, int) and isinstance(got, float)


def difference(run: Run, expected: Any) -> str:
    """How the first wrong result differs, in one or two sentences."""
    got, where = run.value, f" (for {described(run)})"
    if isinstance(expected, tuple):
        i = [agree(*pair) for pair in zip(got, expected, strict=True)].index(False)
        part = difference(run._replace(value=got[i]), expected[i])
        return f"value {i + 1} of {len(expected)}: {part}"
    if not isinstance(expected, Tensor):
        return f"expected {', got '.join(written(float(expected), float(got)))}{where}."
    if got.shape != expected.shape:
        also = "; the numbers are the right ones" if same_numbers(got, expected) else ""
        shapes = f"{tuple(got.shape)}, expected {tuple(expected.shape)}"
        return f"the result has shape {shapes}{also}{where}."
    if not got.isfinite().all():
        return f"the result holds nan or inf{where}."
    if how := relation(got.to(expected), expected):
        return f"the shape is right but the values are not: {how}{where}."
    off = (got.to(expected) - expected).abs().max().item()
    advice = " Try it on a tensor small enough to work out by hand."
    small = not any(isinstance(a, nn.Module) for a in run.arguments)
    by_hand = advice if small and any(isinstance(a, Tensor) for a in run.arguments) else ""
    return (f"the shape is right but the values are not; the largest difference is "
            f"{off:.3g}{where}.{by_hand}")  # fmt: skip


def written(*numbers: float) -> list[str]:
    """Numbers in as few digits as tell them apart."""
    for digits in (7, 10, 17):
        texts = [f"{int(x):,}" if whole(x) else f"{x:,.{digits}g}" for x in numbers]
        if len(set(texts)) == len(numbers):
            break
    return texts


def whole(x: float) -> bool:
    """Whether it is a whole number that can be written out."""
    return abs(x) < 1e15 and float(x).is_integer()


def same_numbers(got: Tensor, expected: Tensor) -> bool:
    """Whether both hold the same numbers, in whatever order; not for a few."""
    if got.numel() != expected.numel() or got.numel() < 6 or not varied(expected):
        return False
    return agree(got.flatten().to(expected).sort()[0], expected.flatten().sort()[0])


def varied(expected: Tensor) -> bool:
    """Whether a tensor holds enough to compare: no whole numbers, and not one number only."""
    return expected.is_floating_point() and expected.numel() > 1 and bool(expected.std() > 1e-6)


def relation(got: Tensor, expected: Tensor) -> str:
    """What all wrong values have in common, in words; empty where nothing is found."""
    if not varied(expected):
        return ""
    factor = ((got * expected).sum() / expected.square().sum()).item()
    if abs(factor) > 1e-3 and agree(got, factor * expected):
        return ("each has the wrong sign" if abs(factor + 1) < 1e-4
                else f"each is {factor:.7g} times what it should be")  # fmt: skip
    shift = (got - expected).mean().item()
    if agree(got, expected + shift):
        return f"each is off by {shift:+.4g}"
    if same_numbers(got, expected):
        return "they are the right numbers in other places"
    return ""


def described(run: Run) -> str:
    """The arguments in words: tensors by their shape, numbers by their value."""

    def one(name: str, argument: Any) -> str:
        if isinstance(argument, Tensor):
            return f"{name} of shape {tuple(argument.shape)}"
        if isinstance(argument, Real | tuple | str):
            return f"{name} = {argument}"
        return f"{name}: {type(argument).__name__}"

    return ", ".join(map(one, run.names, run.arguments))


CUT = (
    "Look for .detach(), .data, .item(), torch.no_grad(), torch.tensor(...) or numpy on the way: "
    "each of them cuts the gradient."
)


def judge_gradients(name: str, got: Run, right: Wanted) -> None:
    """Refuse right values through which the wrong gradient, or none, flows back."""
    if not right.gradients:
        return
    if not needs_gradient(got.value):
        raise CheckFailed(
            f"{name}: the values are right, but the result carries no gradient, so nothing could "
            f"be learned through it. {CUT}"
        )
    try:
        mine = pulled(got)
    except RuntimeError as error:
        raise CheckFailed(
            f"{name}: the values are right, but their gradient cannot be computed: a tensor that "
            "it needs was overwritten in place."
        ) from error
    for want, (part, have) in zip(right.gradients, mine.items(), strict=True):
        size = 0.0 if want is None else want.abs().max().item()
        if want is None or size == 0:
            continue
        if have is None or not have.any():
            raise CheckFailed(
                f"{name}: the values are right, but no gradient reaches `{part}`, so what lies "
                f"behind it could not learn. {CUT}"
            )
        if (have - want).abs().max() > 1e-3 * size:
            raise CheckFailed(
                f"{name}: the values are right, but the gradient of `{part}` is not. {CUT}"
            )


def tensors(value: Any) -> list[Tensor]:
    """The tensors of a result that is one, or a tuple of them."""
    parts = value if isinstance(value, tuple | list) else [value]
    return [part for part in parts if isinstance(part, Tensor)]


def needs_gradient(value: Any) -> bool:
    """Whether a gradient can flow back through a result."""
    return any(part.requires_grad for part in tensors(value))


def pulled(run: Run) -> dict[str, Tensor | None]:
    """The gradient, at every leaf, of the result's numbers weighed at random and added."""
    dice, total = torch.Generator().manual_seed(0), torch.zeros(())
    for part in tensors(run.value):
        weights = torch.randn(part.shape, generator=dice).to(part)
        total = total + (part * weights).sum()
    found = torch.autograd.grad(total, list(run.leaves.values()), allow_unused=True)
    return dict(zip(run.leaves, found, strict=True))


GENERAL: Slips = [
    (r"Could not infer sizes", "einops does not know these lengths: give each by its name after "
     "the pattern, as in rearrange(x, pattern, P=P)."),
    (r"duplicate dimension", "a name stands twice on one side of the pattern: give each axis its "
     "own, as in p and q."),
    (r"takes .* positional argument|missing .* required positional",
     "the function is called with the arguments that its first line had in the "
     "book; keep them."),
    (r"Can't call numpy\(\)", "numpy cannot hand a gradient back: stay with "
     "torch's functions."),
    (r"view size is not compatible", "after permute or transpose the numbers do "
     "not lie in that order in memory: use reshape."),
    (r"don't multiply up to the size", "an axis is split into sizes whose product is not its "
     "length: are they the ones that were given?"),
    (r"shape '.*' is invalid for input of size", "the new shape needs another "
     "number of elements than the tensor has: write down both products."),
    (r"mat1 and mat2 shapes|size mismatch|Expected size for first two dimensions",
     "in a product a @ b the last axis of a must be as long as the last but one "
     "of b; which of them needs .mT?"),
    (r"must match the size of tensor|Sizes of tensors must match|not broadcastable|"
     r"doesn't match the broadcast shape",
     "two tensors do not fit: print the shapes of both just before that line."),
    (r"number of dimensions|Dimension out of range|too many indices|repeat dims",
     "a tensor has other axes than this line expects: print its shape just "
     "before."),
    (r"not enough values to unpack|too many values to unpack",
     "the left side names another number of things than the right side gives."),
    (r"is not defined", "a name is used before anything was given to it; the "
     "arguments have the names of the function's first line."),
    (r"has no attribute", "print type(...) of what stands before the dot."),
    (r"unsupported operand|'NoneType'", "one of the two is not there yet "
     "(None): is a line with ... left, or a return missing in a function that "
     "this one calls?"),
    (r"Error while processing rearrange|Shape mismatch|identifiers only on one side|einops",
     "the einops pattern does not fit the tensor's shape; every name must stand "
     "on both sides."),
    (r"leaf Variable that requires grad", "a tensor is written in place: make a "
     "new one."),
    (r"division by zero", "a number is divided by zero."),
]  # fmt: skip


def own_error(name: str, error: Exception, where: str, slips: Slips = ()) -> CheckFailed:
    """One line that says what the reader's code raised, for which input, and the likely slip."""
    lines = str(error).strip().splitlines() or ["no message"]
    text = " ".join(" ".join(lines).split())
    first = lines[-1].strip() if "Error while processing" in text else text  # einops' last counts
    first = first if len(first) <= 160 else first[:160] + "…"
    hints = [hint for pattern, hint in (*GENERAL[:5], *slips, *GENERAL) if re.search(pattern, text)]
    likely = f" {hints[0][0].upper()}{hints[0][1:]}" if hints else ""
    kind = type(error).__name__
    return CheckFailed(f"{name} stopped with {kind} for {where}: {first.rstrip('.')}.{likely}")
