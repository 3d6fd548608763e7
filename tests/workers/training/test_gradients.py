"""A batch cut into shards and pieces: equal to the plain sum in plain torch, bit for bit."""

import copy
from dataclasses import replace
from functools import partial
from itertools import pairwise

import numpy as np
import pytest
import torch
from stages import stop_after, trained, weights
from torch.nn import functional

from workers.data.loading import TrainingBatches, pixel_statistics
from workers.data.store import open_store
from workers.errors import ConfigError, Stopped
from workers.models import build, initialise
from workers.numerics import autocast
from workers.protocol import Numerics
from workers.settings import AugmentationSettings, InitSettings, ModelSettings, OptimizerSettings, Sampler
from workers.training import run_stage
from workers.training.batch_norm import batch_norms
from workers.training.gradients import compute_gradients, dropout_seed, shards
from workers.training.mixing import Mix, draw_mix

WITH_NORMS = ModelSettings(name="torchvision/shufflenet_v2_x0_5", input_size=16)
SEEDS = partial(dropout_seed, 11, 5)
FP32 = Numerics()


def net(model):
    module = build(model, 10).to(memory_format=torch.channels_last)
    initialise(module, InitSettings(), seed=0)
    return module.train()


@pytest.fixture
def batch(tiny_spec):
    store, augmentation = open_store(tiny_spec.store), tiny_spec.recipe.augmentation
    statistics = pixel_statistics(store, augmentation)
    return TrainingBatches(store, statistics, augmentation, seed=1, batch_size=50, input_size=16).draw(0, 0)


def gradients(module):
    return {name: parameter.grad for name, parameter in module.named_parameters()}


def computed(module, batch, settings, numerics=FP32, **how):
    measured = compute_gradients(
        module, list(module.parameters()), batch_norms(module), batch, settings, numerics, SEEDS, **how
    )
    return measured, gradients(module)


def by_hand(module, batch, pieces, numerics):
    """Each shard's gradient alone, in pieces, then their sum in order."""
    losses, total = [], {}
    for number, spans in pieces:
        torch.manual_seed(SEEDS(number))
        own = {}
        for first, last in spans:
            module.zero_grad()
            with autocast(numerics):
                logits = module(batch.images[first:last])
            loss = functional.cross_entropy(logits.float(), batch.labels[first:last]) * ((last - first) / len(batch))
            loss.backward()
            own = {name: own[name] + grad if own else grad.clone() for name, grad in gradients(module).items()}
            losses.append(loss.item())
        total = {name: total[name] + grad if total else grad for name, grad in own.items()}
    return losses, total


# In bf16, oneDNN's weight gradient of a strided convolution on 1×1 maps holds what was in memory before; the net with
# norms has one at this size.
@pytest.mark.parametrize(
    ("model", "precision"), [("with dropout", "fp32"), ("with dropout", "bf16"), ("with norms", "fp32")]
)
@pytest.mark.parametrize("num_shards", [1, 2, 4, 8])
def test_shards_are_the_sum_of_their_gradients_by_hand(tiny_spec, batch, num_shards, model, precision):
    module = net(tiny_spec.recipe.model if model == "with dropout" else WITH_NORMS)
    plain, numerics = copy.deepcopy(module), Numerics(precision=precision)
    edges = np.cumsum([0, *(len(part) for part in np.array_split(np.arange(50), num_shards))]).tolist()
    spans = [(number, [span]) for number, span in enumerate(pairwise(edges))]
    losses, wanted = by_hand(plain, batch, spans, numerics)
    measured, found = computed(module, batch, OptimizerSettings(batch_size=50, shards=num_shards), numerics)
    assert all(torch.equal(found[name], wanted[name]) for name in wanted)
    assert measured.loss.item() == pytest.approx(sum(losses), rel=1e-6)
    # Running statistics took in the shards one after another: one shard as torch does, several to a rounding.
    equal = torch.equal if num_shards == 1 else partial(torch.allclose, rtol=1e-6, atol=1e-7)
    assert all(map(equal, module.state_dict().values(), plain.state_dict().values()))


def test_pieces_of_a_shard_are_summed_before_the_shards_are(tiny_spec, batch):
    module = net(tiny_spec.recipe.model)
    spans = [(0, [(0, 10), (10, 20), (20, 25)]), (1, [(25, 35), (35, 45), (45, 50)])]
    _, wanted = by_hand(copy.deepcopy(module), batch, spans, Numerics())
    _, found = computed(module, batch, OptimizerSettings(batch_size=50, shards=2, micro_batch=10))
    assert all(torch.equal(found[name], wanted[name]) for name in wanted)


