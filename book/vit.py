"""A Vision Transformer and its training in one file that needs torch alone.

    from torchvision.datasets import MNIST  # or any images (M C H W) in bytes, and classes (M)
    mnist = MNIST("data", download=True)
    torch.save((mnist.data[:, None], mnist.targets), "mnist.pt")
    python vit.py mnist.pt patch_size=7 layers=4 epochs=16

Equations: https://arxiv.org/abs/2010.11929. An image of C x H x W pixels has N patches of P x P,
so T = N + 1 tokens of D numbers; L blocks; h heads of d = D/h numbers; K classes; B in a batch."""

import math
import sys

import torch
from torch import nn
from torch.nn import functional as F


def patchify(images, P):  # (B C H W) -> (B N CPP), row by row, each patch as (C Ph Pw)
    B, C, H, W = images.shape
    cut = images.reshape(B, C, H // P, P, W // P, P)  # fails unless P divides H and W
    return cut.permute(0, 2, 4, 1, 3, 5).reshape(B, -1, C * P * P)


class PatchEmbedding(nn.Module):
    def __init__(self, P, C, D):
        super().__init__()
        self.P, self.projection = P, nn.Linear(C * P * P, D)

    def forward(self, images):  # (B C H W) -> (B N D)
        return self.projection(patchify(images, self.P))


class Embedding(nn.Module):
    def __init__(self, image_size, P, C, D, dropout=0.0):
        super().__init__()
        H, W = [image_size] * 2 if isinstance(image_size, int) else image_size
        self.patches = PatchEmbedding(P, C, D)
        self.class_token = nn.Parameter(torch.zeros(1, 1, D))
        self.positions = nn.Parameter(0.02 * torch.randn(1, 1 + (H // P) * (W // P), D))
        self.dropout = nn.Dropout(dropout)

    def forward(self, images):  # (B C H W) -> (B T D), the class token first
        first = self.class_token.expand(len(images), -1, -1)
        tokens = torch.cat([first, self.patches(images)], dim=1)
        return self.dropout(tokens + self.positions)  # Eq. 1


class MultiHeadSelfAttention(nn.Module):
    def __init__(self, D, h):
        super().__init__()
        self.h, self.qkv, self.projection = h, nn.Linear(D, 3 * D), nn.Linear(D, D)

    def forward(self, x):  # (B T D) -> (B T D); fails unless h divides D
        q, k, v = self.qkv(x).unflatten(-1, (3, self.h, -1)).permute(2, 0, 3, 1, 4)  # B h T d
        read = F.scaled_dot_product_attention(q, k, v)  # softmax(q kᵀ / √d) v, Eq. 6, 7
        return self.projection(read.transpose(1, 2).flatten(2))  # heads joined, Eq. 8


class EncoderBlock(nn.Module):
    def __init__(self, D, h, mlp_size, dropout=0.0):
        super().__init__()
        self.norm1 = nn.LayerNorm(D, eps=1e-6)  # the authors'; PyTorch's is 1e-5
        self.attention = MultiHeadSelfAttention(D, h)
        self.norm2 = nn.LayerNorm(D, eps=1e-6)
        into, back = nn.Linear(D, mlp_size), nn.Linear(mlp_size, D)
        self.mlp = nn.Sequential(into, nn.GELU(), nn.Dropout(dropout), back)
        self.dropout = nn.Dropout(dropout)

    def forward(self, z):  # (B T D) -> (B T D)
        z = z + self.dropout(self.attention(self.norm1(z)))  # across tokens, Eq. 2
        return z + self.dropout(self.mlp(self.norm2(z)))  # within each token, Eq. 3


class Encoder(nn.Sequential):  # runs its parts in order: (B T D) -> (B T D)
    def __init__(self, L, D, h, mlp_size, dropout=0.0):
        super().__init__()
        self.blocks = nn.Sequential(*(EncoderBlock(D, h, mlp_size, dropout) for _ in range(L)))
        self.norm = nn.LayerNorm(D, eps=1e-6)  # after the last block


class VisionTransformer(nn.Module):  # B/16: 224, 16, 3, 1000, 12, 768, 3072, 12
    def __init__(self, image_size=28, patch_size=7, channels=1, classes=10,  # H = W, or (H, W)
                 layers=4, hidden_size=64, mlp_size=128, heads=4, dropout=0.0):  # fmt: skip
        super().__init__()
        self.embedding = Embedding(image_size, patch_size, channels, hidden_size, dropout)
        self.encoder = Encoder(layers, hidden_size, heads, mlp_size, dropout)
        self.head = nn.Linear(hidden_size, classes)
        initialise(self)

    def forward(self, images):  # (B C H W) -> (B K), logits: the softmax is in the loss
        return self.head(self.encoder(self.embedding(images))[:, 0])  # Eq. 4


def initialise(model):  # the authors' first weights; token and positions have theirs already
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


def schedule(progress, warmup=0.1):  # the factor on the rate; progress is 0 to 1
    if progress < warmup:
        return progress / warmup  # a line from 0 to 1, then half a cosine back to 0
    return (1 + math.cos(math.pi * (progress - warmup) / (1 - warmup))) / 2


def random_affine(images, generator=None):  # turns, shears, scales and shifts each image a bit
    maps = torch.eye(2, 3) + 0.3 * (torch.rand(len(images), 2, 3, generator=generator) - 0.5)
    grid = F.affine_grid(maps, images.shape, align_corners=False).to(images)
    return F.grid_sample(images, grid, padding_mode="border", align_corners=False)


@torch.no_grad()
def evaluate(model, images, labels):  # loss, and accuracy in 0..1
    model.eval()
    logits = torch.cat([model(part) for part in images.split(1000)])
    right = logits.argmax(dim=1) == labels
    return F.cross_entropy(logits, labels).item(), right.float().mean().item()


def train(model, data, val, epochs=16, batch_size=128, augment=random_affine, generator=None):
    """Yield (epoch, training loss, validation loss, accuracy); data and val: images, labels."""
    images, labels = data
    matrices = [m.weight for m in model.modules() if isinstance(m, nn.Linear)]
    others = [p for p in model.parameters() if all(p is not m for m in matrices)]
    groups = [{"params": matrices}, {"params": others, "weight_decay": 0.0}]  # matrices decay
    optimizer = torch.optim.AdamW(groups, weight_decay=0.05)
    steps = max(1, len(labels) // batch_size)  # of an epoch: the last, smaller batch is left out
    for epoch in range(epochs):
        model.train()
        losses, order = [], torch.randperm(len(labels), generator=generator)
        for step, rows in enumerate(order[: steps * batch_size].split(batch_size)):
            for group in optimizer.param_groups:
                group["lr"] = 3e-3 * schedule((epoch + (step + 0.5) / steps) / epochs)
            loss = F.cross_entropy(model(augment(images[rows], generator)), labels[rows])
            optimizer.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            losses.append(loss.detach())  # to read the number would wait for a GPU
        yield epoch + 1, torch.stack(losses).mean().item(), *evaluate(model, *val)


if __name__ == "__main__":
    path, *changes = sys.argv[1:] or sys.exit(__doc__)
    sizes = {name: int(value) for name, value in (change.split("=") for change in changes)}
    epochs, device = sizes.pop("epochs", 16), "cuda" if torch.cuda.is_available() else "cpu"
    images, labels = (part.to(device) for part in torch.load(path, weights_only=True))
    std, mean = torch.std_mean(images / 255, (0, 2, 3), keepdim=True)  # of each channel
    images, (M, C, H, W) = (images / 255 - mean) / std, images.shape
    sizes = {"image_size": (H, W), "channels": C, "classes": int(labels.max()) + 1} | sizes
    torch.manual_seed(0)
    rest, val = torch.randperm(M).split([M - M // 12, M // 12])  # a twelfth to choose by
    model = VisionTransformer(**sizes).to(device)
    for row in train(model, (images[rest], labels[rest]), (images[val], labels[val]), epochs):
        print("epoch {}: loss {:.3f}, val loss {:.3f}, accuracy {:.2%}".format(*row), flush=True)
    torch.save({"model": model.state_dict(), "sizes": sizes, "mean": mean, "std": std}, "vit.pt")
