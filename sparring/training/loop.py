"""TrainLoop: one network trained by one recipe."""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from typing import Any, final

import numpy as np

from sparring import backend
from sparring.backend import keras, ops
from sparring.data import Dataset
from sparring.errors import Diverged, RunError
from sparring.networks.allconv import to_float
from sparring.randomness import Stream
from sparring.runs.files import not_finite
from sparring.training.callbacks import Callback, EpochMetrics
from sparring.training.muon import Muon
from sparring.training.recipe import Recipe
from sparring.training.threads import Threads, candidates

_REMEMBERED_LOSSES = 30
_STEPS_AT_ONCE = 50
ABOVE_CHANCE = 1.1
"""Times what guessing is right for; a network below it has learned nothing."""
_WARM_UP = 0.05  # share of the training in which a linear schedule rises


def learning_rate_factor(schedule: str, progress: Any) -> Any:
    """Give the factor of the learning rate at some progress.

    Args:
        schedule: "cosine", cos(7/16 pi p), which ends at 0.195; or "linear", up from 0.1 over the
            first twentieth, then down to 0.
        progress: p, the share of all updates that are done, in [0, 1]; a number or a scalar tensor.

    Returns:
        The factor, in [0, 1].
    """
    if schedule == "cosine":
        return ops.cos(7 / 16 * math.pi * progress)
    return ops.minimum(0.1 + 0.9 / _WARM_UP * progress, (1 - progress) / (1 - _WARM_UP))


def guessing(recipe: Recipe, net: Any, metrics: EpochMetrics) -> str:
    """Say that a network has learned nothing, after its last epoch; empty where it has.

    Args:
        recipe: of its training.
        net: the network.
        metrics: of the last epoch.

    Returns:
        What is at chance, and what to try; a sentence or two.
    """
    chance = recipe.chance(net)
    shares = {"training": metrics.accuracy, "test": metrics.test_accuracy}
    low = [
        f"{share:.2%} of the {part} images"
        for part, share in shares.items()
        if share is not None and share < ABOVE_CHANCE * chance
    ]
    if not low:
        return ""
    return (
        f"Network {recipe.network + 1} is hardly better than guessing: in its last epoch "
        f"{' and '.join(low)} were right. Try a lower learning rate than "
        f"{recipe.settings.learning_rate:g}, more epochs, or another seed."
    )


