"""Maps the words of other programs to what does the same here. Pure."""

import re
from collections.abc import Callable
from dataclasses import is_dataclass
from typing import Any

from orchestrator.config.schema import BESIDE_DATASETS, RootLayer
from orchestrator.config.structure import field_types
from workers.errors import ConfigError
from workers.models import check_name
from workers.settings import DatasetSettings
from workers.training import optimizer_class

# What trains on class folders of one's own, without a superset; see docs/own-images.md.
OWN_IMAGES = "experiment=photos"
_SEEDS = "ensemble=sweep 'sweep.seed=[{seeds}]'"
# What to type for any of the words before it; `{value}` is what was typed.
_ADVICE = {
    "root data data_dir data_path data_root dataset_root images image_dir images_dir train_dir path dir folder input": (
        f"{OWN_IMAGES} datasets.target.root={{value}}"
    ),
    "num_members n_members members num_models n_models num_nets ensemble_size": _SEEDS,
    "model_name arch architecture backbone net network": "model.name={net} ensemble=five",
    "num_epochs max_epochs n_epochs epochs": "schedule.epochs={value}",
    "learning_rate base_lr lr": "optimizer.lr={value}",
    "batch bs batch_size train_batch_size": "optimizer.batch_size={value}",
    "grad_accum accum_iter accumulate_grad_batches gradient_accumulation_steps accumulation_steps": (
        "optimizer.shards={value}, and in optimizer.batch_size the images of all {value} together"
    ),
    "wd weight_decay": "optimizer.weight_decay={value}",
    "gpus num_gpus n_gpus ngpus gpu": "cluster.gpus_per_member={value}",
    "device devices cuda accelerator": "cluster.gpus_per_member=1 for a GPU per member, or 0 for CPUs",
    "cpus num_cpus n_cpus workers num_workers threads num_threads n_jobs": "cluster.cpus_per_member={value}",
    "kernels": "cluster.kernels={value}",
    "world_size nproc_per_node num_replicas": "cluster.workers_per_member=[1,{value}] optimizer.shards=8",
    "output_dir output out out_dir outdir save_dir log_dir results_dir checkpoint_dir": "run_dir={value}",
    "img_size image_size imgsz resolution": "model.input_size={value} datasets.target.size={stored}",
    "pretrained weights init_weights": (
        "model.pretrained=true, or a file: ensemble.stages.train.init_file=FILE 'ensemble.stages.train.reset=[head]'"
    ),
    "drop_path drop_path_rate": "model.args.drop_path_rate={value}, for a net of timm",
    "trust_code trust_remote_code": "leave it out: --trust-code on the command line",
    "num_classes n_classes nclasses": "leave it out: the data tell; datasets.target.classes=FILE keeps some",
    "val_split val_size validation_split val_ratio": "datasets.target.val_fraction={value}",
    "amp fp16 bf16 mixed_precision": "precision=bf16, precision=fp16 (GPUs) or precision=fp32",
    "ema model_ema use_ema": "predict.checkpoint=ema",
    "model_ema_decay": "predict.checkpoint=ema averaging.ema_decay={value}",
    "swa use_swa": "predict.checkpoint=swa",
    "early_stopping": "schedule.stop_when_stalled=true",
    "early_stopping_patience early_stopping_rounds": "schedule.stop_when_stalled=true schedule.patience={value}",
    "scheduler lr_scheduler": "schedule=cosine, one_cycle, step, plateau or fixed",
    "augment augmentations transforms": "augmentation=alexnet, modern or none",
    "hflip horizontal_flip random_horizontal_flip flip fliplr": "augmentation.reflect=true",
    "vflip vertical_flip random_vertical_flip flipud": "augmentation.reflect_vertically=true",
    "random_resized_crop rrc": "augmentation.resized_crop=true",
    "auto_augment autoaugment aa randaugment rand_augment ra": "augmentation.policy=randaugment",
    "trivialaugment trivial_augment trivialaugmentwide ta_wide": "augmentation.policy=trivialaugment",
    "augmix aug_mix": "augmentation.policy=augmix",
    "color_jitter colour_jitter jitter": (
        "augmentation.brightness={value} augmentation.contrast={value} augmentation.saturation={value}"
    ),
    "erasing cutout reprob random_erase": "augmentation.random_erasing={value}",
    "degrees rotate rotation random_rotation": "augmentation.rotation_degrees={value}",
    "label_smoothing smoothing": "loss.label_smoothing={value}",
    "class_weight class_weights loss_weights": "loss.class_weights=balanced, or a file of lines `class weight`",
    "mixup mixup_alpha": "augmentation.mixup={value}",
    "cutmix cutmix_alpha": "augmentation.cutmix={value}",
    "sampler balanced_sampler weighted_sampler class_balanced oversample": "augmentation.sampler=balanced",
    "random_state random_seed manual_seed": "seed={value}",
    "tta": "predict.crops=ten, the default, or five_scales",
    "center_crop centre_crop": "datasets.target.keep=centre, the default, or whole",
    "calibrate calibration temperature temperature_scaling": "combine.calibration=temperature",
    "conformal alpha": "combine.coverage=0.9, the share of sets that hold the right class",
    "kfold k_fold kfolds k_folds n_folds num_folds n_splits cv cross_validation cross_validate": (
        "ensemble=folds folds.k={value}"
    ),
    "group groups group_column group_kfold": "ensemble=folds folds.groups={value}",
    "refit refit_full train_on_all use_all_data full_train": "ensemble=refit",
    "distil distill distillation knowledge_distillation kd teacher student": "ensemble=distilled",
    "distillation_alpha kd_alpha": "ensemble=distilled ensemble.members.student.stages.train.distil.weight={value}",
    "preds predictions external_predictions": "'ensemble.members.other={{predictions: {{test: {value}}}}}'",
    "relabel label_issues corrected_labels clean_labels noisy_labels": (
        "datasets.target.relabel={value}, a csv file with the columns id and correct"
    ),
    "hours max_hours time_limit time_budget max_time walltime wall_time": "budget.hours={value}",
    "log_model log_models": "tracking.models=true",
    "register register_model registered_model registered_model_name": "tracking.register={value}",
    "resume resume_from": "leave it out: the same launch again resumes",
}
_BY_WORD = {word: advice for words, advice in _ADVICE.items() for word in words.split()}
# Settings in which members may differ.
_SWEPT = ("seed", "model", "init", "optimizer", "schedule", "augmentation", "loss", "averaging")
_SCALARS = (bool, int, float, str)
# A time with its unit, as in 8h or 30min, or as queues write it: 08:00:00.
_TIMED = re.compile(r"(\d+(?:\.\d+)?) ?([dhms])[a-z]*|(\d+):(\d\d)(?::(\d\d))?", re.IGNORECASE)
_HOURS = {"d": 24, "h": 1, "m": 1 / 60, "s": 1 / 3600, "0": 0}
_ABOUT_DATASETS = ("dataset", "datasets", "data", "target")


