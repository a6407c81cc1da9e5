"""Estimates log p(x) by importance sampling in PyTorch: a contender of marginal_speed.py.

The protocol is that of aevb_marginal_worker.py. This is the fastest of the ways that were tried:
chunks of 1000 samples, log p(x|z) as one matrix product of logits and image plus one sum of
logsigmoid, no gradient. --compile uses torch.compile.
"""

import math
import os
import sys

import numpy as np
import torch
import worker
from torch import Tensor
from torch.nn import functional

CHUNK = 1000


def main() -> None:
    torch.set_num_threads(os.cpu_count() or 1)
    torch.set_flush_denormal(True)
    with np.load(sys.argv[1]) as file:
        arrays = {name: torch.from_numpy(file[name]) for name in file}
    torch.manual_seed(0)

    def dense(name: str, h: Tensor) -> Tensor:
        return torch.addmm(arrays[f"{name}/bias"], h, arrays[f"{name}/kernel"])

    def chunk_of_log_weights(x: Tensor, mean: Tensor, log_var: Tensor, size: int) -> Tensor:
        noise = torch.randn(size, len(mean))
        z = mean + (0.5 * log_var).exp() * noise
        logits = dense("decoder/logits", dense("decoder/hidden_0", z).tanh())
        log_lik = logits @ x + functional.logsigmoid(-logits).sum(1)
        # The constants of log p(z) and log q(z|x) cancel.
        return log_lik + 0.5 * (noise.square() + log_var - z.square()).sum(1)

    compiled = "--compile" in sys.argv
    log_weights = torch.compile(chunk_of_log_weights) if compiled else chunk_of_log_weights

    @torch.inference_mode()
    def log_prob(x: Tensor, num_samples: int) -> float:
        hidden = dense("encoder/hidden_0", x[None]).tanh()
        mean, log_var = dense("encoder/mean", hidden)[0], dense("encoder/log_var", hidden)[0]
        sizes = [min(CHUNK, num_samples - done) for done in range(0, num_samples, CHUNK)]
        chunks = [log_weights(x, mean, log_var, size).logsumexp(0) for size in sizes]
        return (torch.stack(chunks).logsumexp(0) - math.log(num_samples)).item()

    def run(request: str) -> dict:
        number, num_samples = map(int, request.split())
        images = arrays["images"][:number]
        values, times = worker.timed(lambda: [log_prob(x, num_samples) for x in images])
        return {**times, "log_p": values, "peak_kib": worker.peak_kib()}

    run("1 500")
    run(f"1 {CHUNK}")
    worker.serve(("torch",), run)


if __name__ == "__main__":
    main()