@final
class TrainLoop:
    """Train one network by one recipe, with learning rate, weight decay, EMA and divergence.

    It minimizes recipe.loss + weight_decay / 2 * sum of squared kernels by SGD with momentum,
    v <- m v - lr g, w <- w + v, or by `Muon`, with lr following `learning_rate_factor`. The EMA of
    all trainable weights starts at the initial ones with decay min(ema_decay, (1 + t) / (10 + t))
    at update t.

    The order of the images and the augmentation are functions of (seed, epoch) alone, so a loop
    restored from `state()` after an epoch goes on bit for bit as if it had never stopped, on the
    same backend and machine.

    Args:
        recipe: how the network is built, augmented for, and what its loss is.
        dataset: images and labels to train on, and to test on.
        defense: name of the defense, for messages.
        threads: to compute with on a CPU; None chooses (`training.threads`).

    Attributes:
        recipe: as given.
        dataset: as given.
        settings: the recipe's.
        net: the network with its raw weights.
        ema: the same network with averaged weights.
        epoch: epochs that are done.
        steps_per_epoch: steps of an epoch, the last of which may be of a smaller batch.
    """

    @backend.isolated
    def __init__(
        self, recipe: Recipe, dataset: Dataset, defense: str = "", threads: int | None = None
    ) -> None:
        """Build the networks and the optimizer; nothing is compiled yet."""
        self.recipe, self.dataset, self.settings = recipe, dataset, recipe.settings
        self._defense, self._network = defense, recipe.network
        self.net, self.ema = recipe.net(), recipe.net()
        self.net.precision = self.settings.precision
        momentum = self.settings.momentum
        if self.settings.optimizer == "muon":
            self._optimizer = Muon(lambda: self._rate(self._progress()), momentum)
        else:
            # On PyTorch, Keras's SGD turns a learning rate on the device into a number, a wait in
            # every step; at rate 1 with gradients scaled beforehand the arithmetic is the same
            # without it.
            self._optimizer = keras.optimizers.SGD(lambda: 1.0, momentum=momentum)
        self._optimizer.build(self.net.trainable_variables)
        backend.lay_out(self._optimizer.variables)
        self.steps_per_epoch = math.ceil(len(dataset.x_train) / self.settings.batch_size)
        self._steps = self.steps_per_epoch * self.settings.epochs
        self.epoch = 0
        height, width = dataset.shape[:2]
        batch = min(self.settings.batch_size, len(dataset.x_train))
        counts = candidates(batch * height * width * self.settings.filters**2, threads)
        self._threads = Threads(counts, asked=threads is not None)
        self._losses: deque[float] = deque(maxlen=_REMEMBERED_LOSSES)
        self._step = backend.compile(self._train_on, self._variables(), changes=True)
        self._many_steps = backend.compile_many(self._train_on, self._variables())

    def _variables(self) -> list[Any]:
        """List everything a training step may change."""
        return [
            *self.net.variables,
            *self.ema.variables,
            *self._optimizer.variables,
            *self.recipe.random.variables,
        ]

    # One step, on the device

    def _train_on(self, images: Any, labels: Any, indices: Any) -> tuple[Any, Any]:
        """Train on one batch.

        Args:
            images: of the data set, uint8 [N, H, W, C].
            labels: theirs, int32 [N].
            indices: which of them are the batch, int32 [B].

        Returns:
            The loss with weight decay, and how many images were answered correctly; scalars.
        """
        progress = self._progress()
        self.recipe.on_progress(self.net, progress)
        x = to_float(ops.take(images, indices, axis=0))  # [B, H, W, C] in [0, 1]
        x, y = self.recipe.augment(x, ops.take(labels, indices, axis=0))  # y: [B]

        variables = self.net.trainable_variables
        loss, hits, gradients = backend.value_and_gradients(
            lambda: self.recipe.loss(self.net, x, y), variables, self._variables()
        )
        loss, gradients = self._add_weight_decay(loss, gradients)
        if self.settings.optimizer == "sgd":
            rate = self._rate(progress)
            gradients = [gradient * rate for gradient in gradients]
        updates = ops.cast(self._optimizer.iterations, "float32")
        self._optimizer.apply(gradients)
        # Warm-up: early on, the average follows the weights closely.
        decay = ops.minimum(self.settings.ema_decay, (1 + updates) / (10 + updates))
        backend.moving_average(self.ema.trainable_variables, variables, decay)
        return loss, hits

    def _add_weight_decay(self, loss: Any, gradients: list[Any]) -> tuple[Any, list[Any]]:
        """Add L2 on kernels to the loss (a scalar) and to the gradients of all variables."""
        # Its gradient is known and need not be derived.
        penalty, kernels = self.settings.weight_decay, self.net.kernels
        if penalty:
            flat = [ops.reshape(kernel, (-1,)) for kernel in kernels]  # [weights of the kernel]
            loss = loss + penalty / 2 * sum(ops.dot(weights, weights) for weights in flat)
            penalized = {id(kernel) for kernel in kernels}
            gradients = [
                gradient + penalty * variable if id(variable) in penalized else gradient
                for gradient, variable in zip(gradients, self.net.trainable_variables, strict=True)
            ]
        return loss, gradients

    def _progress(self) -> Any:
        """Give the share of all updates that are done, in [0, 1)."""
        return ops.cast(self._optimizer.iterations, "float32") / self._steps

    def _rate(self, progress: Any) -> Any:
        """Give the learning rate at progress in [0, 1]."""
        settings = self.settings
        return settings.learning_rate * learning_rate_factor(settings.schedule, progress)

    # All epochs, on the host

    @backend.isolated
    def run(
        self,
        save: Callable[[EpochMetrics], None],
        callback: Callback,
        networks: int = 1,
        eval_every: int = 1,
    ) -> None:
        """Train the epochs that are left.

        Args:
            save: called with an EpochMetrics after every epoch.
            callback: told how it goes.
            networks: how many networks the defense trains, for the display.
            eval_every: epochs from one test of the EMA weights to the next; 0 tests at the end
                alone. The last epoch is always tested.

        Raises:
            Diverged: when a loss, or at an epoch's end a weight, is not finite. Then `save` was not
                called for that epoch.
        """
        settings, data = self.settings, self.dataset
        images = ops.convert_to_tensor(data.x_train)  # uint8 [N, H, W, C], on the device
        labels = ops.convert_to_tensor(data.y_train)  # int32 [N]
        callback.begin(self._network, networks, self.epoch, settings.epochs, self.steps_per_epoch)
        begun, done = time.monotonic(), self.epoch
        with self._threads.in_use():
            while self.epoch < settings.epochs:
                loss, hits, seconds = self._run_epoch(images, labels, callback)
                self.epoch += 1
                last = self.epoch == settings.epochs
                tested = last or (eval_every > 0 and self.epoch % eval_every == 0)
                if tested:
                    self.recipe.on_progress(self.ema, self.epoch / settings.epochs)
                metrics = EpochMetrics(
                    network=self._network,
                    epoch=self.epoch,
                    loss=loss,
                    accuracy=hits / len(data.x_train),
                    test_accuracy=self.recipe.evaluate(self.ema, data) if tested else None,
                    learning_rate=self._learning_rate(self.epoch * self.steps_per_epoch - 1),
                    images_per_second=len(data.x_train) / seconds,
                    seconds=seconds,
                    threads=self._threads.count,
                )
                save(metrics)
                pace = (time.monotonic() - begun) / (self.epoch - done)
                callback.epoch(metrics, pace * (settings.epochs - self.epoch))
                if last and (text := guessing(self.recipe, self.net, metrics)):
                    callback.message(text)

    def finish(self) -> dict[str, np.ndarray]:
        """Compute what is saved with the trained weights, by `Recipe.finish`."""
        with self._threads.in_use():
            return self.recipe.finish(self.ema, self.dataset)

    def _run_epoch(
        self, images: Any, labels: Any, callback: Callback
    ) -> tuple[float, float, float]:
        """Train one epoch; gives its mean loss, its hits, and its seconds."""
        size, begun = self.settings.batch_size, time.monotonic()
        self.recipe.random.seed(self.recipe.spread(Stream.AUGMENTATION, self.epoch))
        losses: list[float] = []
        hits = 0.0
        for some_losses, some_hits in self._train(images, labels, callback):
            losses += self._look(some_losses, len(losses))
            hits += float(ops.convert_to_numpy(some_hits).sum())
            callback.step(len(losses), losses[-1])
        self._expect_finite_weights()
        sizes = np.full(self.steps_per_epoch, size)
        sizes[-1] = len(self.dataset.x_train) - size * (self.steps_per_epoch - 1)
        return float(np.average(losses, weights=sizes)), hits, time.monotonic() - begun

    def _train(self, images: Any, labels: Any, callback: Callback) -> Iterator[tuple[Any, Any]]:
        """Train one epoch; yields losses and hits of the steps made at once, scalars or [S]."""
        order, size = self._order(), self.settings.batch_size
        # An accelerator would wait for the host at each step and each look at a loss. On a CPU
        # neither costs anything, and XLA's convolutions inside a loop cost dozens of times more.
        on_cpu = backend.on_cpu(images)
        if not on_cpu:
            whole = len(order) // size
            batches, order = order[: whole * size].reshape(whole, size), order[whole * size :]
            for start in range(0, whole, _STEPS_AT_ONCE):
                yield self._many_steps(images, labels, batches[start : start + _STEPS_AT_ONCE])
        for indices in backend.index_batches(order, size):
            whole_batch = len(indices) == min(size, len(order))
            if on_cpu and whole_batch and self._threads.undecided:
                self._choose_threads(images, labels, indices, callback)
            with self._threads.timed():
                result = self._step(images, labels, indices)
            yield result

    def _choose_threads(self, images: Any, labels: Any, indices: Any, callback: Callback) -> None:
        """Choose how many threads to compute with, by steps that are undone."""
        before = self._threads.count
        with backend.undone(self._variables()):
            self._threads.choose(lambda: self._step(images, labels, indices))
        if self._threads.count != before:
            callback.message(
                f"{self._threads.count} instead of {before} threads from here on, which is faster "
                "beside what else this machine computes. --threads N sets a number of your own."
            )

    def _order(self) -> np.ndarray:
        """Draw this epoch's order of the training images, int32 [N]."""
        seed = self.recipe.spread(Stream.ORDER, self.epoch)
        order = np.random.default_rng(seed).permutation(len(self.dataset.x_train))
        return order.astype(np.int32)

    def _learning_rate(self, step: int) -> float:
        """Give the learning rate at a step counted from 0 over all epochs."""
        return float(ops.convert_to_numpy(self._rate(step / self._steps)))

    def _look(self, tensor: Any, steps_before: int) -> list[float]:
        """Read the losses of the steps after `steps_before`; Diverged at the first not finite."""
        losses: list[float] = np.atleast_1d(ops.convert_to_numpy(tensor)).tolist()
        for step, loss in enumerate(losses, start=steps_before + 1):
            self._losses.append(loss)
            if not math.isfinite(loss):
                raise self._diverged(f"the loss became {loss}", step)
        return losses

    def _expect_finite_weights(self) -> None:
        # A loss shows what the step before did; the last step's harm shows only in the weights.
        if bad := not_finite(arrays_of("net", self.net.trainable_variables)):
            raise self._diverged(f"{', '.join(bad)} became NaN or infinite", self.steps_per_epoch)

    def _diverged(self, what: str, step: int) -> Diverged:
        return Diverged(
            what,
            defense=self._defense,
            network=self._network,
            seed=self.recipe.seed,
            epoch=self.epoch + 1,
            step=step,
            learning_rate=self._learning_rate(self.epoch * self.steps_per_epoch + step - 1),
            losses=self._losses,
        )

    # Saving and resuming

    def state(self) -> dict[str, np.ndarray]:
        """List everything that resuming after this epoch needs, as arrays by name."""
        return {
            **arrays_of("net", self.net.trainable_variables),
            **arrays_of("ema", self.ema.trainable_variables),
            **arrays_of("optimizer", self._optimizer.variables),
            "losses": np.array(self._losses, np.float32),
            **self._threads.state(),
        }

    @backend.isolated
    def restore(self, arrays: Mapping[str, np.ndarray], epoch: int) -> None:
        """Go on from what `state` gave.

        Args:
            arrays: by name.
            epoch: the one they were saved after, counted from 1.

        Raises:
            RunError: when names, shapes or dtypes are others, or the epoch is none.
        """
        losses = arrays.get("losses", np.zeros((), np.float32))
        if losses.ndim != 1 or losses.dtype != np.float32:
            raise RunError(
                f"tensor losses: expected float32 [n], found {losses.dtype} {list(losses.shape)}"
            )
        if not 1 <= epoch <= self.settings.epochs:
            raise RunError(f"expected an epoch of 1 to {self.settings.epochs}, found {epoch}")
        for prefix, variables in (
            ("net", self.net.trainable_variables),
            ("ema", self.ema.trainable_variables),
            ("optimizer", self._optimizer.variables),
        ):
            assign(prefix, variables, arrays)
        self._losses.extend(losses.tolist())
        self._threads.restore(arrays)
        self.epoch = epoch

    def weights(self) -> dict[str, np.ndarray]:
        """List the EMA weights by name, as weights.safetensors holds them."""
        return arrays_of(str(self._network), self.ema.trainable_variables)


