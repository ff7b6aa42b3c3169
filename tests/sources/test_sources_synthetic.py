"""Generated training pictures, by a real pipeline of toy size."""

import inspect

import numpy as np
import pytest
import torch
from diffusers import StableDiffusionPipeline
from PIL import Image

from benchmarks.untrained_diffusion import TOY_SIZE, save_untrained
from usam_core.config.schema import ClassSpec
from usam_core.config.training import SyntheticConfig
from usam_core.errors import InputError
from usam_core.progress import SILENT
from usam_core.sources.synthetic import SyntheticSource

DOG = ClassSpec(name="dog")


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return save_untrained(tmp_path_factory.mktemp("model"))


def source(folder, model, seed=0, **settings):
    settings = {"size": TOY_SIZE, "steps": 2, "per_class": 4, **settings}
    config = SyntheticConfig(model=str(model), **settings)
    return SyntheticSource(folder, config, seed, folder)


def pixels(found):
    return [np.asarray(Image.open(picture.path)).astype(int) for picture in found.pictures]


class Calls:
    """Stands before the pipeline's `__call__`: counts, and spoils what a test wants spoiled."""

    def __init__(self, monkeypatch, spoil=None, most=None, die_after=None, error=None):
        self.tried = []
        self.batches = []
        self.seeds = []
        real = StableDiffusionPipeline.__call__

        # The signature is looked at: it has to stay the real one.
        def call(pipe, prompt=None, generator=None, **others):
            if die_after is not None and len(self.batches) >= die_after:
                raise KeyboardInterrupt
            self.tried.append(len(prompt))
            if most is not None and len(prompt) > most:
                raise error or torch.OutOfMemoryError("Tried to allocate 20.00 GiB")
            result = real(pipe, prompt=prompt, generator=generator, **others)
            if others["num_inference_steps"] and prompt != ["a trial"]:
                self.batches.append(len(prompt))
                seeds = [one.initial_seed() for one in generator]
                for number, seed in enumerate(seeds):
                    if spoil is not None and spoil(seed, self.seeds):
                        result.images[number] = 0.0
                self.seeds += seeds
            return result

        call.__signature__ = inspect.signature(real)
        monkeypatch.setattr(StableDiffusionPipeline, "__call__", call)


def test_every_picture_is_another_and_a_second_run_makes_nothing(tmp_path, model, monkeypatch):
    calls = Calls(monkeypatch)
    first = source(tmp_path, model).collect(DOG, SILENT)
    assert len({picture.sha256 for picture in first.pictures}) == 4
    assert calls.batches == [4]
    again = source(tmp_path, model).collect(DOG, SILENT)
    assert again.pictures == first.pictures
    assert calls.batches == [4]


def test_the_seed_and_the_class_decide_the_noise(tmp_path, model):
    one = source(tmp_path, model).collect(DOG, SILENT)
    other = source(tmp_path, model, seed=1).collect(DOG, SILENT)
    cat = source(tmp_path, model).collect(ClassSpec(name="cat"), SILENT)
    seeds = {p.provenance["seed"] for found in (one, other, cat) for p in found.pictures}
    assert len(seeds) == 12


def test_batch_size_changes_rounding_at_most(tmp_path, model, monkeypatch):
    calls = Calls(monkeypatch)
    alone = source(tmp_path / "a", model, batch_size=1).collect(DOG, SILENT)
    together = source(tmp_path / "b", model, batch_size=3).collect(DOG, SILENT)
    assert calls.batches == [1, 1, 1, 1, 3, 1]
    for one, other in zip(pixels(alone), pixels(together), strict=True):
        assert np.abs(one - other).max() <= 1


def test_an_interrupted_run_goes_on_to_the_same_pictures(tmp_path, model, monkeypatch):
    whole = source(tmp_path / "whole", model, batch_size=1).collect(DOG, SILENT)
    with monkeypatch.context() as patched:
        Calls(patched, die_after=2)
        with pytest.raises(KeyboardInterrupt):
            source(tmp_path / "cut", model, batch_size=1).collect(DOG, SILENT)
    calls = Calls(monkeypatch)
    resumed = source(tmp_path / "cut", model, batch_size=1).collect(DOG, SILENT)
    assert calls.batches == [1, 1]
    assert [p.sha256 for p in resumed.pictures] == [p.sha256 for p in whole.pictures]


