"""Time and likelihood of an EM iteration beside scikit-learn's: ``python -m benchmarks.density`` prints JSON.

Both start from the same parameters (one M step on k-means clusters), run in float32 on the same cores in one process,
and take turns iteration by iteration, so that other load on the machine meets both. The first iteration is told apart:
there ours knows no distances yet and computes all of them.
"""

import argparse
import json
import os
import platform
import statistics
import time

import sklearn
import torch
from sklearn.cluster import KMeans
from sklearn.mixture import GaussianMixture as SklearnMixture
from threadpoolctl import threadpool_limits
from torch import Tensor

from splitvae.densities.gaussian_mixture import GaussianMixture


def synthetic_codes(n: int, dim: int, clusters: int, between: float, seed: int) -> Tensor:
    """Codes like a VAE's, (n, dim) float32: standard deviations from 1 down to 0.1, correlated Gaussian clusters.

    Args:
        between: part of the variance that lies between the clusters: at 0.2 they are separate, at 0.05 they make one
            cloud, which k-means cuts at random.
    """
    generator = torch.Generator().manual_seed(seed)
    means = between**0.5 * torch.randn(clusters, dim, generator=generator)
    cluster = torch.randint(clusters, (n,), generator=generator)
    z = torch.empty(n, dim)
    for k in range(clusters):
        mixing = torch.randn(dim, dim, generator=generator) * torch.rand(dim, generator=generator)
        mixing *= (1 - between) ** 0.5 / mixing.norm(dim=1, keepdim=True)
        rows = (cluster == k).nonzero().squeeze(1)
        z[rows] = means[k] + torch.randn(len(rows), dim, generator=generator) @ mixing.T
    return z * torch.linspace(1.0, 0.1, dim)


def now() -> Tensor:
    """Wall and processor seconds."""
    return torch.tensor([time.perf_counter(), time.process_time()], dtype=torch.float64)


class TakingTurns(GaussianMixture):
    """Hands over to scikit-learn after every iteration of its own."""

    def race(self, codes: Tensor, theirs: SklearnMixture) -> dict[str, list[Tensor]]:
        """The seconds of each iteration of both."""
        self.theirs, self.seconds = theirs, {"ours": [], "sklearn": []}
        self.begun = now()
        self._climb(codes)
        return self.seconds

    def _maximize(self, x: Tensor, responsibilities: Tensor) -> None:
        super()._maximize(x, responsibilities)
        if hasattr(self, "theirs"):
            self.seconds["ours"].append(now() - self.begun)
            begun = now()
            _, log_responsibilities = self.theirs._e_step(x.numpy())
            self.theirs._m_step(x.numpy(), log_responsibilities)
            self.seconds["sklearn"].append(now() - begun)
            self.begun = now()


def compare(n: int, dim: int, K: int, iterations: int, between: float = 0.2, seed: int = 0) -> dict:
    """Race from the same start, then judge both results in float64.

    Args:
        n, dim: codes and their width.
        K: components.
        iterations: timed ones of each, after the first.
        between, seed: see ``synthetic_codes``.
    """
    codes = synthetic_codes(n, dim, K, between, seed)
    cluster = torch.from_numpy(KMeans(K, n_init=1, max_iter=15, random_state=seed).fit(codes.numpy()).labels_)
    ours = TakingTurns(K, max_iter=1 + iterations, tol=0.0)
    ours._maximize(codes, torch.nn.functional.one_hot(cluster.long(), K).T.float().contiguous())
    theirs = SklearnMixture(K, tol=0.0)
    names = ("weights_", "means_", "covariances_", "precisions_cholesky_")
    for name in names:
        setattr(theirs, name, getattr(ours, name).float().numpy())
    seconds = ours.race(codes, theirs)

    judged, sample = ours.to_tensors(), codes[:10_000].double()  # the codes are in random order
    mean_log_prob = {"ours": float(ours.log_prob(sample).mean())}
    judged |= {name: torch.from_numpy(getattr(theirs, name)).double() for name in names}
    mean_log_prob["sklearn"] = float(GaussianMixture.from_tensors(judged).log_prob(sample).mean())

    result: dict = {"codes": n, "dim": dim, "components": K, "between": between}
    for name, each in seconds.items():
        wall, cpu = torch.stack(each).T.tolist()
        result[name] = {
            "first_iteration_s": round(wall[0], 4),
            "iteration_s": [round(t, 4) for t in wall[1:]],
            "median_iteration_s": round(statistics.median(wall[1:]), 4),
            "median_iteration_cpu_s": round(statistics.median(cpu[1:]), 4),
            "final_nats_per_code": round(mean_log_prob[name], 6),
        }
    for key in ("median_iteration_s", "median_iteration_cpu_s", "first_iteration_s"):
        result[f"speedup_{key}"] = round(result["sklearn"][key] / max(result["ours"][key], 1e-4), 2)
    result["ours_minus_sklearn_nats_per_code"] = round(mean_log_prob["ours"] - mean_log_prob["sklearn"], 7)
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--codes", type=int, default=50_000)
    parser.add_argument("--dim", type=int, default=200)
    parser.add_argument("--components", type=int, default=100)
    parser.add_argument("--iterations", type=int, default=3, help="timed iterations of each, after the first")
    parser.add_argument("--between", type=float, nargs="+", default=[0.2, 0.05], help="see synthetic_codes")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    with threadpool_limits(args.threads):
        sizes = args.codes, args.dim, args.components, args.iterations
        results = [compare(*sizes, between, args.seed) for between in args.between]
    machine = {"cpu": f"{platform.machine()} {torch.backends.cpu.get_cpu_capability()}", "cores": os.cpu_count()}
    machine |= {"torch": torch.__version__, "sklearn": sklearn.__version__}
    print(json.dumps(vars(args) | machine | {"results": results}, indent=2))


if __name__ == "__main__":
    main()
