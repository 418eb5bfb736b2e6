"""The paper's VAE in plain PyTorch: the same architecture, batch, loss and optimizer, written as PyTorch users would.

A process of its own for `benchmarks.steps`: one training step for every line that it reads, one line when the step is done.
"""

import sys

import numpy as np
import torch
from torch import nn
from torch.nn import functional

LATENT_DIM = 32
LEARNING_RATE = 3e-4


class VAE(nn.Module):
    """Convolutional VAE with the layers of `echo_tf.models.networks`, in channels-last memory, the faster one on CPUs."""

    def __init__(self):
        super().__init__()
        relu = nn.ReLU
        self.encoder = nn.Sequential(
            *(nn.Conv2d(1, 32, 5, padding=2), relu()),
            *(nn.Conv2d(32, 32, 5, stride=2, padding=2), relu()),
            *(nn.Conv2d(32, 64, 5, padding=2), relu()),
            *(nn.Conv2d(64, 64, 5, stride=2, padding=2), relu()),
            *(nn.Conv2d(64, 256, 7), relu()),
            nn.Flatten(),
        )
        self.mean, self.log_var = nn.Linear(256, LATENT_DIM), nn.Linear(256, LATENT_DIM)
        self.decoder = nn.Sequential(
            *(nn.ConvTranspose2d(LATENT_DIM, 64, 7), relu()),
            *(nn.ConvTranspose2d(64, 64, 5, padding=2), relu()),
            *(nn.ConvTranspose2d(64, 64, 5, stride=2, padding=2, output_padding=1), relu()),
            *(nn.ConvTranspose2d(64, 32, 5, padding=2), relu()),
            *(nn.ConvTranspose2d(32, 32, 5, stride=2, padding=2, output_padding=1), relu()),
            *(nn.ConvTranspose2d(32, 32, 4, padding=1), relu()),  # 29x29
            nn.Conv2d(32, 1, 4, padding=1),  # 28x28
        )

    def forward(self, images):
        h = self.encoder(images)
        mean, log_var = self.mean(h), self.log_var(h)
        z = mean + torch.exp(0.5 * log_var) * torch.randn_like(mean)
        logits = self.decoder(z[:, :, None, None])
        distortion = functional.binary_cross_entropy_with_logits(logits, images, reduction="sum") / len(images)
        rate = 0.5 * (log_var.exp() + mean.square() - 1.0 - log_var).sum(1).mean()
        return distortion + rate


def make_step(images: np.ndarray, bfloat16: bool):
    """A function that does one training step and waits for it; `bfloat16`: networks under autocast."""
    torch.manual_seed(0)
    model = VAE().to(memory_format=torch.channels_last)
    optimizer = torch.optim.Adam(model.parameters(), lr=LEARNING_RATE)
    x = torch.from_numpy(images.astype(np.float32)).permute(0, 3, 1, 2).contiguous(memory_format=torch.channels_last)

    def step():
        optimizer.zero_grad(set_to_none=True)
        with torch.autocast("cpu", torch.bfloat16, enabled=bfloat16):
            loss = model(x)
        loss.backward()
        optimizer.step()
        return loss.item()

    return step


if __name__ == "__main__":
    step = make_step(np.load(sys.argv[1]), bfloat16=sys.argv[2] == "mixed_bfloat16")
    for _ in sys.stdin:
        print(step(), flush=True)