def test_more_pictures_later_keep_the_first(tmp_path, model, monkeypatch):
    few = source(tmp_path, model, per_class=2).collect(DOG, SILENT)
    calls = Calls(monkeypatch)
    more = source(tmp_path, model, per_class=3).collect(DOG, SILENT)
    assert calls.batches == [1]
    assert more.pictures[:2] == few.pictures


def test_out_of_memory_halves_the_batch_and_goes_on(tmp_path, model, monkeypatch):
    plain = source(tmp_path / "plain", model, batch_size=1, per_class=5).collect(DOG, SILENT)
    calls = Calls(monkeypatch, most=2)
    found = source(tmp_path / "tight", model, batch_size=5, per_class=5).collect(DOG, SILENT)
    assert calls.tried == [1, 5, 2, 2, 1], "a trial, then the batch halves"
    assert calls.batches == [2, 2, 1]
    for one, other in zip(pixels(plain), pixels(found), strict=True):
        assert np.abs(one - other).max() <= 1


def test_a_picture_that_never_fits_says_what_to_change(tmp_path, model, monkeypatch):
    Calls(monkeypatch, most=0)
    with pytest.raises(InputError, match=r"low_memory: offload"):
        source(tmp_path, model).collect(DOG, SILENT)


def test_a_black_picture_is_drawn_again_with_the_next_seed(tmp_path, model, monkeypatch):
    clean = source(tmp_path / "clean", model).collect(DOG, SILENT)
    victim = clean.pictures[2].provenance["seed"]
    calls = Calls(monkeypatch, spoil=lambda seed, _: seed == victim)
    found = source(tmp_path / "black", model).collect(DOG, SILENT)
    assert calls.batches == [4, 1]
    assert [p.provenance["redraws"] for p in found.pictures] == [0, 0, 1, 0]
    assert found.pictures[2].provenance["seed"] != victim
    assert found.notes == ["dog: 1 black or filtered pictures drawn again"]
    assert [found.pictures[i].sha256 for i in (0, 1, 3)] == [
        clean.pictures[i].sha256 for i in (0, 1, 3)
    ]


def test_a_picture_that_stays_black_is_given_up_once_and_for_all(tmp_path, model, monkeypatch):
    calls = Calls(monkeypatch, spoil=lambda seed, _: True)
    found = source(tmp_path, model, per_class=2, redraws=2).collect(DOG, SILENT)
    assert found.pictures == []
    assert [line.code for line in found.rejected] == ["black", "black"]
    assert "each of 3 seeds" in found.rejected[0].reason
    assert calls.batches == [2, 2, 2]
    source(tmp_path, model, per_class=2, redraws=2).collect(DOG, SILENT)
    assert calls.batches == [2, 2, 2]


def test_provenance_says_how_a_picture_was_made(tmp_path, model):
    spec = ClassSpec(name="mouse", prompts=["{c}, the computer device", "a grey {c} on a desk"])
    config = {"negative_prompt": "animal", "scheduler": "DDIMScheduler", "guidance": 5.0}
    found = source(tmp_path, model, **config).collect(spec, SILENT)
    first, second, third = (picture.provenance for picture in found.pictures[:3])
    assert first["prompt"] == third["prompt"] == "mouse, the computer device"
    assert second["prompt"] == "a grey mouse on a desk"
    assert first["negative_prompt"] == "animal"
    assert (first["scheduler"], first["steps"], first["guidance"]) == ("DDIMScheduler", 2, 5.0)
    assert len(first["weights_sha256"]) == 64
    assert set(first["versions"]) == {"diffusers", "transformers", "torch"}
    assert first["seed"] != second["seed"]


