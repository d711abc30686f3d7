"""What things cost, measured beside what others offer: ``make bench``, or ``python -m benchmarks --help``.

| file | what it measures |
|---|---|
| ``training.py`` | loader, forward, backward, optimiser, step and sampling of the paper's network |
| ``keras_network.py``, ``keras_worker.py`` | the same in Keras, our transcription, in its own environment |
| ``pythae_worker.py`` | the same trained by pythae, in its own environment |
| ``density.py`` | an iteration of the mixture's fit, beside scikit-learn's |
| ``extraction.py`` | features of images, beside torch-fidelity's own use of its network |
| ``ceilings.py`` | what the machine can do at all: matrix product, convolution, copy |
| ``parity.py`` | whether the losses are the same: our loop, float32 and bf16, and Keras |
| ``layers.py`` | where a step's time goes, layer by layer |
| ``gpu.py`` | everything that needs a GPU; runs anywhere at a small size |
| ``scale.py`` | time and memory as a data set grows beyond memory |

All ratios come from one run in which the competitors take turns, so that other load on the machine meets them alike.
``timing.py``, ``environments.py``, ``serve.py`` and ``render.py`` are the tools. No test asserts a time.
"""
