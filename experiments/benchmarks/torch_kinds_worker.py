"""Trains or evaluates one kind of model by PyTorch: a contender of kinds_speed.py.

The protocol is that of worker.py; an "epoch" is the work of a round. The data are one tensor, and a
minibatch is an index_select of it. The optimizers are fused where PyTorch has a fused one, and
"foreach" elsewhere.
--compile: loss and gradient, or the estimate, through torch.compile (needs a C++ compiler).
--compile-optimizer: the optimizer's step through torch.compile too.
--channels-last: images and kernels in the memory format channels_last.
"""

import itertools
import math
from collections.abc import Callable

import kinds
import raw_data
import torch
import torch_vae
import worker
from torch import Tensor, nn
from torch.nn import functional

LECUN = 0.87962566103423978  # standard deviation of N(0, 1) truncated at +-2


class RandomLinear(nn.Linear):
    """A linear layer with Gaussian weights, by the local reparameterization."""

    def __init__(self, num_in: int, num_out: int):
        super().__init__(num_in, num_out)
        first = 2 * math.log(kinds.FIRST_STD)
        self.weight_log_var = nn.Parameter(torch.full((num_out, num_in), first))
        self.bias_log_var = nn.Parameter(torch.full((num_out,), first))

    def forward(self, input: Tensor) -> Tensor:
        mean = super().forward(input)
        if not self.training:
            return mean
        var = functional.linear(input.square(), self.weight_log_var.exp(), self.bias_log_var.exp())
        return mean + var.sqrt() * torch.randn_like(mean)

    def kl(self) -> Tensor:
        """Returns KL(q(theta) || N(0, I)) of the layer's parameters, [], in nats."""
        pairs = ((self.weight, self.weight_log_var), (self.bias, self.bias_log_var))
        return torch.stack([-0.5 * (1 + v - m.square() - v.exp()).sum() for m, v in pairs]).sum()


class MLP(nn.Module):
    """Tanh layers, then linear heads."""

    def __init__(self, sizes: list[int], num_heads: int, layer: type[nn.Linear] = nn.Linear):
        super().__init__()
        self.hidden = nn.ModuleList(layer(*pair) for pair in itertools.pairwise(sizes[:-1]))
        self.heads = nn.ModuleList(layer(*sizes[-2:]) for _ in range(num_heads))

    def forward(self, x: Tensor) -> list[Tensor]:
        for layer in self.hidden:
            x = layer(x).tanh()
        return [head(x) for head in self.heads]


def gelu(x: Tensor) -> Tensor:
    return functional.gelu(x, approximate="tanh")


class ConvEncoder(nn.Module):
    """Convolutions that each halve the image, then the posterior's mean and log-variance."""

    def __init__(self, kind: kinds.Kind, is_channels_last: bool):
        super().__init__()
        self.is_channels_last = is_channels_last
        pairs = zip((1, *kind.hidden[:-1]), kind.hidden, strict=True)
        self.hidden = nn.ModuleList(nn.Conv2d(*pair, 3, stride=2, padding=1) for pair in pairs)
        num_units = kinds.halved(28, len(kind.hidden)) ** 2 * kind.hidden[-1]
        self.heads = nn.ModuleList(nn.Linear(num_units, kind.num_latents) for _ in range(2))

    def forward(self, x: Tensor) -> list[Tensor]:
        h = x.view(-1, 1, 28, 28)
        for layer in self.hidden:
            h = gelu(layer(h))
        if self.is_channels_last:
            h = h.permute(0, 2, 3, 1)  # the order in memory, so that flattening copies nothing
        return [head(h.flatten(1)) for head in self.heads]


class ConvDecoder(nn.Module):
    """A linear layer, then transposed convolutions that each double the image."""

    def __init__(self, kind: kinds.Kind, is_channels_last: bool):
        super().__init__()
        channels = (*kind.hidden[::-1], 1)
        side = kinds.halved(28, len(kind.hidden))
        self.is_channels_last = is_channels_last
        self.shape = (side, side, channels[0]) if is_channels_last else (channels[0], side, side)
        self.first = nn.Linear(kind.num_latents, math.prod(self.shape))
        self.hidden = nn.ModuleList(
            nn.ConvTranspose2d(*pair, 3, stride=2, padding=1, output_padding=1)
            for pair in itertools.pairwise(channels)
        )

    def forward(self, z: Tensor) -> list[Tensor]:
        h = self.first(z).view(-1, *self.shape)
        if self.is_channels_last:
            h = h.permute(0, 3, 1, 2)
        for layer in self.hidden:
            h = layer(gelu(h))
        return [h.flatten(1)]


class Gated(nn.Module):
    """A layer of twice as many channels: values, and their gates."""

    def __init__(self, layer: nn.Module):
        super().__init__()
        self.layer = layer

    def forward(self, x: Tensor) -> Tensor:
        return functional.glu(self.layer(x), 1)


