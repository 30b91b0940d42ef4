"""A Vision Transformer and its training in one file that needs torch alone.

Give it a file with two tensors, images as bytes (M C H W) and class numbers (M,):

    from torchvision.datasets import MNIST
    mnist = MNIST("data", download=True)
    torch.save((mnist.data[:, None], mnist.targets), "mnist.pt")

    python vit.py mnist.pt patch_size=7 layers=4 epochs=16

Model and equations: Dosovitskiy et al., https://arxiv.org/abs/2010.11929. B images of
C x H x W pixels, cut into N patches of P x P, become T = N + 1 tokens of D numbers;
each of L blocks has h heads of d = D/h numbers; the head knows K classes.
"""

import math
import sys
from dataclasses import asdict, dataclass

import torch
from torch import nn
from torch.nn import functional as F


@dataclass(frozen=True)
class ViTConfig:  # the paper's B/16: (224, 16, 3, 1000, 12, 768, 3072, 12)
    image_size: int | tuple[int, int] = 28  # H = W, or (H, W)
    patch_size: int = 7
    channels: int = 1
    classes: int = 10
    layers: int = 4
    hidden_size: int = 64
    mlp_size: int = 128
    heads: int = 4
    dropout: float = 0.0


def patchify(images, P):
    """(B C H W) to (B N CPP): row by row, each patch flattened as (C Ph Pw)."""
    B, C, H, W = images.shape
    cut = images.reshape(B, C, H // P, P, W // P, P)  # fails unless P divides
    return cut.permute(0, 2, 4, 1, 3, 5).reshape(B, -1, C * P * P)


class PatchEmbedding(nn.Module):
    def __init__(self, P, C, D):
        super().__init__()
        self.P = P
        self.projection = nn.Linear(C * P * P, D)

    def forward(self, images):
        return self.projection(patchify(images, self.P))


class Embedding(nn.Module):
    def __init__(self, image_size, P, C, D, dropout=0.0):
        super().__init__()
        square = isinstance(image_size, int)
        H, W = (image_size, image_size) if square else image_size
        table = torch.zeros(1, 1 + (H // P) * (W // P), D)
        self.patches = PatchEmbedding(P, C, D)
        self.class_token = nn.Parameter(torch.zeros(1, 1, D))
        self.positions = nn.Parameter(nn.init.normal_(table, std=0.02))
        self.dropout = nn.Dropout(dropout)

    def forward(self, images):
        first = self.class_token.expand(len(images), -1, -1)
        tokens = torch.cat([first, self.patches(images)], dim=1)
        return self.dropout(tokens + self.positions)  # Eq. 1


class MultiHeadSelfAttention(nn.Module):
    def __init__(self, D, h):
        super().__init__()
        self.h = h
        self.qkv = nn.Linear(D, 3 * D)
        self.projection = nn.Linear(D, D)

    def split_heads(self, x):  # B T D -> 3 B h T d; an error if h does not divide D
        return self.qkv(x).unflatten(-1, (3, self.h, -1)).permute(2, 0, 3, 1, 4)

    def weights(self, x):  # B h T T, to look at; `forward` may never store them
        q, k, _ = self.split_heads(x)
        return (q @ k.mT / math.sqrt(q.shape[-1])).softmax(dim=-1)  # Eq. 6

    def forward(self, x):
        q, k, v = self.split_heads(x)
        read = F.scaled_dot_product_attention(q, k, v)  # the weights times v, Eq. 7
        return self.projection(read.transpose(1, 2).flatten(2))  # joined, Eq. 8


class MLP(nn.Sequential):
    def __init__(self, D, mlp_size, dropout=0.0):
        into, back = nn.Linear(D, mlp_size), nn.Linear(mlp_size, D)
        super().__init__(into, nn.GELU(), nn.Dropout(dropout), back)


class EncoderBlock(nn.Module):
    def __init__(self, D, h, mlp_size, dropout=0.0):
        super().__init__()
        self.norm1 = nn.LayerNorm(D, eps=1e-6)  # the authors'; PyTorch's is 1e-5
        self.attention = MultiHeadSelfAttention(D, h)
        self.norm2 = nn.LayerNorm(D, eps=1e-6)
        self.mlp = MLP(D, mlp_size, dropout)
        self.dropout = nn.Dropout(dropout)

    def forward(self, z):
        z = z + self.dropout(self.attention(self.norm1(z)))  # Eq. 2
        return z + self.dropout(self.mlp(self.norm2(z)))  # Eq. 3


class Encoder(nn.Module):
    def __init__(self, L, D, h, mlp_size, dropout=0.0):
        super().__init__()
        blocks = [EncoderBlock(D, h, mlp_size, dropout) for _ in range(L)]
        self.blocks = nn.ModuleList(blocks)
        self.norm = nn.LayerNorm(D, eps=1e-6)

    def forward(self, z):
        for block in self.blocks:
            z = block(z)
        return self.norm(z)  # the sum of all blocks, normalised at last


class VisionTransformer(nn.Module):
    def __init__(self, config):
        super().__init__()
        c, P, D = config, config.patch_size, config.hidden_size
        self.embedding = Embedding(c.image_size, P, c.channels, D, c.dropout)
        self.encoder = Encoder(c.layers, D, c.heads, c.mlp_size, c.dropout)
        self.head = nn.Linear(D, c.classes)
        initialise(self)

    def forward(self, images):
        z = self.encoder(self.embedding(images))
        return self.head(z[:, 0])  # Eq. 4; logits: the softmax is in the loss

    @torch.no_grad()
    def attention_maps(self, images):
        z, maps = self.embedding(images), []
        for block in self.encoder.blocks:
            maps.append(block.attention.weights(block.norm1(z)))
            z = block(z)
        return torch.stack(maps, dim=1)  # B L h T T


def initialise(model):
    """The authors' first weights; class token and positions have theirs already."""
    for name, module in model.named_modules():
        if isinstance(module, nn.Linear):
            nn.init.zeros_(module.bias)
            for matrix in module.weight.chunk(3 if name.endswith("qkv") else 1):
                nn.init.xavier_uniform_(matrix)  # q, k and v: three D x D matrices
            if ".mlp." in name:
                nn.init.normal_(module.bias, std=1e-6)
    weight = model.embedding.patches.projection.weight
    std = math.sqrt(1 / weight.shape[1]) / 0.8796256610342398  # of a cut normal
    nn.init.trunc_normal_(weight, std=std, a=-2 * std, b=2 * std)  # LeCun normal
    nn.init.zeros_(model.head.weight)  # all classes as likely: a loss of ln K


def parameter_groups(model, weight_decay):
    """Decay the matrices of linear layers: no bias, norm, token or position."""
    matrices = [m.weight for m in model.modules() if isinstance(m, nn.Linear)]
    others = [p for p in model.parameters() if all(p is not m for m in matrices)]
    decayed = {"params": matrices, "weight_decay": weight_decay}
    return [decayed, {"params": others, "weight_decay": 0.0}]


def schedule(progress, warmup):
    """The factor on the rate: a line from 0 to 1, then half a cosine back to 0."""
    if progress < warmup:
        return progress / warmup
    return (1 + math.cos(math.pi * (progress - warmup) / (1 - warmup))) / 2


def random_affine(images, generator):
    """Turn, shear, scale and shift each image by a small amount of its own."""
    B, _, H, W = images.shape
    turn, shear, *sizes, right, down = 2 * torch.rand(6, B, generator=generator) - 1
    cos, sin = (turn * math.radians(12)).cos(), (turn * math.radians(12)).sin()
    shear, width, height = shear * 0.15, 1 + 0.12 * sizes[0], 1 + 0.12 * sizes[1]
    first = [cos * width, (shear * cos - sin) * height * (H / W), 0.14 * right]
    second = [sin * width * (W / H), (shear * sin + cos) * height, 0.14 * down]
    matrices = torch.stack([*first, *second], dim=1).view(B, 2, 3).to(images)
    places = F.affine_grid(matrices, list(images.shape), align_corners=False)
    return F.grid_sample(images, places, align_corners=False)


@torch.no_grad()
def evaluate(model, images, labels, mean, std):
    """Loss and accuracy (0 to 1) over all images, the model in eval mode."""
    model.eval()
    parts = [(part.float() / 255 - mean) / std for part in images.split(1000)]
    logits = torch.cat([model(part) for part in parts])
    right = (logits.argmax(dim=1) == labels).sum().item()
    return F.cross_entropy(logits, labels).item(), right / len(labels)


def train(
    model, train_set, val_set, pixels, generator, epochs=16, batch_size=128,
    rate=3e-3, weight_decay=0.05, warmup=0.1, clip=1.0, augment=random_affine,
):  # fmt: skip
    """Yield (epoch, training loss, validation loss, accuracy) after every epoch.

    A set is (images, labels), `pixels` (mean, std) of the training pixels in 0..1.
    """
    (images, labels), (mean, std) = train_set, pixels
    optimizer = torch.optim.AdamW(parameter_groups(model, weight_decay), fused=True)
    batch_size = min(batch_size, len(labels))
    steps, step = len(labels) // batch_size, 0  # of an epoch, and so far
    for epoch in range(1, epochs + 1):
        model.train()
        losses, order = [], torch.randperm(len(labels), generator=generator)
        for rows in order[: steps * batch_size].split(batch_size):
            progress = (step + 0.5) / (epochs * steps)
            for group in optimizer.param_groups:
                group["lr"] = rate * schedule(progress, warmup)
            changed = augment(images[rows].float() / 255, generator)
            loss = F.cross_entropy(model((changed - mean) / std), labels[rows])
            optimizer.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(model.parameters(), clip)
            optimizer.step()
            losses.append(loss.detach())  # to read the number would wait for a GPU
            step += 1
        train_loss = torch.stack(losses).mean().item()
        yield epoch, train_loss, *evaluate(model, *val_set, *pixels)


def main(path, *changes):
    """Train on the two tensors in a file; `changes` are like "layers=6"."""
    changed = {name: int(value) for name, value in (c.split("=") for c in changes)}
    epochs = changed.pop("epochs", 16)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    images, labels = (t.to(device) for t in torch.load(path, weights_only=True))
    M, C, H, W = images.shape
    order = torch.randperm(M, generator=torch.Generator().manual_seed(0))
    val, rest = order[: M // 12], order[M // 12 :]  # a twelfth is kept to choose by
    sets = (images[rest], labels[rest]), (images[val], labels[val])
    std, mean = torch.std_mean(images[rest].float() / 255, (0, 2, 3), keepdim=True)
    sizes = {"image_size": (H, W), "channels": C, "classes": int(labels.max()) + 1}
    config = ViTConfig(**{**sizes, **changed})
    torch.manual_seed(0)
    model = VisionTransformer(config).to(device)
    dice = torch.Generator().manual_seed(0)
    print("epoch  train loss  val loss  accuracy")
    for row in train(model, *sets, (mean, std), dice, epochs):
        print("{:5}{:12.3f}{:10.3f}{:10.2%}".format(*row), flush=True)
    saved = {"model": model.state_dict(), "config": asdict(config)}
    torch.save({**saved, "mean": mean, "std": std}, "vit.pt")


if __name__ == "__main__":
    main(*sys.argv[1:]) if sys.argv[1:] else print(__doc__)
