"""Vision Transformers of other libraries, small and drawn anew, for tests of their weights."""

import numpy as np
import pytest
import torch
from einops import rearrange
from PIL import Image
from sklearn.datasets import load_sample_image
from torch import nn
from torch.nn import functional as F
from torchvision.models.vision_transformer import VisionTransformer as TorchvisionViT

timm = pytest.importorskip("timm", reason="in the extra `compare`")
transformers = pytest.importorskip("transformers", reason="in the extra `compare`")

TO_1E_5 = dict(atol=1e-5, rtol=1e-5)
PHOTO = Image.fromarray(load_sample_image("china.jpg"))


def noise(*shape):
    return torch.randn(*shape, dtype=torch.float64)


def filled(model):
    """Every tensor drawn anew, in float64, so that none can hide and no logit is 0 or huge."""
    for parameter in model.parameters():
        fan_in = parameter[0].numel() if parameter.ndim > 1 else 4
        nn.init.normal_(parameter, std=fan_in**-0.5)
    return model.double().eval()


def timm_model(size=32, P=8, D=64, h=4, L=2, K=5, **more):
    return filled(
        timm.models.VisionTransformer(
            img_size=size, patch_size=P, embed_dim=D, num_heads=h, depth=L, num_classes=K, **more
        )
    )


def torchvision_model(size=32, P=8, D=64, h=4, mlp=96, K=5, L=2, **more):
    return filled(TorchvisionViT(size, P, L, h, D, mlp, num_classes=K, **more))


def hf_model(kind="ForImageClassification", **changes):
    sizes = dict(
        image_size=32, patch_size=8, hidden_size=64, num_hidden_layers=2, num_attention_heads=4,
        intermediate_size=96, num_labels=5,
    )  # fmt: skip
    config = transformers.ViTConfig(**{**sizes, **changes})
    return filled(getattr(transformers, f"ViT{kind}")(config))


def as_in_files(name):
    """A name of transformers 5 as its files have it."""
    for new, old in {
        "layers.": "encoder.layer.", "q_proj": "attention.query", "k_proj": "attention.key",
        "v_proj": "attention.value", "o_proj": "output.dense", "mlp.fc1": "intermediate.dense",
        "mlp.fc2": "output.dense",
    }.items():  # fmt: skip
        name = name.replace(new, old)
    return name


def npz_arrays(size=(32, 32), P=8, D=64, h=4, mlp=96, L=2, K=5, C=3, pre=None, token=True):
    """The arrays of the authors' files, by the names and shapes that they publish."""
    rng, d, T = np.random.default_rng(0), D // h, size[0] // P * (size[1] // P) + token

    def draw(*shape):
        fan_in = D if len(shape) == 3 else np.prod(shape[:-1]) if len(shape) > 1 else 4
        return rng.normal(size=shape) / np.sqrt(fan_in)

    arrays = {"embedding/kernel": draw(P, P, C, D), "embedding/bias": draw(D)}
    arrays["Transformer/posembed_input/pos_embedding"] = draw(1, T, D)
    if token:
        arrays["cls"] = draw(1, 1, D)
    for i in range(L):
        block = f"Transformer/encoderblock_{i}"
        for norm in ("LayerNorm_0", "LayerNorm_2"):
            arrays |= {f"{block}/{norm}/{part}": draw(D) for part in ("scale", "bias")}
        attention = f"{block}/MultiHeadDotProductAttention_1"
        for part in ("query", "key", "value"):
            arrays[f"{attention}/{part}/kernel"] = draw(D, h, d)
            arrays[f"{attention}/{part}/bias"] = draw(h, d)
        arrays |= {f"{attention}/out/kernel": draw(h, d, D), f"{attention}/out/bias": draw(D)}
        for dense, fan_in, fan_out in (("Dense_0", D, mlp), ("Dense_1", mlp, D)):
            arrays[f"{block}/MlpBlock_3/{dense}/kernel"] = draw(fan_in, fan_out)
            arrays[f"{block}/MlpBlock_3/{dense}/bias"] = draw(fan_out)
    arrays |= {f"Transformer/encoder_norm/{part}": draw(D) for part in ("scale", "bias")}
    if pre:
        arrays |= {"pre_logits/kernel": draw(D, pre), "pre_logits/bias": draw(pre)}
    if K:
        arrays |= {"head/kernel": draw(pre or D, K), "head/bias": draw(K)}
    return arrays


def authors_logits(arrays, images, L=2):
    """The authors' forward pass, axis by axis, from their arrays."""
    a = {name: torch.from_numpy(array) for name, array in arrays.items()}

    def norm(x, name):
        return F.layer_norm(x, x.shape[-1:], a[f"{name}/scale"], a[f"{name}/bias"], eps=1e-6)

    P = a["embedding/kernel"].shape[0]
    x = rearrange(images, "B C (r P) (c Q) -> B (r c) P Q C", P=P, Q=P)
    x = torch.einsum("bnpqc,pqcd->bnd", x, a["embedding/kernel"]) + a["embedding/bias"]
    if "cls" in a:
        x = torch.cat([a["cls"].expand(len(x), -1, -1), x], dim=1)
    x = x + a["Transformer/posembed_input/pos_embedding"]
    for i in range(L):
        block = f"Transformer/encoderblock_{i}"
        y, attention = norm(x, f"{block}/LayerNorm_0"), f"{block}/MultiHeadDotProductAttention_1"
        q, k, v = (
            torch.einsum("btD,Dhd->bthd", y, a[f"{attention}/{part}/kernel"])
            + a[f"{attention}/{part}/bias"]
            for part in ("query", "key", "value")
        )
        weights = (torch.einsum("bqhd,bkhd->bhqk", q, k) / q.shape[-1] ** 0.5).softmax(dim=-1)
        y = torch.einsum("bhqk,bkhd->bqhd", weights, v)
        y = torch.einsum("bqhd,hdD->bqD", y, a[f"{attention}/out/kernel"])
        x = x + y + a[f"{attention}/out/bias"]
        mlp = f"{block}/MlpBlock_3"
        y = norm(x, f"{block}/LayerNorm_2") @ a[f"{mlp}/Dense_0/kernel"] + a[f"{mlp}/Dense_0/bias"]
        y = y * 0.5 * (1 + torch.tanh((2 / np.pi) ** 0.5 * (y + 0.044715 * y**3)))
        x = x + y @ a[f"{mlp}/Dense_1/kernel"] + a[f"{mlp}/Dense_1/bias"]
    x = norm(x, "Transformer/encoder_norm")
    x = x[:, 0] if "cls" in a else x.mean(dim=1)
    if "pre_logits/kernel" in a:
        x = torch.tanh(x @ a["pre_logits/kernel"] + a["pre_logits/bias"])
    return x @ a["head/kernel"] + a["head/bias"] if "head/kernel" in a else x
