"""ContextUnet: the network that predicts the noise in an image, given its class and time.

Parameter names and the function computed are those of the public Conditional_Diffusion_MNIST and
MAD-Detection code, so checkpoints can be exchanged with them (n_feat = 128: 6,585,601 parameters).
"""

import copy

import torch
from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_eval


class ResidualConvBlock(nn.Module):
    """Two 3x3 convolutions, (B, in, H, W) -> (B, out, H, W); with `is_res` a residual sum."""

    def __init__(self, in_channels, out_channels, is_res=False):
        super().__init__()
        self.same_channels = in_channels == out_channels
        self.is_res = is_res
        self.conv1 = self._convolution(in_channels, out_channels)
        self.conv2 = self._convolution(out_channels, out_channels)

    @staticmethod
    def _convolution(in_channels, out_channels):
        convolution = nn.Conv2d(in_channels, out_channels, kernel_size=3, padding=1)
        return nn.Sequential(convolution, nn.BatchNorm2d(out_channels), nn.GELU())

    def forward(self, x):
        first = self.conv1(x)
        second = self.conv2(first)
        if not self.is_res:
            return second
        shortcut = x if self.same_channels else first
        return (shortcut + second) / 1.414  # not sqrt(2): existing checkpoints were trained so


class UnetDown(nn.Module):
    """(B, in, H, W) -> (B, out, H/2, W/2)."""

    def __init__(self, in_channels, out_channels):
        super().__init__()
        self.model = nn.Sequential(ResidualConvBlock(in_channels, out_channels), nn.MaxPool2d(2))

    def forward(self, x):
        return self.model(x)


class UnetUp(nn.Module):
    """x and skip, together (B, in, H, W), -> (B, out, 2H, 2W)."""

    def __init__(self, in_channels, out_channels):
        super().__init__()
        self.model = nn.Sequential(
            nn.ConvTranspose2d(in_channels, out_channels, kernel_size=2, stride=2),
            ResidualConvBlock(out_channels, out_channels),
            ResidualConvBlock(out_channels, out_channels),
        )

    def forward(self, x, skip):
        return self.model(torch.cat((x, skip), dim=1))


class EmbedFC(nn.Module):
    """Two linear layers, any shape with B * input_dim numbers -> (B, emb_dim)."""

    def __init__(self, input_dim, emb_dim):
        super().__init__()
        self.input_dim = input_dim
        self.model = nn.Sequential(
            nn.Linear(input_dim, emb_dim), nn.GELU(), nn.Linear(emb_dim, emb_dim)
        )

    def forward(self, x):
        return self.model(x.reshape(-1, self.input_dim))


class ContextUnet(nn.Module):
    """eps_theta(x_t, t, c) for images of 28x28 pixels; `n_feat` is a multiple of 8."""

    def __init__(self, in_channels=1, n_feat=128, n_classes=10):
        super().__init__()
        self.in_channels, self.n_feat, self.n_classes = in_channels, n_feat, n_classes
        self.init_conv = ResidualConvBlock(in_channels, n_feat, is_res=True)
        self.down1 = UnetDown(n_feat, n_feat)
        self.down2 = UnetDown(n_feat, 2 * n_feat)
        self.to_vec = nn.Sequential(nn.AvgPool2d(7), nn.GELU())
        self.timeembed1 = EmbedFC(1, 2 * n_feat)
        self.timeembed2 = EmbedFC(1, n_feat)
        self.contextembed1 = EmbedFC(n_classes, 2 * n_feat)
        self.contextembed2 = EmbedFC(n_classes, n_feat)
        self.up0 = nn.Sequential(
            nn.ConvTranspose2d(2 * n_feat, 2 * n_feat, kernel_size=7, stride=7),
            nn.GroupNorm(8, 2 * n_feat),
            nn.ReLU(),
        )
        self.up1 = UnetUp(4 * n_feat, n_feat)
        self.up2 = UnetUp(2 * n_feat, n_feat)
        self.out = nn.Sequential(
            nn.Conv2d(2 * n_feat, n_feat, kernel_size=3, padding=1),
            nn.GroupNorm(8, n_feat),
            nn.ReLU(),
            nn.Conv2d(n_feat, in_channels, kernel_size=3, padding=1),
        )

    def forward(self, x, c, t, context_mask):
        """Predicted noise (B, 1, 28, 28).

        x (B, 1, 28, 28) noised images; c (B,) int64 classes; t (B,) or (B, 1, 1, 1) times in
        (0, 1], that is t / n_T; context_mask (B,) floats, 1 where the class is hidden.
        """
        return self.predicted(x, self.context(c, context_mask), self.time(t))

    def context(self, c, context_mask):
        """The embeddings of classes (B,), hidden where context_mask (B,) is 1, for both scales:
        (B, 2 n_feat, 1, 1) and (B, n_feat, 1, 1)."""
        # Existing checkpoints know a class as *minus* its one-hot vector, and no class as zeros.
        weight = self.contextembed1.model[0].weight
        one_hot = nn.functional.one_hot(c, self.n_classes).to(weight.dtype)
        context = -one_hot * (1 - context_mask.to(weight.dtype))[:, None]
        embeds = self.contextembed1, self.contextembed2
        return tuple(embed(context)[:, :, None, None] for embed in embeds)

    def time(self, t):
        """The embeddings of times (B,) in (0, 1] for both scales, shaped as those of classes."""
        t = t.to(self.timeembed1.model[0].weight.dtype)
        embeds = self.timeembed1, self.timeembed2
        return tuple(embed(t)[:, :, None, None] for embed in embeds)

    def predicted(self, x, context, time):
        """Predicted noise (B, 1, 28, 28) from images, `context` and `time`, which may be of one
        row that holds for all images. ValueError for images of another shape."""
        if x.shape[1:] != (self.in_channels, 28, 28):
            raise ValueError(f"x has shape {tuple(x.shape)}, not (B, {self.in_channels}, 28, 28)")
        x = self.init_conv(x)  # (B, n_feat, 28, 28)
        down1 = self.down1(x)  # (B, n_feat, 14, 14)
        down2 = self.down2(down1)  # (B, 2 n_feat, 7, 7)
        up1 = self.up0(self.to_vec(down2))  # (B, 2 n_feat, 7, 7)
        up2 = self.up1(context[0] * up1 + time[0], down2)  # (B, n_feat, 14, 14)
        up3 = self.up2(context[1] * up2 + time[1], down1)  # (B, n_feat, 28, 28)
        return self.out(torch.cat((up3, x), dim=1))


def frozen(network):
    """A copy for inference: eval mode, detached, BatchNorm folded into the convolutions.

    Computes the same function up to float rounding, with one pass over memory less per layer.
    """
    network = copy.deepcopy(network).eval().requires_grad_(False)
    for block in network.modules():
        if isinstance(block, ResidualConvBlock):
            for layers in (block.conv1, block.conv2):
                layers[0] = fuse_conv_bn_eval(layers[0], layers[1]).requires_grad_(False)
                layers[1] = nn.Identity()
    return network.eval().to(memory_format=torch.channels_last)