class GatedConvEncoder(nn.Module):
    """Gated convolutions, the last of the whole image, then the posterior's statistics."""

    def __init__(self, kind: kinds.Kind):
        super().__init__()
        *channels, last = kind.hidden
        pairs = zip((1, *channels[:-1]), channels, strict=True)
        layers = [
            nn.Conv2d(num_in, 2 * num_out, 5, stride=1 + number % 2, padding=2)
            for number, (num_in, num_out) in enumerate(pairs)
        ]
        side = kinds.halved(28, len(channels) // 2)
        layers.append(nn.Conv2d(channels[-1], 2 * last, side))
        self.hidden = nn.Sequential(*map(Gated, layers))
        self.heads = nn.ModuleList(nn.Linear(last, kind.num_latents) for _ in range(2))

    def forward(self, x: Tensor) -> list[Tensor]:
        h = self.hidden(x.view(-1, 1, 28, 28)).flatten(1)
        return [head(h) for head in self.heads]


class GatedConvDecoder(nn.Module):
    """The encoder's layers in reverse order, transposed, then a 1 x 1 convolution."""

    def __init__(self, kind: kinds.Kind):
        super().__init__()
        channels = kinds.gated_channels(kind)
        side = kinds.halved(28, (len(kind.hidden) - 1) // 2)
        layers = [nn.ConvTranspose2d(kind.num_latents, 2 * channels[0][1], side)]
        layers += [
            nn.ConvTranspose2d(
                num_in, 2 * num_out, 5, stride=stride, padding=2, output_padding=stride - 1
            )
            for stride, num_in, num_out in channels
        ]
        self.hidden = nn.Sequential(*map(Gated, layers))
        self.head = nn.Conv2d(channels[-1][2], 1, 1)

    def forward(self, z: Tensor) -> list[Tensor]:
        return [self.head(self.hidden(z[:, :, None, None])).flatten(1)]


class VAE(nn.Module):
    def __init__(self, kind: kinds.Kind, is_channels_last: bool = False):
        super().__init__()
        self.kind = kind
        sizes, num_latents = kind.sizes, kind.num_latents
        if kind.network == "conv":
            self.encoder = ConvEncoder(kind, is_channels_last)
            self.decoder = ConvDecoder(kind, is_channels_last)
        elif kind.network == "gated_conv":
            self.encoder, self.decoder = GatedConvEncoder(kind), GatedConvDecoder(kind)
        else:
            layer = RandomLinear if kind.has_random_weights else nn.Linear
            self.encoder = MLP([sizes.num_dims, *kind.hidden, num_latents], 2)
            reverse = [num_latents, *kind.hidden[::-1], sizes.num_dims]
            self.decoder = MLP(reverse, sizes.num_heads, layer)

    def log_lik(self, x: Tensor, z: Tensor) -> Tensor:
        """Returns log p(x|z) in nats: (M, D), (M, Z) -> (M,)."""
        heads = self.decoder(z)
        if len(heads) == 1:
            return torch_vae.bernoulli_log_lik(x, heads[0])
        return torch_vae.gaussian_log_lik(x, heads[0].sigmoid(), heads[1])

    def forward(self, x: Tensor, noise: Tensor) -> Tensor:
        """Returns the one-sample bound, eq. (7): (M, D), (M, Z) -> (M,)."""
        mean, log_var = self.encoder(x)
        z = mean + (0.5 * log_var).exp() * noise
        return self.log_lik(x, z) - torch_vae.kl_to_standard_normal(mean, log_var)

    def log_mean_weight(self, x: Tensor, noise: Tensor) -> Tensor:
        """Returns log 1/K sum_k p(x, z_k) / q(z_k|x), the IWAE bound: (M, D), (M, K, Z) -> (M,)."""
        num_samples = noise.shape[1]
        mean, log_var = (stat[:, None] for stat in self.encoder(x))
        z = mean + (0.5 * log_var).exp() * noise
        each = x[:, None].expand(-1, num_samples, -1).reshape(-1, x.shape[1])
        log_lik = self.log_lik(each, z.flatten(0, 1)).view(-1, num_samples)
        # The constants of log p(z) and log q(z|x) cancel.
        log_w = log_lik + 0.5 * (noise.square() + log_var - z.square()).sum(-1)
        return log_w.logsumexp(1) - math.log(num_samples)

    def bound(self, x: Tensor, noise: Tensor) -> Tensor:
        """Returns the kind's bound: (M, D), (M, K, Z) -> (M,)."""
        if self.kind.bound == "iwae":
            return self.log_mean_weight(x, noise)
        return self(x, noise[:, 0])


def loss(model: VAE, x: Tensor, noise: Tensor) -> Tensor:
    """Returns minus the value that the kind maximizes, per datapoint: (M, D), (M, K, Z) -> []."""
    bound = model.bound(x, noise).mean()
    if model.kind.has_random_weights:
        kls = [layer.kl() for layer in model.decoder.modules() if isinstance(layer, RandomLinear)]
        bound = bound - torch.stack(kls).sum() / model.kind.sizes.num_train
    return -bound


def init_parameters(model: VAE) -> None:
    """Draws weights of variance 1 / fan-in (LeCun et al. 1998); biases are 0."""
    for layer in model.modules():
        if isinstance(layer, nn.Linear | nn.Conv2d | nn.ConvTranspose2d):
            size = layer.weight.shape
            is_transposed = isinstance(layer, nn.ConvTranspose2d)
            is_first = is_transposed and size[0] == model.kind.num_latents  # 1 x 1 to the image
            fan_in = size[0 if is_transposed else 1] * (1 if is_first else math.prod(size[2:]))
            std = 1 / math.sqrt(fan_in) / LECUN
            nn.init.trunc_normal_(layer.weight, std=std, a=-2 * std, b=2 * std)
            assert layer.bias is not None
            nn.init.zeros_(layer.bias)


def make_optimizer(model: VAE) -> torch.optim.Optimizer:
    kind = model.kind
    how = {"lr": kind.step_size, "weight_decay": kind.weight_decay}
    match kind.optimizer:
        case "adam":
            return torch.optim.Adam(model.parameters(), **how, fused=True)
        case "adamw":
            how["weight_decay"] = kinds.DECOUPLED_DECAY
            return torch.optim.AdamW(model.parameters(), **how, fused=True)
        case "adamax":
            return torch.optim.Adamax(model.parameters(), **how, foreach=True)
        case "rmsprop":
            alpha = kinds.RMSPROP_DECAY
            return torch.optim.RMSprop(model.parameters(), **how, alpha=alpha, foreach=True)
    raise ValueError(f"optimizer {kind.optimizer!r}: expected adam, adamw, adamax or rmsprop")


def make_evaluate(
    model: VAE, test: Tensor, number: int, compiled: Callable[[Callable], Callable]
) -> Callable[[], float]:
    """Returns a function that returns the mean bound or log p(x) of `number` test images."""
    kind = model.kind
    log_mean_weight, bound = compiled(VAE.log_mean_weight), compiled(VAE.bound)

    def noise(num_images: int, num_samples: int) -> Tensor:
        return torch.randn(num_images, num_samples, kind.num_latents)

    @torch.inference_mode()
    def mean_log_p() -> Tensor:
        images = test[:: len(test) // number][:number, None]
        each = [log_mean_weight(model, x, noise(1, kinds.NUM_IMPORTANCE_SAMPLES)) for x in images]
        return torch.cat(each).mean()

    @torch.inference_mode()
    def mean_bound() -> Tensor:
        blocks = test[:number].split(kinds.EVALUATED_AT_ONCE)
        return torch.cat([bound(model, x, noise(len(x), kind.num_samples)) for x in blocks]).mean()

    def evaluate() -> float:
        model.eval()
        value = mean_log_p() if kind.evaluation == "log_p" else mean_bound()
        model.train()
        return float(value)

    return evaluate


def main() -> None:
    parser = kinds.argument_parser(__doc__)
    for flag in ("--compile", "--compile-optimizer", "--channels-last"):
        parser.add_argument(flag, action="store_true")
    args = parser.parse_args()
    torch.set_num_threads(worker.num_cores())
    torch.set_flush_denormal(True)  # see torch_worker.py
    torch.manual_seed(args.seed)
    kind = kinds.KINDS[args.kind]
    train_data, test = map(torch.from_numpy, raw_data.load(args.data_dir, kind.data))
    model = VAE(kind, args.channels_last)
    init_parameters(model)
    if args.channels_last:
        model = model.to(memory_format=torch.channels_last)
    optimizer = make_optimizer(model)
    compiled_loss = torch.compile(loss) if args.compile else loss
    update = torch.compile(optimizer.step) if args.compile_optimizer else optimizer.step
    batches = torch_vae.minibatches(train_data, kind.batch_size, torch.default_generator)

    def train(num_steps: int) -> int:
        for _ in range(num_steps):
            x = next(batches)
            optimizer.zero_grad()
            noise = torch.randn(len(x), kind.num_samples, kind.num_latents)
            compiled_loss(model, x, noise).backward()
            update()
        return num_steps * kind.batch_size

    kinds.serve(
        kind,
        args.per_round,
        ("torch",),
        train,
        make_evaluate(
            model,
            test,
            args.per_round if kind.evaluation else len(test),
            torch.compile if args.compile and kind.evaluation else lambda function: function,
        ),
        threads=torch.get_num_threads(),
    )


if __name__ == "__main__":
    main()