def test_a_shards_gradient_does_not_depend_on_the_other_shards(tiny_spec, batch):
    """What lets other workers compute them."""
    settings, module = OptimizerSettings(batch_size=50, shards=2), net(tiny_spec.recipe.model)
    _, whole = computed(module, batch, settings)
    alone = []
    for number, span in enumerate((slice(0, 25), slice(25, 50))):
        module.zero_grad()
        torch.manual_seed(SEEDS(number))
        part = batch[span]
        (functional.cross_entropy(module(part.images).float(), part.labels) * 0.5).backward()
        alone.append({name: grad.clone() for name, grad in gradients(module).items()})
    assert all(torch.equal(alone[0][name] + alone[1][name], whole[name]) for name in whole)


@pytest.mark.parametrize("num_images", [1, 3, 4, 7, 8, 50])
@pytest.mark.parametrize("micro_batch", [0, 1, 3])
def test_every_image_is_in_one_piece(num_images, micro_batch):
    """Also in the short last batch of an epoch, which may have fewer images than shards."""
    settings = OptimizerSettings(batch_size=50, shards=4, micro_batch=micro_batch)
    cut = list(shards(num_images, settings))
    seen = [image for _, pieces in cut for piece in pieces for image in range(num_images)[piece]]
    assert seen == list(range(num_images))
    assert [number for number, _ in cut] == list(range(min(4, num_images)))
    sizes = [sum(piece.stop - piece.start for piece in pieces) for _, pieces in cut]
    assert max(sizes) - min(sizes) <= 1
    assert max(piece.stop - piece.start for _, pieces in cut for piece in pieces) <= settings.most_at_once


def test_a_micro_batch_bounds_what_the_net_sees_at_once(tiny_spec, batch):
    module, seen = net(tiny_spec.recipe.model), []
    module.register_forward_pre_hook(lambda _, given: seen.append(len(given[0])))
    computed(module, batch, OptimizerSettings(batch_size=50, shards=2, micro_batch=8))
    assert (max(seen), sum(seen)) == (8, 50)


