"""splitvae: train, compare and score variational autoencoders.

Everything public is listed here. Names are imported when they are first used, so that ``splitvae --help`` and
wrong usage answer at once, without waiting for PyTorch.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from splitvae.compositing import edit_component as edit_component
    from splitvae.compositing import layers as layers
    from splitvae.compositing import recombine as recombine
    from splitvae.config import TrainConfig as TrainConfig
    from splitvae.convert.adopt import adopt as adopt
    from splitvae.convert.export import export as export
    from splitvae.convert.keras import convert_keras as convert_keras
    from splitvae.data.cache import ImageCache as ImageCache
    from splitvae.data.cache import prepare as prepare
    from splitvae.densities.classwise import ClasswiseGaussianMixture as ClasswiseGaussianMixture
    from splitvae.densities.fit import fit_density as fit_density
    from splitvae.densities.flow import AutoregressiveFlow as AutoregressiveFlow
    from splitvae.densities.gaussian_mixture import GaussianMixture as GaussianMixture
    from splitvae.densities.normal import StandardNormal as StandardNormal
    from splitvae.densities.second_stage import SecondStageVAE as SecondStageVAE
    from splitvae.errors import InputError as InputError
    from splitvae.errors import SplitVAEError as SplitVAEError
    from splitvae.estimator import SplitVAEEstimator as SplitVAEEstimator
    from splitvae.evaluation.compare import compare as compare
    from splitvae.evaluation.evaluate import evaluate as evaluate
    from splitvae.evaluation.verify import verify as verify
    from splitvae.hub import push_to_hub as push_to_hub
    from splitvae.models.autoencoder import Decoded as Decoded
    from splitvae.models.distributions import DiagonalGaussian as DiagonalGaussian
    from splitvae.models.foreign import register_network as register_network
    from splitvae.models.pretrained import load_model as load_model
    from splitvae.models.rae import RAE as RAE
    from splitvae.models.split import SplitDecoder as SplitDecoder
    from splitvae.models.split import split as split
    from splitvae.models.split import split_model as split_model
    from splitvae.models.vae import VAE as VAE
    from splitvae.models.vae import SplitVAE as SplitVAE
    from splitvae.run import Run as Run
    from splitvae.training.loop import train as train

__version__ = "0.1.0"

_HOME = {
    "edit_component": "splitvae.compositing",
    "layers": "splitvae.compositing",
    "recombine": "splitvae.compositing",
    "TrainConfig": "splitvae.config",
    "adopt": "splitvae.convert.adopt",
    "export": "splitvae.convert.export",
    "convert_keras": "splitvae.convert.keras",
    "ImageCache": "splitvae.data.cache",
    "prepare": "splitvae.data.cache",
    "ClasswiseGaussianMixture": "splitvae.densities.classwise",
    "fit_density": "splitvae.densities.fit",
    "AutoregressiveFlow": "splitvae.densities.flow",
    "GaussianMixture": "splitvae.densities.gaussian_mixture",
    "StandardNormal": "splitvae.densities.normal",
    "SecondStageVAE": "splitvae.densities.second_stage",
    "InputError": "splitvae.errors",
    "SplitVAEError": "splitvae.errors",
    "SplitVAEEstimator": "splitvae.estimator",
    "compare": "splitvae.evaluation.compare",
    "evaluate": "splitvae.evaluation.evaluate",
    "verify": "splitvae.evaluation.verify",
    "push_to_hub": "splitvae.hub",
    "DiagonalGaussian": "splitvae.models.distributions",
    "register_network": "splitvae.models.foreign",
    "load_model": "splitvae.models.pretrained",
    "SplitDecoder": "splitvae.models.split",
    "split": "splitvae.models.split",
    "split_model": "splitvae.models.split",
    "VAE": "splitvae.models.vae",
    "Decoded": "splitvae.models.autoencoder",
    "RAE": "splitvae.models.rae",
    "SplitVAE": "splitvae.models.vae",
    "Run": "splitvae.run",
    "train": "splitvae.training.loop",
}
__all__ = list(_HOME)


def __getattr__(name: str) -> Any:
    if name in _HOME:
        return getattr(import_module(_HOME[name]), name)
    raise AttributeError(f"module 'splitvae' has no attribute '{name}'")


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