def check_word(key: str, text: str, value: object) -> None:
    """Raises ConfigError, with what to type, if `key` is no setting but a word known from elsewhere.

    Args:
        key: dotted key of an override that names no group.
        text: its value as typed.
        value: its value as parsed; a list for a setting that takes one value is a sweep elsewhere.
    """
    wanted = _type_of(key)
    if key == "budget.hours" and (timed := _TIMED.fullmatch(str(value))):
        number, unit, *clock = timed.groups("0")
        parts = (float(number) * _HOURS[unit.lower()], *(int(part) / 60**n for n, part in enumerate(clock)))
        raise ConfigError(f"{key}={text}: give a number of hours, as in {key}={sum(parts):.4g}")
    if wanted is None and not isinstance(value, dict):
        *parents, word = key.split(".")
        advice = _BY_WORD.get(word)
        in_place = parents[0] in _ABOUT_DATASETS if parents else word != "name"
        if advice is None and word in field_types(DatasetSettings) and in_place:
            advice = f"datasets.target.{word}={{value}}"
        if advice is not None:
            give = "" if advice.startswith("leave") else "give "
            raise ConfigError(f"{key}={text}: no such key; {give}{_filled(advice, text)}")
    elif isinstance(value, list) and wanted in _SCALARS and key.split(".", 1)[0] in _SWEPT:
        raise ConfigError(f"{key}={text}: several values; give ensemble=sweep 'sweep.{key}={text}'")


def instead_of(group: str, value: str) -> str:
    """Returns what to type in place of an unknown option that is a net, a count or a folder; else an empty text."""
    if group == "model" and _is_net(net := _net(value)):
        return f"give model.name={net} ensemble=five"
    if group == "optimizer" and _is_known(optimizer_class, value.lower()):
        return f"give optimizer.name={value.lower()}"
    if group == "ensemble" and value.isdecimal():
        return f"give {_filled(_SEEDS, value)}"
    if group == "dataset" and "/" in value:
        return f"give {OWN_IMAGES} datasets.target.root={value}"
    return ""


def _type_of(key: str) -> Any:
    """Returns the type of the setting `key`; None if there is none. Names of members and datasets are free."""
    hint: Any = RootLayer
    names = key.split(".")
    if names[0] == "datasets" and len(names) == 2 and names[1] not in BESIDE_DATASETS:
        return None if names[1] in {*_BY_WORD, *field_types(DatasetSettings)} else hint
    if names[0] == "datasets" and len(names) == 3:
        return field_types(DatasetSettings).get(names[2])
    for name in names:
        if is_dataclass(hint):
            hint = field_types(hint).get(name)  # type: ignore[arg-type]
    return hint


def _filled(advice: str, text: str) -> str:
    number = int(text) if text.isdecimal() and len(text) < 5 else 0
    seeds = ",".join(map(str, range(number if 0 < number <= 10 else 3))) + (",…" if number > 10 else "")
    net = _net(text) if "{net}" in advice else ""
    return advice.format(value=text, seeds=seeds, stored=stored_for(number) or "SIZE", net=net)


def stored_for(crop: int) -> int:
    """Returns the side of stored images that suits a crop of `crop` pixels, as 256 suits 224."""
    return -(-crop * 8 // 7)


def _net(text: str) -> str:
    names = () if "/" in text else (f"torchvision/{text}", f"timm/{text}")
    return next((name for name in names if _is_net(name)), text)


def _is_net(name: str) -> bool:
    return _is_known(check_name, name)


def _is_known(check: Callable[[str], object], name: str) -> bool:
    try:
        check(name)
    except ConfigError:
        return False
    return True
