"""Chapter 12: right styles and mistakes."""

import torch
from torch.nn import functional as F

from vit_tutorial.checks import check_control, check_least_squares, check_nearest, check_qkv
from vit_tutorial.transfer import least_squares

RIGHT, WRONG = {}, {}


def ridge(X, labels, K, strength, Y=None, means=True, bias=True):
    Y = 2 * torch.eye(K)[labels] - 1 if Y is None else Y
    x, y = (X.mean(0), Y.mean(0)) if means else (torch.zeros(X.shape[1]), torch.zeros(K))
    A = (X - x).T @ (X - x) + strength * torch.eye(X.shape[1])
    W = torch.linalg.lstsq(A, (X - x).T @ (Y - y)).solution
    return torch.cat([W, (y - x @ W if bias else 0 * y)[None]])


def ridge_of_the_package(X, labels, K, strength):
    head = least_squares(X, labels, K, strength)
    return torch.cat([head.weight.T, head.bias[None]])


def ridge_on_more_rows(X, labels, K, strength):
    """The strength as D more images, the bias as a column that they leave out."""
    D, Y = X.shape[1], 2 * F.one_hot(labels, K).float() - 1
    more = torch.cat([X, torch.ones(len(X), 1)], 1)
    rows = torch.cat([more, torch.cat([strength**0.5 * torch.eye(D), torch.zeros(D, 1)], 1)])
    return torch.linalg.lstsq(rows, torch.cat([Y, torch.zeros(D, K)])).solution


RIGHT[check_least_squares] = [ridge, ridge_of_the_package, ridge_on_more_rows]


def with_ones(X, labels, K, a):
    return ridge(torch.cat([X, torch.ones(len(X), 1)], 1), labels, K, a, means=False)[:-1]


WRONG[check_least_squares] = [
    (lambda X, y, K, a: ridge(X, y, K, a, Y=torch.eye(K)[y]), "the targets are 0 and 1"),
    (lambda X, y, K, a: ridge(X, y, K, a * len(X)), "averaged over the images"),
    (lambda X, y, K, a: ridge(X, y, K, a * a), "the strength is squared"),
    (with_ones, "the bias is penalised too"),
    (lambda X, y, K, a: ridge(X, y, K, a, bias=False), "the bias is missing"),
    (lambda X, y, K, a: ridge(X, y, K, a, means=False), "take the means off"),
    (lambda X, y, K, a: ridge(X, y, K, a)[:-1], "row of the bias is missing"),
    (lambda X, y, K, a: ridge(X, y, K, a).roll(1, 0), "the bias stands above"),
    (lambda X, y, K, a: ridge(X, y, K, a).T, "transposed"),
    (lambda X, y, K, a: torch.linalg.solve(X.T @ X, X.T @ torch.eye(K)), r"XᵀX is \(D D\)"),
    (lambda X, y, K, a: ridge(X, y, K, a + 1), "values are not"),
]

RIGHT[check_qkv] = [
    lambda q, k, v: torch.cat([kernel.flatten(1).T for kernel in (q, k, v)]),
    lambda q, k, v: torch.stack([q, k, v]).permute(0, 2, 3, 1).flatten(0, 2),
]
WRONG[check_qkv] = [
    (lambda q, k, v: torch.cat([w.flatten(1) for w in (q, k, v)]), "not transposed"),
    (
        lambda q, k, v: torch.cat([w.permute(2, 1, 0).flatten(0, 1) for w in (q, k, v)]),
        "heads and their numbers",
    ),
    (
        lambda q, k, v: torch.cat([w.reshape(-1, w.shape[0]) for w in (q, k, v)]),
        "moves nothing|not",
    ),
    (lambda q, k, v: torch.cat([w.flatten(1).T for w in (k, q, v)]), "key comes before"),
    (lambda q, k, v: torch.cat([w.flatten(1).T for w in (v, k, q)]), "value comes first"),
    (lambda q, k, v: torch.cat([w.flatten(1).T for w in (q, v, k)]), "value comes before"),
    (lambda q, k, v: torch.stack([q, k, v], 2).flatten(1).T, "each head has its q"),
    (lambda q, k, v: torch.cat([w.flatten(1) for w in (q, k, v)], 1), "wrong axis|transposed"),
    (lambda q, k, v: torch.cat([q, k, v]), "expected"),
]


def control(read, few, test, fit=None, strength=10.0, score=None):
    train = few if fit is None else fit
    head = least_squares(read(train), train.labels, classes=5, strength=strength)
    right = head(read(test)).argmax(dim=1) == test.labels
    return right.double().mean().item() if score is None else score(right)


RIGHT[check_control] = [
    control,
    lambda read, few, test: torch.eq(
        (least_squares(read(few), few.labels, 5, 10.0)(read(test))).max(1).indices, test.labels
    ).float().mean(),
]  # fmt: skip
WRONG[check_control] = [
    (lambda read, few, test: control(read, few, test, fit=test), "has seen the answers"),
    (lambda read, few, test: control(read, few, few), "that the head was fitted to"),
    (
        lambda read, few, test: control(lambda s: s.images.flatten(1) / 255, few, test),
        "read both splits with `read`",
    ),
    (lambda read, few, test: control(read, few, test, strength=1.0), "the strength is 10"),
    (lambda *a: control(*a, score=lambda right: int(right.sum())), "divide by how many"),
    (lambda *a: control(*a, score=lambda right: 100 * right.float().mean()), "a percentage"),
    (lambda *a: control(*a, score=lambda right: 1 - right.float().mean()), "share of wrong"),
    (lambda *a: control(*a, score=lambda right: right), "should return a number"),
]


def nearest(known, labels, asked):
    likeness = F.normalize(asked) @ F.normalize(known).T
    return labels[likeness.argmax(dim=1)]


def nearest_one_by_one(known, labels, asked):
    found = [F.cosine_similarity(one[None], known).argmax() for one in asked]
    return labels[torch.stack(found)]


RIGHT[check_nearest] = [nearest, nearest_one_by_one]
WRONG[check_nearest] = [
    (lambda x, y, z: y[(z @ x.T).argmax(1)], "long vectors win"),
    (lambda x, y, z: y[(F.normalize(z) @ F.normalize(x).T).argmin(1)], "the farthest"),
    (lambda x, y, z: y[torch.cdist(z, x).argmin(1)], "the smallest distance"),
    (lambda x, y, z: (F.normalize(z) @ F.normalize(x).T).argmax(1), "look up its label"),
    (
        lambda x, y, z: nearest(F.normalize(x, dim=0), y, F.normalize(z, dim=0)),
        "values are not|each",
    ),
    (lambda x, y, z: y[(F.normalize(z, dim=0) @ F.normalize(x, dim=0).T).argmax(1)], "each column"),
    (lambda x, y, z: y[(F.normalize(z) @ F.normalize(x).T).argmax(0)], "expected|stopped with"),
]
