"""Trains pythae's VAE by pythae's trainer, one epoch at a time: a contender of train_speed.py.

The program is written as a user of pythae would write it: encoder and decoder from pythae's base
classes, with its VAE, its dataset and its trainer. The trainer's pass over the training data is
timed; there is no progress bar, no choice of the best model, and no file. pythae's loss takes
probabilities and clamps their logarithms at -100, but the test bound is computed from the decoder's
logits. Only binary data are supported, because pythae has no Gaussian decoder with a variance. The
protocol is that of worker.py.
"""

import itertools
import logging
import tempfile

import torch
import torch_vae
import worker
from pythae.data.datasets import BaseDataset
from pythae.models import VAE, VAEConfig
from pythae.models.base.base_utils import ModelOutput
from pythae.models.nn import BaseDecoder, BaseEncoder
from pythae.trainers import BaseTrainer, BaseTrainerConfig
from pythae.trainers.training_callbacks import CallbackHandler, TrainingCallback
from torch import Tensor, nn


class Encoder(BaseEncoder):
    def __init__(self, data_dim: int, hidden_dim: int, latent_dim: int):
        super().__init__()
        self.hidden = nn.Linear(data_dim, hidden_dim)
        self.mean = nn.Linear(hidden_dim, latent_dim)
        self.log_var = nn.Linear(hidden_dim, latent_dim)

    def forward(self, x: Tensor) -> ModelOutput:
        h = self.hidden(x).tanh()
        return ModelOutput(embedding=self.mean(h), log_covariance=self.log_var(h))


class Decoder(BaseDecoder):
    def __init__(self, data_dim: int, hidden_dim: int, latent_dim: int):
        super().__init__()
        self.hidden = nn.Linear(latent_dim, hidden_dim)
        self.output = nn.Linear(hidden_dim, data_dim)

    def logits(self, z: Tensor) -> Tensor:
        return self.output(self.hidden(z).tanh())

    def forward(self, z: Tensor) -> ModelOutput:
        return ModelOutput(reconstruction=self.logits(z).sigmoid())


def make_trainer(model: VAE, train: Tensor, folder: str, args) -> BaseTrainer:
    config = BaseTrainerConfig(
        output_dir=folder,
        per_device_train_batch_size=args.batch_size,
        learning_rate=args.step_size,
        optimizer_cls="Adagrad",
        optimizer_params={
            "weight_decay": 1 / len(train),
            "eps": torch_vae.ADAGRAD_EPS,
            "fused": True,
        },
        seed=args.seed,
        no_cuda=True,
    )
    trainer = BaseTrainer(model, BaseDataset(train, torch.zeros(len(train))), None, config)
    trainer.prepare_training()
    trainer.callback_handler = CallbackHandler([TrainingCallback()], model)
    return trainer


def main() -> None:
    parser = torch_vae.argument_parser(__doc__)
    args = parser.parse_args()
    if args.data != "mnist":
        parser.error("pythae has no likelihood for grey data: --data=mnist")
    logging.disable(logging.INFO)
    torch.set_num_threads(worker.num_cores())
    torch.set_flush_denormal(True)  # see torch_worker.py

    data = torch_vae.load(args)
    sizes = data.train.shape[1], data.hidden_dim, args.latent_dim
    model = VAE(
        VAEConfig(input_dim=sizes[:1], latent_dim=args.latent_dim, reconstruction_loss="bce"),
        Encoder(*sizes),
        Decoder(*sizes),
    )
    generator = torch.Generator().manual_seed(args.seed)
    torch_vae.init_parameters(model, generator, args.init_std)
    with tempfile.TemporaryDirectory() as folder:
        trainer = make_trainer(model, data.train, folder, args)
    numbers = itertools.count(1)

    def train_epoch() -> int:
        trainer.train_step(next(numbers))
        return len(data.train)

    @torch.no_grad()
    def test_bound() -> float:
        model.eval()
        encoded = model.encoder(data.test)
        mean, log_var = encoded.embedding, encoded.log_covariance
        z = mean + (0.5 * log_var).exp() * torch.randn(mean.shape, generator=generator)
        log_lik = torch_vae.bernoulli_log_lik(data.test, model.decoder.logits(z))
        return (log_lik - torch_vae.kl_to_standard_normal(mean, log_var)).mean().item()

    threads = torch.get_num_threads()
    worker.serve_training(("pythae", "torch"), train_epoch, test_bound, threads=threads)


if __name__ == "__main__":
    main()