def _names(prefix: str, variables: list[Any]) -> list[str]:
    return [f"{prefix}/{variable.path.split('/', 1)[-1]}" for variable in variables]


def arrays_of(prefix: str, variables: list[Any]) -> dict[str, np.ndarray]:
    """Copy variables into arrays, named prefix/... as their paths below the network's."""
    names = _names(prefix, variables)
    return {
        name: np.array(ops.convert_to_numpy(variable.value))
        for name, variable in zip(names, variables, strict=True)
    }


def assign(prefix: str, variables: list[Any], arrays: Mapping[str, np.ndarray]) -> list[str]:
    """Give variables the arrays that `arrays_of` named.

    Args:
        prefix: of their names.
        variables: whose values are replaced.
        arrays: by name, others too.

    Returns:
        The names that were used.

    Raises:
        RunError: naming it, when one is missing or of another shape or dtype.
    """
    names = _names(prefix, variables)
    missing = [name for name in names if name not in arrays]
    if missing:
        raise RunError(f"expected tensors {', '.join(names)}; missing {', '.join(missing)}")
    for name, variable in zip(names, variables, strict=True):
        array, shape = arrays[name], tuple(variable.shape)
        if array.shape != shape or array.dtype != variable.dtype:
            raise RunError(
                f"tensor {name}: expected {variable.dtype} {list(shape)}, "
                f"found {array.dtype} {list(array.shape)}"
            )
        variable.assign(array)
    return names
