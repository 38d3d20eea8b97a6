"""Configuration of a pipeline: settings models, presets, YAML in and out. Never imports torch."""

from forge.config.check import contradictions
from forge.config.io import (
    apply_overrides,
    dump_yaml,
    json_schema,
    load_config,
    parse_yaml,
    preset_names,
    read_frozen,
)
from forge.config.models import (
    PHASE_NAMES,
    DataConfig,
    ForgeTrainingConfig,
    GrokfastConfig,
    ModelConfig,
    PipelineConfig,
    RuntimeConfig,
    TrainingConfig,
)

__all__ = [
    "PHASE_NAMES",
    "DataConfig",
    "ForgeTrainingConfig",
    "GrokfastConfig",
    "ModelConfig",
    "PipelineConfig",
    "RuntimeConfig",
    "TrainingConfig",
    "apply_overrides",
    "contradictions",
    "dump_yaml",
    "json_schema",
    "load_config",
    "parse_yaml",
    "preset_names",
    "read_frozen",
]