def saved_for_backward(module, batch, settings):
    """The most bytes of activations that a piece keeps for its backward pass."""
    weights = {parameter.untyped_storage().data_ptr() for parameter in module.parameters()}
    pieces = []
    handle = module.register_forward_pre_hook(lambda *_: pieces.append({}))

    def pack(tensor):
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            pieces[-1][storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        computed(module, batch, settings)
    handle.remove()
    return max(sum(piece.values()) for piece in pieces)


@pytest.mark.parametrize("model", ["with dropout", "with norms"])
def test_a_micro_batch_bounds_the_memory_of_activations(tiny_spec, batch, model):
    module = net(tiny_spec.recipe.model if model == "with dropout" else WITH_NORMS)
    whole = saved_for_backward(module, batch, OptimizerSettings(batch_size=50))
    for num_shards, micro_batch in ((1, 10), (2, 10), (5, 0), (1, 5)):
        settings = OptimizerSettings(batch_size=50, shards=num_shards, micro_batch=micro_batch)
        share = settings.most_at_once / 50
        assert saved_for_backward(module, batch, settings) < 1.2 * share * whole


WEIGHTS = torch.tensor([3.0, 0.1, 1.0, 7.0, 0.5, 2.0, 1.0, 0.2, 1.0, 4.0])
CUTS = [(2, 0), (3, 0), (50, 0), (1, 7), (2, 10)]
MIXES = {"mixup": AugmentationSettings(mixup=1.0), "cutmix": AugmentationSettings(cutmix=1.0)}


def furthest(found, wanted):
    """The largest difference of any gradient, as a share of the largest gradient of its parameter."""
    return max(((found[name] - wanted[name]).abs().max() / wanted[name].abs().max()).item() for name in wanted)


@pytest.mark.parametrize(("num_shards", "micro_batch"), CUTS)
def test_weighted_loss_in_parts_has_the_gradient_of_torchs_on_the_whole_batch(
    tiny_spec, batch, num_shards, micro_batch
):
    module = net(replace(tiny_spec.recipe.model, dropout=0.0))
    criterion = torch.nn.CrossEntropyLoss(WEIGHTS, label_smoothing=0.1)
    whole = criterion(module(batch.images), batch.labels)
    whole.backward()
    wanted = {name: grad.clone() for name, grad in gradients(module).items()}
    cut = OptimizerSettings(batch_size=50, shards=num_shards, micro_batch=micro_batch)
    measured, found = computed(module, batch, cut, criterion=criterion)
    assert measured.loss.item() == pytest.approx(whole.item(), rel=1e-6)
    assert furthest(found, wanted) < 1e-5
    # Negative control: by shares of images, as without weights.
    by_images = nn_loss_of_images(criterion)
    _, other = computed(module, batch, cut, criterion=by_images)
    assert furthest(other, wanted) > 1e-2


def nn_loss_of_images(criterion):
    """The same loss, which does not tell that it has weights."""
    plain = torch.nn.CrossEntropyLoss()
    plain.forward = criterion.forward
    return plain


@pytest.mark.parametrize("kind", MIXES)
def test_a_shard_is_mixed_by_itself_and_its_loss_counts_by_its_images(tiny_spec, batch, kind):
    """Also where classes have weights: torch divides the loss of mixed labels by images."""
    module = net(tiny_spec.recipe.model)
    mix_of, criterion = partial(draw_mix, 4, 9, 16, MIXES[kind]), torch.nn.CrossEntropyLoss(WEIGHTS)
    settings = OptimizerSettings(batch_size=50, shards=3)
    measured, whole = computed(module, batch, settings, criterion=criterion, mix_of=mix_of)
    whole = {name: gradient.clone() for name, gradient in whole.items()}
    losses, total = [], dict.fromkeys(whole, 0.0)
    for number, span in enumerate((slice(0, 17), slice(17, 34), slice(34, 50))):
        module.zero_grad()
        torch.manual_seed(SEEDS(number))
        part, mix = batch[span], mix_of(number)
        one_hot = functional.one_hot(part.labels, 10).float()
        targets = mix.share * one_hot + (1 - mix.share) * one_hot.roll(1, 0)
        losses.append(criterion(module(mix.images(part.images)), targets) * (len(part) / 50))
        losses[-1].backward()
        total = {name: total[name] + gradient for name, gradient in gradients(module).items()}
    assert measured.loss.item() == pytest.approx(sum(losses).item(), rel=1e-6)
    assert furthest(whole, total) < 1e-5


def test_mixed_images_count_as_missed_by_the_label_of_their_larger_share(tiny_spec, batch):
    module = net(tiny_spec.recipe.model)
    # It names class 0 for every image.
    torch.nn.init.zeros_(module.fc8.weight)
    module.fc8.bias.data = torch.eye(10)[0]
    settings = OptimizerSettings(batch_size=50)
    for share, labels in ((0.7, batch.labels), (0.3, batch.labels.roll(1))):
        measured, _ = computed(module, batch, settings, mix_of=lambda _, share=share: Mix(share))
        assert measured.missed.item() == (labels != 0).sum().item()


def test_dropout_differs_between_shards_and_updates_and_one_shard_keeps_its_seeds():
    assert dropout_seed(7, 3, 0) == 7 * 1_000_003 + 3
    assert len({dropout_seed(seed, step, shard) for seed in range(3) for step in range(5) for shard in range(8)}) == 120


@pytest.mark.parametrize("settings", ["shards=0", "shards=51", "micro_batch=-1"])
def test_impossible_cuts_are_refused(settings):
    name, _, value = settings.partition("=")
    with pytest.raises((ConfigError, ValueError), match=name):
        OptimizerSettings(batch_size=50, **{name: int(value)})


MIXED = AugmentationSettings(reflect=False, mixup=0.5, cutmix=0.5, sampler=Sampler.balanced)


@pytest.mark.parametrize("model", ["with dropout", pytest.param("with norms", marks=pytest.mark.slow), "mixed"])
def test_stage_of_shards_and_pieces_resumes_to_the_same_bits(tiny_spec, tmp_path, model):
    recipe = replace(tiny_spec.recipe, optimizer=OptimizerSettings(batch_size=400, shards=3, micro_batch=50))
    recipe = replace(recipe, model=WITH_NORMS) if model == "with norms" else recipe
    if model == "mixed":
        whole = replace(recipe.optimizer, micro_batch=0)
        recipe = replace(recipe, augmentation=MIXED, optimizer=whole)
    spec = replace(tiny_spec, recipe=recipe)
    straight = weights(trained(replace(spec, stage_dir=tmp_path / "straight")))
    with pytest.raises(Stopped):
        run_stage(spec, stop_after(2))
    resumed = weights(trained(spec))
    assert all(np.array_equal(resumed[name], straight[name]) for name in straight)
    one = replace(recipe, optimizer=replace(recipe.optimizer, shards=1))
    other = weights(trained(replace(spec, recipe=one, stage_dir=tmp_path / "one")))
    assert any(not np.array_equal(other[name], straight[name]) for name in straight), "the shards made no difference"