def test_other_weights_at_the_same_place_make_other_pictures(tmp_path):
    place = save_untrained(tmp_path / "model")
    before = source(tmp_path, place).inputs(DOG)
    made = {p.sha256 for p in source(tmp_path, place).collect(DOG, SILENT).pictures}
    assert save_untrained(tmp_path / "model", seed=1) == place
    assert source(tmp_path, place).inputs(DOG) != before
    made |= {p.sha256 for p in source(tmp_path, place).collect(DOG, SILENT).pictures}
    assert len(made) == 8


def test_forgetting_makes_the_class_anew(tmp_path, model, monkeypatch):
    first = source(tmp_path, model).collect(DOG, SILENT)
    calls = Calls(monkeypatch)
    source(tmp_path, model).forget(DOG)
    again = source(tmp_path, model).collect(DOG, SILENT)
    assert calls.batches == [4]
    assert again.pictures == first.pictures


def test_an_unknown_scheduler_names_those_that_fit(tmp_path, model):
    with pytest.raises(InputError, match=r"got 'Fastest'; expected one of .*DDIMScheduler"):
        source(tmp_path, model, scheduler="Fastest").collect(DOG, SILENT)


def test_a_folder_without_a_pipeline_says_what_is_expected(tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match=r"no model_index\.json"):
        source(tmp_path, tmp_path / "empty").inputs(DOG)


def test_damaged_weights_name_the_folder(tmp_path):
    model = save_untrained(tmp_path / "m")
    (model / "unet" / "diffusion_pytorch_model.safetensors").unlink()
    with pytest.raises(InputError, match=r"tiny-sd: cannot be loaded as a diffusers pipeline"):
        source(tmp_path, model).collect(DOG, SILENT)


def test_attention_in_slices_draws_the_same(tmp_path, model):
    whole = source(tmp_path / "a", model, low_memory="off").collect(DOG, SILENT)
    sliced = source(tmp_path / "b", model, low_memory="slicing").collect(DOG, SILENT)
    for one, other in zip(pixels(whole), pixels(sliced), strict=True):
        assert np.abs(one - other).max() <= 1


@pytest.mark.parametrize(
    "message",
    [
        "CUDA error: out of memory",
        "cuDNN error: CUDNN_STATUS_ALLOC_FAILED",
        "CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling cublasCreate(handle)",
        "[enforce fail at alloc_cpu.cpp:117] DefaultCPUAllocator: can't allocate memory",
        "MPS backend out of memory (MPS allocated: 9.07 GB)",
    ],
)
def test_every_way_to_say_that_memory_is_out_halves_the_batch(
    tmp_path, model, monkeypatch, message
):
    calls = Calls(monkeypatch, most=2, error=RuntimeError(message))
    source(tmp_path, model, per_class=3, batch_size=3).collect(DOG, SILENT)
    assert calls.batches == [1, 1, 1]


def test_another_error_of_the_pipeline_is_not_taken_for_memory(tmp_path, model, monkeypatch):
    Calls(monkeypatch, most=0, error=RuntimeError("shapes do not match in the allocation"))
    with pytest.raises(RuntimeError, match="shapes do not match"):
        source(tmp_path, model).collect(DOG, SILENT)


def test_half_precision_weights_under_names_of_their_own_are_found(tmp_path):
    place = save_untrained(tmp_path)
    for file in place.rglob("*.safetensors"):
        file.rename(file.with_suffix(".fp16.safetensors"))
    assert len(source(tmp_path, place).collect(DOG, SILENT).pictures) == 4


def test_spare_pictures_come_behind_those_that_are_wanted(tmp_path, model):
    some = source(tmp_path, model, per_class=2)
    first = some.collect(DOG, SILENT).pictures
    assert some.collect(DOG, SILENT, spare=2).pictures[:2] == first
    assert len(some.collect(DOG, SILENT, spare=2).pictures) == 4


@pytest.mark.parametrize("prompt", ["a photo", "", "{C} and {class}"])
def test_a_template_without_the_name_is_refused(prompt):
    with pytest.raises(ValueError, match=r"has no \{c\}"):
        SyntheticConfig(prompts=[prompt])
