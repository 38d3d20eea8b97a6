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
    MemoryConfig,
    ModelConfig,
    PipelineConfig,
    RecursionConfig,
    RuntimeConfig,
    TrainingConfig,
)
from forge.config.settings import (
    HomeSettings,
    NotifySettings,
    RetentionSettings,
    SessionCleanupPolicy,
    change_settings,
    load_settings,
    save_policy,
)

__all__ = [
    "PHASE_NAMES",
    "DataConfig",
    "ForgeTrainingConfig",
    "GrokfastConfig",
    "HomeSettings",
    "MemoryConfig",
    "ModelConfig",
    "NotifySettings",
    "PipelineConfig",
    "RecursionConfig",
    "RetentionSettings",
    "RuntimeConfig",
    "SessionCleanupPolicy",
    "TrainingConfig",
    "apply_overrides",
    "change_settings",
    "contradictions",
    "dump_yaml",
    "json_schema",
    "load_config",
    "load_settings",
    "parse_yaml",
    "preset_names",
    "read_frozen",
    "save_policy",
]
